"""The main job: a recording and a request in, a result out. Command line, server and evaluation all come through here.

Six hops, top to bottom in this file::

    open_recording          any file, bytes, stream or array -> blocks of mono 16 kHz, of all channels or of each
    windows.cut             speech found and cut into pieces the encoder takes
    hear                    features, speech vectors, what the model is told, and its reply
    segments                reply -> segment, guarded and merged with its neighbour
    segments, text          hotwords put right, written form
    Result                  segments -> one result
"""

import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from zhiyin.ask import DEFAULTS, SPLIT, Options, family_of, fit, hotwords_of, request
from zhiyin.audio.decode import PcmFormat
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import Recording, Source, open_recording
from zhiyin.audio.windows import CONTEXT_S, JOIN_GAP_S, OVERLAP_S, Window, cut
from zhiyin.errors import UserError
from zhiyin.hear import SPOKEN, Hints, hear, hints
from zhiyin.journal import Journal, digest, file_stamp, model_stamp
from zhiyin.result import Result, Segment
from zhiyin.runtime.load import Loaded
from zhiyin.segments import NOT_SPEECH, Heard, merge, rounded, with_hotwords, with_written
from zhiyin.tasks import table
from zhiyin.tasks.families import Asked
from zhiyin.tasks.parse import join_words
from zhiyin.text.hotword_list import HotwordList

Hear = Callable[[Sequence[Window], Asked, Loaded, Hints | None], list[Segment]]

WINDOWS_PER_BATCH = 8  # enough to keep a device busy, few enough that results come early and memory stays small


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a recording; `result` is what was understood until then."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


def understand(
    source: Source,
    tasks: str | Iterable[str] | None = None,
    *,
    model: Loaded,
    options: Options = DEFAULTS,
    pcm: PcmFormat | None = None,
    sample_rate_hz: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    on_segment: Callable[[Segment], None] | None = None,
    on_audio: Callable[[float], None] | None = None,
    hear: Hear | None = None,
) -> Result:
    """Everything asked of one recording.

    Args:
        source: path, ``-`` (standard input), bytes, binary file object or array; see `audio.io.open_recording`.
        tasks: task ids, e.g. ``["asr", "sgc"]`` or ``"asr,sgc"``; by default the transcript, with `options.into` a
            translation.
        model: from `runtime.load.load`.
        options: see `ask.Options`.
        pcm: read the source as raw PCM.
        sample_rate_hz: of an array, default 16000.
        journal: a file to keep in what was heard while a recording that is a file is worked on. Where it holds the
            beginning of the same recording, understood in the same way, the model goes on there. It stays afterwards.
        on_segment: called with each segment as soon as it is final.
        on_audio: called with the seconds of a channel read so far, with each block; what it raises ends the work.
        hear: what batches of windows are given to instead of `hear.hear`; a server collects those of many recordings.

    Raises:
        UserError: a task, instruction or option the model cannot serve, or a source that holds no audio.
        Interrupted: the person pressed Ctrl-C.
    """
    began_s = time.perf_counter()
    job = _job(tasks, options, model, hear)
    recording = open_recording(source, pcm=pcm, sample_rate_hz=sample_rate_hz)
    kept = None if journal is None else Journal(journal, _key(source, pcm, job))
    tracks = _tracks(recording, options, on_audio)
    found: list[Segment] = []
    notes = [] if kept is None or not kept.until_s else [f"an earlier run had heard the first {kept.until_s:.2f} s"]
    try:
        for segment in _segments(tracks, job, kept):
            found.append(segment)
            if on_segment is not None:
                on_segment(segment)
    except KeyboardInterrupt:
        notes.append(f"interrupted; understood until {found[-1].end_s if found else 0.0:.2f} s")
        raise Interrupted(_result(tracks, job, found, notes, time.perf_counter() - began_s)) from None
    finally:
        if kept is not None:
            kept.close()
    if not tracks[0].duration_s:
        raise UserError(f"cannot understand {recording.source}: it holds no audio samples")
    return _result(tracks, job, found, notes, time.perf_counter() - began_s)


def segments(
    source: Source,
    tasks: str | Iterable[str] | None = None,
    *,
    model: Loaded,
    options: Options = DEFAULTS,
    pcm: PcmFormat | None = None,
    sample_rate_hz: int | None = None,
) -> Iterator[Segment]:
    """Yield the segments of a recording of any length as they become final; memory does not grow with its length.

    Arguments and errors as for `understand`; what can be refused is refused at the call.
    """
    job = _job(tasks, options, model, None)
    recording = open_recording(source, pcm=pcm, sample_rate_hz=sample_rate_hz)
    return _segments(_tracks(recording, options, None), job, None)


