"""Which token of a transcript follows which, counted in the transcripts a model learned from.

It helps a CTC head to choose between words that sound alike to it: after digits come digits. `V` vocabulary, `N` pairs.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from zhiyin.errors import UserError

END = 0  # before the first token and after the last one: the blank of CTC, which no transcript has
_ARRAYS = ("starts", "followers", "counts")


class Bigram:
    """Probabilities of the next token.

    The share of a pair among what followed the token before, with the rest for tokens that never did: by how often
    they occur at all, and evenly. Interpolation: Witten and Bell 1991.
    """

    def __init__(self, starts: np.ndarray, followers: np.ndarray, counts: np.ndarray) -> None:
        """Counts by the token before, as rows of a sparse matrix.

        Args:
            starts: [V + 1], where the row of a token begins.
            followers: [N], tokens that followed, ascending in each row.
            counts: [N], how often.
        """
        self._arrays = {"starts": starts, "followers": followers, "counts": counts}
        self._vocabulary = len(starts) - 1
        singles = np.bincount(followers, weights=counts, minlength=self._vocabulary)
        seen, kinds = float(singles.sum()), np.count_nonzero(singles)
        rest = kinds / (seen + kinds) if kinds else 1.0
        self._singles = (1 - rest) * singles / max(seen, 1.0) + rest / self._vocabulary
        self._known: dict[tuple[int, int], float] = {}

    @classmethod
    def learn(cls, transcripts: Iterable[Sequence[int]], vocabulary: int) -> "Bigram":
        """Count the pairs of transcripts, given as token ids."""
        pairs = Counter(
            pair for ids in transcripts if ids for pair in zip((END, *ids), (*ids, END), strict=True)
        )  # fmt: skip
        ordered = sorted(pairs)
        before = np.array([pair[0] for pair in ordered], np.int64)
        return cls(
            np.searchsorted(before, np.arange(vocabulary + 1)).astype(np.int32),
            np.array([pair[1] for pair in ordered], np.int32),
            np.array([pairs[pair] for pair in ordered], np.float32),
        )

    @classmethod
    def load(cls, path: Path) -> "Bigram":
        """Read a file that `save` wrote.

        Raises:
            UserError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                starts, followers, counts = (file[name] for name in _ARRAYS)
            is_whole = starts[0] == 0 and starts[-1] == len(followers) == len(counts) and (np.diff(starts) >= 0).all()
            if not is_whole or (counts <= 0).any() or (followers < 0).any() or (followers >= len(starts) - 1).any():
                raise ValueError("its tables do not fit together")
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"bigram {path}: cannot be read ({error}); export or copy the model again") from None
        return cls(starts, followers, counts)

    def save(self, path: Path) -> None:
        """Write it as a numpy archive."""
        starts, followers, counts = self._arrays.values()
        np.savez_compressed(path, starts=starts, followers=followers, counts=counts)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._vocabulary

    def logprob(self, before: int, token: int) -> float:
        """Natural logarithm of the probability that `token` (or `END`) follows `before` (or `END`)."""
        known = self._known.get((before, token))
        if known is None:
            known = self._known[before, token] = math.log(self._probability(before, token))
        return known

    def _probability(self, before: int, token: int) -> float:
        starts, followers, counts = self._arrays.values()
        row = slice(int(starts[before]), int(starts[before + 1]))
        kinds = row.stop - row.start
        if not kinds:
            return float(self._singles[token])
        place = row.start + int(np.searchsorted(followers[row], token))
        count = float(counts[place]) if place < row.stop and followers[place] == token else 0.0
        total = float(counts[row].sum())
        return (count + kinds * float(self._singles[token])) / (total + kinds)
