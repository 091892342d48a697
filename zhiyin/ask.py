"""From what a person asks to something a model can be asked: checked words first, then against the model."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from zhiyin.audio.vad import Thresholds
from zhiyin.errors import UserError
from zhiyin.runtime.base import ModelSpec
from zhiyin.tasks import families, table
from zhiyin.tasks.families import Asked, Family
from zhiyin.text import hotword_list
from zhiyin.text.hotword_list import HotwordList

MIX, SPLIT = CHANNELS = ("mix", "split")
MAX_PROMPT_HOTWORDS = 50  # more of them harm a prompt; all are put right after decoding

Hotwords = str | Path | Iterable[str] | HotwordList


@dataclass(frozen=True)
class Options:
    """How a recording is to be understood, beside the tasks.

    Attributes:
        instruction: a request in plain language instead of tasks.
        language: code of the language that is spoken.
        into: code of the language to translate into.
        hotwords: names and terms that are likely to be said: a file, one string with commas, several strings, or what
            `text.hotword_list.read` made of them. Models whose prompts take hotwords are told; with every model they
            are put right in the transcript.
        speakers: whether to say who speaks.
        itn: False asks the model for words as they were spoken, True for written form, where it can be told; None
            leaves it to the model.
        written: give the transcript in written form too (`text.itn`), beside the spoken one.
        template: one of the prompt templates of the model's family.
        channels: ``mix`` averages the channels of a recording, ``split`` understands each by itself.
        vad: when speech begins and ends, and after how much silence a segment ends, where the usual will not do.
    """

    instruction: str | None = None
    language: str | None = None
    into: str | None = None
    hotwords: Hotwords = ()
    speakers: bool = False
    itn: bool | None = None
    written: bool = False
    template: str | None = None
    channels: str = MIX
    vad: Thresholds | None = None


DEFAULTS = Options()


def request(tasks: str | Iterable[str] | None = None, options: Options = DEFAULTS) -> Asked:
    """A request that makes sense for some model.

    Args:
        tasks: task ids, e.g. ``["asr", "sgc"]`` or ``"asr,sgc"``; by default the transcript, with `into` a translation.
        options: the rest.

    Raises:
        UserError: an unknown task, tasks that contradict each other, tasks and an instruction together, hotwords that
            cannot be read, or no such way to treat channels.
    """
    if options.channels not in CHANNELS:
        raise UserError(f"channels '{options.channels}' is not known; known: {' '.join(CHANNELS)}")
    asked = Asked(
        language=options.language,
        into=options.into,
        hotwords=hotwords_of(options).texts[:MAX_PROMPT_HOTWORDS],
        speakers=options.speakers,
        itn=options.itn,
        template=options.template or "",
    )
    instruction = options.instruction
    if instruction is None:
        usual = "asr" if options.into is None else "ast"
        return replace(asked, tasks=table.select(usual if tasks is None else tasks))
    if tasks is not None:
        raise UserError("tasks and an instruction in plain language were given together; give one of them")
    if not instruction.strip():
        raise UserError("the instruction is empty; say in plain language what you want to know")
    return replace(asked, instruction=" ".join(instruction.split()))


def hotwords_of(options: Options) -> HotwordList:
    """The hotwords, read and checked.

    Raises:
        UserError: a file that cannot be read, or an entry that makes no sense.
    """
    given = options.hotwords
    return given if isinstance(given, HotwordList) else hotword_list.read(given)


def fit(asked: Asked, spec: ModelSpec) -> Asked:
    """The request as this model can be asked: with its own label sets, and in a combination of tasks it knows.

    Hotwords that no prompt for these tasks takes are left out: they are put right after decoding.

    Raises:
        UserError: the model cannot do it; what it can do is listed.
    """
    family = family_of(spec)
    asked = replace(family.completed(asked), template=asked.template or str(spec.extra.get("template", "")))
    try:
        family.check(asked, spec)
    except UserError:
        if not asked.hotwords:
            raise
        asked = replace(asked, hotwords=())
        family.check(asked, spec)
    if asked.instruction:
        return replace(asked, table=table.with_labels(table.TASKS, spec.labels))
    own = {task.id: spec.labels[task.id] for task in asked.tasks if task.id in spec.labels}
    return replace(asked, tasks=table.with_labels(asked.tasks, own))


def family_of(spec: ModelSpec) -> Family:
    """How models of this kind are asked.

    Raises:
        UserError: this version does not know the family.
    """
    try:
        return families.find(spec.family)
    except UserError as error:
        raise UserError(f"model '{spec.name}': {error}") from None
