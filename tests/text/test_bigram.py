"""What follows what: against counting by hand, and files."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.errors import UserError
from zhiyin.text.bigram import END, Bigram

VOCABULARY = 6
SENTENCES = [[1, 2, 3], [1, 2], [4, 1, 2], []]


def by_hand(sentences: list[list[int]], before: int, token: int) -> float:
    """Witten and Bell's interpolation, spelt out with lists."""
    pairs = [pair for ids in sentences if ids for pair in zip([END, *ids], [*ids, END], strict=True)]
    said = [second for _, second in pairs]
    kinds = len(set(said))
    single = said.count(token) / (len(said) + kinds) + kinds / (len(said) + kinds) / VOCABULARY
    row = [second for first, second in pairs if first == before]
    if not row:
        return single
    return (row.count(token) + len(set(row)) * single) / (len(row) + len(set(row)))


@given(st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=6), min_size=1, max_size=8))
def test_it_counts_as_by_hand_and_sums_to_one(sentences: list[list[int]]) -> None:
    made = Bigram.learn(sentences, VOCABULARY)
    for before in range(VOCABULARY):
        row = [math.exp(made.logprob(before, token)) for token in range(VOCABULARY)]
        assert row == pytest.approx([by_hand(sentences, before, token) for token in range(VOCABULARY)])
        assert sum(row) == pytest.approx(1)


def test_what_was_said_is_likelier() -> None:
    made = Bigram.learn(SENTENCES, VOCABULARY)
    assert made.logprob(1, 2) > made.logprob(1, 3) > -math.inf
    assert made.logprob(END, 1) > made.logprob(END, 4) > made.logprob(END, 2)


def test_a_file_holds_the_same(tmp_path: Path) -> None:
    made = Bigram.learn(SENTENCES, VOCABULARY)
    made.save(tmp_path / "bigram.npz")
    read = Bigram.load(tmp_path / "bigram.npz")
    assert read.vocabulary == VOCABULARY
    assert all(read.logprob(a, b) == made.logprob(a, b) for a in range(VOCABULARY) for b in range(VOCABULARY))


@pytest.mark.parametrize("wrong", ["text", "short", "order", "object"])
def test_a_damaged_file_is_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "bigram.npz"
    tables = {"starts": np.array([0, 1, 2]), "followers": np.array([1, 1]), "counts": np.array([1.0, 1.0])}
    if wrong == "text":
        path.write_text("not an archive")
    elif wrong == "short":
        np.savez(path, **{**tables, "counts": np.array([1.0])})
    elif wrong == "order":
        np.savez(path, **{**tables, "starts": np.array([0, 3, 2])})
    else:
        np.savez(path, **{**tables, "counts": np.array([object(), 1], dtype=object)})
    with pytest.raises(UserError, match="cannot be read"):
        Bigram.load(path)
