"""Recordings of any length as windows the encoder can take; memory does not grow with the recording.

Speech spans close together share a window. A span longer than a window is cut at its quietest place; where even that is
loud, the two windows share a second of audio, and `zhiyin.audio.merge` joins their words again.
Shapes: `T` samples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from zhiyin.audio.evidence import is_steady
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.level import Evener, adjusted
from zhiyin.audio.vad import Detector, Span, Thresholds

# Half of the peak-to-peak value, 70 dB below full scale: 10 steps of a 16-bit sample. What stays below, dither and the
# idle noise of a telephone line included, carries no speech; a constant offset does not count.
SILENCE_PEAK = 10 ** (-70 / 20)

JOIN_GAP_S = 0.6  # pauses inside a sentence are shorter, those between sentences longer
CONTEXT_S = 0.3  # audio kept around speech: its edges are weak, and models learn whole recordings
OVERLAP_S = 1.0  # longer than nearly every word, so a word broken by one window is whole in the other
_PAUSE_S = 0.15  # a closure inside a word is shorter
_PAUSE_DB = -26.0  # against the loud part of the window; the pauses of read sentences lie 30 to 50 dB down


@dataclass(frozen=True)
class Window:
    """What the encoder sees at once.

    Attributes:
        start_s: where `samples_T` begins in the recording.
        samples_T: mono 16 kHz audio, speech with a little context.
        spans: the speech inside, in seconds of the recording; empty when a recording without speech was kept.
        overlap_s: how much of the beginning the previous window holds too; above 0 only after a cut inside speech.
    """

    start_s: float
    samples_T: Float32 = field(repr=False)
    spans: tuple[Span, ...] = ()
    overlap_s: float = 0.0

    @property
    def end_s(self) -> float:
        """Where the window ends in the recording."""
        return self.start_s + len(self.samples_T) / SAMPLE_RATE_HZ


def cut(
    blocks: Iterable[Float32],
    *,
    limit_s: float,
    join_gap_s: float = JOIN_GAP_S,
    context_s: float = CONTEXT_S,
    overlap_s: float = OVERLAP_S,
    keep_nonspeech: bool = False,
    thresholds: Thresholds | None = None,
) -> Iterator[Window]:
    """Yield the windows of a recording in order, each as soon as it is complete.

    The windows hold all speech and do not depend on how the recording is divided into blocks. Near-silence (below
    `SILENCE_PEAK`) never gives a window, nor does a sound whose level stays (`evidence.is_steady`), unless
    `keep_nonspeech` asks for it. A few windows and blocks are held in memory.

    Args:
        blocks: mono 16 kHz float32 pieces [T] of any length.
        limit_s: longest window.
        join_gap_s: spans with a shorter gap share a window where they fit.
        context_s: audio kept around speech, at most half of `join_gap_s`.
        overlap_s: shared by neighbours when no quiet place is found to cut at.
        keep_nonspeech: the caller asks for more than speech (a cough, a cry): a recording that fits into one window
            comes whole, and a longer one in which no speech is found gives its loudest `limit_s`.
        thresholds: when speech begins and ends.

    Raises:
        ValueError: when the lengths contradict each other.
    """
    if not 0 <= 2 * context_s <= join_gap_s or not 0 <= 3 * (overlap_s + context_s) <= limit_s or limit_s < 1:
        raise ValueError(
            f"limit_s={limit_s}, overlap_s={overlap_s}, context_s={context_s}, join_gap_s={join_gap_s}: the limit must "
            "be at least a second and hold overlap and context three times, the gap must hold the context twice"
        )
    cutter = _Cutter(limit_s, join_gap_s, context_s, overlap_s, thresholds)
    if not keep_nonspeech:
        yield from cutter.run(blocks)
        return
    head, rest = _head(iter(blocks), round(limit_s * SAMPLE_RATE_HZ))
    if rest is None:
        if not _is_silent(head):
            yield Window(0.0, head, _spans(head, thresholds))
        return
    loudest = _Loudest(round(limit_s * SAMPLE_RATE_HZ))
    has_speech = False
    for window in cutter.run(loudest.watch(chain([head], rest))):
        has_speech = True
        yield window
    if not has_speech and not _is_silent(loudest.samples_T):
        yield Window(loudest.start / SAMPLE_RATE_HZ, loudest.samples_T)


@dataclass(frozen=True)
class _Draft:
    """A window being filled. While it holds no span it waits for the rest of one that was cut, from `resume_s` on."""

    start_s: float
    spans: tuple[Span, ...] = ()
    overlap_s: float = 0.0
    resume_s: float = 0.0


class _Cutter:
    """Spans into windows. An open span is treated as soon as what will come of it no longer depends on its end."""

    def __init__(
        self, limit_s: float, join_gap_s: float, context_s: float, overlap_s: float, thresholds: Thresholds | None
    ) -> None:
        self._limit_s, self._join_gap_s = limit_s, join_gap_s
        self._context_s, self._overlap_s = context_s, overlap_s
        self._evener = Evener()
        self._detector = Detector(thresholds)
        self._buffer = _Buffer()
        self._draft: _Draft | None = None
        self._done_s = 0.0  # end of the last window

    def run(self, blocks: Iterable[Float32]) -> Iterator[Window]:
        for block_T in blocks:
            # Small steps, because a long block would hold many windows' worth of audio at once.
            step = round(self._limit_s * SAMPLE_RATE_HZ)
            for start in range(0, len(block_T), step):
                yield from self._push(block_T[start : start + step])
        for span in (*self._detector.push(self._evener.finish()), *self._detector.finish()):
            yield from self._add(span)
        if self._draft is not None:
            yield from self._finish_draft(None)

    def _push(self, samples_T: Float32) -> Iterator[Window]:
        self._buffer.append(samples_T)
        for span in self._detector.push(self._evener.push(samples_T)):
            yield from self._add(span)
        if (open_span := self._detector.open) is not None:
            yield from self._add_open(open_span)
        elif self._is_past(self._draft):
            yield from self._finish_draft(None)
        start_s = self._draft.start_s if self._draft is not None else self._detector.settled_s - self._context_s
        self._buffer.forget_before(start_s)

    def _add(self, span: Span) -> Iterator[Window]:
        yield from self._add_open(span)
        draft = self._draft or self._begin(span)
        if not draft.spans and draft.resume_s:
            span = Span(draft.resume_s, span.end_s, span.peak)
        self._draft = replace(draft, spans=(*draft.spans, span))

    def _add_open(self, span: Span) -> Iterator[Window]:
        """Do what is certain from the part of the span known so far: finish the window before it, cut the span."""
        draft = self._draft
        if draft is not None and draft.spans:
            far = span.start_s - draft.spans[-1].end_s >= self._join_gap_s
            if not far and not self._is_full(draft, span):
                return
            yield from self._finish_draft(span.start_s)
        draft = self._draft or self._begin(span)
        while self._is_full(draft, span):
            window, draft = self._cut_inside(draft, span)
            is_empty = _is_empty(window.samples_T)
            self._draft = draft = replace(draft, overlap_s=0.0) if is_empty else draft
            if not is_empty:
                yield window

    def _is_past(self, draft: _Draft | None) -> bool:
        """Whether the next span, wherever it begins, is too far away to share the window."""
        if draft is None or not draft.spans:
            return False
        return self._detector.settled_s - draft.spans[-1].end_s >= self._join_gap_s

    def _is_full(self, draft: _Draft, span: Span) -> bool:
        return span.end_s + self._context_s - draft.start_s > self._limit_s

    def _begin(self, span: Span) -> _Draft:
        return _Draft(max(0.0, self._done_s, span.start_s - self._context_s))

    def _finish_draft(self, next_start_s: float | None) -> Iterator[Window]:
        draft, self._draft = self._draft, None
        assert draft is not None and draft.spans
        last_s = draft.spans[-1].end_s
        end_s = last_s + self._context_s
        if next_start_s is not None:
            end_s = min(end_s, (last_s + next_start_s) / 2)
        window = self._window(draft, end_s)
        self._done_s = end_s
        if not _is_empty(window.samples_T):
            yield window

    def _cut_inside(self, draft: _Draft, span: Span) -> tuple[Window, _Draft]:
        """Cut a span that does not fit, in the last third of the allowed window."""
        latest_s = draft.start_s + self._limit_s - self._context_s - self._overlap_s / 2
        first_s = draft.start_s + 2 / 3 * (self._limit_s - self._context_s)
        samples_T = self._buffer.take(draft.start_s, latest_s + self._overlap_s / 2)
        offset, is_pause = _quietest(samples_T, first_s - draft.start_s, latest_s - draft.start_s)
        cut_s = draft.start_s + offset
        shared_s = 0.0 if is_pause else self._overlap_s
        begin_s = draft.resume_s or span.start_s
        window = self._window(replace(draft, spans=(Span(begin_s, cut_s, span.peak),)), cut_s + shared_s / 2)
        self._done_s = cut_s
        return window, _Draft(cut_s - shared_s / 2, overlap_s=shared_s, resume_s=cut_s)

    def _window(self, draft: _Draft, end_s: float) -> Window:
        return Window(draft.start_s, self._buffer.take(draft.start_s, end_s), draft.spans, draft.overlap_s)


class _Buffer:
    """The part of the recording that may still be needed."""

    def __init__(self) -> None:
        self._samples_T = np.zeros(0, np.float32)
        self._first = 0  # its place in the recording, in samples

    def append(self, samples_T: Float32) -> None:
        self._samples_T = np.concatenate([self._samples_T, samples_T])

    def take(self, start_s: float, end_s: float) -> Float32:
        start, end = (max(0, round(at_s * SAMPLE_RATE_HZ) - self._first) for at_s in (start_s, end_s))
        return self._samples_T[start:end].copy()

    def forget_before(self, time_s: float) -> None:
        drop = min(len(self._samples_T), max(0, int(time_s * SAMPLE_RATE_HZ) - self._first))
        self._samples_T = self._samples_T[drop:].copy()
        self._first += drop


class _Loudest:
    """Remembers the loudest of consecutive stretches of a stream that passes through."""

    def __init__(self, stretch_samples: int) -> None:
        self._stretch_samples = stretch_samples
        self._energy = -1.0
        self.start = 0
        self.samples_T = np.zeros(0, np.float32)

    def watch(self, blocks: Iterable[Float32]) -> Iterator[Float32]:
        pending_T, start = np.zeros(0, np.float32), 0
        for block_T in blocks:
            pending_T = np.concatenate([pending_T, block_T])
            while len(pending_T) >= self._stretch_samples:
                self._look(pending_T[: self._stretch_samples], start)
                pending_T, start = pending_T[self._stretch_samples :].copy(), start + self._stretch_samples
            yield block_T
        self._look(pending_T, start)

    def _look(self, samples_T: Float32, start: int) -> None:
        energy = float(np.dot(samples_T, samples_T))
        if energy > self._energy:
            self._energy, self.start, self.samples_T = energy, start, samples_T.copy()


def _spans(samples_T: Float32, thresholds: Thresholds | None) -> tuple[Span, ...]:
    """The speech in a recording that is a window by itself."""
    if is_steady(adjusted(samples_T)):
        return ()
    evener, detector = Evener(), Detector(thresholds)
    heard = detector.push(np.concatenate([evener.push(samples_T), evener.finish()]))
    return (*heard, *detector.finish())


def _head(blocks: Iterator[Float32], limit: int) -> tuple[Float32, Iterator[Float32] | None]:
    """The beginning of a stream and the rest; no rest when the stream ends within `limit` samples."""
    taken: list[Float32] = []
    count = 0
    for block_T in blocks:
        taken.append(block_T)
        count += len(block_T)
        if count > limit:
            return np.concatenate(taken), blocks
    return np.concatenate([np.zeros(0, np.float32), *taken]), None


def _is_empty(samples_T: Float32) -> bool:
    """Whether there is nothing to be heard, or what the detector took for speech does not move as speech does."""
    return _is_silent(samples_T) or is_steady(adjusted(samples_T))  # an offset would hide how it moves


def _is_silent(samples_T: Float32) -> bool:
    return not len(samples_T) or bool(samples_T.max() - samples_T.min() < 2 * SILENCE_PEAK)


def _quietest(samples_T: Float32, first_s: float, last_s: float) -> tuple[float, bool]:
    """The middle, in seconds, of the quietest `_PAUSE_S` between two times, and whether it is a pause."""
    hop = SAMPLE_RATE_HZ // 100
    hops = len(samples_T) // hop
    energy = np.square(samples_T[: hops * hop], dtype=np.float64).reshape(hops, hop).mean(axis=1)
    width = round(_PAUSE_S * 100)
    smooth = np.convolve(energy, np.full(width, 1 / width), "valid")  # smooth[i] covers hops i to i + width
    middles_s = (np.arange(len(smooth)) + width / 2) / 100
    allowed = np.flatnonzero((middles_s >= first_s) & (middles_s <= last_s))
    best = int(allowed[np.argmin(smooth[allowed])])
    loud = float(np.quantile(smooth, 0.9))
    return float(middles_s[best]), bool(smooth[best] <= loud * 10 ** (_PAUSE_DB / 10))
