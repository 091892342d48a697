"""Forced alignment against the search of all paths; words and their times against what was put into the audio."""

from itertools import groupby, pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from zhiyin.audio import pauses
from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.audio.io import load
from zhiyin.audio.vad import Span
from zhiyin.data.corpora import speech_pack
from zhiyin.data.tokenizer import train
from zhiyin.tasks.parse import join_words
from zhiyin.text.align import Aligned, align, words
from zhiyin.text.score import words as units

SMALL = st.tuples(st.integers(1, 6), st.integers(2, 4))  # frames, vocabulary: at most 4096 paths


def said(path: tuple[int, ...], blank: int) -> list[int]:
    """What a path says: repeats merged, blanks left out (Graves et al. 2006, the function B)."""
    return [token for token, _ in groupby(path) if token != blank]


def log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits_TV) / np.exp(logits_TV).sum(axis=1, keepdims=True))


@given(shape=SMALL, seed=st.integers(0, 10_000), data=st.data())
def test_no_path_that_says_the_tokens_is_more_probable(shape: tuple[int, int], seed: int, data: st.DataObject) -> None:
    frames, size = shape
    blank = data.draw(st.integers(0, size - 1))
    ids = data.draw(st.lists(st.integers(0, size - 1).filter(lambda token: token != blank), max_size=frames))
    logits_TV = np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)
    scores_TV = log_softmax(logits_TV.astype(np.float64))
    fitting = [path for path in product(range(size), repeat=frames) if said(path, blank) == ids]
    if not fitting:
        with pytest.raises(ValueError, match=f"{len(ids)} tokens need at least .* frames, the audio has {frames}"):
            align(logits_TV, ids, blank=blank)
        return
    found = align(logits_TV, ids, blank=blank)
    path = [blank] * frames
    for token, one in zip(ids, found, strict=True):
        path[one.start_frame : one.end_frame] = [token] * (one.end_frame - one.start_frame)
        assert one.score == pytest.approx(scores_TV[one.start_frame : one.end_frame, token].mean())
    assert said(tuple(path), blank) == ids
    best = max(scores_TV[range(frames), list(way)].sum() for way in fitting)
    assert scores_TV[range(frames), path].sum() == pytest.approx(best)


def test_equal_tokens_need_a_blank_between_them() -> None:
    logits_TV = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="2 tokens need at least 3 frames, the audio has 2"):
        align(logits_TV, [2, 2])
    assert [one.start_frame for one in align(np.zeros((3, 3), np.float32), [2, 2])] == [0, 2]


def test_of_equal_paths_the_earliest() -> None:
    assert align(np.zeros((6, 3), np.float32), [1, 2]) == (
        Aligned(0, 1, pytest.approx(np.log(1 / 3))),
        Aligned(1, 2, pytest.approx(np.log(1 / 3))),
    )


@pytest.mark.parametrize("ids", [[0], [1, 0], [3], [-1]])
def test_tokens_that_cannot_be_aligned(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="must lie in 0 to 2 and none may be the blank 0"):
        align(np.zeros((9, 3), np.float32), ids)
    assert align(np.zeros((9, 3), np.float32), []) == ()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Pieces of pieces: few merges, so that most words are of several tokens, and bytes for what it never saw."""
    texts = ["turn left at the light", "turn the lift off", "打开北京的灯", "打开 wifi 吧"]
    return train(texts, ["<asr>"], num_pieces=60, max_time_s=1.0, time_step_s=0.1)


TEXTS = st.lists(
    st.sampled_from(["turn", "left", "lift", "打开", "北京", "灯", "wifi", "don't", "é", "龘", "a.b", "ok,", "好。"]),
    min_size=1,
    max_size=8,
).map(join_words)


def spread(ids: list[int], gap: int = 2) -> tuple[Aligned, ...]:
    return tuple(Aligned(gap * i, gap * i + 1, 0.0) for i in range(len(ids)))


@given(text=TEXTS)
def test_words_are_those_of_the_text(text: str, tokenizer: Tokenizer) -> None:
    """Also characters of several byte tokens, which say nothing until the last of them."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    found = words(ids, spread(ids), tokenizer.decode, frame_s=0.04, duration_s=0.08 * len(ids))
    assert join_words(word.text for word in found) == text
    plain = text.replace("。", "").replace(",", "")
    assert [word.text.strip(",。") for word in found] == units(plain)
    assert found[0].start_s == 0 and found[-1].end_s == 0.08 * len(ids)
    assert all(a.start_s <= a.end_s <= b.start_s <= b.end_s for a, b in pairwise(found))


