"""One live stream: samples in, events out; the open window is understood again and again while it grows.

The bookkeeping (`feed`, `due`, `take`, `break_off`) never runs the model, so that a server can collect what many
sessions want and give it to `work.compute` at once; `push` and `finish` do all of it for one stream.
Shapes: `T` samples.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from zhiyin.ask import DEFAULTS, Options, fit, hotwords_of, request
from zhiyin.audio.decode import Chunk, good_samples
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.vad import Detector, Span, Thresholds
from zhiyin.audio.windows import CONTEXT_S, JOIN_GAP_S
from zhiyin.errors import UserError
from zhiyin.hear import SPOKEN, hints
from zhiyin.live import work as working
from zhiyin.live.agreement import Agreement, split
from zhiyin.live.buffer import Buffer
from zhiyin.live.events import Event, Final, Partial, SpeechEnded, SpeechStarted
from zhiyin.live.work import Work
from zhiyin.result import Correction, Segment, Word
from zhiyin.runtime.load import Loaded
from zhiyin.segments import rounded, with_hotwords, with_written
from zhiyin.tasks.families import Asked
from zhiyin.tasks.parse import join_words

Compute = Callable[[Sequence[Work]], list[Segment]]

_SLICE_SAMPLES = 1024  # 64 ms: less than the shortest speech and the shortest silence, so that nothing is overlooked
_QUIET_S = 0.06  # this long after the last sound a word is likely to be over: a good moment to understand


@dataclass(frozen=True)
class Settings:
    """How a session divides a stream.

    Attributes:
        step_s: the open window is understood again after so much new audio.
        window_s: a window longer than this loses its beginning, at a word that is fixed.
        longest_s: one that cannot lose it, for want of fixed words or of word times, ends at a quiet place before it is
            longer than this; at most the model's limit.
        hangover_s: silence this long ends speech. The final segment cannot come earlier.
        sure: a final segment that is less sure than this (`Segment.confidence`) waits: what follows may mend it. Only
            of models whose confidence means something (`ModelSpec.min_confidence`).
        doubt_s: so much silence ends speech also where it waits; what is said before goes on with the same segment.
        fix_sure: a hypothesis that is less sure than this fixes no word; of the same models as `sure`.
        hold_s: a word that ends in the last `hold_s` of the audio is not fixed yet.
        hold_words: the same in words, for models without word times.
        bucket_s: windows last a multiple of this, for graphs of fixed shapes; 0 leaves them as they are.
    """

    step_s: float = 0.3
    window_s: float = 8.0
    longest_s: float = 15.0
    hangover_s: float = 0.28
    sure: float = 0.8
    doubt_s: float = 0.6
    fix_sure: float = 0.9
    hold_s: float = 0.5
    hold_words: int = 1
    bucket_s: float = 0.0


@dataclass
class _Speech:
    """Speech that was found: it may still go on (`end_s` is None). `until_s` is where its audio ends.

    It `waits` where it has ended and its final segment was not sure enough; it `is_over` where the stream broke off.
    """

    start_s: float
    heard_s: float
    until_s: float
    peak: float
    end_s: float | None = None
    waits: bool = False
    is_over: bool = False


class LiveSession:
    """The state of one stream. Sessions share the model and nothing else; one session is not for several threads."""

    def __init__(
        self,
        model: Loaded,
        tasks: str | Iterable[str] | None = None,
        *,
        options: Options = DEFAULTS,
        settings: Settings | None = None,
        compute: Compute | None = None,
    ) -> None:
        """A stream that begins now.

        Args:
            model: from `runtime.load.load`.
            tasks: task ids; by default the transcript.
            options: see `ask.Options`; no instruction in plain language, and a stream has one channel.
            settings: how the stream is divided.
            compute: what `push` and `finish` call instead of `work.compute`.

        Raises:
            UserError: the model cannot do what is asked, or an instruction or thresholds were given.
        """
        spec = model.backend.spec
        if options.instruction is not None:
            raise UserError("a live stream cannot be asked in plain language; give task ids, see `zhiyin tasks`")
        if options.vad is not None:
            raise UserError("a live stream is divided as its settings say; leave out the thresholds of the options")
        self.settings = settings or Settings()
        self._options, self._hotwords = options, hotwords_of(options)
        self._asked = fit(request(tasks, replace(options, hotwords=self._hotwords)), spec)
        self._final, self._partial = working.final(self._asked, spec), working.partial(self._asked, spec)
        self._timed = working.has_times(self._asked, spec)
        self._hints = hints(self._hotwords, model) if working.is_spoken(self._asked) else None
        self._longest_s = min(self.settings.longest_s, spec.max_window_s)
        self._window_s = min(self.settings.window_s, self._longest_s)
        is_calibrated = spec.min_confidence > 0
        self._sure, self._fix_sure = (self.settings.sure, self.settings.fix_sure) if is_calibrated else (0.0, 0.0)
        self._compute = compute or (lambda works: working.compute(works, model))
        self._thresholds = Thresholds(min_silence_s=self.settings.hangover_s)
        self._words = Agreement(timed=self._timed, hold_s=self.settings.hold_s, hold_words=self.settings.hold_words)
        self._detector, self._detector_start = Detector(self._thresholds), 0
        self._audio = Buffer()
        self._fed = 0  # samples the detector has heard
        self._speeches: deque[_Speech] = deque()
        self._entered: _Speech | None = None  # the speech that the window was begun for
        self._window_start_s = 0.0
        self._floor_s = 0.0  # words before it are no longer in the window
        self._spans: list[Span] = []  # speech in the window that is final already
        self._last_end_s = 0.0  # of the last speech that is final
        self._stepped_s = self._stepped_heard_s = 0.0  # what the last hypothesis knew
        self._shown = ("", "")
        self._out: Work | None = None

    @property
    def now_s(self) -> float:
        """Seconds of audio taken so far."""
        return self._fed / SAMPLE_RATE_HZ

    @property
    def is_open(self) -> bool:
        """Whether somebody speaks, or spoke and the final segment is still to come."""
        return bool(self._speeches)

    def push(self, samples_T: Float32) -> list[Event]:
        """Take the next samples and understand what is due.

        Args:
            samples_T: mono 16 kHz float32, any number.

        Raises:
            UserError: a sample is NaN, infinite or far beyond full scale; nothing of the piece is taken.
        """
        _check(samples_T, self.now_s)
        events: list[Event] = []
        for start in range(0, len(samples_T), SAMPLE_RATE_HZ):
            events += self.feed(samples_T[start : start + SAMPLE_RATE_HZ])
            events += self._drain()
        return events

    def finish(self) -> list[Event]:
        """End what is open: the stream is over, or has stalled; after a stall `push` goes on."""
        return [*self.break_off(), *self._drain()]

    def feed(self, samples_T: Float32) -> list[Event]:
        """Take the next samples without running the model; errors as for `push`."""
        _check(samples_T, self.now_s)
        self._audio.append(samples_T)
        events: list[Event] = []
        for start in range(0, len(samples_T), _SLICE_SAMPLES):
            slice_T = samples_T[start : start + _SLICE_SAMPLES]
            self._fed += len(slice_T)
            events += self._follow(self._detector.push(slice_T))
        self._forget()
        return events

    def break_off(self) -> list[Event]:
        """End the open speech here without running the model; the stream may go on afterwards."""
        events = self._follow(self._detector.finish())
        self._detector, self._detector_start = Detector(self._thresholds), self._fed
        for speech in self._speeches:
            speech.is_over = True
        return events

    def due(self) -> Work | None:
        """What is to be computed next; None when nothing is, or while the last work was not taken back."""
        if self._out is not None or not self._speeches:
            return None
        speech = self._speeches[0]
        self._enter(speech)
        latest_s = self._window_start_s + self._longest_s
        until_s = self.now_s
        if speech.end_s is not None:
            until_s = max(speech.end_s, min(speech.until_s, latest_s))
        if until_s > latest_s + 1 / SAMPLE_RATE_HZ:
            cut_s = self._audio.quietest_s(latest_s - self._longest_s / 3, latest_s)
            self._out = self._work(self._final, speech, cut_s, cut_s)
        elif speech.end_s is not None:
            if not speech.waits or self._is_settled(speech):
                self._out = self._work(self._final, speech, until_s)
        elif self._partial is not None and self._is_time(speech):
            self._stepped_s, self._stepped_heard_s = self.now_s, speech.heard_s
            self._out = replace(self._work(self._partial, speech, until_s), is_final=False)
        return self._out

    def take(self, work: Work, heard: Segment) -> list[Event]:
        """The answer to a work of `due`."""
        if work is not self._out:
            raise ValueError("this work was not the last that the session gave out")
        self._out = None
        speech = self._speeches[0]
        if self._hotwords:
            heard = with_hotwords(heard, self._hotwords, self._options.language)
        words = list(heard.words) if self._timed else split(heard.text)
        heard = replace(heard, tasks=tuple(task.id for task in self._asked.tasks))
        if work.is_final and work.cut_s is None and self._is_doubtful(heard, speech):
            speech.waits = True
            self._words.hear(words, work.until_s, is_sure=False)
            return self._show(speech)
        if not work.is_final:
            is_sure = heard.confidence is None or heard.confidence >= self._fix_sure
            self._words.hear(words, work.until_s, is_sure=is_sure)
            return [*self._show(speech), *self._shorten(speech, self._window_s, self._window_s / 2)]
        if work.cut_s is not None:
            said = self._words.close_part(words, work.cut_s)
            end_s = max([work.cut_s, *(word.end_s for word in said[-1:])])
            events = self._segment(heard, said, speech.start_s, end_s)
            speech.start_s, self._window_start_s, self._floor_s = end_s, work.cut_s, work.cut_s
        else:
            said = self._words.close(words)
            assert speech.end_s is not None
            ended = SpeechEnded(rounded(speech.end_s), rounded(self.now_s))
            events = [ended, *self._segment(heard, said, speech.start_s, speech.end_s)]
            self._last_end_s = speech.end_s
            self._spans.append(Span(speech.start_s, speech.end_s, speech.peak))
            self._speeches.popleft()
            events += self._started()
        self._forget()
        return events

    def _drain(self) -> list[Event]:
        events: list[Event] = []
        while (work := self.due()) is not None:
            (heard,) = self._compute([work])
            events += self.take(work, heard)
        return events

    def _follow(self, ended: Sequence[Span]) -> list[Event]:
        """What the detector found, its times counted from where it began."""
        base_s = self._detector_start / SAMPLE_RATE_HZ
        events: list[Event] = []
        for span in ended:
            events += self._open(base_s + span.start_s)
            speech = self._speeches[-1]
            speech.end_s, speech.until_s = base_s + span.end_s, self.now_s
            speech.peak = max(speech.peak, span.peak)
        if (span_now := self._detector.open) is not None:
            events += self._open(base_s + span_now.start_s)
            speech = self._speeches[-1]
            speech.heard_s, speech.peak = base_s + span_now.end_s, max(speech.peak, span_now.peak)
        return events

    def _open(self, start_s: float) -> list[Event]:
        """Make sure that the last speech is open: it is already, goes on because it waited, or is a new one."""
        if self._speeches:
            last = self._speeches[-1]
            if last.end_s is None:
                return []
            if last.waits and not last.is_over and start_s - last.end_s < self.settings.doubt_s:
                last.end_s, last.waits = None, False
                return []
        self._speeches.append(_Speech(start_s, start_s, start_s, 0.0))
        return self._started() if len(self._speeches) == 1 else []

    def _started(self) -> list[Event]:
        """Of the first speech; the next one is told of when the one before it is final."""
        return [SpeechStarted(rounded(one.start_s), rounded(self.now_s)) for one in islice(self._speeches, 1)]

    def _is_doubtful(self, heard: Segment, speech: _Speech) -> bool:
        return heard.confidence is not None and heard.confidence < self._sure and not self._is_settled(speech)

    def _is_settled(self, speech: _Speech) -> bool:
        """Whether nothing can follow any more that belongs to speech that has ended."""
        assert speech.end_s is not None
        return speech.is_over or len(self._speeches) > 1 or self.now_s - speech.end_s >= self.settings.doubt_s

    def _enter(self, speech: _Speech) -> None:
        """Begin the window of a speech, or go on with the last one's: what was said just before helps to understand."""
        if speech is self._entered:
            return
        self._entered, self._shown = speech, ("", "")
        self._stepped_s = self._stepped_heard_s = speech.start_s
        if self._timed and self._words.fixed and speech.start_s - self._last_end_s < JOIN_GAP_S:
            self._shorten(speech, self._window_s / 2, self._window_s / 2)
            if self._words.fixed:
                return
        self._words.clear()
        self._spans.clear()
        self._floor_s = self._last_end_s
        self._window_start_s = max(self._floor_s, speech.start_s - CONTEXT_S)

    def _is_time(self, speech: _Speech) -> bool:
        """Whether there is enough new speech, or a word has probably just ended."""
        is_new = speech.heard_s > self._stepped_heard_s
        is_quiet = self.now_s - speech.heard_s >= _QUIET_S
        return is_new and (is_quiet or self.now_s - self._stepped_s >= self.settings.step_s)

    def _work(self, asked: Asked, speech: _Speech, end_s: float, cut_s: float | None = None) -> Work:
        window = self._audio.window(
            self._window_start_s,
            end_s,
            bucket_s=self.settings.bucket_s,
            floor_s=self._floor_s,
            longest_s=self._longest_s,
        )
        self._spans = [span for span in self._spans if span.end_s > self._window_start_s]
        last_s = end_s if speech.end_s is None else min(end_s, speech.end_s)
        spans = (*self._spans, Span(speech.start_s, last_s, speech.peak))
        return Work(replace(window, spans=spans), asked, self._hints, end_s, is_final=True, cut_s=cut_s)

    def _show(self, speech: _Speech) -> list[Event]:
        shown = _text(self._words.committed), _text(self._words.tail)
        if shown == self._shown:
            return []
        self._shown = shown
        return [Partial(rounded(speech.start_s), *shown, rounded(self.now_s))]

    def _shorten(self, speech: _Speech, longest_s: float, keep_s: float) -> list[Event]:
        """Take the beginning away from a window that is too long; words of the open segment in it become final."""
        until_s = self.now_s if speech.end_s is None else speech.until_s
        if not self._timed or until_s - self._window_start_s <= longest_s:
            return []
        found = self._words.boundary(until_s - keep_s)
        if found is None:
            return []
        count, time_s = found
        is_inside = count > self._words.first_open
        said = self._words.settle() if is_inside else []
        self._words.drop(count)
        self._window_start_s = self._floor_s = max(self._window_start_s, time_s)
        if not said:
            return []
        spoken = tuple(task.id for task in self._asked.tasks if task.kind in SPOKEN)
        start_s, speech.start_s = speech.start_s, max(speech.start_s, said[-1].end_s)
        return self._segment(Segment(start_s, speech.start_s, tasks=spoken), said, start_s, speech.start_s)

    def _segment(self, heard: Segment, said: list[Word], start_s: float, end_s: float) -> list[Event]:
        """The final segment: what was said, and what else was understood of the window."""
        self._shown = ("", "")
        text = _text(said)
        made = replace(
            heard,
            start_s=rounded(start_s),
            end_s=rounded(end_s),
            text=text,
            words=tuple(said) if self._timed else (),
            corrections=_placed(heard.corrections, text),
        )
        return [Final(with_written(made) if self._options.written else made, rounded(self.now_s))]

    def _forget(self) -> None:
        """Keep no audio that no window can need any more."""
        next_s = self._detector_start / SAMPLE_RATE_HZ + self._detector.settled_s
        if self._speeches:
            next_s = min(next_s, self._speeches[0].start_s)
        needed_s = next_s - CONTEXT_S
        is_in = bool(self._speeches) and self._speeches[0] is self._entered
        if is_in or (self._timed and next_s - self._last_end_s < JOIN_GAP_S):
            needed_s = min(needed_s, self._window_start_s)
        self._audio.forget_before(needed_s - self.settings.bucket_s)


def _check(samples_T: Float32, now_s: float) -> None:
    at = good_samples(Chunk(samples_T[:, None], SAMPLE_RATE_HZ))
    if at < len(samples_T):
        raise UserError(
            f"live stream: the sample {float(samples_T[at]):g} at {now_s + at / SAMPLE_RATE_HZ:.3f} s; samples must be "
            "finite numbers in [-1, 1]; check the coding of the stream"
        )


def _text(words: Sequence[Word]) -> str:
    return join_words(word.text for word in words)


def _placed(corrections: Sequence[Correction], text: str) -> tuple[Correction, ...]:
    """Corrections of the window that stand in the text of the segment, with their places there."""
    found, done = [], 0
    for one in corrections:
        at = text.find(one.became, done)
        if at >= 0:
            done = at + len(one.became)
            found.append(replace(one, start=at, end=done))
    return tuple(found)
