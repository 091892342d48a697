"""The main job: a recording and a request in, a result out. Command line, server and evaluation all come through here.

Six hops, top to bottom in this file::

    open_recording          any file, bytes, stream or array -> blocks of mono 16 kHz
    windows.cut             speech found and cut into pieces the encoder takes
    log_mel, encode         features -> speech vectors
    generate.decode         prompt and vectors -> reply
    parse, guard, merge     reply -> segment
    Result                  segments -> one result
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from zhiyin.audio.decode import PcmFormat
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32, log_mel
from zhiyin.audio.io import Recording, Source, open_recording
from zhiyin.audio.merge import merge_text, merge_words
from zhiyin.audio.vad import Span
from zhiyin.audio.windows import OVERLAP_S, Window, cut
from zhiyin.errors import UserError
from zhiyin.result import Result, Segment, Word
from zhiyin.runtime.base import Encoded, ModelSpec
from zhiyin.runtime.generate import Prompt, Reply, ctc_greedy, decode
from zhiyin.runtime.load import Loaded
from zhiyin.tasks import render, table
from zhiyin.tasks.parse import Parsed, join_words, parse
from zhiyin.tasks.table import Task
from zhiyin.text.guard import guard_pieces, guard_text

WINDOWS_PER_BATCH = 8  # enough to keep a device busy, few enough that results come early and memory stays small
UNFINISHED = "reply cut at the token limit"
NOT_SPEECH = "text without speech cut"
UNCERTAIN = "uncertain text cut"
_FAMILIES = ("zhiyin",)  # prompts of other families come with their checkpoints


@dataclass(frozen=True)
class Request:
    """What is asked: rows of the task table, or an instruction in plain language (then `tasks` is empty)."""

    tasks: tuple[Task, ...] = ()
    instruction: str = ""
    language: str | None = None


def understand(
    source: Source,
    tasks: str | Iterable[str] | None = None,
    *,
    model: Loaded,
    instruction: str | None = None,
    language: str | None = None,
    pcm: PcmFormat | None = None,
    sample_rate_hz: int | None = None,
    on_segment: Callable[[Segment], None] | None = None,
) -> Result:
    """Everything asked of one recording.

    Args:
        source: path, ``-`` (standard input), bytes, binary file object or array; see `audio.io.open_recording`.
        tasks: task ids, e.g. ``["asr", "sgc"]`` or ``"asr,sgc"``; by default the transcript.
        model: from `runtime.load.load`.
        instruction: a request in plain language instead of `tasks`.
        language: refused if the model does not know it; it has no other effect, and a note says so.
        pcm: read the source as raw PCM.
        sample_rate_hz: of an array, default 16000.
        on_segment: called with each segment as soon as it is final.

    Raises:
        UserError: a task, instruction or language the model cannot serve, or a source that holds no audio.
    """
    began_s = time.perf_counter()
    asked = fit(request(tasks, instruction, language), model.backend.spec)
    recording = _Counted(open_recording(source, pcm=pcm, sample_rate_hz=sample_rate_hz))
    found: list[Segment] = []
    for segment in _segments(recording, asked, model):
        found.append(segment)
        if on_segment is not None:
            on_segment(segment)
    if not recording.duration_s:
        raise UserError(f"cannot understand {recording.source}: it holds no audio samples")
    return _result(recording, asked, model, found, time.perf_counter() - began_s)


def segments(
    source: Source,
    tasks: str | Iterable[str] | None = None,
    *,
    model: Loaded,
    instruction: str | None = None,
    language: str | None = None,
    pcm: PcmFormat | None = None,
    sample_rate_hz: int | None = None,
) -> Iterator[Segment]:
    """Yield the segments of a recording of any length as they become final; memory does not grow with its length.

    Arguments and errors as for `understand`; what can be refused is refused at the call.
    """
    asked = fit(request(tasks, instruction, language), model.backend.spec)
    return _segments(_Counted(open_recording(source, pcm=pcm, sample_rate_hz=sample_rate_hz)), asked, model)


def request(
    tasks: str | Iterable[str] | None = None, instruction: str | None = None, language: str | None = None
) -> Request:
    """A request that makes sense for some model.

    Raises:
        UserError: an unknown task, tasks that contradict each other, or tasks and an instruction together.
    """
    if instruction is None:
        return Request(table.select("asr" if tasks is None else tasks), "", language)
    if tasks is not None:
        raise UserError("tasks and an instruction in plain language were given together; give one of them")
    if not instruction.strip():
        raise UserError("the instruction is empty; say in plain language what you want to know")
    return Request((), " ".join(instruction.split()), language)


def fit(asked: Request, spec: ModelSpec) -> Request:
    """The request with the model's own label sets.

    Raises:
        UserError: the model cannot do it; what it can do is listed.
    """
    if spec.family not in _FAMILIES:
        raise UserError(f"model '{spec.name}' is of family '{spec.family}'; this version speaks: {' '.join(_FAMILIES)}")
    unable = [task.id for task in asked.tasks if task.id not in spec.tasks]
    if unable:
        raise UserError(f"model '{spec.name}' cannot do {' '.join(unable)}; it can do: {' '.join(spec.tasks)}")
    if asked.instruction and not spec.can_follow_instructions:
        raise UserError(f"model '{spec.name}' takes no plain language; ask for tasks: {' '.join(spec.tasks)}")
    if asked.language is not None and asked.language not in spec.languages:
        known = " ".join(spec.languages) or "it does not say which; leave the language out"
        raise UserError(f"model '{spec.name}' does not know language '{asked.language}'; languages: {known}")
    return replace(asked, tasks=table.with_labels(asked.tasks, _labels(asked.tasks, spec)))


_Answer = tuple[Parsed, tuple[str, ...]]  # what was understood, and guards that already cut something


def _segments(recording: "_Counted", asked: Request, model: Loaded) -> Iterator[Segment]:
    """Windows in batches through the model; a segment is final once the next window cannot change it any more."""
    # a cough or a cry is no speech; what an instruction asks for is only known from the reply
    keep_nonspeech = bool(asked.instruction) or any(task.id == "ved" for task in asked.tasks)
    limit_s = model.backend.spec.max_window_s
    overlap_s = min(OVERLAP_S, limit_s / 6)  # shorter windows than 6 s cannot spare a second
    windows = cut(recording.blocks(), limit_s=limit_s, overlap_s=overlap_s, keep_nonspeech=keep_nonspeech)
    last: _Heard | None = None
    for heard in _hear(windows, asked, model):
        if last is not None:
            if heard.window.overlap_s:
                last, heard = _merge(last, heard)
            yield last.segment
        last = heard
    if last is not None:
        yield last.segment


@dataclass(frozen=True)
class _Heard:
    """A window and what was understood of it, times already those of the recording."""

    window: Window
    segment: Segment


def _hear(windows: Iterator[Window], asked: Request, model: Loaded) -> Iterator[_Heard]:
    spec = model.backend.spec
    while batch := list(islice(windows, WINDOWS_PER_BATCH)):
        encoded = model.backend.encode([log_mel(window.samples_T, num_mels=spec.num_mels) for window in batch])
        answers = _draft_and_ask(encoded, asked, model) if spec.ctc_transcript else _ask(encoded, asked, model)
        for window, (parsed, flags) in zip(batch, answers, strict=True):
            yield _Heard(window, _segment(window, parsed, flags))


def _ask(encoded: Sequence[Encoded], asked: Request, model: Loaded) -> list[_Answer]:
    """Everything from the decoder: its reply to the tags, or to the instruction."""
    if not asked.instruction:
        return _replies(encoded, [asked.tasks] * len(encoded), model)
    told = model.tokenizer.encode(asked.instruction, add_special_tokens=False).ids
    rows = table.with_labels(table.TASKS, model.backend.spec.labels)
    prompts = [Prompt(told, one.vectors_SD) for one in encoded]
    replies = decode(model.backend, prompts, max_new_tokens=model.backend.spec.max_tokens)
    return [(parse(_text(reply.ids, model), None, table=rows), _cut(reply)) for reply in replies]


def _draft_and_ask(encoded: Sequence[Encoded], asked: Request, model: Loaded) -> list[_Answer]:
    """The transcript from the CTC head, where one is asked; the rest from the decoder.

    What an instruction wants is read from the tags of the decoder's reply to it, window by window.
    """
    understood = _ask(encoded, asked, model) if asked.instruction else []
    wanted = [parsed.tasks for parsed, _ in understood] or [asked.tasks] * len(encoded)
    rests = [tuple(task for task in tasks if task.kind != "text") for tasks in wanted]
    open_rows = [i for i, rest in enumerate(rests) if rest]
    replies = _replies([encoded[i] for i in open_rows], [rests[i] for i in open_rows], model)
    answers = dict(zip(open_rows, replies, strict=True))
    out = []
    for i, tasks in enumerate(wanted):
        parsed, flags = answers.get(i, (Parsed(tasks=tasks), ()))
        if understood and not tasks:
            parsed, flags = understood[i]
        elif len(rests[i]) < len(tasks):
            ids, confidence = ctc_greedy(encoded[i].ctc_TV)
            is_sure = confidence >= model.backend.spec.min_confidence
            parsed = replace(parsed, tasks=tasks, text=_text(ids, model) if is_sure else "")
            flags = flags if is_sure else (*flags, UNCERTAIN)
        out.append((parsed, flags))
    return out


def _replies(encoded: Sequence[Encoded], wanted: Sequence[tuple[Task, ...]], model: Loaded) -> list[_Answer]:
    """Replies to the tags of each utterance's tasks."""
    told = [model.tokenizer.encode(render.tags(tasks), add_special_tokens=False).ids for tasks in wanted]
    prompts = [Prompt(ids, one.vectors_SD) for ids, one in zip(told, encoded, strict=True)]
    replies = decode(model.backend, prompts, max_new_tokens=model.backend.spec.max_tokens)
    texts = [_text(reply.ids, model) for reply in replies]
    return [(parse(text, tasks), _cut(reply)) for text, tasks, reply in zip(texts, wanted, replies, strict=True)]


