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
        "id": "r",
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


def labelled(task: str, truth: str, given: str, source: str, **slices: str) -> dict:
    made = row("", "", tasks=[task], slice={"source": source, "age_group": "", **slices})
    made["reference"]["labels"] = {task: truth}
    made["hypothesis"] = {**score.EMPTY, "labels": {task: given}}
    return made


def test_labels_by_corpus_where_it_has_two_or_more() -> None:
    rows = [
        labelled("ser", "sad", "sad", "emodb"),
        labelled("ser", "sad", "sad", "emodb"),
        labelled("ser", "sad", "happy", "emodb"),
        labelled("ser", "happy", "happy", "emodb"),
        labelled("ser", "fear", "sad", "synthetic", grammar="styles"),
        labelled("ser", "happy", "happy", "synthetic", grammar="styles"),
        labelled("ser", "happy", "happy", "one label only"),
    ]
    got = figures(rows)
    assert got["ser accuracy"] == pytest.approx(5 / 7)
    assert got["ser unweighted recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert got["ser unweighted recall, emodb"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["ser unweighted recall, synthetic styles"] == pytest.approx(1 / 2)
    assert not any("one label only" in name for name in got)


def test_a_child_is_one_by_its_group_or_its_label() -> None:
    child = labelled("sgc", "male", "female", "here")
    child["reference"]["labels"]["sap"] = "child"
    got = figures([child, labelled("sgc", "male", "male", "here", age_group="adult")])
    assert got["sgc accuracy of children"] == 0 and got["sgc accuracy of adults"] == 1


def free(task: str, truth: str, given: str, source: str, language: str, **slices: str) -> dict:
    name = "answer" if task == "sttc" else "translation"
    made = row("", "", tasks=[task], slice={"source": source, "language": language, **slices})
    made["reference"] |= {"labels": {}, name: truth}
    made["hypothesis"] = {**score.EMPTY, name: given, "tasks": [task]}
    return made


def test_answers_and_the_drink_of_an_order() -> None:
    rows = [
        free("sttc", "iced mocha", "Iced mocha.", "pico_s2i", "en"),
        free("sttc", "latte", "mocha", "pico_s2i", "en"),
        free("sttc", "ten", "ten", "synthetic", "en", grammar="questions"),
        free("sttc", "五", "five", "synthetic", "zh", grammar="questions"),
        free("sttc", "five", "五", "synthetic", "en", grammar="questions"),
        free("sttc", "fünf", "funf", "synthetic", "de", grammar="questions"),
    ]
    got = figures(rows)
    assert got["coffee orders: drink right"] == got["sttc normalised match, pico_s2i"] == 1 / 2
    assert got["sttc exact"] == 1 / 6 and got["sttc normalised match"] == 2 / 6
    assert got["sttc normalised match, synthetic questions"] == 1 / 4, "a number in another language is not the answer"


def test_translations_by_direction_and_requests_by_language() -> None:
    asked = [{"text": "?", "language": language} for language in ("en", "zh")]
    rows = [
        {**free("ast", "das Haus ist schön", "Das Haus ist schön.", "s", "en"), "instruction": asked[0]},
        {**free("ast", "das haus ist schön", "das haus ist schon", "s", "en"), "instruction": asked[1]},
        {**free("ast", "房子", "房子", "s", "en"), "instruction": asked[1]},
        {**free("ast", "the house", "the house", "s", "de"), "instruction": asked[0]},
        {**free("ast", "the house", "house", "s", "zh"), "instruction": asked[0]},
    ]
    rows[3]["hypothesis"]["tasks"] = ["sttc"]
    rows[4]["hypothesis"]["unparsed"] = ["x"]
    got = figures(rows)
    parts = {name: got[f"ast normalised match, {name}"] for name in ("en>de", "en>zh", "de>en", "zh>en")}
    assert parts == {"en>de": 1 / 2, "en>zh": 1, "de>en": 1, "zh>en": 0}
    assert got["ast normalised match"] == 3 / 5 and 0.5 < got["ast chrF"] < 1
    assert got["requests, tags"] == 4 / 5 and got["requests, parseable answer"] == 4 / 5
    assert got["requests, tags, asked in en"] == got["requests, parseable answer, asked in en"] == 2 / 3
    assert got["requests, followed (tags and answer), asked in en"] == 1 / 3
    assert got["requests, followed (tags and answer), asked in zh"] == 1
    table = report.markdown(score.score(rows))
    assert "| ast chrF | 8" in table and "chrF | 8" in table and "| ast normalised match | 60.0 % | 5 |" in table


def test_read_sentences_stand_beside_all_of_a_corpus() -> None:
    some = [row(text, text.replace("seven", "one"), slice={"source": "so762"}) for text in ("seven two", "the cat sat")]
    got = figures(some)
    assert got["word error rate, so762"] == 1 / 5 and got["word error rate, so762 without digit strings"] == 0


def test_the_report_is_a_table() -> None:
    text = report.markdown(score.score([row("one two", "one two")]))
    assert "| word error rate, digit strings | 0.0 % | 1 |" in text
