"""The last seconds of a stream: what the open window may still need.

Shapes: `T` samples.
"""

import math

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.windows import Window

_STEP_SAMPLES = SAMPLE_RATE_HZ // 100
_PAUSE_STEPS = 15  # 0.15 s, as in `audio.windows`: a closure inside a word is shorter


class Buffer:
    """Samples from a moving beginning on; times are seconds of the stream."""

    def __init__(self) -> None:
        self._samples_T = np.zeros(0, np.float32)
        self._first = 0  # its place in the stream, in samples

    def __len__(self) -> int:
        return len(self._samples_T)

    def append(self, samples_T: Float32) -> None:
        """Add the next samples."""
        self._samples_T = np.concatenate([self._samples_T, samples_T])

    def forget_before(self, time_s: float) -> None:
        """Drop what lies before a time."""
        drop = min(len(self), max(0, int(time_s * SAMPLE_RATE_HZ) - self._first))
        if drop:
            self._samples_T = self._samples_T[drop:].copy()
            self._first += drop

    def window(self, start_s: float, end_s: float, *, bucket_s: float, floor_s: float, longest_s: float) -> Window:
        """The audio between two times; its length a multiple of `bucket_s`, where that is not 0.

        What is missing is taken from before, but not from before `floor_s`, where words lie that are not wanted; the
        rest is silence behind. No window is longer than `longest_s`.
        """
        start, end, floor = (max(self._first, round(at_s * SAMPLE_RATE_HZ)) for at_s in (start_s, end_s, floor_s))
        size = end - start
        bucket = round(bucket_s * SAMPLE_RATE_HZ)
        if bucket:
            size = max(size, min(math.ceil(size / bucket) * bucket, round(longest_s * SAMPLE_RATE_HZ)))
        start = max(min(start, floor), end - size)
        samples_T = self._samples_T[start - self._first : end - self._first]
        return Window(start / SAMPLE_RATE_HZ, np.pad(samples_T, (0, size - len(samples_T))))

    def quietest_s(self, earliest_s: float, latest_s: float) -> float:
        """The middle of the quietest 0.15 s between two times."""
        start = max(self._first, round(earliest_s * SAMPLE_RATE_HZ))
        samples_T = self._samples_T[start - self._first : round(latest_s * SAMPLE_RATE_HZ) - self._first]
        steps = len(samples_T) // _STEP_SAMPLES
        if steps <= _PAUSE_STEPS:
            return latest_s
        power = np.square(samples_T[: steps * _STEP_SAMPLES], dtype=np.float64).reshape(steps, -1).mean(axis=1)
        smooth = np.convolve(power, np.ones(_PAUSE_STEPS), "valid")
        return (start + (int(smooth.argmin()) + _PAUSE_STEPS / 2) * _STEP_SAMPLES) / SAMPLE_RATE_HZ
