"""Figures against a brute-force oracle and by hand."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.evaluate import report, score
from zhiyin.text.score import edits, words


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_are_the_fewest_possible(a: str, b: str) -> None:
    @cache
    def brute(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        return min(brute(i + 1, j + 1) + (a[i] != b[j]), brute(i + 1, j) + 1, brute(i, j + 1) + 1)

    assert edits(a, b) == brute(0, 0)


def test_chinese_counts_by_character_and_english_by_word() -> None:
    assert words("打开 the light 灯") == ["打", "开", "the", "light", "灯"]


def row(text: str, heard: str, **more: object) -> dict:
    base = {
        "tasks": ["asr", "sgc"],
        "reference": {"text": text, "labels": {"sgc": "male"}, "words": [], "answer": "", "translation": ""},
        "slice": {"source": "here", "language": "en", "age_group": "adult"},
        "hypothesis": {**score.EMPTY, "text": heard, "labels": {"sgc": "male"}},
    }
    return {**base, **more}


def figures(rows: list[dict]) -> dict[str, float]:
    return {figure.name: figure.value for figure in score.score(rows)}


def test_word_errors_are_pooled_over_records() -> None:
    got = figures([row("one two three", "one two three"), row("four five", "five"), row("four", "five")])
    assert got["word error rate, digit strings"] == pytest.approx(1 / 5)
    assert got["word error rate, single digits"] == 1.0
    assert got["word error rate, here"] == pytest.approx(2 / 6)


def test_a_failed_record_counts_as_wrong() -> None:
    failed = row("one two", "")
    del failed["hypothesis"]
    got = figures([{**failed, "error": "broken"}, row("one", "one")])
    assert got["word error rate, here"] == pytest.approx(2 / 3)
    assert got["sgc accuracy of adults"] == 0.5
    assert got["records that failed"] == 0.5


def test_children_stand_apart_and_unparsed_is_wrong() -> None:
    child = row("one", "one", slice={"source": "here", "language": "en", "age_group": "child"})
    unread = row("one", "one", hypothesis={**score.EMPTY, "text": "one", "unparsed": ["sgc: no label"]})
    got = figures([child, unread])
    assert got["sgc accuracy of children"] == 1.0
    assert got["sgc accuracy of adults"] == 0.0
    assert got["replies fully parsed"] == 0.5


def test_invented_text_is_counted() -> None:
    got = figures([row("", ""), row("", "hello")])
    assert got["text invented where nothing is said"] == 0.5


def test_word_times_are_compared_where_the_words_agree() -> None:
    said = [{"text": "one", "start_s": 0.1, "end_s": 0.5}]
    heard = [{"text": "one", "start_s": 0.2, "end_s": 0.45}]
    timed = row("one", "one", tasks=["srwt"])
    timed["reference"]["words"], timed["hypothesis"]["words"] = said, heard
    assert figures([timed])["word times, average shift in ms, here"] == pytest.approx(75.0)


def test_the_report_is_a_table() -> None:
    text = report.markdown(score.score([row("one two", "one two")]))
    assert "| word error rate, digit strings | 0.0 % | 1 |" in text
