"""Replies as models give them, right and wrong: understood or reported, never guessed, never raised on."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.errors import UserError
from zhiyin.tasks.dialect import DIALECTS, OSUM, OSUM_PANGU, ZHIYIN, Dialect
from zhiyin.tasks.parse import Parsed, join_words, parse, read_tags
from zhiyin.tasks.render import TimedWord
from zhiyin.tasks.table import TASKS, select, with_labels


def read(reply: str, ids: str, dialect: Dialect = ZHIYIN) -> Parsed:
    return parse(reply, select(ids), dialect=dialect)


@pytest.mark.parametrize(
    ("reply", "ids", "text", "labels", "unparsed"),
    [
        ("turn left<happy>", "asr,ser", "turn left", {"ser": "happy"}, ()),
        ("turn left<HAPPY>", "asr,ser", "turn left", {"ser": "happy"}, ()),
        ("turn left < Happy >", "asr,ser", "turn left", {"ser": "happy"}, ()),
        ("<asr><ser>turn left<happy>", "asr,ser", "turn left", {"ser": "happy"}, ()),
        ("嗯<Throat  Clearing>", "asr,ved", "嗯", {"ved": "throat clearing"}, ()),
        ("<日常口语><female>", "ssr,sgc", "", {"ssr": "日常口语", "sgc": "female"}, ()),
        ("", "asr", "", {}, ()),
        ("<happy>", "asr,ser", "", {"ser": "happy"}, ()),
        # Sets that share a label: the order decides, but only if every place is filled.
        ("<other><other>", "ved,ser", "", {"ved": "other", "ser": "other"}, ()),
        ("<other><happy>", "ved,ser", "", {"ved": "other", "ser": "happy"}, ()),
        ("<other>", "ved,ser", "", {}, ("<other>", "ved: no label", "ser: no label")),
        ("<other><blue>", "ved,ser", "", {}, ("<other><blue>", "ved: no label", "ser: no label")),
        ("<happy>", "ved,ser", "", {"ser": "happy"}, ("ved: no label",)),
        # In the wrong order, yet each label belongs to one task only.
        ("<adult><female>", "sgc,sap", "", {"sgc": "female", "sap": "adult"}, ()),
        # Wrong, late, double, foreign, broken.
        ("turn left", "asr,ser", "turn left", {}, ("ser: no label",)),
        ("turn<joyful>", "asr,ser", "turn", {}, ("<joyful>", "ser: no label")),
        ("turn<hap>", "asr,ser", "turn", {}, ("<hap>", "ser: no label")),
        ("<happy>turn left", "asr,ser", "", {"ser": "happy"}, ("turn left",)),
        ("turn<happy> left", "asr,ser", "turn", {"ser": "happy"}, ("left",)),
        ("so<happy>so<female>", "asr,ser,sgc", "so", {"ser": "happy", "sgc": "female"}, ("so",)),
        ("<happy><sad>", "ser", "", {}, ("<happy><sad>", "ser: no label")),
        ("<happy><happy>", "ser", "", {"ser": "happy"}, ("<happy>",)),
        ("turn left<happy>", "asr", "turn left", {}, ("<happy>",)),
        ("turn left<happy", "asr,ser", "turn left", {}, ("<happy", "ser: no label")),
        ("turn left happy>", "asr,ser", "turn left happy", {}, (">", "ser: no label")),
        ("turn <<happy>", "asr,ser", "turn", {"ser": "happy"}, ("<",)),
        ("a<>b", "asr", "a", {}, ("<>b",)),
        ("turn<0.50>left", "asr", "turn", {}, ("<0.50>left",)),
        ("<asr><sap>turn left<adult>", "asr,ser", "turn left", {}, ("<sap>", "<adult>", "ser: no label")),
        ("<asr><asr>turn", "asr", "turn", {}, ("<asr>",)),
        ("<none>", "asr", "", {}, ("<none>",)),
        ("turn left<|endoftext|>", "asr", "turn left", {}, ("<|endoftext|>",)),
    ],
)
def test_text_and_labels(reply: str, ids: str, text: str, labels: dict[str, str], unparsed: tuple[str, ...]) -> None:
    assert read(reply, ids) == Parsed(select(ids), text=text, labels=labels, unparsed=unparsed)


A, B = TimedWord("close", 0.31, 1.11), TimedWord("signal", 1.29, 2.06)


@pytest.mark.parametrize(
    ("reply", "words", "unparsed"),
    [
        ("<0.31>close<1.11><1.29>signal<2.06>", (A, B), ()),
        ("<0.31> close <1.11> <1.29> signal <2.06>", (A, B), ()),
        ("<0.31>close<1.11>signal<2.06>", (A, TimedWord("signal", 1.11, 2.06)), ()),
        ("<0.5>a<0.5>", (TimedWord("a", 0.5, 0.5),), ()),
        ("<3>a<4>", (TimedWord("a", 3.0, 4.0),), ()),
        ("", (), ()),
        ("close signal", (), ("close signal",)),
        ("close<1.11><1.29>signal<2.06>", (B,), ("close<1.11>",)),
        ("<0.31>close<1.11><1.29>signal", (A,), ("<1.29>signal",)),
        ("<0.31>close", (), ("<0.31>close",)),
        ("<0.31>close<0.20><1.29>signal<2.06>", (B,), ("<0.31>close<0.20>",)),
        ("<0.31>close<0.20>signal<2.06>", (), ("<0.31>close<0.20>signal<2.06>",)),
        ("<0.31>close<1.11><1.00>signal<2.06>", (A,), ("<1.00>signal<2.06>",)),
        ("<0.31>close<1.11><1.20><1.29>signal<2.06>", (A, B), ("<1.20>",)),
        ("<0.31>close<1.11><-1>signal<2.06>", (A,), ("<-1>signal<2.06>",)),
        ("<0.31>close<1.11><1e3>signal<2.06>", (A,), ("<1e3>signal<2.06>",)),
        ("<0.31>close<1.11><nan>", (A,), ("<nan>",)),
        ("<0.31>close<1.11><" + "9" * 400 + ">", (A,), ("<" + "9" * 400 + ">",)),
    ],
)
def test_timed_words(reply: str, words: tuple[TimedWord, ...], unparsed: tuple[str, ...]) -> None:
    parsed = read(reply, "asr,srwt")
    assert (parsed.words, parsed.unparsed) == (words, unparsed)
    assert parsed.text == " ".join(word.text for word in words)


@pytest.mark.parametrize(
    ("reply", "ids", "text", "answer", "unparsed"),
    [
        ("it is noon", "sttc", "", "it is noon", ()),
        ("<answer>it is noon", "sttc", "", "it is noon", ()),
        ("what time is it<answer>it is noon", "asr,sttc", "what time is it", "it is noon", ()),
        ("what time is it< ANSWER > it is noon", "asr,sttc", "what time is it", "it is noon", ()),
        ("<answer>", "asr,sttc", "", "", ()),
        ("what time is it", "asr,sttc", "what time is it", "", ("sttc: no answer",)),
        ("what<translation>noon", "asr,sttc", "what", "", ("<translation>noon", "sttc: no answer")),
        ("what<answer>noon<happy>", "asr,sttc", "what", "noon", ("<happy>",)),
        ("what<answer>", "asr", "what", "", ("<answer>",)),
        ("<b>noon</b>", "sttc", "", "", ("<b>noon</b>",)),
    ],
)
def test_answers(reply: str, ids: str, text: str, answer: str, unparsed: tuple[str, ...]) -> None:
    assert read(reply, ids) == Parsed(select(ids), text=text, answer=answer, unparsed=unparsed)


def test_translation() -> None:
    assert read("turn<translation>drehen", "asr,ast") == Parsed(select("asr,ast"), text="turn", translation="drehen")
    assert read("drehen", "ast").translation == "drehen"
    assert read("turn", "asr,ast").unparsed == ("ast: no translation",)


@pytest.mark.parametrize(
    ("reply", "ids", "unparsed"),
    [
        ("<asr><ser>x<sad>", "asr ser", ()),
        ("<ser><asr>x<sad>", "asr ser", ()),
        ("<ASR>x", "asr", ()),
        ("<sap><sgc><old><male>", "sgc sap", ()),
        ("<none>", "", ()),
        ("<NONE>", "", ()),
        ("<none>hello", "", ("<none>hello", "reply: no task tag")),
        ("", "", ("reply: no task tag",)),
        ("hello<asr>", "", ("hello<asr>", "reply: no task tag")),
        ("<pizza>x", "", ("<pizza>x", "reply: no task tag")),
        ("<sttc><ast>x", "sttc", ("<ast>",)),
        ("<asr><emotion>x", "asr", ("<emotion>x",)),
    ],
)
def test_plain_language_form(reply: str, ids: str, unparsed: tuple[str, ...]) -> None:
    parsed = parse(reply)
    assert (" ".join(task.id for task in parsed.tasks), parsed.unparsed) == (ids, unparsed)


def test_a_label_none_is_a_label_and_alone_is_no_task() -> None:
    table = with_labels(TASKS, {"ved": ("cry", "sneeze", "none")})
    assert parse("<ved><none>", table=table).labels == {"ved": "none"}
    assert parse("<none>", select("ved", table)).labels == {"ved": "none"}
    assert parse("<none>", table=table) == Parsed(())


@pytest.mark.parametrize(
    ("reply", "ids", "dialect", "expected"),
    [
        ("你好<anger>", "asr,ser", OSUM, dict(text="你好", labels={"ser": "anger"})),
        ("大家好<新闻科普><adult><female>", "asr,ssr,sgc,sap", OSUM,
         dict(text="大家好", labels={"ssr": "新闻科普", "sgc": "female", "sap": "adult"})),
        ("ok<child><male>", "asr,sgc,sap", OSUM, dict(text="ok", labels={"sgc": "male", "sap": "child"})),
        ("今天几号<开始回答>今天三号", "asr,sttc", OSUM, dict(text="今天几号", answer="今天三号")),
        ("<0.1>你<0.3><0.3>好<0.5><0.7>ok<1.0>", "asr,srwt", OSUM,
         dict(text="你好ok", words=(TimedWord("你", 0.1, 0.3), TimedWord("好", 0.3, 0.5), TimedWord("ok", 0.7, 1.0)))),
        ("<0.10>你<0.30>", "srwt", OSUM, dict(text="你", words=(TimedWord("你", 0.1, 0.3),))),
        ("今天几号<answer>今天三号", "asr,sttc", OSUM,
         dict(text="今天几号", unparsed=("<answer>今天三号", "sttc: no answer"))),
        ("<asr><age>Hello everyone I am Pangu<ADULT>", "asr,sap", OSUM_PANGU,
         dict(text="Hello everyone I am Pangu", labels={"sap": "adult"})),
        ("<asr><age><gender><style><emotion>好<OLD><MALE><客服><Happy>", "asr,ser,ssr,sgc,sap", OSUM_PANGU,
         dict(text="好", labels={"ser": "happy", "ssr": "客服", "sgc": "male", "sap": "old"})),
        ("<asr><caption><emotion>好<other><other>", "asr,ved,ser", OSUM_PANGU,
         dict(text="好", labels={"ved": "other", "ser": "other"})),
        ("<asr><chat>今天几号<开始回答>今天三号", "asr,sttc", OSUM_PANGU, dict(text="今天几号", answer="今天三号")),
        ("<chat>今天三号", "sttc", OSUM_PANGU, dict(answer="今天三号")),
    ],
)  # fmt: skip
def test_replies_of_other_families(reply: str, ids: str, dialect: Dialect, expected: dict[str, Any]) -> None:
    """Forms and examples as OSUM's and OSUM-Pangu's prompts and papers show them."""
    assert read(reply, ids, dialect) == Parsed(select(ids), **expected)
    if dialect is OSUM_PANGU:
        assert parse(reply, dialect=dialect) == Parsed(select(ids), **expected)


def test_label_order_follows_the_tags_the_model_chose() -> None:
    """Ved and ser share 'other' and 'laugh' is no emotion: only the order of the tags tells which is which."""
    table = with_labels(TASKS, {"ved": ("a", "b"), "ser": ("a", "b")})
    assert parse("<ser><ved><a><b>", table=table).labels == {"ser": "a", "ved": "b"}
    assert parse("<a><b>", select("ved,ser", table)).labels == {"ved": "a", "ser": "b"}


def test_rows_asked_with_own_labels_need_no_table() -> None:
    rows = with_labels(select("ser"), {"ser": ("boredom",)})
    assert parse("<ser><boredom>", rows) == Parsed(rows, labels={"ser": "boredom"})


def test_read_tags_of_training_data() -> None:
    assert read_tags("<TRANSCRIBE> <AGE> <GENDER>", dialect=OSUM) == select("asr,sgc,sap")
    assert read_tags("<TRANSCRIBE><ALIGN>", dialect=OSUM) == select("asr,srwt")
    assert read_tags("<asr><caption>", dialect=OSUM_PANGU) == select("asr,ved")
    for wrong in ("", "<TRANSCRIBE> <SOT>", "TRANSCRIBE", "<S2TCHAT> <TRANSLATE>"):
        with pytest.raises(UserError, match="<TRANSCRIBE> <ALIGN>"):
            read_tags(wrong, dialect=OSUM)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], ""),
        (["turn", "left"], "turn left"),
        (["打", "开", "灯"], "打开灯"),
        (["打开", "wifi", "now"], "打开wifi now"),
        (["play", "周杰伦", "please"], "play周杰伦please"),
        (["good", "。", "ok"], "good。ok"),
        (["カタカナ", "です"], "カタカナです"),
        (["안녕", "세상"], "안녕 세상"),
        (["ＡＢＣ", "Ünï"], "ＡＢＣ Ünï"),
        (["𠮷", "野"], "𠮷野"),
        (["a", "", "b"], "a b"),
    ],
)
def test_join_words(words: list[str], text: str) -> None:
    assert join_words(words) == text


def test_join_words_agrees_with_the_reference_clean_up(shared: Path) -> None:
    """OSUM deletes spaces around Chinese characters of training text; joining its words must give the same text."""
    rows = json.loads((shared / "golden/text_norm.json").read_text(encoding="utf-8"))["rows"]
    # The reference keeps a space before an opening bracket; for us CJK punctuation behaves as CJK characters do.
    plain = [row for row in rows if "<" not in row["raw"] and "「" not in row["raw"]]
    assert len(plain) >= 3
    for row in plain:
        assert join_words(row["raw"].split()) == row["pangu_other"]


TOKENS = (
    *("<", ">", "<>", "<<", " ", "\n", "turn", "好", "<happy>", "<HAPPY>", "<other>", "<laugh>", "<female>", "<客服>"),
    *("<throat clearing>", "<joy>", "<answer>", "<translation>", "<开始回答>", "<none>", "<0.00>", "<0.50>", "<0.5>"),
    *("<1.25>", "<asr>", "<ser>", "<ved>", "<srwt>", "<sttc>", "<ast>", "<emotion>", "<TRANSCRIBE>", "<happy", "9>"),
)
SOUP = st.lists(st.sampled_from(TOKENS), max_size=14).map("".join)
ASKED = st.one_of(
    st.none(),
    st.tuples(
        st.sets(st.sampled_from([task.id for task in TASKS if task.kind not in ("answer", "translation")])),
        st.sampled_from(["sttc", "ast", ""]),
    )
    .filter(any)
    .map(lambda ids: select((*ids[0], ids[1]))),
)


@given(st.one_of(st.text(), SOUP), ASKED, st.sampled_from(DIALECTS))
def test_nothing_raises_and_nothing_is_lost(reply: str, asked: tuple | None, dialect: Dialect) -> None:
    parsed = parse(reply, asked, dialect=dialect)
    values = {parsed.text, parsed.answer, parsed.translation, *(word.text for word in parsed.words)}
    left = "".join(parsed.unparsed)
    for piece in re.split("(?<=>)|(?=<)", reply):
        if piece.strip() and not piece.startswith("<") and not piece.endswith(">"):
            understood = " ".join(piece.split()) in values
            assert understood or piece.strip() in left, f"{piece!r} is neither understood nor reported"
    for task in parsed.tasks:
        if task.kind == "label":
            assert (task.id in parsed.labels) != (f"{task.id}: no label" in parsed.unparsed)
            assert parsed.labels.get(task.id, task.labels[0]) in task.labels


@given(SOUP, ASKED)
def test_a_reply_without_complaint_holds_exactly_what_was_asked(reply: str, asked: tuple | None) -> None:
    """What is read without complaint says no more than its values: an unknown mark never passes unnoticed."""
    parsed = parse(reply, asked)
    if parsed.unparsed or not parsed.tasks:
        return
    known = {f"<{label}>" for label in parsed.labels.values()} | {task.tag for task in parsed.tasks}
    known |= {"<answer>", "<translation>"} if any(t.kind in ("answer", "translation") for t in parsed.tasks) else set()
    times = {time_s for word in parsed.words for time_s in (word.start_s, word.end_s)}
    depth = 0
    for mark in re.split("(?<=>)|(?=<)", reply.lower()):
        depth += mark.count("<") - mark.count(">")
        if mark.startswith("<"):
            assert mark in known or float(mark[1:-1]) in times
    assert depth == 0


def test_a_long_hostile_reply_is_read_in_linear_time() -> None:
    begin = time.perf_counter()
    for soup in ("<" * 200_000, "<a" * 100_000, "<0.1>" * 40_000, "<happy>" * 30_000, "a<happy>" * 30_000):
        parse(soup, select("srwt,ser,sttc"))
    assert time.perf_counter() - begin < 10
