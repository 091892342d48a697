"""Shifts of boundaries on cases small enough to count by hand."""

import math

import pytest

from zhiyin.evaluate.times import average_shift_s, hit_rate, shifts


def row(text: str, start_s: float, end_s: float) -> dict[str, object]:
    return {"text": text, "start_s": start_s, "end_s": end_s}


SAID = [row("turn", 0.5, 1.0), row("left", 1.0, 2.0)]


def test_both_boundaries_of_each_word_count() -> None:
    found = shifts(SAID, [row("Turn", 0.4, 1.05), row("left", 1.0, 2.3)])
    assert found == pytest.approx([0.1, 0.05, 0.0, 0.3])
    assert average_shift_s(found) == pytest.approx(0.45 / 4)
    assert [hit_rate(found, tolerance_s) for tolerance_s in (0.05, 0.1, 0.2, 0.3)] == [0.5, 0.75, 0.75, 1.0]


def test_a_word_heard_in_parts() -> None:
    said = [row("北京", 0.0, 1.0), row("wifi 好", 1.0, 2.0)]
    heard = [row("北", 0.1, 0.5), row("京", 0.5, 0.9), row("wifi", 1.0, 1.5), row("好", 1.5, 2.0)]
    assert shifts(said, heard) == pytest.approx([0.1, 0.1, 0.0, 0.0])


@pytest.mark.parametrize(
    "heard",
    [[], SAID[:1], [*SAID, row("now", 2.0, 2.1)], [row("turn", 0, 1), row("lift", 1, 2)], [row("turnleft", 0, 2)]],
)
def test_other_words_have_no_shift(heard: list[dict[str, object]]) -> None:
    assert shifts(SAID, heard) is None


def test_nothing_to_average() -> None:
    assert math.isnan(average_shift_s([])) and math.isnan(hit_rate([], 0.1))
