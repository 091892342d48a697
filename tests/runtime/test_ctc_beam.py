"""Prefix beam search: against summing over every path, and what the bigram decides."""

import itertools
import math

import numpy as np
import pytest

from zhiyin.runtime import ctc_beam
from zhiyin.runtime.ctc_beam import BLANK, BONUS, WEIGHT, beam_search
from zhiyin.runtime.generate import ctc_greedy
from zhiyin.text.bigram import END, Bigram

FRAMES, VOCABULARY = 5, 4
EVEN = Bigram.learn([[1], [2], [3]], VOCABULARY)


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != BLANK)


def best_of_all(logits_TV: np.ndarray, bigram: Bigram) -> list[int]:
    """Every path, its probability added to the transcript it stands for."""
    probabilities = np.exp(logits_TV) / np.exp(logits_TV).sum(axis=1, keepdims=True)
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(logits_TV.shape[1]), repeat=len(logits_TV)):
        said = collapse(path)
        totals[said] = totals.get(said, 0.0) + math.prod(probabilities[t, token] for t, token in enumerate(path))

    def score(said: tuple[int, ...]) -> float:
        prior = sum(bigram.logprob(a, b) for a, b in zip((END, *said), (*said, END), strict=True))
        return math.log(totals[said]) + WEIGHT * prior + BONUS * len(said)

    return list(max(totals, key=score))


@pytest.mark.parametrize("seed", range(40))
def test_it_finds_the_best_of_all_transcripts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctc_beam, "WIDTH", 1000)
    monkeypatch.setattr(ctc_beam, "LIKELY", 0.0001)
    rng = np.random.default_rng(seed)
    logits_TV = rng.normal(0, 2, (FRAMES, VOCABULARY)).astype(np.float32)
    bigram = Bigram.learn([rng.integers(1, VOCABULARY, 3).tolist() for _ in range(5)], VOCABULARY)
    assert beam_search(logits_TV, bigram) == best_of_all(logits_TV, bigram)


def test_where_the_head_is_sure_it_is_the_greedy_path() -> None:
    path = [0, 1, 1, 0, 1, 2, 0, 3]
    logits_TV = np.full((len(path), VOCABULARY), -20.0, np.float32)
    logits_TV[range(len(path)), path] = 0.0
    assert beam_search(logits_TV, EVEN) == ctc_greedy(logits_TV)[0] == [1, 1, 2, 3]


def test_the_bigram_decides_between_what_sounds_alike() -> None:
    logits_TV = np.log(np.array([[0.01, 0.97, 0.01, 0.01], [0.02, 0.01, 0.48, 0.49]], np.float32))
    assert beam_search(logits_TV, Bigram.learn([[1, 2]] * 9 + [[3]], VOCABULARY)) == [1, 2]
    assert beam_search(logits_TV, Bigram.learn([[1, 3]] * 9 + [[2]], VOCABULARY)) == [1, 3]


@pytest.mark.parametrize("frames", [0, 1, 7])
def test_nothing_but_blanks_is_nothing(frames: int) -> None:
    logits_TV = np.full((frames, VOCABULARY), -30.0, np.float32)
    logits_TV[:, BLANK] = 0.0
    assert beam_search(logits_TV, EVEN) == []
