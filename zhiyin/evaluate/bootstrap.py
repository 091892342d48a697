"""How sure a figure is: confidence intervals and paired comparison by resampling records.

A figure is a function of sums over records, so a resample is a row of weights times a matrix of what each record adds.
Sources: Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation"; for
translation Koehn 2004, "Statistical significance tests for machine translation evaluation".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Value = Callable[[Matrix], Matrix]  # sums [R, K] -> figures [R]

LEVEL = 0.95
RESAMPLES = 1000
SEED = 1
_CELLS = 2**22  # weights in memory at once


@dataclass(frozen=True)
class Interval:
    """Where a figure lies with 95 % confidence, by the percentiles of its resamples."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A figure of one run minus that of another over the same records.

    `p` is two-sided: twice the share of resamples in which the difference has the other sign or is nothing, at most 1,
    counted with one more resample so that it is never 0.
    """

    value: float
    interval: Interval
    p: float


def interval(stats_NK: Matrix, value: Value, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Percentile interval of a figure; the same seed gives the same interval.

    Args:
        stats_NK: what each of N records adds to the K sums.
        value: figures of sums.
        resamples: how many.
        seed: of the draws.
    """
    drawn = np.concatenate([value(weights @ stats_NK) for weights in _weights(len(stats_NK), resamples, seed)])
    return _percentiles(drawn)


def compare(
    first_NK: Matrix, second_NK: Matrix, value: Value, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Difference:
    """First run minus second, both resampled alike; the rows of both are the same records in the same order."""
    parts = [
        value(weights @ first_NK) - value(weights @ second_NK) for weights in _weights(len(first_NK), resamples, seed)
    ]
    drawn = np.concatenate(parts)
    drawn = drawn[np.isfinite(drawn)]
    seen = float(value(first_NK.sum(0, keepdims=True))[0] - value(second_NK.sum(0, keepdims=True))[0])
    other = np.count_nonzero(drawn <= 0 if seen > 0 else drawn >= 0)
    p = min(1.0, 2 * (other + 1) / (len(drawn) + 1)) if seen else 1.0
    return Difference(seen, _percentiles(drawn), p)


def _percentiles(drawn: Matrix) -> Interval:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _weights(records: int, resamples: int, seed: int) -> Iterator[Matrix]:
    """How often each record is drawn, [R, N], in pieces that fit the memory."""
    rng = np.random.default_rng(seed)
    size = max(1, _CELLS // max(1, records))
    for begin in range(0, resamples, size):
        count = min(size, resamples - begin)
        yield rng.multinomial(records, np.full(records, 1 / records), size=count).astype(np.float64)
