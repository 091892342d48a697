"""Log-mel features of a corpus at several speeds, computed once and read from a memory map.

Shapes: `M` mel bins, `F` frames. The cache is one float16 array of all frames and a JSON index.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from zhiyin.audio.features import SAMPLE_RATE_HZ, log_mel
from zhiyin.data.clip import samples
from zhiyin.data.manifest import Record

Float16 = NDArray[np.float16]


@dataclass(frozen=True)
class FeatureCache:
    """Features by record id and speed."""

    frames_FM: Float16
    places: dict[str, tuple[int, int]]  # "id@speed" -> first frame, number of frames

    def get(self, record_id: str, speed: float = 1.0) -> Float16:
        """Features [F, M] of one record at one speed."""
        start, count = self.places[f"{record_id}@{speed}"]
        return self.frames_FM[start : start + count]


def build(
    folder: Path, records: Sequence[Record], speeds: Sequence[float], *, num_mels: int = 80, workers: int = 2
) -> FeatureCache:
    """Compute (or find) the features of `records` at `speeds`.

    A speed of 1.1 makes the recording 10 % shorter and higher, as a record player would.
    """
    key = hashlib.sha256(
        "\n".join([str(num_mels), str(speeds), *(_name(record) for record in records)]).encode()
    ).hexdigest()[:16]
    array_path, index_path = folder / f"{key}.npy", folder / f"{key}.json"
    if not index_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _compute(array_path, index_path, records, tuple(speeds), num_mels, workers)
    places = {name: (start, count) for name, (start, count) in json.loads(index_path.read_text()).items()}
    return FeatureCache(np.load(array_path, mmap_mode="r"), places)


def _compute(
    array_path: Path,
    index_path: Path,
    records: Sequence[Record],
    speeds: tuple[float, ...],
    num_mels: int,
    workers: int,
) -> None:
    places: dict[str, tuple[int, int]] = {}
    blocks: list[Float16] = []
    start = 0
    with ProcessPoolExecutor(workers) as pool:
        jobs = ((record, speeds, num_mels) for record in records)
        for record, features in zip(records, pool.map(_features, *zip(*jobs, strict=True), chunksize=32), strict=True):
            for speed, block in zip(speeds, features, strict=True):
                places[f"{record.id}@{speed}"] = (start, len(block))
                start += len(block)
                blocks.append(block)
    temporary = array_path.with_suffix(".part.npy")
    np.save(temporary, np.concatenate(blocks))
    temporary.replace(array_path)
    index_path.write_text(json.dumps(places))


def _name(record: Record) -> str:
    part = f" from {record.start_s}" if record.is_part else ""
    return f"{record.id} {record.duration_s}{part}"


def _features(record: Record, speeds: tuple[float, ...], num_mels: int) -> list[Float16]:
    heard = samples(record)
    out = []
    for speed in speeds:
        played = heard if speed == 1.0 else soxr.resample(heard, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ)
        out.append(log_mel(played, num_mels=num_mels).T.astype(np.float16))
    return out
