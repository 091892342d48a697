"""Word and character errors: the edit distance every figure here is made of."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CJK = r"\u3400-\u4dbf\u4e00-\u9fff"
_UNIT = re.compile(rf"[{CJK}]|[^\s{CJK}]+")

Pair = tuple[str | None, str | None]
_PAIRED, _DELETED, _INSERTED = range(3)


@dataclass(frozen=True)
class Counts:
    """What became of the units of a reference: heard right, as something else, not at all; and what was added."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """Edits together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """Units of the reference."""
        return self.hits + self.substitutions + self.deletions


def words(text: str) -> list[str]:
    """Scoring units: each Chinese character by itself, everything else by white space."""
    return _UNIT.findall(text)


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest substitutions, insertions and deletions between two sequences (Levenshtein 1966)."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != got))
    return row[-1]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Units side by side with the fewest edits; None stands for nothing.

    Among equally cheap alignments, a pair is preferred to a deletion and a deletion to an insertion, from the end on.
    Equal beginnings and ends are set aside first, which never costs an edit.
    """
    most = min(len(reference), len(hypothesis))
    begin = next((i for i in range(most) if reference[i] != hypothesis[i]), most)
    end = next((i for i in range(most - begin) if reference[-1 - i] != hypothesis[-1 - i]), most - begin)
    middle = _align(reference[begin : len(reference) - end], hypothesis[begin : len(hypothesis) - end])
    before = [(unit, unit) for unit in reference[:begin]]
    after = [(unit, unit) for unit in reference[len(reference) - end :]]
    return [*before, *middle, *after]


def count(pairs: Sequence[Pair]) -> Counts:
    """Edits of an alignment by kind."""
    deletions = sum(got is None for _, got in pairs)
    insertions = sum(expected is None for expected, _ in pairs)
    hits = sum(expected == got for expected, got in pairs)
    return Counts(hits, len(pairs) - hits - deletions - insertions, deletions, insertions)


def _align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Row by row in numpy, with one byte for each cell: an hour of speech against itself takes seconds."""
    numbers = {unit: number for number, unit in enumerate({*reference, *hypothesis})}
    heard_M = np.array([numbers[unit] for unit in hypothesis], np.int64)
    places_M = np.arange(len(hypothesis) + 1)
    steps_NM = np.full((len(reference) + 1, len(hypothesis) + 1), _INSERTED, np.uint8)
    last_M = places_M
    for i, expected in enumerate(reference, start=1):
        paired_M = last_M[:-1] + (heard_M != numbers[expected])
        deleted_M = last_M + 1
        row_M = deleted_M.copy()
        np.minimum(row_M[1:], paired_M, out=row_M[1:])
        row_M = np.minimum.accumulate(row_M - places_M) + places_M  # each insertion costs one more than its left
        steps_NM[i, row_M == deleted_M] = _DELETED
        steps_NM[i, 1:][row_M[1:] == paired_M] = _PAIRED
        last_M = row_M
    pairs: list[Pair] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        step = steps_NM[i, j]
        i, j = i - (step != _INSERTED), j - (step != _DELETED)
        pairs.append((None if step == _INSERTED else reference[i], None if step == _DELETED else hypothesis[j]))
    return pairs[::-1]
