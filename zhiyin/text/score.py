"""Word and character errors: the edit distance every figure here is made of."""

import re
from collections.abc import Sequence

CJK = r"\u3400-\u4dbf\u4e00-\u9fff"
_UNIT = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


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
