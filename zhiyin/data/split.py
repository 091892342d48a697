"""A data set into train, dev and test: no speaker in two of them, labels spread as evenly as speakers allow.

Which split a group goes to depends on its name, its content and the seed, never on the order of the lines.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zhiyin.data.manifest import Record
from zhiyin.errors import UserError

NAMES = ("train", "dev", "test")
BY = ("speaker", "source", "id")
_ROUNDS = 20  # of moving groups; it stops before, where no move helps

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """The splits, and how many records have nothing to be grouped by: each of those counts as a group of its own."""

    records: dict[str, list[Record]]
    ungrouped: int


def split(records: Sequence[Record], *, by: str, dev: float, test: float, seed: int) -> Split:
    """Divide records.

    Args:
        records: the whole set.
        by: what must not be in two splits: speaker, source or id.
        dev: percent of the seconds.
        test: percent of the seconds.
        seed: another seed gives another, equally good division.

    Raises:
        UserError: a share or `by` does not fit, or there are fewer groups than splits.
    """
    if by not in BY:
        raise UserError(f"split: --by '{by}' is not known; known: {' '.join(BY)}")
    if not (0 <= dev < 100 and 0 <= test < 100 and dev + test < 100):
        raise UserError(f"split: {dev:g} % for dev and {test:g} % for test; both from 0, together below 100")
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        key = getattr(record, by)
        groups[f"{by} {key}" if key else f"id {record.id}"].append(record)
    shares = np.array([100 - dev - test, dev, test]) / 100
    if len(groups) < np.count_nonzero(shares):
        raise UserError(f"split: {len(groups)} groups by {by} are too few for {np.count_nonzero(shares)} splits")
    names = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    seconds_GK = _seconds([groups[name] for name in names])
    homes = assign(seconds_GK, shares)
    home_of = dict(zip(names, homes, strict=True))
    out: dict[str, list[Record]] = {name: [] for name, share in zip(NAMES, shares, strict=True) if share}
    for record in records:
        key = getattr(record, by)
        out[NAMES[home_of[f"{by} {key}" if key else f"id {record.id}"]]].append(record)
    return Split(out, sum(not getattr(record, by) for record in records))


def assign(seconds_GK: Array, shares: Array) -> list[int]:
    """A split for each of `G` groups, so that of each of `K` kinds every split has about its share of the seconds.

    The largest groups are placed first, each where the cost grows least; then groups move one by one, as long as that
    helps. The cost sums (has - wanted)^2 / (wanted * all) over splits and kinds: relative, so that rare kinds count as
    much as frequent ones and small splits as much as large ones. The first kind counts as much as all others together.
    """
    total_K = seconds_GK.sum(0)
    wanted_SK = np.outer(shares, total_K)
    weight_SK = np.where(shares[:, None] > 0, 1 / np.maximum(wanted_SK * total_K, 1e-9), 1e12)
    weight_SK[:, 0] *= max(1, len(total_K) - 1)
    off_SK = -wanted_SK
    homes = [0] * len(seconds_GK)
    for g in sorted(range(len(homes)), key=lambda g: (-seconds_GK[g, 0], g)):
        homes[g] = int(np.argmin(_costs(off_SK, seconds_GK[g], weight_SK)))
        off_SK[homes[g]] += seconds_GK[g]
    _fill(homes, off_SK, seconds_GK, shares)
    for _ in range(_ROUNDS):
        if not _improve(homes, off_SK, seconds_GK, weight_SK):
            break
    return homes


def _costs(off_SK: Array, seconds_K: Array, weight_SK: Array) -> Array:
    """What the cost grows by when a group goes to each of the splits [S]; only the split that takes it changes."""
    return (weight_SK * seconds_K * (2 * off_SK + seconds_K)).sum(1)


def _improve(homes: list[int], off_SK: Array, seconds_GK: Array, weight_SK: Array) -> bool:
    """Move each group where that lowers the cost, never the last one of a split; tells whether any moved."""
    moved, counts = False, Counter(homes)
    for g, here in enumerate(homes):
        if counts[here] == 1:
            continue
        off_SK[here] -= seconds_GK[g]
        costs = _costs(off_SK, seconds_GK[g], weight_SK)
        best = int(np.argmin(costs))
        there = best if costs[best] < costs[here] - 1e-12 else here
        off_SK[there] += seconds_GK[g]
        moved = moved or there != here
        counts[here] -= 1
        counts[there] += 1
        homes[g] = there
    return moved


def _fill(homes: list[int], off_SK: Array, seconds_GK: Array, shares: Array) -> None:
    """Give every split that should have something at least the smallest group of the one with the most groups."""
    for s in range(len(shares)):
        if shares[s] and s not in homes:
            full = Counter(homes).most_common(1)[0][0]
            g = min((g for g in range(len(homes)) if homes[g] == full), key=lambda g: (seconds_GK[g, 0], g))
            off_SK[full] -= seconds_GK[g]
            off_SK[s] += seconds_GK[g]
            homes[g] = s


def _seconds(groups: Sequence[Sequence[Record]]) -> Array:
    """Seconds [G, K] of each group: all of them, then each task, label, language and source."""
    kinds: dict[str, int] = {"all": 0}
    cells: list[dict[int, float]] = []
    for group in groups:
        cells.append(defaultdict(float))
        for record in sorted(group, key=lambda record: record.id):  # sums must not depend on the lines' order
            names = [f"task {task}" for task in record.tasks]
            names += [f"{task} {label}" for task, label in sorted(record.labels.items())]
            names += [f"language {record.language}", f"source {record.source}"]
            for name in ("all", *names):
                cells[-1][kinds.setdefault(name, len(kinds))] += record.duration_s
    seconds_GK = np.zeros((len(groups), len(kinds)))
    for g, cell in enumerate(cells):
        for k, seconds in cell.items():
            seconds_GK[g, k] = seconds
    return seconds_GK
