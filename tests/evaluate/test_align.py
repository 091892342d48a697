"""Alignments against jiwer and against the fewest edits."""

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.text.score import Counts, align, count, edits

SEQUENCES = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=8)


@given(SEQUENCES, SEQUENCES)
def test_an_alignment_says_both_sides_with_the_fewest_edits(a: list[str], b: list[str]) -> None:
    pairs = align(a, b)
    assert [one for one, _ in pairs if one is not None] == a
    assert [other for _, other in pairs if other is not None] == b
    assert (None, None) not in pairs
    assert count(pairs).errors == edits(a, b)
    assert count(pairs).length == len(a)


@pytest.mark.skipif(importlib.util.find_spec("jiwer") is None, reason="jiwer is not installed")
@given(SEQUENCES.filter(bool), SEQUENCES)
def test_counts_are_those_of_jiwer(a: list[str], b: list[str]) -> None:
    import jiwer

    theirs, ours = jiwer.process_words(" ".join(a), " ".join(b)), count(align(a, b))
    assert ours.errors / ours.length == pytest.approx(theirs.wer)
    # both are optimal, so these two do not depend on how ties are broken
    assert ours.errors == theirs.substitutions + theirs.deletions + theirs.insertions
    assert ours.deletions - ours.insertions == theirs.deletions - theirs.insertions


def test_kinds_of_errors() -> None:
    assert count(align("abcd", "axcde")) == Counts(hits=3, substitutions=1, deletions=0, insertions=1)
    assert count(align("abc", "")) == Counts(0, 0, 3, 0)
    assert align("ab", "b") == [("a", None), ("b", "b")]


def test_long_texts_are_no_trouble() -> None:
    said = [str(at % 97) for at in range(3000)]
    heard = [unit for at, unit in enumerate(said) if at % 100 != 50]
    assert count(align(["x", *said, "y"], ["z", *heard, "w"])) == Counts(2970, 2, 30, 0)
