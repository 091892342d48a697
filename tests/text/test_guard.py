"""Repetition loops and impossible density are cut and flagged; speech that people can say is left alone."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.text.guard import DENSITY, REPETITION, guard_pieces, guard_text, is_sure, least_s


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


THANKS = "thank you for watching thank you so much for watching thank you very much for watching "
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


ONE_TURN = "thank you for watching thank you so much for watching thank you very much for watching"
LOOK = "这个 那个 这里 那里 它 大家 图 表 这个 数"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (THANKS * 3, "thank you for watching thank you so much"),
        ("we met today " + THANKS * 6, f"we met today {ONE_TURN}"),
        ("".join(f"请点赞订阅转发打赏支持明镜栏目{end}" for end in "的了吧啊的吗"), "请点赞订阅转发打赏支持明镜栏目的"),
        ("".join(f"我们来看一下{what}" for what in LOOK.split()), "我们来看一下这个"),
    ],
)
def test_a_loop_whose_turns_differ_is_cut_where_it_begins_again(text: str, expected: str) -> None:
    assert guard_text(text) == (expected, (REPETITION,))


@pytest.mark.parametrize(
    "text",
    [
        "row row row your boat gently down the stream merrily merrily merrily merrily life is but a dream " * 3,
        "happy birthday to you happy birthday to you happy birthday dear tom happy birthday to you",
        " ".join(f"{tens} {ones}" for tens in ("twenty", "thirty", "forty", "fifty") for ones in DIGITS[1:]),
        "".join(f"{tens}十{ones}" for tens in "二三四五" for ones in "一二三四五六七八九"),
        " ".join(f"chapter one section {number}" for number in DIGITS[1:]),
        "四是四十是十十四是十四四十是四十谁能分得清请来试一试谁说四是十就打谁四十谁说十是四就打谁十四",
        "she sells sea shells by the sea shore the shells she sells are sea shells i'm sure so if she sells sea shells "
        "on the sea shore then i'm sure she sells sea shore shells",
    ],
)
def test_what_repeats_with_a_meaning_is_left_alone(text: str) -> None:
    assert guard_text(text) == (text, ())


@given(st.randoms(use_true_random=True), st.integers(0, 100))
def test_numbers_however_long_are_no_loop(random: Random, length: int) -> None:
    for digits in (DIGITS, list("零一二三四五六七八九")):
        pieces = [random.choice(digits) for _ in range(length)]
        assert guard_pieces(pieces) == (list(range(length)), ())


def sure(text: str = "open", confidence: float = 0.7, **changes: float) -> bool:
    clear = {"at_least": 0.4, "peak": 1.0, "level_range_db": 40.0, "speech_s": 0.5}
    return is_sure(text, confidence, **{**clear, **changes})


def test_what_was_clearly_said_needs_what_the_model_asks_for() -> None:
    assert sure() and not sure(confidence=0.39)
    assert sure(confidence=0.41, speech_s=9.0), "few words in much clear speech: the model knows few of them"


@pytest.mark.parametrize("doubt", [{"peak": 0.9}, {"level_range_db": 12.0}])
def test_doubtful_sounds_need_more(doubt: dict[str, float]) -> None:
    assert not sure(**doubt) and sure(confidence=0.85, **doubt)
    assert not sure(confidence=0.99, speech_s=6.0, **doubt), "one word in six seconds of a crowd"
    assert sure(text="五六七", confidence=0.99, speech_s=6.0, **doubt)
    assert not sure(text="", confidence=0.99, **doubt)


def test_without_a_known_scale_nothing_is_doubted() -> None:
    assert sure(confidence=0.1, at_least=0.0, peak=0.5, level_range_db=1.0)
