"""From a record to what is asked and what must be said: the choice of tasks and of the prompt form."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from zhiyin.data.manifest import Record
from zhiyin.data.told import Texts
from zhiyin.errors import UserError
from zhiyin.tasks import instructions, render, table
from zhiyin.tasks.parse import FREE_TEXT_KINDS, join_words
from zhiyin.tasks.table import Task
from zhiyin.text import score
from zhiyin.text.normalize import has_wide
from zhiyin.text.target import to_name, usual

FIRST_PASS_SHARE = 0.5  # of the requests in plain language for an answer or a translation: the tags and nothing else
INTO = ("en", "zh", "de")  # languages that a request for an answer or a translation may name


@dataclass(frozen=True)
class TaskMix:
    """How a record's tasks become requests.

    Attributes:
        plain_share: share of requests in plain language; the others are tag prompts.
        x_only_share: of the requests with a label task, the share without the transcript (OSUM: 0.5).
        extra_share: share of records asked for more than the plain transcript, where more is known.
        unfit_share: of the plain requests, the share that no task fits.
        voice_only_share: of the requests for labels alone, the share that is answered from the vectors of the whole
            utterance alone (`model.projector.Voice`, `Pace`). The words of a training recording tell its speaker, and
            a decoder that has them never learns to hear the voice.
        transcript_share: of the rows without audio (`text_only`), the share that is a text of the records, to be said
            as it is: how a decoder without a past learns its language.
        told_share: of the rows without audio, the share that is told a text of the records and answers or translates
            it; only where the transcript comes from a CTC head, and the decoder is told it.
        misheard_share: of the words that a decoder is told of a recording, the share that a CTC head is taken to have
            missed or to have heard as other words of the records.
    """

    plain_share: float = 0.25
    x_only_share: float = 0.4
    extra_share: float = 0.6
    unfit_share: float = 0.05
    voice_only_share: float = 0.0
    transcript_share: float = 0.0
    told_share: float = 0.0
    misheard_share: float = 0.0

    def __post_init__(self) -> None:
        for setting in fields(self):
            share = getattr(self, setting.name)
            if not 0 <= share <= 1:
                raise UserError(f"mix: {setting.name} is {share}; a share lies between 0 and 1")


@dataclass(frozen=True)
class Example:
    """One training example in words; the tokenizer turns it into ids.

    Attributes:
        prompt: what is asked, before the speech.
        target: what must be said.
        transcript: for the CTC head: None when unknown, "" when nothing is said.
        voice_only: whether the decoder hears the vectors of the whole utterance alone.
        heard: the transcript and its marks (`render.heard`), told after the speech; nothing of it is learned.
    """

    prompt: str
    target: str
    transcript: str | None
    voice_only: bool = False
    heard: str = ""


def make(
    record: Record,
    mix: TaskMix,
    labels: Mapping[str, tuple[str, ...]],
    rng: random.Random,
    *,
    heard: str = "",
    shift_s: float = 0.0,
    speed: float = 1.0,
    time_step_s: float = 0.04,
) -> Example:
    """Choose tasks the record has a truth for, and render prompt and target.

    A record's own `instruction` asks for its translation where it has one, else for its answer, else for all its tasks;
    where that is asked in plain language, it is asked in these words. A translation into another language than one
    expects (`text.target`) is only asked in words that name it.

    Args:
        record: what is known.
        mix: shares of the forms.
        labels: the model's own label sets.
        rng: source of the choices.
        heard: what a CTC head hears, where the decoder is told it before it answers or translates (`misheard`). Of
            requests in plain language for that, half say the tags and nothing else, as the first pass in use does; the
            others are told these tags, what was heard, and say the rest.
        shift_s: silence put in front of the audio, below 0 where some was cut off; word times move by it.
        speed: playing speed; word times shrink by it.
        time_step_s: resolution of word times.
    """
    record = _by_tags(record) if not mix.plain_share else record
    chosen = _choose(record, mix, rng)
    tasks = table.with_labels(table.select(chosen), labels)
    words = tuple(
        replace(w, start_s=max(0.0, w.start_s / speed + shift_s), end_s=max(0.0, w.end_s / speed + shift_s))
        for w in record.words
    )
    truth = replace(record.truth, words=words)
    transcript = record.text
    # without a share no number is drawn, so that older runs stay the same
    asks_voice = all(task.kind == "label" for task in tasks) and mix.voice_only_share > 0
    voice_only = asks_voice and rng.random() < mix.voice_only_share
    into = to_name(record.translation, record.language) if "ast" in chosen else ""
    if rng.random() >= mix.plain_share and not into:
        free = _free(tasks) if heard else None
        if free is not None:
            return _told(render.tags([free]), free, truth, heard, transcript)
        target = render.target(tasks, truth, time_step_s=time_step_s)
        return Example(render.tags(tasks), target, transcript, voice_only)
    wanted = _instructed(record)
    if wanted and (set(wanted) == set(chosen) or len(wanted) > 1 or into):
        tasks, asked, voice_only = table.with_labels(table.select(wanted), labels), record.instruction, False
    else:
        language = rng.choice(instructions.LANGUAGES)
        if rng.random() < mix.unfit_share:
            return Example(instructions.pick((), language, "train", rng), render.NO_TASK, transcript)
        tasks = table.select("ast") if into else tasks
        asked = instructions.pick([task.id for task in tasks], language, "train", rng, into=into)
    free = _free(tasks) if heard else None
    if free is not None:
        if rng.random() < FIRST_PASS_SHARE:
            return Example(asked, render.tags(tasks), transcript)
        return _told(asked, free, truth, heard, transcript, with_tag=True)
    return Example(asked, render.target(tasks, truth, with_tags=True, time_step_s=time_step_s), transcript, voice_only)


def _told(
    asked: str, task: Task, truth: render.Truth, heard: str, transcript: str | None, *, with_tag: bool = False
) -> Example:
    """The answer or translation alone, after what was heard."""
    told = "".join(render.heard(task, heard, with_tag=with_tag))
    return Example(asked, render.target([task], truth), transcript, heard=told)


def _free(tasks: Sequence[Task]) -> Task | None:
    """The answer or the translation among what is asked."""
    return next((task for task in tasks if task.kind in FREE_TEXT_KINDS), None)


def misheard(text: str, share: float, others: Sequence[str], rng: random.Random) -> str:
    """A transcript in which a share of the words is missing or is another one of the same script; never all of it.

    Args:
        text: what was said.
        share: of its words.
        others: words, and Chinese characters, to choose from.
        rng: source of the choices.
    """
    said = []
    for word in score.words(text):
        if rng.random() < share:
            other = rng.choice(others) if others and rng.random() < 0.5 else ""
            word = other if other and has_wide(other) == has_wide(word) else ""
        said.append(word)
    return join_words(word for word in said if word) or text


def _by_tags(record: Record) -> Record:
    """A record without what tags alone cannot ask: a translation whose language must be named."""
    rest = tuple(task for task in record.tasks if task != "ast")
    is_named = "ast" in record.tasks and to_name(record.translation, record.language)
    return replace(record, tasks=rest) if rest and is_named else record


def _instructed(record: Record) -> tuple[str, ...]:
    """Tasks that the record's own instruction asks for; none where it has no instruction."""
    if not record.instruction:
        return ()
    free = "ast" if record.translation else "sttc" if record.answer else ""
    return tuple(task for task in record.tasks if task == free) if free else record.tasks