@dataclass(frozen=True)
class _Job:
    """What is done with every recording and each of its channels."""

    asked: Asked
    options: Options
    hotwords: HotwordList
    hints: Hints | None
    model: Loaded
    hear: Hear


def _job(tasks: str | Iterable[str] | None, options: Options, model: Loaded, given: Hear | None) -> _Job:
    hotwords = hotwords_of(options)
    asked = fit(request(tasks, replace(options, hotwords=hotwords)), model.backend.spec)
    is_spoken = bool(asked.instruction) or any(task.kind in SPOKEN for task in asked.tasks)
    return _Job(asked, options, hotwords, hints(hotwords, model) if is_spoken else None, model, given or hear)


def _key(source: Source, pcm: PcmFormat | None, job: _Job) -> dict[str, object]:
    """By which a journal knows that it is of this recording, understood in this way."""
    if not isinstance(source, str | os.PathLike) or not os.path.isfile(source):
        raise UserError("a journal is kept of recordings that are files; leave it out for streams, bytes and arrays")
    words = [[word.text, word.weight] for word in job.hotwords.words]
    asked = digest(
        [repr(job.asked), words, job.options.channels, repr(job.options.vad), str(pcm), model_stamp(job.model)]
    )
    return {"recording": os.path.basename(source), **file_stamp(source), "asked": asked}


class _Track:
    """A recording, or one channel of it, that knows afterwards how much audio it gave."""

    def __init__(self, recording: Recording, on_audio: Callable[[float], None] | None) -> None:
        self.recording = recording
        self._on_audio = on_audio
        self.duration_s = 0.0

    def blocks(self) -> Iterator[Float32]:
        """See `Recording.blocks`; what was good before a recording broke is kept."""
        for block_T in self.recording.blocks(keep_good=True):
            self.duration_s += len(block_T) / SAMPLE_RATE_HZ
            if self._on_audio is not None:
                self._on_audio(self.duration_s)
            yield block_T


def _tracks(recording: Recording, options: Options, on_audio: Callable[[float], None] | None) -> list[_Track]:
    return [_Track(one, on_audio) for one in (recording.split() if options.channels == SPLIT else [recording])]


def _segments(tracks: Sequence[_Track], job: _Job, journal: Journal | None) -> Iterator[Segment]:
    """The final segments of all channels, in order of time; each channel is read by itself, as far as it is needed."""
    streams = [_of_track(track, job, journal) for track in tracks]
    return heapq.merge(*streams, key=lambda segment: segment.start_s) if len(streams) > 1 else streams[0]


def _of_track(track: _Track, job: _Job, journal: Journal | None) -> Iterator[Segment]:
    for segment in _merged(track, job, journal):
        if job.hotwords:
            segment = with_hotwords(segment, job.hotwords, job.options.language)
        if job.options.written:
            segment = with_written(segment)
        yield replace(segment, channel=track.recording.channel)


def _merged(track: _Track, job: _Job, journal: Journal | None) -> Iterator[Segment]:
    """A segment is final once the next window cannot change it any more."""
    # a cough or a cry is no speech; what an instruction asks for is only known from the reply
    keep_nonspeech = bool(job.asked.instruction) or any(task.id == "ved" for task in job.asked.tasks)
    limit_s = job.model.backend.spec.max_window_s
    overlap_s = min(OVERLAP_S, limit_s / 6)  # shorter windows than 6 s cannot spare a second
    vad = job.options.vad
    gap_s = JOIN_GAP_S if vad is None else vad.min_silence_s  # a silence that ends speech ends a segment, too
    windows = cut(
        track.blocks(),
        limit_s=limit_s,
        join_gap_s=gap_s,
        context_s=min(CONTEXT_S, gap_s / 2),
        overlap_s=overlap_s,
        keep_nonspeech=keep_nonspeech,
        thresholds=vad,
    )
    last: Heard | None = None
    for heard in _heard(windows, track.recording.channel, job, journal):
        if last is not None:
            if heard.window.overlap_s:
                last, heard = merge(last, heard)
            yield last.segment
        last = heard
    if last is not None:
        yield last.segment


