"""merge(plan(x)) == x: whatever a recording is cut into, its words come back, each once, with their times.

The windows are those that `windows.cut` may make: no longer than a limit, cut anywhere inside speech with a second of
overlap, or at a pause without. Each window hears the words that lie in it, a little earlier or later than they are, and
of a word at its edge a piece or nothing. What is heard goes through the merging of the pipeline, window by window.
"""

import random
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.audio.vad import Span
from zhiyin.audio.windows import Window
from zhiyin.result import Segment, Word
from zhiyin.segments import Heard, merge
from zhiyin.tasks.parse import join_words

OVERLAP_S = 1.0
LATIN = ["one", "two", "too", "three", "five", "won"]  # few and alike, so that equal words stand side by side
HAN = list("一二三十天好")


@dataclass(frozen=True)
class Plan:
    """A recording and how it was cut: its words, and the windows as (start, end, overlap with the one before)."""

    words: tuple[Word, ...]
    windows: tuple[tuple[float, float, float], ...]


@st.composite
def plans(draw: st.DrawFn, *, unique: bool) -> Plan:
    """Up to two minutes of words, 0.1 to 0.6 s long, in windows of 3 to 15 s."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 120))
    texts = draw(st.sampled_from([LATIN, HAN, LATIN + HAN]))
    words, now_s = [], 0.2
    for number in range(count):
        start_s = now_s + (rng.uniform(0.02, 0.3) if rng.random() < 0.8 else rng.uniform(0.3, 1.2))
        now_s = start_s + rng.uniform(0.1, 0.6)
        text = rng.choice(texts)
        if unique:
            text = (
                "".join(rng.choices("abcdefghijklmnop", k=3)) + str(number) if texts is LATIN else chr(0x4E00 + number)
            )
        words.append(Word(text, start_s, now_s))
    end_s = now_s + 0.3
    limit_s = draw(st.sampled_from([3.0, 6.0, 15.0]))
    windows, start_s, shared_s = [], 0.0, 0.0
    while end_s - start_s > limit_s:
        cut_s = start_s + rng.uniform(2 / 3 * limit_s, limit_s - OVERLAP_S / 2)
        gap = next((b for a, b in pairwise(words) if a.end_s < cut_s < b.start_s), None)
        next_shared_s = 0.0 if gap and rng.random() < 0.5 else OVERLAP_S
        windows.append((start_s, cut_s + next_shared_s / 2, shared_s))
        start_s, shared_s = cut_s - next_shared_s / 2, next_shared_s
    return Plan(tuple(words), (*windows, (start_s, end_s, shared_s)))


def shares_a_word(plan: Plan, at: int) -> bool:
    """Whether window number `at` and the one before both hear some word as a whole."""
    start_s, _, overlap_s = plan.windows[at]
    return any(start_s <= word.start_s and word.end_s <= start_s + overlap_s for word in plan.words)


def heard(plan: Plan, at: int, rng: random.Random, *, timed: bool, broken: bool) -> Heard:
    """What window number `at` of a plan hears.

    Without times a piece of a word that stands alone cannot be told from a word ("the" from the beginning of "then");
    pieces are then heard only where a whole word of the overlap shows how the windows fit.
    """
    start_s, end_s, overlap_s = plan.windows[at]
    at_start = broken and (timed or shares_a_word(plan, at))
    at_end = broken and (timed or (at + 1 < len(plan.windows) and shares_a_word(plan, at + 1)))
    words = []
    for word in plan.words:
        if start_s <= word.start_s and word.end_s <= end_s:
            words.append(word)
        elif rng.random() < 0.5 and len(word.text) > 2:
            if at_start and word.start_s < start_s < word.end_s - 0.05:
                words.append(replace(word, text=word.text[-2:], start_s=start_s))
            elif at_end and word.start_s + 0.05 < end_s < word.end_s:
                words.append(replace(word, text=word.text[:2], end_s=end_s))
    by_s = [rng.uniform(-0.02, 0.02) for _ in words]
    moved = tuple(replace(w, start_s=w.start_s + s, end_s=w.end_s + s) for w, s in zip(words, by_s, strict=True))
    samples_T = np.zeros(round((end_s - start_s) * SAMPLE_RATE_HZ), np.float32)
    segment = Segment(start_s, end_s, join_words(word.text for word in words), moved if timed else ())
    return Heard(Window(start_s, samples_T, (Span(start_s, end_s),), overlap_s), segment)


def merged(plan: Plan, seed: int, *, timed: bool, broken: bool) -> list[Segment]:
    """The pipeline's loop: a segment is final once the next window cannot change it."""
    rng = random.Random(seed)
    out: list[Segment] = []
    last: Heard | None = None
    for at in range(len(plan.windows)):
        now = heard(plan, at, rng, timed=timed, broken=broken)
        if last is not None:
            if now.window.overlap_s:
                last, now = merge(last, now)
            out.append(last.segment)
        last = now
    assert last is not None
    return [*out, last.segment]


@given(plan=plans(unique=False), seed=st.integers(0, 1000), broken=st.booleans())
def test_timed_words_come_back(plan: Plan, seed: int, broken: bool) -> None:
    found = [word for segment in merged(plan, seed, timed=True, broken=broken) for word in segment.words]
    assert [word.text for word in found] == [word.text for word in plan.words]
    for word, true in zip(found, plan.words, strict=True):
        assert word.start_s == pytest.approx(true.start_s, abs=0.021)
        assert word.end_s == pytest.approx(true.end_s, abs=0.021)


@given(plan=plans(unique=False), seed=st.integers(0, 1000))
def test_the_text_of_a_segment_is_that_of_its_words(plan: Plan, seed: int) -> None:
    for segment in merged(plan, seed, timed=True, broken=True):
        assert segment.text == join_words(word.text for word in segment.words)


@given(plan=plans(unique=True), seed=st.integers(0, 1000), broken=st.booleans())
def test_words_without_times_come_back(plan: Plan, seed: int, broken: bool) -> None:
    """By the words alone, as long as they differ."""
    found = merged(plan, seed, timed=False, broken=broken)
    assert join_words(segment.text for segment in found) == join_words(word.text for word in plan.words)