def text_only(
    tasks: Sequence[str],
    texts: Sequence[str],
    mix: TaskMix,
    rng: random.Random,
    told: Texts | None = None,
) -> Example:
    """One example without audio: a request in plain language, to be answered with the tags of the tasks it asks for.

    This is the intent stage of OSUM-Pangu (docs/training.md). Of some, `transcript_share` says how many, a text is to
    be said; of others, `told_share`, a text is told and is to be answered or translated.

    Args:
        tasks: ids that may be asked.
        texts: what may be said.
        mix: shares of the forms.
        rng: source of the choices.
        told: texts with an answer or a translation.
    """
    if texts and rng.random() < mix.transcript_share:
        return Example("", rng.choice(texts), None)
    if told and mix.told_share and rng.random() < mix.told_share:
        return _answered(told.draw(rng), mix, rng)
    language = rng.choice(instructions.LANGUAGES)
    if rng.random() < mix.unfit_share:
        return Example(instructions.pick((), language, "train", rng), render.NO_TASK, None)
    chosen = _combination(tasks, rng)
    into = rng.choice(("", *INTO)) if chosen in (["sttc"], ["ast"]) else ""
    request = instructions.pick(chosen, language, "train", rng, into=into)
    return Example(request, render.tags(table.select(chosen)), None)


