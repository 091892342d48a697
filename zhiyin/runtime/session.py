"""One generation over a key/value cache of fixed size: ragged rows in, calls of few shapes out.

Shapes: `B` batch, `N` tokens in one call, `D` decoder width, `V` vocabulary, `C` places in the cache.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from zhiyin.runtime.base import Float32, Int64

PADDING = -1  # position of a token that is written nowhere and seen by none


class CachedSession(ABC):
    """Keeps the count of each row and cuts what is added into right-padded calls; a backend runs one call.

    A row that has nothing left in a call is all padding there, so it cannot change what others get.
    """

    def __init__(self, batch: int, places: int, width: int):
        self.places, self.width = places, width
        self.used_B = np.zeros(batch, np.int64)

    @abstractmethod
    def forward(self, embeds_BND: Float32, positions_BN: Int64, last_B: Int64) -> Float32:
        """Write one call into the cache; logits [B, V] after the token `last_B` of each row."""

    @abstractmethod
    def select(self, rows: Sequence[int]) -> None:
        """Reduce the cache to these rows."""

    @abstractmethod
    def call_size(self, wanted: int) -> int:
        """Tokens of the next call where the longest row has `wanted` to add."""

    def extend(self, embeds: Sequence[Float32]) -> Float32:
        """See `runtime.base.Session`."""
        sizes_B = np.array([len(row) for row in embeds], np.int64)
        if sizes_B.shape != self.used_B.shape or not sizes_B.any():
            raise ValueError(f"{len(self.used_B)} rows, at least one of them with tokens, were expected: {sizes_B}")
        if (self.used_B + sizes_B).max() > self.places:
            raise ValueError(f"{sizes_B} tokens after {self.used_B} do not fit a cache of {self.places}")
        done, longest = 0, int(sizes_B.max())
        logits_BV = np.zeros((0, 0), np.float32)
        while done < longest:
            size = self.call_size(longest - done)
            counts_B = np.clip(sizes_B - done, 0, size)
            call = self._pad([row[done : done + size] for row in embeds], size)
            latest_BV = self.forward(*call, np.maximum(counts_B - 1, 0))
            logits_BV = latest_BV if done == 0 else np.where(counts_B[:, None] > 0, latest_BV, logits_BV)
            self.used_B += counts_B
            done += size
        return logits_BV

    def keep(self, rows: Sequence[int]) -> None:
        """See `runtime.base.Session`."""
        self.used_B = self.used_B[list(rows)]
        self.select(rows)

    def _pad(self, parts: Sequence[Float32], size: int) -> tuple[Float32, Int64]:
        embeds_BND = np.zeros((len(parts), size, self.width), np.float32)
        positions_BN = np.full((len(parts), size), PADDING, np.int64)
        for i, part in enumerate(parts):
            embeds_BND[i, : len(part)] = part
            positions_BN[i, : len(part)] = self.used_B[i] + np.arange(len(part))
        return embeds_BND, positions_BN
