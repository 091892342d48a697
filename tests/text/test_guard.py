"""Repetition loops and impossible density are cut and flagged; speech that people can say is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.text.guard import DENSITY, REPETITION, guard_pieces, guard_text, least_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("go " + "left " * 20, "go left"),
        ("turn left " * 12 + "stop", "turn left stop"),
        ("the " * 9, "the"),
        ("No, no, no. No! no no no no no no", "No,"),
        ("好" * 30, "好"),
        ("谢谢大家" * 9, "谢谢大家"),
        ("好，" * 20, "好，"),
        ("one two three four " * 6 + "one two", "one two three four"),
        ("one two three four " * 6 + "one five", "one two three four one five"),
    ],
)
def test_a_loop_is_cut_to_one_turn(text: str, expected: str) -> None:
    assert guard_text(text) == (expected, (REPETITION,))


@pytest.mark.parametrize(
    "text",
    ["", "no no no", "zero " * 7, "哈哈哈哈哈", "we will we will rock you " * 4, "一 二 三", "turn left"],
)
def test_what_people_say_is_left_alone(text: str) -> None:
    assert guard_text(text, duration_s=10.0) == (text, ())


@given(st.lists(st.integers(), unique=True, max_size=60))
def test_text_without_repetition_is_never_touched(numbers: list[int]) -> None:
    text = " ".join(f"w{number}" for number in numbers)
    assert guard_text(text) == (text, ())


@given(
    st.lists(st.sampled_from("ab"), max_size=5).map(tuple),
    st.lists(st.sampled_from("cdef"), min_size=1, max_size=12, unique=True),
    st.integers(min_value=9, max_value=30),
)
def test_a_planted_loop_is_found_wherever_it_is(before: tuple[str, ...], unit: list[str], times: int) -> None:
    kept, flags = guard_pieces([*before, *(unit * times), "end"])
    assert flags == (REPETITION,)
    assert len(kept) == len(before) + len(unit) + 1


def test_more_words_than_the_time_allows_are_cut() -> None:
    words = [f"w{i}" for i in range(100)]
    text, flags = guard_text(" ".join(words), duration_s=2.0)
    assert flags == (DENSITY,)
    assert words[: len(text.split())] == text.split()
    assert 24 <= len(text.split()) <= 36  # 12 words a second for 2 s and the slack


def test_a_word_that_is_itself_a_loop_is_cut() -> None:
    assert guard_text("ok " + "ha" * 300, duration_s=1.0) == ("ok", (DENSITY,))


def test_an_answer_is_not_bound_to_the_time() -> None:
    text = " ".join(f"w{i}" for i in range(100))
    assert guard_text(text) == (text, ())


def test_a_chinese_character_needs_less_time_than_a_word() -> None:
    assert 0 < least_s("好") < least_s("good")
    assert least_s("你好 world") == pytest.approx(2 * least_s("好") + least_s("world"))
