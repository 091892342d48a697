"""What was cut into windows comes back complete: no word lost, none said twice."""

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.audio.merge import merge_text, merge_words
from zhiyin.audio.vad import Span
from zhiyin.result import Word

WORDS = st.lists(st.text(string.ascii_lowercase, min_size=5, max_size=5), min_size=2, max_size=40, unique=True)
HAN = st.lists(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=2, max_size=40, unique=True)


@given(data=st.data(), is_han=st.booleans())
def test_text_cut_with_an_overlap_comes_back(data: st.DataObject, is_han: bool) -> None:
    words = data.draw(HAN if is_han else WORDS)
    space = "" if is_han else " "
    shared = data.draw(st.integers(1, min(8, len(words))))
    end = data.draw(st.integers(shared, len(words)))
    left, right = words[:end], words[end - shared :]
    merged = merge_text(space.join(left), space.join(right), overlap_share=shared / len(left))
    assert merged == space.join(words)


@given(data=st.data(), words=WORDS)
def test_words_broken_at_the_edges_come_back_whole(data: st.DataObject, words: list[str]) -> None:
    shared = data.draw(st.integers(1, min(8, len(words))))
    end = data.draw(st.integers(shared, len(words)))
    left, right = words[:end], words[end - shared :]
    if end < len(words):
        left = [*left, words[end][: data.draw(st.integers(1, 4))]]
    if end > shared:
        right = [words[end - shared - 1][data.draw(st.integers(1, 4)) :], *right]
    assert merge_text(" ".join(left), " ".join(right), overlap_share=shared / len(left)) == " ".join(words)


@given(before=st.integers(1, 5), shared=st.integers(1, 5), after=st.integers(1, 5))
def test_how_often_a_word_was_repeated(before: int, shared: int, after: int) -> None:
    """A run of one word fits at any length; the length of the overlap decides."""
    left, right = ["three"] + ["five"] * (before + shared), ["five"] * (shared + after) + ["two"]
    merged = merge_text(" ".join(left), " ".join(right), overlap_share=shared / len(left))
    assert merged == " ".join(["three"] + ["five"] * (before + shared + after) + ["two"])


@pytest.mark.parametrize(
    ("left", "right", "share", "merged"),
    [
        ("hello there", "there you are", 0.0, "hello there there you are"),  # no overlap: said twice
        ("hello there", "general kenobi", 0.3, "hello there general kenobi"),  # nothing in common: nothing lost
        ("turn left at the", "at the next light", 0.5, "turn left at the next light"),
        ("a b c X e", "c d e f g", 0.6, "a b c X e f g"),  # heard differently: by the side that heard more around it
        ("turn the lift off now", "left off now please", 0.6, "turn the lift off now please"),
        ("a b c d e", "d x e f", 0.4, "a b c d e f"),
        ("internatio", "rnational law", 0.5, "international law"),  # the overlap lies inside one word
        ("The cat sat, on", "On the mat.", 0.25, "The cat sat, on the mat."),
        ("打开空调，调到二", "调到二十六度。", 0.4, "打开空调，调到二十六度。"),
        ("打开 Wi-Fi 吧", "Fi吧，好的", 0.3, "打开 Wi-Fi 吧，好的"),
        ("好的。", "谢谢", 0.0, "好的。谢谢"),
        ("well", ", yes", 0.0, "well, yes"),
        ("said", "(aside)", 0.0, "said (aside)"),
        ("", "x", 0.5, "x"),
        ("x", "", 0.5, "x"),
        ("...", "!", 0.5, "...!"),
    ],
)
def test_texts(left: str, right: str, share: float, merged: str) -> None:
    assert merge_text(left, right, overlap_share=share) == merged


def timeline(lengths: list[tuple[float, float, str]]) -> list[Word]:
    words, now_s = [], 0.0
    for pause_s, length_s, text in lengths:
        words.append(Word(text, now_s + pause_s, now_s + pause_s + length_s))
        now_s = words[-1].end_s
    return words


TIMELINE = st.lists(
    st.tuples(st.floats(0.05, 0.4), st.floats(0.15, 0.6), st.sampled_from(["one", "two", "too", "three"])),
    min_size=1,
    max_size=40,
).map(timeline)


@given(
    words=TIMELINE,
    middle=st.floats(0.1, 0.9),
    overlap_s=st.floats(0.7, 2.0),
    jitter_s=st.lists(st.floats(-0.02, 0.02), min_size=80, max_size=80),
    is_broken=st.tuples(st.booleans(), st.booleans()),
)
def test_words_with_times_come_back(
    words: list[Word], middle: float, overlap_s: float, jitter_s: list[float], is_broken: tuple[bool, bool]
) -> None:
    """A small vocabulary, so that equal words stand side by side; each window times its words a little differently.

    A window hears the words that lie inside it and, at its edge, a piece of a word or nothing.
    """
    seam_s = words[-1].end_s * middle
    overlap = Span(max(0.0, seam_s - overlap_s / 2), seam_s + overlap_s / 2)
    left = [word for word in words if word.end_s <= overlap.end_s]
    right = [word for word in words if word.start_s >= overlap.start_s]
    for word in words:
        if is_broken[0] and word.start_s < overlap.end_s - 0.05 and word.end_s > overlap.end_s:
            left.append(replace(word, text=word.text[:2], end_s=overlap.end_s))
        if is_broken[1] and word.end_s > overlap.start_s + 0.05 and word.start_s < overlap.start_s:
            right.insert(0, replace(word, text=word.text[-2:], start_s=overlap.start_s))
    shifted = [
        replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s)
        for word, by_s in zip([*left, *right], jitter_s, strict=False)
    ]
    merged = merge_words(shifted[: len(left)], shifted[len(left) :], overlap=overlap)
    assert [word.text for word in merged] == [word.text for word in words]
    assert all(abs(found.start_s - true.start_s) <= 0.021 for found, true in zip(merged, words, strict=True))


def test_words_heard_differently() -> None:
    """Of two words at one time the one further from its window's edge is kept; words only one window heard stay."""
    left = [Word("turn", 0.0, 0.4), Word("lift", 1.1, 1.4), Word("now", 1.5, 1.9)]
    right = [Word("left", 1.1, 1.4), Word("right", 1.0, 1.05), Word("how", 1.55, 1.9), Word("please", 2.2, 2.6)]
    right.sort(key=lambda word: word.start_s)
    merged = merge_words(left, right, overlap=Span(1.0, 2.0))
    assert [word.text for word in merged] == ["turn", "right", "lift", "how", "please"]
    assert merge_words([], right, overlap=Span(1.0, 2.0)) == tuple(right)
    assert merge_words(left, [], overlap=Span(1.0, 2.0)) == tuple(left)
