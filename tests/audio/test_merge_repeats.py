"""Words without times that repeat, through the merging of the pipeline: "one one one", 好好好, windows of one word.

Here every word takes the same time, so how many words an overlap holds is known, and every text must come back. Where
words are faster and slower the length of the overlap is only a hint; then what differs must be no more than a repeat.
"""

import random
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.audio.merge import merge_text
from zhiyin.audio.vad import Span
from zhiyin.audio.windows import Window
from zhiyin.result import Segment
from zhiyin.segments import Heard, merge
from zhiyin.tasks.parse import join_words

WORD_S = 0.25
VOCABULARIES = (["one", "two"], list("一二三"), ["zero", "one", "two", "three", "four"], ["one", "一", "好", "two"])
WORDS = st.sampled_from(VOCABULARIES).flatmap(lambda some: st.lists(st.sampled_from(some), min_size=1, max_size=160))


def window(words: Sequence[str], first: int, end: int, shared: int) -> Heard:
    """Words `first` to `end` of a recording, of which the window before heard the first `shared` too."""
    start_s, end_s = first * WORD_S, end * WORD_S
    samples_T = np.zeros(round((end_s - start_s) * SAMPLE_RATE_HZ), np.float32)
    seen = Window(start_s, samples_T, (Span(start_s, end_s),), shared * WORD_S)
    return Heard(seen, Segment(start_s, end_s, join_words(words[first:end])))


def together(found: Sequence[Heard]) -> str:
    """The pipeline's loop over windows."""
    out, last = [], found[0]
    for now in found[1:]:
        if now.window.overlap_s:
            last, now = merge(last, now)
        out.append(last.segment.text)
        last = now
    return join_words([*out, last.segment.text])


@given(words=WORDS, seed=st.integers(0, 10_000))
@example(words=["one"] * 30, seed=1)
@example(words=list("好好好好好好好好好好"), seed=2)
def test_repeated_words_come_back(words: list[str], seed: int) -> None:
    """Windows at least eight times as long as what they share: `windows.cut` shares 1 s of 15 s."""
    rng = random.Random(seed)
    found, first, shared = [], 0, 0
    while True:
        share_next = rng.choice([0, 1, 2, 3, 4])
        end = first + 8 + 8 * max(shared, share_next) + rng.randint(0, 30)
        found.append(window(words, first, min(end, len(words)), shared))
        if end >= len(words):
            break
        first, shared = end - share_next, share_next
    assert together(found) == join_words(words)


@given(words=WORDS, data=st.data())
def test_any_cut_of_any_words_comes_back(words: list[str], data: st.DataObject) -> None:
    """Two windows, cut anywhere, down to windows of one word that is shared."""
    end = data.draw(st.integers(1, len(words)))
    shared = data.draw(st.integers(1, min(8, end)))
    left, right = join_words(words[:end]), join_words(words[end - shared :])
    assert merge_text(left, right, overlap_share=shared / end) == join_words(words)


@given(words=WORDS, data=st.data())
def test_a_wrong_hint_costs_no_other_word(words: list[str], data: st.DataObject) -> None:
    """The overlap seems a word longer or shorter than it is: at most a repeated stretch is counted wrong."""
    end = data.draw(st.integers(1, len(words)))
    shared = data.draw(st.integers(1, min(6, end)))
    hint = max(1, shared + data.draw(st.sampled_from([-1, 1])))
    left, right = words[:end], words[end - shared :]
    merged = merge_text(join_words(left), join_words(right), overlap_share=min(1.0, hint / end))
    allowed = {join_words([*left, *right[size:]]) for size in agreeing(left, right)}
    assert merged in allowed


def agreeing(left: Sequence[str], right: Sequence[str]) -> list[int]:
    """Every length of overlap at which the two windows agree."""
    return [size for size in range(1, min(len(left), len(right)) + 1) if left[-size:] == right[:size]]


@pytest.mark.parametrize("word", ["no", "好"])
@given(data=st.data())
def test_a_run_keeps_its_length(word: str, data: st.DataObject) -> None:
    """Nothing but one word: only the length of the overlap says how often it was said."""
    count = data.draw(st.integers(2, 40))
    end = data.draw(st.integers(1, count))
    shared = data.draw(st.integers(1, end))
    runs = join_words([word] * end), join_words([word] * (count - end + shared))
    merged = merge_text(*runs, overlap_share=shared / end)
    assert [len(list(run)) for _, run in groupby(merged.split() if word == "no" else merged)] == [count]