def _answered(record: Record, mix: TaskMix, rng: random.Random) -> Example:
    """A text that is told, with its answer or translation, asked by its tag or in plain language."""
    task, into = _asked_of(record)
    if rng.random() >= mix.plain_share and not into:
        return _told(task.tag, task, record.truth, str(record.text), None)
    if record.instruction and rng.random() < 0.5:
        asked = record.instruction
        if rng.random() < FIRST_PASS_SHARE:
            return Example(asked, task.tag, None)
    else:
        into = into or (rng.choice(("", usual(record.language))) if task.kind == "translation" else "")
        asked = instructions.pick([task.id], rng.choice(instructions.LANGUAGES), "train", rng, into=into)
    return _told(asked, task, record.truth, str(record.text), None, with_tag=True)


def to_answer(records: Sequence[Record]) -> list[Example]:
    """Without chance: the texts of records with their answers or translations, asked by tags where these are enough.

    Args:
        records: some without a text, an answer, a translation or the words that a translation needs are left out.
    """
    out = []
    for record in records:
        if record.text and {"sttc", "ast"} & set(record.tasks):
            task, into = _asked_of(record)
            if not into:
                out.append(_told(task.tag, task, record.truth, record.text, None))
            elif record.instruction:
                out.append(_told(record.instruction, task, record.truth, record.text, None, with_tag=True))
    return out


def _asked_of(record: Record) -> tuple[Task, str]:
    """The task that answers or translates a record, and the language that a request for it must name, if any."""
    task = next(row for row in table.TASKS if row.kind in FREE_TEXT_KINDS and row.id in record.tasks)
    return task, to_name(record.translation, record.language) if task.kind == "translation" else ""


def _combination(tasks: Sequence[str], rng: random.Random) -> list[str]:
    """Tasks that are asked together, drawn so that each is asked about as often as any other."""
    kinds = {task.id: task.kind for task in table.TASKS}
    first = rng.choice(tasks)
    if kinds[first] == "text":
        return [first]
    others = [task for task in tasks if kinds[task] == "label" and task != first]
    more = (
        rng.sample(others, min(rng.choice((0, 0, 0, 1, 1, 2, 2, 3, 4)), len(others))) if kinds[first] == "label" else []
    )
    return ["asr", first, *more] if "asr" in tasks and rng.random() < 0.5 else [first, *more]


def _choose(record: Record, mix: TaskMix, rng: random.Random) -> list[str]:
    known = set(record.tasks)
    extras = [task.id for task in table.TASKS if task.id in known and task.id != "asr"]
    if "asr" not in known:
        return [rng.choice(extras)]
    if not extras or rng.random() >= mix.extra_share:
        return ["asr"]
    kinds = {task.id: task.kind for task in table.TASKS}
    first = rng.choice(extras)
    if first == "srwt":
        return ["srwt"]
    chosen = [first]
    if kinds[first] == "label":
        others = [t for t in extras if kinds[t] == "label" and t != first]
        chosen += rng.sample(others, rng.choice((0, 0, min(1, len(others)), len(others))))
    return chosen if rng.random() < mix.x_only_share else ["asr", *chosen]
