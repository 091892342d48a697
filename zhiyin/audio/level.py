"""Quiet recordings and those with a constant offset: what the detector and the model are given of them instead.

Speech at ordinary levels without an offset passes through both, to the last bit. What was measured: docs/recordings.md.
Shapes: `T` samples, `N` chunks.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.silero import CHUNK_SAMPLES

QUIET_DB = -28.0  # of the loudest 0.1 s, against full scale; nine of ten corpora lie above it
OFFSET = 0.1  # of the loudest RMS; a smaller one harms neither, and speech that is clipped on one side has a little
MAX_GAIN_DB = 40.0

_QUIET = 10 ** (QUIET_DB / 20)
_STEP_SAMPLES = SAMPLE_RATE_HZ // 10
_AHEAD_CHUNKS = round(5.0 * SAMPLE_RATE_HZ / CHUNK_SAMPLES)
_DECAY = 10 ** (-6 / 20 * CHUNK_SAMPLES / SAMPLE_RATE_HZ / 30)  # 6 dB in 30 s: what was loud is long remembered
_OFFSET_PACE = 0.05  # per chunk, thus 0.6 s


def loudness_db(samples_T: Float32) -> float:
    """RMS of the loudest 0.1 s in decibels of full scale, a constant offset left out; -200 for no sound at all."""
    return _db(_loudest(samples_T - np.float32(_mean(samples_T))))


def adjusted(samples_T: Float32) -> Float32:
    """A window as a model has learned to hear speech: without an offset, and lifted to `QUIET_DB` where it is below.

    Args:
        samples_T: a whole window; it comes back as it is where nothing is to be done.
    """
    offset = _mean(samples_T)
    loudest = _loudest(samples_T - np.float32(offset))
    level_db = _db(loudest)
    if abs(offset) <= OFFSET * loudest:
        if level_db >= QUIET_DB:
            return samples_T
        offset = 0.0
    return _lifted(samples_T, offset, min(max(QUIET_DB - level_db, 0.0), MAX_GAIN_DB))


class Evener:
    """A stream for the detector of speech, which misses what is very quiet: lifted to `QUIET_DB`, without an offset.

    The gain of a chunk follows from the loudest chunk before it, slowly forgotten, and in the 5 s after it, so that the
    noise before the first word is not lifted more than the word. All joined pieces are the same however they come.
    """

    def __init__(self) -> None:
        self._rest_T = np.zeros(0, np.float32)
        self._waiting: deque[tuple[Float32, float, float]] = deque()  # chunk, its offset, its level
        self._ahead: deque[tuple[int, float]] = deque()  # numbers and levels, falling: the loudest of those that wait
        self._offset: float | None = None
        self._loudest = 0.0
        self._taken = self._given = 0

    def push(self, samples_T: Float32) -> Float32:
        """Take the next samples [T], mono 16 kHz; what comes back lags by 5 s."""
        joined_T = np.concatenate([self._rest_T, samples_T])
        whole = len(joined_T) // CHUNK_SAMPLES * CHUNK_SAMPLES
        self._rest_T = joined_T[whole:].copy()
        return _joined(self._through(joined_T[:whole].reshape(-1, CHUNK_SAMPLES)))

    def finish(self) -> Float32:
        """What is left."""
        last = list(self._through(self._rest_T[None])) if len(self._rest_T) else []
        return _joined([*last, *(self._next() for _ in range(len(self._waiting)))])

    def _through(self, chunks: Float32) -> Iterator[Float32]:
        wide = chunks.astype(np.float64)  # not while it is summed: that would depend on how many chunks come at once
        means = wide.mean(axis=1)
        levels = np.sqrt(np.maximum(np.square(wide).mean(axis=1) - means * means, 0.0))
        for chunk_T, mean, level in zip(chunks, means.tolist(), levels.tolist(), strict=True):
            self._offset = mean if self._offset is None else self._offset + _OFFSET_PACE * (mean - self._offset)
            while self._ahead and self._ahead[-1][1] <= level:
                self._ahead.pop()
            self._ahead.append((self._taken, level))
            self._waiting.append((chunk_T, self._offset, level))
            self._taken += 1
            if len(self._waiting) > _AHEAD_CHUNKS:
                yield self._next()

    def _next(self) -> Float32:
        chunk_T, offset, level = self._waiting.popleft()
        self._loudest = max(level, self._loudest * _DECAY)
        loudest = max(self._loudest, self._ahead[0][1])
        if self._ahead[0][0] == self._given:
            self._ahead.popleft()
        self._given += 1
        offset = offset if abs(offset) > OFFSET * loudest else 0.0
        if not offset and loudest >= _QUIET:
            return chunk_T
        return _lifted(chunk_T, offset, min(max(QUIET_DB - _db(loudest), 0.0), MAX_GAIN_DB))


def _joined(pieces: Iterable[Float32]) -> Float32:
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def _lifted(samples_T: Float32, offset: float, gain_db: float) -> Float32:
    return (samples_T - np.float32(offset)) * np.float32(10 ** (gain_db / 20))


def _loudest(samples_T: Float32) -> float:
    """RMS of the loudest 0.1 s."""
    steps = len(samples_T) // _STEP_SAMPLES
    if not steps:
        return float(np.sqrt(np.square(samples_T, dtype=np.float64).mean())) if len(samples_T) else 0.0
    energy = np.square(samples_T[: steps * _STEP_SAMPLES], dtype=np.float64).reshape(steps, -1).mean(axis=1)
    return float(np.sqrt(energy.max()))


def _mean(samples_T: Float32) -> float:
    return float(samples_T.mean(dtype=np.float64)) if len(samples_T) else 0.0


def _db(rms: float) -> float:
    return 20 * math.log10(max(rms, 1e-10))