@given(
    text=TEXTS, quiet=st.lists(st.tuples(st.floats(0.01, 0.3), st.floats(0.06, 0.5)), max_size=8), seed=st.integers()
)
def test_times_are_in_order_whatever_the_pauses(
    text: str, quiet: list[tuple[float, float]], seed: int, tokenizer: Tokenizer
) -> None:
    spans, now_s = [], 0.0
    for before_s, length_s in quiet:
        spans.append(Span(now_s + before_s - 0.01, now_s + before_s + length_s))
        now_s = spans[-1].end_s
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    edges = np.sort(np.random.default_rng(seed % 2**32).choice(60, 2 * len(ids) if len(ids) < 30 else 2, replace=False))
    aligned = tuple(Aligned(int(a), int(b), 0.0) for a, b in edges.reshape(-1, 2))
    if len(aligned) != len(ids):
        return
    duration_s = max(now_s, 2.4)
    found = words(ids, aligned, tokenizer.decode, frame_s=0.04, duration_s=duration_s, pauses=spans)
    times = [time for word in found for time in (word.start_s, word.end_s)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= duration_s
    assert all(word.start_s < word.end_s for word in found)


def test_tokens_outside_all_sound_share_it(tokenizer: Tokenizer) -> None:
    """Said too early or too late, the order is all that is known of them."""
    ids = tokenizer.encode("打开北京", add_special_tokens=False).ids[-4:]
    quiet = (Span(0.0, 0.4), Span(1.2, 2.0))

    def found(*frames: int) -> list[tuple[float, float]]:
        aligned = [Aligned(frame, frame + 1, 0.0) for frame in frames]
        made = words(ids, aligned, tokenizer.decode, frame_s=0.04, duration_s=2.0, pauses=quiet)
        assert [word.text for word in made] == list("打开北京")
        return [(round(word.start_s, 2), round(word.end_s, 2)) for word in made]

    assert found(0, 1, 2, 3) == found(40, 41, 42, 43) == [(0.4, 0.6), (0.6, 0.8), (0.8, 1.0), (1.0, 1.2)]
    assert found(0, 1, 25, 43)[2:] == [(0.91, 1.04), (1.04, 1.2)]  # half-way between a word's last frame and the next


def test_a_word_goes_from_pause_to_pause(tokenizer: Tokenizer) -> None:
    """Tokens in one frame each, the first before any sound; a closure inside a word is no end of it."""
    ids = tokenizer.encode("turn left", add_special_tokens=False).ids
    letters = [len(tokenizer.decode([token]).strip()) for token in ids]
    first = next(i + 1 for i in range(len(ids)) if sum(letters[: i + 1]) == 4)
    aligned = tuple(Aligned(0, 1, 0.0) if i < first else Aligned(26, 27, 0.0) for i in range(len(ids)))
    quiet = (Span(0.0, 0.2), Span(0.4, 0.47), Span(0.7, 0.85), Span(1.0, 1.06), Span(1.3, 1.5))
    found = words(ids, aligned, tokenizer.decode, frame_s=0.04, duration_s=1.5, pauses=quiet)
    assert [(word.start_s, word.end_s) for word in found] == [(0.2, 0.7), (0.85, 1.3)]
    without = words(ids, aligned, tokenizer.decode, frame_s=0.04, duration_s=1.5)
    assert [(word.start_s, word.end_s) for word in without] == [(0.0, 0.86), (0.86, 1.5)]  # 0.16 s before frame 25.5


def test_no_tokens_are_no_words(tokenizer: Tokenizer) -> None:
    assert words([], (), tokenizer.decode, frame_s=0.04, duration_s=1.0) == ()
    space = tokenizer.encode("打", add_special_tokens=False).ids[:1]
    assert words(space, spread(space), tokenizer.decode, frame_s=0.04, duration_s=1.0) == ()


@pytest.mark.parametrize("room", [0.0, 0.003])
def test_pauses_are_where_nothing_was_put(room: float) -> None:
    """Bursts of noise with silence or the noise of a room between them; a gap of 40 ms is no pause."""
    rng = np.random.default_rng(0)
    samples_T = room * rng.standard_normal(2 * SAMPLE_RATE_HZ)
    for start_s, end_s in ((0.2, 0.7), (0.74, 1.0), (1.3, 1.8)):
        at = slice(round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ))
        samples_T[at] += 0.1 * rng.standard_normal(at.stop - at.start)
    found = pauses.find(samples_T.astype(np.float32))
    assert [(span.start_s, span.end_s) for span in found] == [
        pytest.approx(true, abs=0.015) for true in ((0.0, 0.2), (1.0, 1.3), (1.8, 2.0))
    ]
    assert pauses.find(np.zeros(100, np.float32)) == ()


def test_pauses_of_real_recordings(shared) -> None:
    """Strings of single words whose places are known: no word lies in a pause, and nearly every gap is found."""
    records = [one for one in speech_pack.read(shared / "data", "dev") if one.source == "composite"][::4]
    gaps = found = 0
    for record in records:
        quiet = pauses.find(load(record.audio))
        for word in record.words:
            middle_s = (word.start_s + word.end_s) / 2
            assert sum(p.end_s - p.start_s for p in quiet if p.start_s >= word.start_s and p.end_s <= word.end_s) < 0.3
            assert not any(p.start_s < middle_s < p.end_s and p.end_s - p.start_s > 0.2 for p in quiet), record.id
        for left, right in pairwise(record.words):
            gaps += 1
            found += any(p.start_s < right.start_s - 0.02 and p.end_s > left.end_s + 0.02 for p in quiet)
    assert gaps > 20 and found >= 0.95 * gaps