def _cut(reply: Reply) -> tuple[str, ...]:
    return () if reply.ended else (UNFINISHED,)


def _text(ids: Sequence[int], model: Loaded) -> str:
    return model.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def _segment(window: Window, parsed: Parsed, cut: tuple[str, ...]) -> Segment:
    """Guarded values with times of the recording."""
    spans = window.spans or (Span(window.start_s, window.end_s),)
    if not window.spans:
        return _without_speech(spans[0], parsed)
    duration_s = window.end_s - window.start_s
    kept, flags = guard_pieces([word.text for word in parsed.words], duration_s=duration_s)
    words = tuple(
        Word(word.text, _time(window.start_s + word.start_s), _time(window.start_s + word.end_s))
        for word in (parsed.words[i] for i in kept)
    )
    text, text_flags = guard_text(join_words(word.text for word in words) or parsed.text, duration_s=duration_s)
    answer, answer_flags = guard_text(parsed.answer)
    translation, translation_flags = guard_text(parsed.translation)
    guards = (*flags, *text_flags, *answer_flags, *translation_flags, *cut)
    return Segment(
        _time(spans[0].start_s),
        _time(spans[-1].end_s),
        text,
        words,
        parsed.labels,
        answer,
        translation,
        tuple(task.id for task in parsed.tasks),
        parsed.unparsed,
        tuple(dict.fromkeys(guards)),
    )


