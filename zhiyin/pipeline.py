"""The main job: a recording and a request in, a result out. Command line, server and evaluation all come through here.

Six hops, top to bottom in this file::

    open_recording          any file, bytes, stream or array -> blocks of mono 16 kHz
    windows.cut             speech found and cut into pieces the encoder takes
    front_end, encode       features -> speech vectors
    families, decode        what the model is told, and the vectors -> reply
    families, segments      reply -> segment, guarded and merged with its neighbour
    Result                  segments -> one result
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice

from zhiyin.ask import family_of, fit, request
from zhiyin.audio import front_end, pauses
from zhiyin.audio.decode import PcmFormat
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import Recording, Source, open_recording
from zhiyin.audio.windows import OVERLAP_S, Window, cut
from zhiyin.errors import UserError
from zhiyin.result import Result, Segment
from zhiyin.runtime.base import Encoded, ModelSpec
from zhiyin.runtime.generate import Prompt, ctc_greedy, decode
from zhiyin.runtime.load import Loaded
from zhiyin.segments import NOT_SPEECH, Heard, make, merge, rounded
from zhiyin.tasks import table
from zhiyin.tasks.families import Asked, Told
from zhiyin.tasks.parse import Parsed, join_words
from zhiyin.tasks.render import TimedWord
from zhiyin.text import align

WINDOWS_PER_BATCH = 8  # enough to keep a device busy, few enough that results come early and memory stays small
UNFINISHED = "reply cut at the token limit"
UNCERTAIN = "uncertain text cut"
SPOKEN = ("text", "words")  # kinds of tasks that a CTC head answers: the transcript, and its words with times


def understand(
    source: Source,
    tasks: str | Iterable[str] | None = None,
    *,
    model: Loaded,
    instruction: str | None = None,
    language: str | None = None,
    into: str | None = None,
    hotwords: str | Iterable[str] = (),
    speakers: bool = False,
    itn: bool | None = None,
    template: str | None = None,
    pcm: PcmFormat | None = None,
    sample_rate_hz: int | None = None,
    on_segment: Callable[[Segment], None] | None = None,
) -> Result:
    """Everything asked of one recording.

    Args:
        source: path, ``-`` (standard input), bytes, binary file object or array; see `audio.io.open_recording`.
        tasks: task ids, e.g. ``["asr", "sgc"]`` or ``"asr,sgc"``; by default the transcript, with `into` a translation.
        model: from `runtime.load.load`.
        instruction: a request in plain language instead of `tasks`.
        language: of the speech; refused if the model does not know it, and a note says where it has no other effect.
        into: language to translate into.
        hotwords: names and terms that are likely to be said; one string may hold several, with commas between them.
        speakers: whether to say who speaks.
        itn: False for the words as spoken, True for written form, where the model can be told; None leaves it to it.
        template: one of the prompt templates of the model's family.
        pcm: read the source as raw PCM.
        sample_rate_hz: of an array, default 16000.
        on_segment: called with each segment as soon as it is final.

    Raises:
        UserError: a task, instruction or option the model cannot serve, or a source that holds no audio.
    """
    began_s = time.perf_counter()
    asked = fit(
        request(
            tasks,
            instruction,
            language,
            into=into,
            hotwords=hotwords,
            speakers=speakers,
            itn=itn,
            template=template,
        ),
        model.backend.spec,
    )
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
    into: str | None = None,
    hotwords: str | Iterable[str] = (),
    speakers: bool = False,
    itn: bool | None = None,
    template: str | None = None,
    pcm: PcmFormat | None = None,
    sample_rate_hz: int | None = None,
) -> Iterator[Segment]:
    """Yield the segments of a recording of any length as they become final; memory does not grow with its length.

    Arguments and errors as for `understand`; what can be refused is refused at the call.
    """
    asked = fit(
        request(
            tasks,
            instruction,
            language,
            into=into,
            hotwords=hotwords,
            speakers=speakers,
            itn=itn,
            template=template,
        ),
        model.backend.spec,
    )
    return _segments(_Counted(open_recording(source, pcm=pcm, sample_rate_hz=sample_rate_hz)), asked, model)


_Answer = tuple[Parsed, tuple[str, ...]]  # what was understood, and guards that already cut something


def _segments(recording: "_Counted", asked: Asked, model: Loaded) -> Iterator[Segment]:
    """Windows in batches through the model; a segment is final once the next window cannot change it any more."""
    # a cough or a cry is no speech; what an instruction asks for is only known from the reply
    keep_nonspeech = bool(asked.instruction) or any(task.id == "ved" for task in asked.tasks)
    limit_s = model.backend.spec.max_window_s
    overlap_s = min(OVERLAP_S, limit_s / 6)  # shorter windows than 6 s cannot spare a second
    windows = cut(recording.blocks(), limit_s=limit_s, overlap_s=overlap_s, keep_nonspeech=keep_nonspeech)
    last: Heard | None = None
    for heard in _hear(windows, asked, model):
        if last is not None:
            if heard.window.overlap_s:
                last, heard = merge(last, heard)
            yield last.segment
        last = heard
    if last is not None:
        yield last.segment


def _hear(windows: Iterator[Window], asked: Asked, model: Loaded) -> Iterator[Heard]:
    spec = model.backend.spec
    while batch := list(islice(windows, WINDOWS_PER_BATCH)):
        features = [front_end.compute(spec.front_end, window.samples_T, num_mels=spec.num_mels) for window in batch]
        encoded = model.backend.encode(features)
        if spec.ctc_transcript:
            answers = _draft_and_ask(batch, encoded, asked, model)
        else:
            answers = _ask(encoded, [asked] * len(batch), [_seconds(window) for window in batch], model)
        for window, (parsed, flags) in zip(batch, answers, strict=True):
            segment = make(window, parsed, flags)
            if spec.ctc_transcript:
                segment = replace(segment, words=tuple(replace(word, source="ctc") for word in segment.words))
            yield Heard(window, segment)


def _ask(encoded: Sequence[Encoded], wanted: Sequence[Asked], seconds: Sequence[float], model: Loaded) -> list[_Answer]:
    """Everything from the decoder: its replies to what is asked of each utterance of so many seconds."""
    if not wanted:
        return []
    family = family_of(model.backend.spec)
    memory_tokens = model.backend.spec.max_tokens
    replies = decode(
        model.backend,
        [_prompt(family.told(asked), one, model) for asked, one in zip(wanted, encoded, strict=True)],
        max_new_tokens=max(family.limit_tokens(asked, memory_tokens) for asked in wanted),
        repetition_penalty=family.repetition_penalty,
    )
    said = [_text(reply.ids, model, (*family.thinking, *family.marks)) for reply in replies]
    return [
        (family.read(text, asked, duration_s=duration_s), () if reply.ended else (UNFINISHED,))
        for text, asked, duration_s, reply in zip(said, wanted, seconds, replies, strict=True)
    ]


def _draft_and_ask(windows: Sequence[Window], encoded: Sequence[Encoded], asked: Asked, model: Loaded) -> list[_Answer]:
    """The transcript and its times from the CTC head, where they are asked; the rest from the decoder.

    What an instruction wants is read from the tags of the decoder's reply to it, window by window.
    """
    seconds = [_seconds(window) for window in windows]
    understood = _ask(encoded, [asked] * len(encoded), seconds, model) if asked.instruction else []
    wanted = [parsed.tasks for parsed, _ in understood] or [asked.tasks] * len(encoded)
    rests = [tuple(task for task in tasks if task.kind not in SPOKEN) for tasks in wanted]
    rows = [i for i, rest in enumerate(rests) if rest]
    open_questions = [replace(asked, instruction="", tasks=rests[i]) for i in rows]
    replies = _ask([encoded[i] for i in rows], open_questions, [seconds[i] for i in rows], model)
    answers = dict(zip(rows, replies, strict=True))
    out = []
    for i, tasks in enumerate(wanted):
        parsed, flags = answers.get(i, (Parsed(tasks=tasks), ()))
        if understood and not tasks:
            parsed, flags = understood[i]
        elif len(rests[i]) < len(tasks):
            ids, confidence = ctc_greedy(encoded[i].ctc_TV)
            is_sure = confidence >= model.backend.spec.min_confidence
            wants_times = is_sure and any(task.kind == "words" for task in tasks)
            words = _words(ids, encoded[i], windows[i], model) if wants_times else ()
            parsed = replace(parsed, tasks=tasks, text=_text(ids, model) if is_sure else "", words=words)
            flags = flags if is_sure else (*flags, UNCERTAIN)
        out.append((parsed, flags))
    return out


def _words(ids: Sequence[int], encoded: Encoded, window: Window, model: Loaded) -> tuple[TimedWord, ...]:
    """The words that tokens of the CTC head spell, with times in the window."""
    spec, duration_s = model.backend.spec, _seconds(window)
    assert encoded.ctc_TV is not None  # the tokens came from it
    frames = len(encoded.ctc_TV)
    if abs(frames - duration_s / spec.time_step_s) > 2:  # the last frame may be begun, and the features' last one too
        raise UserError(
            f"word times: the CTC head of model '{spec.name}' has {frames} frames for {duration_s:.2f} s, which is no "
            f"frame every {spec.time_step_s} s, the model's time_step_s; export it again with a step that fits"
        )
    return align.words(
        ids,
        align.align(encoded.ctc_TV, ids),
        lambda some: model.tokenizer.decode(some, skip_special_tokens=True),
        frame_s=spec.time_step_s,
        duration_s=duration_s,
        pauses=pauses.find(window.samples_T),
    )


def _seconds(window: Window) -> float:
    return window.end_s - window.start_s


def _prompt(told: Told, encoded: Encoded, model: Loaded) -> Prompt:
    """Each piece by itself, so that no token reaches across two of them or into the speech."""
    before, after = (
        [token for piece in pieces for token in model.tokenizer.encode(piece, add_special_tokens=False).ids]
        for pieces in (told.before, told.after)
    )
    return Prompt(before, encoded.vectors_SD, after)


def _text(ids: Sequence[int], model: Loaded, marks: Sequence[str] = ()) -> str:
    """The text of tokens, special ones left out but for the `marks` that a reply is read by."""
    by_id = {model.tokenizer.token_to_id(mark): mark for mark in marks}
    runs = [
        by_id[key] * len(list(run)) if key is not None else model.tokenizer.decode(list(run), skip_special_tokens=True)
        for key, run in groupby(ids, key=lambda token: token if token in by_id else None)
    ]
    return "".join(runs).strip()


def _result(recording: "_Counted", asked: Asked, model: Loaded, found: Sequence[Segment], took_s: float) -> Result:
    understood = {task for segment in found for task in segment.tasks}
    ids = [task.id for task in table.TASKS if task.id in understood]
    return Result(
        source=recording.source,
        duration_s=rounded(recording.duration_s),
        tasks=tuple(task.id for task in asked.tasks) or tuple(ids),
        text=join_words(segment.text for segment in found),
        labels=_vote(found),
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


def _notes(asked: Asked, spec: ModelSpec, found: Sequence[Segment]) -> Iterator[str]:
    if all(NOT_SPEECH in segment.guards for segment in found):
        yield "no speech found"
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
