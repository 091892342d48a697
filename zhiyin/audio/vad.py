"""Where somebody speaks: spans of speech in a stream of audio, from Silero's probabilities with hysteresis."""

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.silero import CHUNK_SAMPLES, Silero

CHUNK_S = CHUNK_SAMPLES / SAMPLE_RATE_HZ
_WARM_UP_CHUNKS = 4
_LONGEST_DOUBT_S = 3.0  # what came longer than this before the first clear sound is not part of its span


@dataclass(frozen=True)
class Span:
    """A stretch of speech, in seconds from the start of the recording.

    `peak` is the highest probability in it; 1 where no detector was asked.
    """

    start_s: float
    end_s: float
    peak: float = field(default=1.0, compare=False)


@dataclass(frozen=True)
class Thresholds:
    """When speech begins and ends.

    Attributes:
        start: probability at which speech begins.
        end: probability below which it may end; lower than `start`, so that a weak syllable does not break it.
        peak: a span whose probability never gets this high is dropped. Of 1,000 single words of two corpora the weakest
            reaches 0.66, hiss, hum, wind and far voices mostly stay below 0.55.
        min_silence_s: silence this long ends a span.
        min_speech_s: shorter spans are dropped; a single digit lasts 0.15 s or more.
        pad_s: added on both sides, because the first and last sounds of a word are weak; at most half of
            `min_silence_s`, so that spans never touch.
    """

    start: float = 0.4
    end: float = 0.25
    peak: float = 0.6
    min_silence_s: float = 0.2
    min_speech_s: float = 0.09
    pad_s: float = 0.06

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start <= self.peak < 1 or not 0 <= self.pad_s <= self.min_silence_s / 2:
            raise ValueError(f"thresholds contradict each other: {self}")


class Detector:
    """Finds spans while audio arrives; the same spans however the audio is divided into pieces."""

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self._thresholds = thresholds or Thresholds()
        self._silero = copy(_after_silence(Silero))  # what it remembers is replaced, never changed
        self._rest_T = np.zeros(0, np.float32)  # less than a chunk
        self._chunks = 0
        self._start_s: float | None = None  # speech began here, before padding
        self._quiet_s: float | None = None  # and may have ended here
        self._peak = 0.0  # its highest probability

    def push(self, samples_T: Float32) -> list[Span]:
        """Take the next samples [T], mono 16 kHz; return the spans that ended."""
        joined_T = np.concatenate([self._rest_T, samples_T])
        whole = len(joined_T) // CHUNK_SAMPLES * CHUNK_SAMPLES
        self._rest_T = joined_T[whole:]
        return [span for p in self._silero.probabilities(joined_T[:whole]) if (span := self._step(float(p)))]

    def finish(self) -> list[Span]:
        """The spans that end with the audio."""
        length_s = self._chunks * CHUNK_S + len(self._rest_T) / SAMPLE_RATE_HZ
        spans = self.push(np.zeros(-len(self._rest_T) % CHUNK_SAMPLES, np.float32))
        if self._start_s is not None:
            last = self._close(self._quiet_s if self._quiet_s is not None else self._chunks * CHUNK_S)
            spans += [last] if last else []
        return [Span(span.start_s, min(span.end_s, length_s), span.peak) for span in spans]

    @property
    def open(self) -> Span | None:
        """The span that has begun and not ended, up to where speech was heard; None while it may still be dropped."""
        if self._start_s is None:
            return None
        heard_s = self._quiet_s if self._quiet_s is not None else self._chunks * CHUNK_S
        if self._peak < self._thresholds.peak or heard_s - self._start_s < self._thresholds.min_speech_s:
            return None
        return Span(max(0.0, self._start_s - self._thresholds.pad_s), heard_s, self._peak)

    @property
    def settled_s(self) -> float:
        """No span that has not been returned yet begins before this time."""
        start_s = self._start_s if self._start_s is not None else self._chunks * CHUNK_S
        return max(0.0, start_s - self._thresholds.pad_s)

    def _step(self, probability: float) -> Span | None:
        limits = self._thresholds
        now_s = self._chunks * CHUNK_S
        self._chunks += 1
        if probability >= limits.start:
            self._quiet_s = None
            if self._start_s is None:
                self._start_s, self._peak = now_s, 0.0
        elif self._start_s is not None:
            if self._quiet_s is None and probability < limits.end:
                self._quiet_s = now_s
            if self._quiet_s is not None and now_s + CHUNK_S - self._quiet_s >= limits.min_silence_s:
                return self._close(self._quiet_s)
        if self._start_s is not None:
            self._peak = max(self._peak, probability)
            if self._peak < limits.peak:
                self._start_s = max(self._start_s, now_s - _LONGEST_DOUBT_S)
        return None

    def _close(self, end_s: float) -> Span | None:
        assert self._start_s is not None
        start_s, self._start_s, self._quiet_s = self._start_s, None, None
        if self._peak < self._thresholds.peak or end_s - start_s < self._thresholds.min_speech_s:
            return None
        return Span(max(0.0, start_s - self._thresholds.pad_s), end_s + self._thresholds.pad_s, self._peak)


@cache
def _after_silence(network: type[Silero]) -> Silero:
    """As if silence came before: a recording that begins inside its first word is heard in 99 of 100 single digits
    instead of 90."""
    silero = network()
    silero.probabilities(np.zeros(_WARM_UP_CHUNKS * CHUNK_SAMPLES, np.float32))
    return silero


def spans(blocks: Iterable[Float32], *, thresholds: Thresholds | None = None) -> Iterator[Span]:
    """Yield the spans of speech in a stream, each as soon as it has ended.

    Args:
        blocks: mono 16 kHz float32 pieces [T] of any length.
        thresholds: when speech begins and ends.
    """
    detector = Detector(thresholds)
    for block_T in blocks:
        yield from detector.push(block_T)
    yield from detector.finish()
