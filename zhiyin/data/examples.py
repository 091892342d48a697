"""From a record to what is asked and what must be said: the choice of tasks and of the prompt form."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.tasks import instructions, render, table

OF_THE_SPEAKER = {"sgc", "sap"}  # answers that do not depend on what is said
INTO = ("en", "zh", "de")  # languages that a request for an answer or a translation may name


@dataclass(frozen=True)
class TaskMix:
    """How a record's tasks become requests.

    Attributes:
        plain_share: share of requests in plain language; the others are tag prompts.
        x_only_share: of the requests with a label task, the share without the transcript (OSUM: 0.5).
        extra_share: share of records asked for more than the plain transcript, where more is known.
        unfit_share: of the plain requests, the share that no task fits.
        voice_only_share: of the requests that only ask who speaks (`OF_THE_SPEAKER`), the share that is answered from
            the voice vector alone (`model.projector.Voice`). The words of a training recording tell its speaker, and
            a decoder that has them never learns to hear the voice.
        transcript_share: of the rows without audio (`text_only`), the share that is a text of the records, to be said
            as it is: how a decoder without a past learns its language.
    """

    plain_share: float = 0.25
    x_only_share: float = 0.4
    extra_share: float = 0.6
    unfit_share: float = 0.05
    voice_only_share: float = 0.0
    transcript_share: float = 0.0

    def __post_init__(self) -> None:
        for setting in fields(self):
            share = getattr(self, setting.name)
            if not 0 <= share <= 1:
                raise UserError(f"mix: {setting.name} is {share}; a share lies between 0 and 1")


@dataclass(frozen=True)
class Example:
    """One training example in words; the tokenizer turns it into ids."""

    prompt: str
    target: str
    transcript: str | None  # for the CTC head: None when unknown, "" when nothing is said
    voice_only: bool = False


def make(
    record: Record,
    mix: TaskMix,
    labels: Mapping[str, tuple[str, ...]],
    rng: random.Random,
    *,
    shift_s: float = 0.0,
    speed: float = 1.0,
    time_step_s: float = 0.04,
) -> Example:
    """Choose tasks the record has a truth for, and render prompt and target.

    A record's own `instruction` asks for its translation where it has one, else for its answer, else for all its tasks;
    where that is asked in plain language, it is asked in these words.

    Args:
        record: what is known.
        mix: shares of the forms.
        labels: the model's own label sets.
        rng: source of the choices.
        shift_s: silence put in front of the audio; word times move by it.
        speed: playing speed; word times shrink by it.
        time_step_s: resolution of word times.
    """
    chosen = _choose(record, mix, rng)
    tasks = table.with_labels(table.select(chosen), labels)
    words = tuple(
        replace(w, start_s=w.start_s / speed + shift_s, end_s=w.end_s / speed + shift_s) for w in record.words
    )
    truth = replace(record.truth, words=words)
    transcript = record.text
    # without a share no number is drawn, so that older runs stay the same
    asks_voice = {task.id for task in tasks} <= OF_THE_SPEAKER and mix.voice_only_share > 0
    voice_only = asks_voice and rng.random() < mix.voice_only_share
    if rng.random() >= mix.plain_share:
        target = render.target(tasks, truth, time_step_s=time_step_s)
        return Example(render.tags(tasks), target, transcript, voice_only)
    wanted = _instructed(record)
    if wanted and (set(wanted) == set(chosen) or len(wanted) > 1):
        tasks, asked, voice_only = table.with_labels(table.select(wanted), labels), record.instruction, False
    else:
        language = rng.choice(instructions.LANGUAGES)
        if rng.random() < mix.unfit_share:
            return Example(instructions.pick((), language, "train", rng), render.NO_TASK, transcript)
        asked = instructions.pick(chosen, language, "train", rng)
    return Example(asked, render.target(tasks, truth, with_tags=True, time_step_s=time_step_s), transcript, voice_only)


def _instructed(record: Record) -> tuple[str, ...]:
    """Tasks that the record's own instruction asks for; none where it has no instruction."""
    if not record.instruction:
        return ()
    free = next((task for task in ("ast", "sttc") if task in record.tasks), "")
    return (free,) if free else record.tasks


def text_only(tasks: Sequence[str], texts: Sequence[str], mix: TaskMix, rng: random.Random) -> Example:
    """One example without audio: a request in plain language, to be answered with the tags of the tasks it asks for.

    This is the intent stage of OSUM-Pangu (docs/training.md). Of some, `transcript_share` says how many, a text is to
    be said.

    Args:
        tasks: ids that may be asked.
        texts: what may be said.
        mix: shares of the forms.
        rng: source of the choices.
    """
    if texts and rng.random() < mix.transcript_share:
        return Example("", rng.choice(texts), None)
    language = rng.choice(instructions.LANGUAGES)
    if rng.random() < mix.unfit_share:
        return Example(instructions.pick((), language, "train", rng), render.NO_TASK, None)
    chosen = _combination(tasks, rng)
    into = rng.choice(("", *INTO)) if chosen in (["sttc"], ["ast"]) else ""
    request = instructions.pick(chosen, language, "train", rng, into=into)
    return Example(request, render.tags(table.select(chosen)), None)


def _combination(tasks: Sequence[str], rng: random.Random) -> list[str]:
    """Tasks that are asked together, drawn so that each is asked about as often as any other."""
    kinds = {task.id: task.kind for task in table.TASKS}
    first = rng.choice(tasks)
    if kinds[first] in ("text", "words"):
        return [first]
    others = [task for task in tasks if kinds[task] == "label" and task != first]
    more = rng.sample(others, rng.choice((0, 0, min(1, len(others)), len(others)))) if kinds[first] == "label" else []
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