def _without_speech(span: Span, parsed: Parsed) -> Segment:
    """Of a sound that is no speech only labels are believed, and only when a vocal event was asked."""
    ids = tuple(task.id for task in parsed.tasks)
    labels = parsed.labels if "ved" in ids else {}
    is_cut = parsed.text or parsed.answer or parsed.translation or labels != parsed.labels
    return Segment(
        _time(span.start_s),
        _time(span.end_s),
        labels=labels,
        tasks=ids,
        unparsed=parsed.unparsed,
        guards=(NOT_SPEECH,) if is_cut else (),
    )


def _merge(left: _Heard, right: _Heard) -> tuple[_Heard, _Heard]:
    """Share out what two windows heard of the same second, so that no word is lost or comes twice."""
    overlap = Span(right.window.start_s, right.window.start_s + right.window.overlap_s)
    seam_s = (overlap.start_s + overlap.end_s) / 2
    if left.segment.words and right.segment.words:
        words = merge_words(left.segment.words, right.segment.words, overlap=overlap)
        early = tuple(word for word in words if (word.start_s + word.end_s) / 2 < seam_s)
        late = words[len(early) :]
        texts = join_words(word.text for word in early), join_words(word.text for word in late)
    else:
        early, late = left.segment.words, right.segment.words
        own_s = left.window.end_s - left.window.start_s - left.window.overlap_s
        share = right.window.overlap_s / own_s if own_s > right.window.overlap_s else 1.0
        merged = merge_text(left.segment.text, right.segment.text, overlap_share=share)
        texts = _split(merged, right.segment.text)
    return (
        replace(left, segment=replace(left.segment, text=texts[0], words=early)),
        replace(right, segment=replace(right.segment, text=texts[1], words=late)),
    )


