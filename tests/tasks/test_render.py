"""Targets are written exactly as the grammar says."""

import pytest

from zhiyin.errors import UserError
from zhiyin.tasks.dialect import DIALECTS, OSUM, OSUM_PANGU, ZHIYIN, named
from zhiyin.tasks.render import TimedWord, Truth, tags, target, timed
from zhiyin.tasks.table import select, with_labels

TRUTH = Truth(
    text="  turn\tleft ",
    words=(TimedWord("turn", 0.0, 0.321), TimedWord("left", 0.32, 0.61), TimedWord("now", 0.7, 0.9)),
    labels={"ved": "other", "ser": "happy", "ssr": "客服", "sgc": "male", "sap": "old"},
    answer="which way?",
    translation="nach links",
)


@pytest.mark.parametrize(
    ("ids", "plain", "expected"),
    [
        ("asr", False, "turn left"),
        ("asr", True, "<asr>turn left"),
        ("ser", True, "<ser><happy>"),
        ("asr,sap,ser,sgc", False, "turn left<happy><male><old>"),
        ("srwt", False, "<0.00>turn<0.32>left<0.61><0.70>now<0.90>"),
        ("asr,srwt,sgc", True, "<asr><srwt><sgc><0.00>turn<0.32>left<0.61><0.70>now<0.90><male>"),
        ("sttc", False, "which way?"),
        ("asr,sttc", False, "turn left<answer>which way?"),
        ("ser,sttc", True, "<ser><sttc><happy><answer>which way?"),
        ("asr,ast", True, "<asr><ast>turn left<translation>nach links"),
    ],
)
def test_our_grammar(ids: str, plain: bool, expected: str) -> None:
    assert target(select(ids), TRUTH, with_tags=plain) == expected
    assert target(select(ids), TRUTH, with_tags=plain, time_step_s=0.01) == expected


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ("asr,sgc,sap", "<asr><age><gender>turn left<old><male>"),
        ("asr,ssr,sgc,sap", "<asr><style><age><gender>turn left<客服><old><male>"),
        ("asr,ved,sgc,sap", "<asr><caption><age><gender>turn left<other><old><male>"),
        ("asr,ser,sgc,sap", "<asr><emotion><age><gender>turn left<happy><old><male>"),
        ("asr,ser,ssr,sgc,sap", "<asr><age><gender><style><emotion>turn left<old><male><客服><happy>"),
        (
            "asr,ved,ser,ssr,sgc,sap",
            "<asr><caption><age><gender><emotion><style>turn left<other><old><male><happy><客服>",
        ),
        ("asr,srwt", "<asr><align><0.0>turn<0.3><0.3>left<0.6><0.7>now<0.9>"),
        ("asr,sttc", "<asr><chat>turn left<开始回答>which way?"),
    ],
)
def test_osum_pangu_orders(ids: str, expected: str) -> None:
    """The tag strings of OSUM-Pangu `conf/prompt_config2.yaml`."""
    assert target(select(ids), TRUTH, with_tags=True, dialect=OSUM_PANGU) == expected


def test_osum_writes_age_before_gender_and_spaces_between_tags() -> None:
    assert tags(select("asr,sgc,sap,ssr"), dialect=OSUM) == "<TRANSCRIBE> <STYLE> <AGE> <GENDER>"
    assert target(select("asr,sgc,sap"), TRUTH, dialect=OSUM) == "turn left<old><male>"


def test_no_task() -> None:
    assert tags(()) == target((), Truth(), with_tags=True) == "<none>"


def test_coarse_time_steps() -> None:
    assert timed(TRUTH.words, time_step_s=0.04) == "<0.00>turn<0.32>left<0.60><0.72>now<0.88>"


@pytest.mark.parametrize(
    "truth",
    [
        Truth(text="a < b", labels={"ser": "sad"}, words=(TimedWord("a", 0, 1),)),
        Truth(text="a", words=(TimedWord("a", 0, 1),)),
        Truth(text="a", labels={"ser": "blissful"}, words=(TimedWord("a", 0, 1),)),
        Truth(text="a", labels={"ser": "sad"}, words=(TimedWord(" ", 0, 1),)),
        Truth(text="a", labels={"ser": "sad"}, words=(TimedWord("a", 1, 0.5),)),
        Truth(text="a", labels={"ser": "sad"}, words=(TimedWord("a", 0, 1), TimedWord("b", 0.9, 2))),
        Truth(text="a", labels={"ser": "sad"}, words=(TimedWord("a", -0.2, 1),)),
        Truth(text="a", labels={"ser": "sad"}, words=(TimedWord("a>", 0, 1),)),
    ],
)
def test_refuses_what_could_not_be_read_back(truth: Truth) -> None:
    with pytest.raises(UserError) as caught:
        target(select("asr,ser") if "<" in truth.text else select("srwt,ser"), truth)
    assert "\n" not in str(caught.value)


def test_labels_are_checked_against_the_models_own_set() -> None:
    rows = with_labels(select("ser"), {"ser": ("boredom", "sad")})
    assert target(rows, Truth(labels={"ser": "boredom"})) == "<boredom>"
    with pytest.raises(UserError, match="boredom, sad"):
        target(rows, Truth(labels={"ser": "happy"}))


def test_dialects_by_name() -> None:
    assert [named(dialect.name) for dialect in DIALECTS] == [ZHIYIN, OSUM, OSUM_PANGU]
    with pytest.raises(UserError, match="known: zhiyin osum osum-pangu"):
        named("granite")


def test_default_time_step_of_each_dialect() -> None:
    assert [dialect.time_step_s for dialect in DIALECTS] == [0.01, 0.1, 0.1]
