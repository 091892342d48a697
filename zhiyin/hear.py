"""What a model says of windows: features and vectors, then the reply of the decoder or the path of a CTC head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from zhiyin.ask import family_of
from zhiyin.audio import evidence, front_end, level, pauses
from zhiyin.audio.windows import Window
from zhiyin.errors import UserError
from zhiyin.result import Segment
from zhiyin.runtime.base import Encoded
from zhiyin.runtime.bias import Bias, build, spellings
from zhiyin.runtime.ctc_beam import beam_search
from zhiyin.runtime.generate import Prompt, ctc_greedy, decode
from zhiyin.runtime.load import Loaded
from zhiyin.segments import make
from zhiyin.tasks import render
from zhiyin.tasks.families import Asked, Told
from zhiyin.tasks.parse import FREE_TEXT_KINDS, Parsed
from zhiyin.tasks.render import TimedWord
from zhiyin.tasks.table import Task
from zhiyin.text import align, hotword_ctc
from zhiyin.text.guard import is_sure
from zhiyin.text.hotword_list import HotwordList

UNFINISHED = "reply cut at the token limit"
UNCERTAIN = "uncertain text cut"
SPOKEN = ("text", "words")  # kinds of tasks that a CTC head answers: the transcript, and its words with times


@dataclass(frozen=True)
class Hints:
    """Hotwords as a model can be made to expect them.

    Attributes:
        words: as they are written.
        said_in: for each the token sequences it may be said in; none that needs a token the model does not have.
        bias: makes these tokens likelier for the decoder.
    """

    words: tuple[str, ...]
    said_in: tuple[tuple[tuple[int, ...], ...], ...]
    bias: Bias | None


_made: WeakKeyDictionary[HotwordList, tuple[Tokenizer, Hints]] = WeakKeyDictionary()


def hints(hotwords: HotwordList, model: Loaded) -> Hints | None:
    """What a decoder is given of hotwords beside its prompt; nothing where there are none, or no decoder transcribes.

    What was made for a list is kept as long as the list.
    """
    if not hotwords.words or model.backend.spec.ctc_transcript:
        return None
    tokenizer, made = _made.get(hotwords, (None, None))
    if made is None or tokenizer is not model.tokenizer:
        said_in = tuple(tuple(_sayable(word.text, model)) for word in hotwords.words)
        bias = build(said_in, [word.weight for word in hotwords.words])
        made = Hints(tuple(word.text for word in hotwords.words), said_in, bias)
        _made[hotwords] = model.tokenizer, made
    return made


@dataclass(frozen=True)
class _Answer:
    """What was understood, guards that already cut something, and how sure that is, 0 to 1."""

    parsed: Parsed
    flags: tuple[str, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class _Question:
    """What a decoder is asked of an utterance of so many seconds, and the transcript that it is told, if any.

    Without an utterance it is asked what an instruction wants.
    """

    encoded: Encoded | None
    seconds: float
    asked: Asked
    heard: str = ""


def hear(windows: Sequence[Window], asked: Asked, model: Loaded, hints: Hints | None = None) -> list[Segment]:
    """A segment for each window, guarded, with times of the recording; neighbours are not merged yet.

    Args:
        windows: one batch; a quantised model may round the same window otherwise in another batch.
        asked: what `ask.fit` let through.
        model: from `runtime.load.load`.
        hints: hotwords, from `hints`.
    """
    spec = model.backend.spec
    windows = [replace(window, samples_T=level.adjusted(window.samples_T)) for window in windows]
    features = [front_end.compute(spec.front_end, window.samples_T, num_mels=spec.num_mels) for window in windows]
    encoded = model.backend.encode(features)
    if spec.ctc_transcript:
        answers = _draft_and_ask(windows, encoded, asked, model)
    else:
        questions = [
            _Question(one, _seconds(window), _likely(asked, one, hints))
            for window, one in zip(windows, encoded, strict=True)
        ]
        answers = _ask(questions, model, hints=hints)
    found = [
        replace(make(window, answer.parsed, answer.flags), confidence=_rounded(answer.confidence))
        for window, answer in zip(windows, answers, strict=True)
    ]
    if not spec.ctc_transcript:
        return found
    return [replace(one, words=tuple(replace(word, source="ctc") for word in one.words)) for one in found]


def _sayable(word: str, model: Loaded) -> list[tuple[int, ...]]:
    """Token sequences that really spell the word: no token for what is unknown, and no blank."""
    said = spellings(model.tokenizer, word)
    return [ids for ids in said if min(ids) > 0 and _plain(_text(ids, model)) == _plain(word)]


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()


def _likely(asked: Asked, encoded: Encoded, hints: Hints | None) -> Asked:
    """The request with the hotwords in its prompt that a CTC head may have heard, where they are too many for all."""
    if hints is None or encoded.ctc_TV is None or not 0 < len(asked.hotwords) < len(hints.words):
        return asked
    likely = hotword_ctc.likely(encoded.ctc_TV, hints.said_in, limit=len(asked.hotwords))
    return replace(asked, hotwords=tuple(hints.words[i] for i in likely))


def _ask(
    questions: Sequence[_Question], model: Loaded, *, hints: Hints | None = None, max_new_tokens: int = 0
) -> list[_Answer]:
    """The replies of the decoder; `max_new_tokens` where it need not say all that it would."""
    if not questions:
        return []
    family = family_of(model.backend.spec)
    memory_tokens = max_new_tokens or model.backend.spec.max_tokens
    replies = decode(
        model.backend,
        [_prompt(family.told(one.asked, one.heard), one.encoded, model) for one in questions],
        max_new_tokens=max(family.limit_tokens(one.asked, memory_tokens) for one in questions),
        repetition_penalty=family.repetition_penalty,
        bias=None if hints is None else hints.bias,
    )
    said = [_text(reply.ids, model, (*family.thinking, *family.marks)) for reply in replies]
    return [
        _Answer(
            family.read(text, one.asked, duration_s=one.seconds),
            () if reply.ended else (UNFINISHED,),
            math.exp(reply.mean_logprob),
        )
        for text, one, reply in zip(said, questions, replies, strict=True)
    ]


def _draft_and_ask(windows: Sequence[Window], encoded: Sequence[Encoded], asked: Asked, model: Loaded) -> list[_Answer]:
    """The transcript from the CTC head; labels from the decoder, and from what it is told of that transcript the rest.

    Each label is a question of its own: corpora know some labels and not others, so that few combinations are learned.
    Where the model says so (`label_vectors`), the decoder is given how the whole utterance sounds, and no words.
    What an instruction wants is read from the tags that the reply to it begins with.
    """
    questions = [_Question(one, _seconds(window), asked) for window, one in zip(windows, encoded, strict=True)]
    understood = _understand(questions, model) if asked.instruction else []
    wanted = [answer.parsed.tasks for answer in understood] or [asked.tasks] * len(questions)
    drafts: dict[int, _Answer] = {}
    labels: list[tuple[int, _Question]] = []
    free: dict[int, _Question] = {}
    for i, (tasks, question) in enumerate(zip(wanted, questions, strict=True)):
        rows = tuple(task for task in tasks if task.kind == "label")
        whole = replace(question, encoded=_whole(encoded[i], model))
        labels += [(i, replace(whole, asked=replace(asked, instruction="", tasks=(row,)))) for row in rows]
        if len(rows) < len(tasks):
            drafts[i] = _draft(windows[i], encoded[i], tasks, model)
        rows = tuple(task for task in tasks if task.kind in FREE_TEXT_KINDS)
        if rows and (text := drafts[i].parsed.text):
            free[i] = replace(question, asked=replace(asked, tasks=rows), heard=text)
    replies = dict(zip(free, _ask(list(free.values()), model), strict=True))
    labelled: dict[int, list[_Answer]] = {}
    for (i, _), answer in zip(labels, _ask([one for _, one in labels], model), strict=True):
        labelled.setdefault(i, []).append(answer)
    return [
        _joined(tasks, drafts.get(i), labelled.get(i, ()), replies.get(i)) if tasks or not understood else understood[i]
        for i, tasks in enumerate(wanted)
    ]


def _understand(questions: Sequence[_Question], model: Loaded) -> list[_Answer]:
    """The tags of an instruction: asked beside each window, or, where the model says so, once and by itself."""
    asked = questions[0].asked
    tags = render.tags(asked.table, dialect=family_of(model.backend.spec).dialect)
    most = len(model.tokenizer.encode(tags, add_special_tokens=False).ids)  # of the reply, what says what it wants
    if not model.backend.spec.request_alone:
        return _ask(questions, model, max_new_tokens=most)
    return _ask([replace(questions[0], encoded=None)], model, max_new_tokens=most) * len(questions)


def _whole(encoded: Encoded, model: Loaded) -> Encoded:
    """What the decoder is given when it is asked for a label."""
    count = model.backend.spec.label_vectors
    return replace(encoded, vectors_SD=encoded.vectors_SD[:count]) if count else encoded


def _joined(
    tasks: tuple[Task, ...], draft: _Answer | None, labelled: Sequence[_Answer], free: _Answer | None
) -> _Answer:
    """One answer of its parts, each as sure as its first part."""
    given = [part for part in (draft, *labelled, free) if part is not None]
    parsed = Parsed(tasks, unparsed=tuple(piece for part in given for piece in part.parsed.unparsed))
    flags = tuple(flag for part in given for flag in part.flags)
    confidence = next((part.confidence for part in given), None)
    is_spoken = any(task.kind in SPOKEN for task in tasks)
    if draft is not None and is_spoken:
        parsed = replace(parsed, text=draft.parsed.text, words=draft.parsed.words)
    if free is None and any(task.kind in FREE_TEXT_KINDS for task in tasks):
        flags = (*flags, UNCERTAIN)  # there is nothing to answer or to translate
    labels = {task: label for answer in labelled for task, label in answer.parsed.labels.items()}
    parsed = replace(parsed, labels=labels)
    if free is not None:
        parsed = replace(parsed, answer=free.parsed.answer, translation=free.parsed.translation)
        confidence = confidence if is_spoken else free.confidence
    return _Answer(parsed, tuple(dict.fromkeys(flags)), confidence)


def _draft(window: Window, encoded: Encoded, tasks: Sequence[Task], model: Loaded) -> _Answer:
    """The transcript of the CTC head, with word times where they are asked, or nothing where it is not sure of it."""
    ids, confidence = ctc_greedy(encoded.ctc_TV)
    if ids and model.bigram is not None and encoded.ctc_TV is not None:
        ids = beam_search(encoded.ctc_TV, model.bigram)
    text = _text(ids, model)
    if text and not _believed(text, confidence, window, model):
        return _Answer(Parsed(()), (UNCERTAIN,), confidence)
    wants_times = any(task.kind == "words" for task in tasks)
    words = _words(ids, encoded, window, model) if wants_times else ()
    return _Answer(Parsed((), text=text, words=words), (), confidence)


def _believed(text: str, confidence: float, window: Window, model: Loaded) -> bool:
    return is_sure(
        text,
        confidence,
        at_least=model.backend.spec.min_confidence,
        peak=max((span.peak for span in window.spans), default=1.0),
        level_range_db=evidence.range_db(window.samples_T),
        speech_s=sum(span.end_s - span.start_s for span in window.spans),
    )


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


def _rounded(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, 4)


def _seconds(window: Window) -> float:
    return window.end_s - window.start_s


def _prompt(told: Told, encoded: Encoded | None, model: Loaded) -> Prompt:
    """Each piece by itself, so that no token reaches across two of them or into the speech."""
    before, after = (
        [token for piece in pieces for token in model.tokenizer.encode(piece, add_special_tokens=False).ids]
        for pieces in (told.before, told.after)
    )
    return Prompt(before, None if encoded is None else encoded.vectors_SD, after)


def _text(ids: Sequence[int], model: Loaded, marks: Sequence[str] = ()) -> str:
    """The text of tokens, special ones left out but for the `marks` that a reply is read by."""
    by_id = {model.tokenizer.token_to_id(mark): mark for mark in marks}
    runs = [
        by_id[key] * len(list(run)) if key is not None else model.tokenizer.decode(list(run), skip_special_tokens=True)
        for key, run in groupby(ids, key=lambda token: token if token in by_id else None)
    ]
    return "".join(runs).strip()
