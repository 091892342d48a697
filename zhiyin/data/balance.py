"""How often each record is drawn, so that tasks and labels are heard in the hours that are wanted of them."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from zhiyin.data.manifest import Record

_ROUNDS = 30


def odds(
    records: Sequence[Record], weights: Sequence[float], *, tasks: float = 0.0, labels: float = 0.0
) -> list[float]:
    """Odds of each record in a draw; a record of odds 2 is heard twice as often as one of odds 1.

    Rare tasks and rare labels are drawn more often. A record counts for its rarest task, and for its label of every
    label task. The hours of a task (of a label among those of its task) go with their share in the data to the power
    of one minus the strength: 0 leaves them as they are, 1 makes them equal. Several demands at once are met by
    iterative proportional fitting (Deming and Stephan 1940).

    Args:
        records: what there is.
        weights: of each record, before anything is balanced.
        tasks: strength with which tasks are balanced.
        labels: strength with which the labels of each task are balanced.
    """
    drawn = np.array(weights, np.float64)
    seconds = np.array([record.duration_s for record in records])
    demands = []
    if tasks:
        demands.append((_cells(_rarest_tasks(records, seconds * drawn)), tasks))
    if labels:
        for task in sorted({task for record in records for task in record.labels if task in record.tasks}):
            kinds = [record.labels.get(task) if task in record.tasks else None for record in records]
            demands.append((_cells(kinds), labels))
    wanted = [_wanted(cells, seconds * drawn, strength) for cells, strength in demands]
    for _ in range(_ROUNDS if len(demands) > 1 else len(demands)):
        for (cells, _), target in zip(demands, wanted, strict=True):
            now = _sums(cells, seconds * drawn)
            factor = np.divide(target, now, out=np.ones_like(now), where=now > 0)
            drawn *= np.where(cells >= 0, factor[cells], 1.0)
    return drawn.tolist()


def _rarest_tasks(records: Sequence[Record], seconds: NDArray[np.float64]) -> list[str | None]:
    totals: dict[str, float] = {}
    for record, length in zip(records, seconds, strict=True):
        for task in record.tasks:
            totals[task] = totals.get(task, 0.0) + float(length)
    return [min(record.tasks, key=lambda task: (totals[task], task), default=None) for record in records]


def _cells(kinds: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Numbers of what is the same; -1 for None."""
    numbers: dict[Hashable, int] = {}
    return np.array([-1 if kind is None else numbers.setdefault(kind, len(numbers)) for kind in kinds], np.int64)


def _sums(cells: NDArray[np.int64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    counted = cells >= 0
    return np.bincount(cells[counted], seconds[counted], minlength=1).astype(np.float64)


def _wanted(cells: NDArray[np.int64], seconds: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    now = _sums(cells, seconds)
    share = np.where(now > 0, np.maximum(now, 1e-9) ** (1.0 - strength), 0.0)
    return now.sum() * share / max(float(share.sum()), 1e-9)