def _heard(windows: Iterator[Window], channel: int | None, job: _Job, journal: Journal | None) -> Iterator[Heard]:
    """Windows in batches through the model, or from the journal."""
    while batch := list(islice(windows, WINDOWS_PER_BATCH)):
        found = [] if journal is None else journal.take(channel, batch)
        if not found:
            found = job.hear(batch, job.asked, job.model, job.hints)
            if journal is not None and len(batch) == WINDOWS_PER_BATCH:  # after a smaller one there is nothing to do
                journal.add(channel, batch, found)
        yield from map(Heard, batch, found)


def _result(
    tracks: Sequence[_Track], job: _Job, found: Sequence[Segment], notes: Sequence[str], took_s: float
) -> Result:
    asked, model = job.asked, job.model
    understood = {task for segment in found for task in segment.tasks}
    ids = [task.id for task in table.TASKS if task.id in understood]
    return Result(
        source=tracks[0].recording.source,
        duration_s=rounded(max(track.duration_s for track in tracks)),
        tasks=tuple(task.id for task in asked.tasks) or tuple(ids),
        text=join_words(segment.text for segment in found),
        labels=vote(found),
        answer=join_words(segment.answer for segment in found),
        translation=join_words(segment.translation for segment in found),
        segments=tuple(found),
        unparsed=tuple(piece for segment in found for piece in segment.unparsed),
        instruction=asked.instruction,
        into=asked.into or "",
        model=model.backend.spec.name,
        family=model.backend.spec.family,
        template=family_of(model.backend.spec).template_name(asked),
        backend=model.backend.name,
        device=str(model.backend.device),
        precision=model.backend.spec.precision,
        processing_s=rounded(took_s),
        notes=(*_read_notes(tracks), *_notes(job, found), *notes),
        written=join_words(segment.written for segment in found),
    )


def vote(found: Sequence[Segment]) -> dict[str, str]:
    """The label of the whole recording for each task: most seconds win, of equals the one heard first."""
    seconds: dict[str, dict[str, float]] = {}
    for segment in found:
        for task, label in segment.labels.items():
            votes = seconds.setdefault(task, {})
            votes[label] = votes.get(label, 0.0) + segment.end_s - segment.start_s
    ids = [task.id for task in table.TASKS if task.id in seconds]
    return {task: max(seconds[task], key=seconds[task].__getitem__) for task in ids}


def _read_notes(tracks: Sequence[_Track]) -> Iterator[str]:
    """What is to be said of the recording itself, once if it holds for every channel."""
    if len(tracks) == 1 and tracks[0].recording.channel is not None:
        yield "it has one channel; there is nothing to keep apart"
    yield from dict.fromkeys(note for track in tracks for note in track.recording.notes)


def _notes(job: _Job, found: Sequence[Segment]) -> Iterator[str]:
    asked, spec = job.asked, job.model.backend.spec
    if job.hotwords and asked.tasks and all(task.kind not in SPOKEN for task in asked.tasks):
        yield "hotwords are put right in transcripts, and none was asked; add asr"
    if len(job.hotwords.words) > len(asked.hotwords) > 0:
        yield f"{len(asked.hotwords)} of {len(job.hotwords.words)} hotwords stand in the prompt; all are put right"
    if all(NOT_SPEECH in segment.guards for segment in found):
        yield "no speech found"
    elif any(task.kind in SPOKEN for task in asked.tasks) and not any(segment.text for segment in found):
        yield "no words found in what sounds like speech"
    if asked.instruction and found and not any(one.tasks or one.answer or one.unparsed for one in found):
        yield f"the request fits no task that the model knows; it can do: {' '.join(spec.tasks)}"
    elif asked.instruction and len({segment.tasks for segment in found}) > 1:
        yield "the request was understood differently in different segments; each segment lists its tasks"
    unparsed = sum(1 for segment in found if segment.unparsed)
    if unparsed:
        yield f"{unparsed} of {len(found)} segments hold pieces of the model's reply that could not be read"
    guarded = sum(1 for segment in found if segment.guards)
    if guarded:
        yield f"a guard cut {guarded} of {len(found)} segments; see their guards"
    if sum(1 for segment in found if segment.turns) > 1:
        yield "the model heard each segment by itself: Speaker 1 of one need not be Speaker 1 of another"
    if asked.language is not None and not family_of(spec).names_language(asked):
        yield f"language '{asked.language}' was only checked: model '{spec.name}' hears the language by itself"