def _split(merged: str, right: str) -> tuple[str, str]:
    """Divide a merged text where its right part begins, between two words."""
    size = 0
    while size < min(len(merged), len(right)) and merged[-size - 1] == right[-size - 1]:
        size += 1
    at = len(merged) - size
    while at < len(merged) and join_words([merged[:at].rstrip(), merged[at:].lstrip()]) != merged:
        at += 1
    return merged[:at].rstrip(), merged[at:].lstrip()


def _result(recording: "_Counted", asked: Request, model: Loaded, found: Sequence[Segment], took_s: float) -> Result:
    understood = {task for segment in found for task in segment.tasks}
    ids = [task.id for task in table.TASKS if task.id in understood]
    return Result(
        source=recording.source,
        duration_s=_time(recording.duration_s),
        tasks=tuple(task.id for task in asked.tasks) or tuple(ids),
        text=join_words(segment.text for segment in found),
        labels=_vote(found),
        answer=join_words(segment.answer for segment in found),
        translation=join_words(segment.translation for segment in found),
        segments=tuple(found),
        unparsed=tuple(piece for segment in found for piece in segment.unparsed),
        instruction=asked.instruction,
        model=model.backend.spec.name,
        backend=model.backend.name,
        device=str(model.backend.device),
        processing_s=_time(took_s),
        notes=(*recording.notes, *_notes(asked, model.backend.spec, found)),
    )


def _vote(found: Sequence[Segment]) -> dict[str, str]:
    """The label of the whole recording for each task: most seconds win, of equals the one heard first."""
    seconds: dict[str, dict[str, float]] = {}
    for segment in found:
        for task, label in segment.labels.items():
            votes = seconds.setdefault(task, {})
            votes[label] = votes.get(label, 0.0) + segment.end_s - segment.start_s
    ids = [task.id for task in table.TASKS if task.id in seconds]
    return {task: max(seconds[task], key=seconds[task].__getitem__) for task in ids}


def _notes(asked: Request, spec: ModelSpec, found: Sequence[Segment]) -> Iterator[str]:
    if all(NOT_SPEECH in segment.guards for segment in found):
        yield "no speech found"
    if asked.instruction and found and not any(segment.tasks or segment.unparsed for segment in found):
        yield f"the request fits no task that the model knows; it can do: {' '.join(spec.tasks)}"
    elif asked.instruction and len({segment.tasks for segment in found}) > 1:
        yield "the request was understood differently in different segments; each segment lists its tasks"
    unparsed = sum(1 for segment in found if segment.unparsed)
    if unparsed:
        yield f"{unparsed} of {len(found)} segments hold pieces of the model's reply that could not be read"
    guarded = sum(1 for segment in found if segment.guards)
    if guarded:
        yield f"a guard cut {guarded} of {len(found)} segments; see their guards"
    if asked.language is not None:
        yield f"language '{asked.language}' was only checked: model '{spec.name}' hears the language by itself"


class _Counted:
    """A recording that knows afterwards how much audio it gave."""

    def __init__(self, recording: Recording) -> None:
        self.source = recording.source
        self.duration_s = 0.0
        self._recording = recording

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._recording.notes)

    def blocks(self) -> Iterator[Float32]:
        for block_T in self._recording.blocks():
            self.duration_s += len(block_T) / SAMPLE_RATE_HZ
            yield block_T


def _labels(tasks: Sequence[Task], spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    return {task.id: spec.labels[task.id] for task in tasks if task.id in spec.labels}


def _time(seconds: float) -> float:
    return round(seconds, 3)
