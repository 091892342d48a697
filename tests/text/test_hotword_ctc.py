"""Words a CTC head may have heard, against trying every path through every stretch of frames."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.text import hotword_ctc
from zhiyin.text.hotword_ctc import likely, scores


def oracle(logits_TV: np.ndarray, ids: tuple[int, ...]) -> float:
    """Each stretch of frames and each labelling of it whose repeats merged and blanks left out are the tokens."""
    lost_TV = logits_TV - logits_TV.max(axis=1, keepdims=True)
    frames, size = logits_TV.shape
    best = -np.inf
    for start in range(frames):
        for end in range(start + 1, frames + 1):
            for path in itertools.product(range(size), repeat=end - start):
                if tuple(token for token, _ in itertools.groupby(path) if token) == ids:
                    best = max(best, float(lost_TV[np.arange(start, end), list(path)].sum()))
    return best / len(ids)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 5), st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=3), max_size=4)
)
def test_scores_are_those_of_the_best_path(seed: int, frames: int, words: list[list[int]]) -> None:
    logits_TV = np.random.default_rng(seed).normal(scale=3.0, size=(frames, 3)).astype(np.float32)
    expected = [oracle(logits_TV, tuple(ids)) for ids in words]
    assert scores(logits_TV, words) == pytest.approx(expected, abs=1e-4)


@given(st.integers(0, 2**32), st.floats(-8, 0))
def test_a_least_score_leaves_out_nothing_above_it(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    logits_TV = rng.normal(scale=3.0, size=(20, 12)).astype(np.float32)
    words = [rng.integers(1, 12, size=rng.integers(1, 6)).tolist() for _ in range(30)]
    every = scores(logits_TV, words)
    some = scores(logits_TV, words, least=least)
    above = every >= least
    assert some[above] == pytest.approx(every[above])
    assert all(a == b or b == -np.inf for a, b in zip(every, some, strict=True))


def test_many_words_are_searched_in_several_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits_TV = rng.normal(scale=3.0, size=(30, 40)).astype(np.float32)
    words = [rng.integers(1, 40, size=rng.integers(1, 7)).tolist() for _ in range(200)]
    expected = scores(logits_TV, words)
    monkeypatch.setattr(hotword_ctc, "_NODES_AT_ONCE", 7)
    assert scores(logits_TV, words) == pytest.approx(expected)


def peaks(*path: int, size: int = 8) -> np.ndarray:
    """Logits whose best path this is, by 10."""
    logits_TV = np.zeros((len(path), size), np.float32)
    logits_TV[np.arange(len(path)), path] = 10.0
    return logits_TV


def test_what_the_best_path_says_costs_nothing_and_the_rest_its_gap() -> None:
    logits_TV = peaks(0, 3, 3, 0, 4, 4, 0, 4, 0)
    assert scores(logits_TV, [[3, 4], [4, 4], [3], [3, 4, 4]]).tolist() == [0.0] * 4
    assert scores(logits_TV, [[3, 5], [5]]) == pytest.approx([-5.0, -10.0])
    assert scores(peaks(4, 4), [[4, 4]])[0] == -np.inf, "a repeated token needs a blank between"


def test_the_likeliest_come_first_at_most_so_many() -> None:
    logits_TV = peaks(0, 3, 0, 4, 0, 5, 0)
    words = [[(7, 7)], [(3, 6)], [(3, 4)], [(3, 4, 5)], [(1, 2, 3), (4, 5)], [()], []]
    assert likely(logits_TV, words, least=-6.0) == [3, 2, 4, 1]
    assert likely(logits_TV, words, least=-4.0) == [3, 2, 4]
    assert likely(logits_TV, words, limit=1) == [3]
    assert likely(logits_TV, []) == []
    assert likely(np.zeros((0, 8), np.float32), words) == []


def test_of_a_hundred_thousand_words_fifty_are_kept() -> None:
    logits_TV = peaks(*np.arange(200) % 97, size=120)
    words = [[(a, b, (a * b) % 120 or 1)] for a in range(1, 120) for b in range(1, 120)] * 7
    assert len(words) > 99_000 and len(likely(logits_TV, words)) == 50


@pytest.mark.parametrize("ids", [[0, 1], [8], [-1]])
def test_tokens_the_head_cannot_say_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="none is the blank 0"):
        scores(peaks(1, 2), [ids])
