"""Figures of a series of times, and whether times grow with the work."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLAT = 0.1  # of the growth of the work; less growth of the time is none


@dataclass(frozen=True)
class Stats:
    """A series of times in seconds.

    Attributes:
        count: how many.
        p95_s: 95th percentile, between the two nearest values; of few values nearly the largest, as `p99_s`.
    """

    count: int
    mean_s: float
    median_s: float
    p95_s: float
    p99_s: float
    min_s: float
    max_s: float


def stats(times_s: Sequence[float]) -> Stats:
    """Figures of at least one time.

    Raises:
        ValueError: there is none.
    """
    if not times_s:
        raise ValueError("no time was measured")
    values = np.asarray(times_s, np.float64)
    median_s, p95_s, p99_s = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return Stats(len(values), float(values.mean()), median_s, p95_s, p99_s, float(values.min()), float(values.max()))


def growth(sizes: Sequence[float], times_s: Sequence[float]) -> float | None:
    """How much of the growth of the work is seen in the time: 0 for none, 1 where both double.

    From the smallest to the largest size; nothing where that is less than twice the smallest. Times of 134, 139 and
    136 ms at 32, 64 and 128 tokens give 0.005: what takes the time is not the work but starting it, one small kernel
    after the other, from the host.
    """
    pairs = sorted(zip(sizes, times_s, strict=True))
    if not pairs or pairs[-1][0] < 2 * pairs[0][0]:
        return None
    (small, short_s), (large, long_s) = pairs[0], pairs[-1]
    return (long_s / short_s - 1.0) / (large / small - 1.0)


def is_flat(sizes: Sequence[float], times_s: Sequence[float]) -> bool:
    """Whether the time does not grow with the work."""
    share = growth(sizes, times_s)
    return share is not None and share < FLAT
