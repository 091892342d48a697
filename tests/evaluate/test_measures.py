"""Figures of each task against counts by hand and formulas written differently."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.evaluate import measures, slices, times
from zhiyin.evaluate.measures import Measure, Options
from zhiyin.evaluate.replies import EMPTY

Row = dict[str, Any]


def row(key: str, tasks: str, truth: dict[str, Any], heard: dict[str, Any] | None, **more: Any) -> Row:
    made: Row = {"id": key, "tasks": tasks.split(","), "reference": {**EMPTY, "text": None, **truth}, "slice": {}}
    return {**made, **({} if heard is None else {"hypothesis": {**EMPTY, **heard}}), **more}


def named(rows: list[Row], options: Options = Options()) -> dict[str, Measure]:  # noqa: B008
    return {f"{measure.task} {measure.name}": measure for measure in measures.measures(rows, options)}


def spoken(*pairs: tuple[str, str | None]) -> list[Row]:
    return [
        row(str(at), "asr", {"text": said}, None if heard is None else {"text": heard})
        for at, (said, heard) in enumerate(pairs)
    ]


def test_words_characters_and_mixed() -> None:
    found = named(spoken(("turn it on", "turn on"), ("打开 wifi 吧", "打开 wify 吧吧"), ("", "oh"), ("", "")))
    assert found["asr WER"].figure == pytest.approx(1 / 3)  # only the English one
    assert found["asr CER"].figure == pytest.approx(2 / 7)  # letters one by one
    assert found["asr MER"].figure == pytest.approx(3 / 7)  # 3 words + 4 units
    kinds = [found[f"asr {kind}"].figure for kind in ("substitutions", "deletions", "insertions")]
    assert kinds == pytest.approx([1 / 7, 1 / 7, 1 / 7])
    assert found["asr records with an error"].figure == 1.0
    assert found["asr text where nothing is said"].figure == 0.5


def test_missing_and_failed_hypotheses_are_deletions() -> None:
    rows = [*spoken(("one two", None)), row("x", "asr", {"text": "one two"}, None, error="broken")]
    assert named(rows)["asr deletions"].figure == 1.0


def test_as_written_and_by_language() -> None:
    rows = spoken(("Turn it on.", "turn it on"))
    assert named(rows)["asr MER"].figure == 0
    assert named(rows, Options(as_written=True))["asr MER"].figure == pytest.approx(2 / 3)
    german = spoken(("schön", "schon"))
    assert named(german)["asr MER"].figure == 0
    assert named(german, Options(language="de"))["asr MER"].figure == 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "d", None])), min_size=1, max_size=20)
)
def test_labels_by_exact_fractions(pairs: list[tuple[str, str | None]]) -> None:
    rows = [
        row(str(at), "ser", {"labels": {"ser": truth}}, {"labels": {"ser": given} if given else {}})
        for at, (truth, given) in enumerate(pairs)
    ]
    table = Counter(pairs)
    recalls, scores = [], []
    for label in {truth for truth, _ in pairs}:
        right = table[label, label]
        truths = sum(count for (truth, _), count in table.items() if truth == label)
        given = sum(count for (_, reply), count in table.items() if reply == label)
        recall, precision = Fraction(right, truths), Fraction(right, given or 1)
        recalls.append(recall)
        scores.append(2 * precision * recall / (precision + recall) if right else Fraction(0))
    found = named(rows)
    assert found["ser accuracy"].figure == pytest.approx(sum(t == g for t, g in pairs) / len(pairs))
    assert found["ser unweighted recall"].figure == pytest.approx(float(sum(recalls) / len(recalls)))
    assert found["ser macro F1"].figure == pytest.approx(float(sum(scores) / len(scores)))
    assert found["ser no label"].figure == pytest.approx(sum(g is None for _, g in pairs) / len(pairs))


def word(text: str, start_s: float, end_s: float) -> dict[str, Any]:
    return {"text": text, "start_s": start_s, "end_s": end_s}


def test_times_of_the_words_that_were_heard() -> None:
    said = [word("turn", 0, 1), word("the", 1, 2), word("light", 2, 3), word("on", 3, 4)]
    heard = [word("turn", 0.04, 1.08), word("lights", 2, 3), word("on", 3, 4.3)]
    assert times.matched(said, heard) == pytest.approx([0.04, 0.08, 0, 0.3])
    found = named([row("a", "srwt", {"words": said}, {"words": heard}), row("b", "srwt", {"words": said}, None)])
    assert found["srwt AAS"].figure == pytest.approx(1000 * 0.42 / 4)
    near = [found[f"srwt within {limit} ms"].figure for limit in (50, 100, 200)]
    assert near == pytest.approx([2 / 16, 3 / 16, 3 / 16])
    assert found["srwt boundaries of words heard right"].figure == pytest.approx(4 / 16)


@given(st.lists(st.tuples(st.text("ab北京", min_size=1, max_size=3), st.floats(0, 1)), max_size=6))
def test_where_all_words_are_right_both_rules_agree(parts: list[tuple[str, float]]) -> None:
    said = [word(text, at, at + 1) for at, (text, _) in enumerate(parts)]
    heard = [word(text, at + shift, at + 1 - shift) for at, (text, shift) in enumerate(parts)]
    assert times.matched(said, heard) == times.shifts(said, heard)


def test_a_word_heard_in_parts_or_inside_another() -> None:
    said = [word("北京", 0, 1), word("wifi", 1, 2)]
    assert times.matched(said, [word("北", 0, 0.5), word("京", 0.5, 0.9), word("awifi", 1, 2)]) == pytest.approx(
        [0, 0.1]
    )


def test_a_word_with_letters_in_between_is_another_word() -> None:
    said = [word("light", 0, 1), word("on", 1, 2)]
    assert times.matched(said, [word("li", 0, 0.5), word("x", 0.5, 0.6), word("ght", 0.6, 1), word("on", 1, 2)]) == [
        0,
        0,
    ]


def test_answers_and_the_judge() -> None:
    rows = [
        row("a", "sttc", {"answer": "3.5 percent"}, {"answer": "3.5%"}),
        row("b", "sttc", {"answer": "five"}, {"answer": "five"}),
        row("c", "sttc", {"answer": "five"}, {"answer": "six"}),
    ]
    found = named(rows, Options(judge={"a": 0.5, "c": 0.25, "z": 1.0}))
    assert found["sttc exact"].figure == pytest.approx(1 / 3)
    assert found["sttc normalised match"].figure == pytest.approx(2 / 3)
    assert found["sttc judge"].figure == pytest.approx(0.375)


def test_requests_in_plain_language_by_language() -> None:
    english, chinese = {"text": "who", "language": "en"}, {"text": "谁"}
    rows = [
        row("a", "asr,sgc", {"labels": {"sgc": "male"}}, {"tasks": ["sgc", "asr"]}, instruction=english),
        row("b", "sgc", {"labels": {"sgc": "male"}}, {"tasks": ["sgc"], "unparsed": ["?"]}, instruction=chinese),
        row("c", "sgc", {"labels": {"sgc": "male"}}, {"tasks": ["sap"]}, instruction=chinese),
        {**row("d", "asr", {}, {"tasks": []}, instruction=chinese), "tasks": []},
        row("e", "sgc", {"labels": {"sgc": "male"}}, None, instruction=english, error="broken"),
    ]
    found = named(rows)
    assert found["instructions tags"].figure == pytest.approx(3 / 5)
    assert found["instructions parseable answer"].figure == pytest.approx(3 / 5)
    followed = found["instructions followed (tags and answer)"]
    assert followed.figure == pytest.approx(2 / 5)
    by = {part.value: part.figure for part in slices.cut(followed, resamples=100, seed=1) if part.key == "asked in"}
    assert by == {"en": 0.5, "zh": pytest.approx(1 / 3)}


def test_slices_add_up_and_ranges_are_in_order() -> None:
    rows = [
        row(str(at), "asr", {"text": "one two"}, {"text": "one"}, duration_s=at * 1.5)
        | {"slice": {"speaker": f"s{at % 3}", "snr_db": 5 * at - 10, "source": "here"}}
        for at in range(12)
    ]
    parts = slices.cut(named(rows)["asr MER"], resamples=100, seed=1)
    for key in ("speaker", "duration", "SNR"):
        assert sum(part.count for part in parts if part.key == key) == 12
    assert not [part for part in parts if part.key == "source"]  # one value only
    names = [part.value for part in parts if part.key == "duration"]
    assert names == ["under 1 s", "1 to 3 s", "3 to 10 s", "10 to 30 s"]
    assert [part.count for part in parts if part.key == "duration"] == [1, 1, 5, 5]  # 3 s belong to 3 to 10 s
    assert next(part.value for part in parts if part.key == "SNR") == "under 0 dB"
    assert {part.figure for part in parts} == {0.5}
