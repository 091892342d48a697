"""Log-mel features of a corpus at several speeds: computed once and read from a memory map, or computed when asked.

Shapes: `M` mel bins, `F` frames. The cache is one float16 file of all frames and a JSON index.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32, log_mel
from zhiyin.data import sources
from zhiyin.data.augment_wave import WaveConfig, augment_wave
from zhiyin.data.manifest import Record
from zhiyin.data.sources import Stored
from zhiyin.errors import UserError

Float16 = NDArray[np.float16]


class Features(Protocol):
    """Features by record id, speed and variant (0: as it was recorded; others: distorted)."""

    def get(self, record_id: str, speed: float = 1.0, variant: int = 0) -> Float16:
        """Features [F, M] of one record."""


@dataclass(frozen=True)
class FeatureCache:
    """Features that were computed before."""

    frames_FM: Float16
    places: dict[str, tuple[int, int]]  # name of `_key` -> first frame, number of frames

    def get(self, record_id: str, speed: float = 1.0, variant: int = 0) -> Float16:
        """Features [F, M] of one record at one speed."""
        start, count = self.places[_key(record_id, speed, variant)]
        return self.frames_FM[start : start + count]


@dataclass(frozen=True)
class LiveFeatures:
    """Features that are computed when asked, for corpora too large to keep; the same values as the cache's."""

    records: Mapping[str, Record]
    num_mels: int = 80
    stored: Mapping[str, Stored] = field(default_factory=dict)
    wave: WaveConfig | None = None

    def get(self, record_id: str, speed: float = 1.0, variant: int = 0) -> Float16:
        """Features [F, M] of one record at one speed.

        Raises:
            UserError: its audio is missing, broken or too short.
        """
        record = self.records[record_id]
        heard = sources.samples(record, self.stored.get(record_id))
        return _block(record_id, heard, speed, variant, self.num_mels, self.wave)


def build(
    folder: Path,
    records: Sequence[Record],
    speeds: Sequence[float],
    *,
    num_mels: int = 80,
    workers: int = 2,
    stored: Mapping[str, Stored] | None = None,
    wave: WaveConfig | None = None,
    variants: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> FeatureCache:
    """Compute (or find) the features of `records` at `speeds`.

    A speed of 1.1 makes the recording 10 % shorter and higher, as a record player would.

    Args:
        folder: where caches are kept; one is found again by what it holds.
        records: what is computed.
        speeds: of playing.
        num_mels: bins of a frame.
        workers: processes that compute.
        stored: id -> where audio inside shards is.
        wave: how the variants differ; the speed is that of `speeds` alone.
        variants: how many distorted ones of each record and speed there are beside the clean one.
        report: is given a line now and then.

    Raises:
        UserError: audio is missing, broken or too short (the record is named), or the disk is full.
    """
    said = [str(num_mels), str(speeds), *(_name(record) for record in records)]
    said += [f"{variants} {wave!r}"] if variants else []
    key = hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
    array_path, index_path = folder / f"{key}.f16", folder / f"{key}.json"
    if not index_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [(record, tuple(speeds), num_mels, (stored or {}).get(record.id), wave, variants) for record in records]
        try:
            _compute(array_path, index_path, jobs, workers, report)
        except OSError as error:
            raise UserError(f"features in {folder}: {error.strerror or error}; make room and go on") from error
        finally:
            array_path.with_suffix(".part").unlink(missing_ok=True)
    places = {name: (start, count) for name, (start, count) in json.loads(index_path.read_text()).items()}
    if not array_path.stat().st_size:
        return FeatureCache(np.zeros((0, num_mels), np.float16), places)
    return FeatureCache(np.memmap(array_path, np.float16, "r").reshape(-1, num_mels), places)


_Job = tuple[Record, tuple[float, ...], int, Stored | None, WaveConfig | None, int]


def _compute(
    array_path: Path, index_path: Path, jobs: Sequence[_Job], workers: int, report: Callable[[str], None]
) -> None:
    places: dict[str, tuple[int, int]] = {}
    start = 0
    temporary = array_path.with_suffix(".part")
    with temporary.open("wb") as out, ProcessPoolExecutor(workers) as pool:
        for done, blocks in enumerate(pool.map(_features, jobs, chunksize=32), start=1):
            for name, block in blocks:
                places[name] = (start, len(block))
                start += len(block)
                out.write(block.tobytes())
            if done % 5000 == 0:
                report(f"features: {done} of {len(jobs)} recordings")
    temporary.replace(array_path)
    written = index_path.with_suffix(".part")
    written.write_text(json.dumps(places))
    written.replace(index_path)


def _name(record: Record) -> str:
    part = f" from {record.start_s}" if record.is_part else ""
    return f"{record.id} {record.duration_s}{part}"


def _key(record_id: str, speed: float, variant: int) -> str:
    return f"{record_id}@{speed}#{variant}" if variant else f"{record_id}@{speed}"


def _features(job: _Job) -> list[tuple[str, Float16]]:
    record, speeds, num_mels, stored, wave, variants = job
    heard = sources.samples(record, stored)
    return [
        (_key(record.id, speed, variant), _block(record.id, heard, speed, variant, num_mels, wave))
        for speed in speeds
        for variant in range(variants + 1)
    ]


def _block(
    record_id: str, heard_T: Float32, speed: float, variant: int, num_mels: int, wave: WaveConfig | None
) -> Float16:
    played = heard_T if speed == 1.0 else soxr.resample(heard_T, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ)
    if variant and wave is not None:  # seeded by what is asked, so that the cache and the live features agree
        rng = np.random.default_rng(random.Random(f"{record_id}@{speed}#{variant}").getrandbits(64))
        played = augment_wave(played, replace(wave, speed_share=0.0), rng).samples_T
    return log_mel(played, num_mels=num_mels).T.astype(np.float16)
