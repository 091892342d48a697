"""From what a person asks to something a model can be asked: checked words first, then against the model."""

import re
from collections.abc import Iterable
from dataclasses import replace

from zhiyin.errors import UserError
from zhiyin.runtime.base import ModelSpec
from zhiyin.tasks import families, table
from zhiyin.tasks.families import Asked, Family

_NO_HOTWORD = re.compile(r"[<>\[\]|,，\x00-\x1f]")  # would read as a mark of a prompt, or as two words


def request(
    tasks: str | Iterable[str] | None = None,
    instruction: str | None = None,
    language: str | None = None,
    *,
    into: str | None = None,
    hotwords: str | Iterable[str] = (),
    speakers: bool = False,
    itn: bool | None = None,
    template: str | None = None,
) -> Asked:
    """A request that makes sense for some model.

    Args:
        tasks: task ids, e.g. ``["asr", "sgc"]`` or ``"asr,sgc"``; by default the transcript, with `into` a translation.
        instruction: a request in plain language instead of `tasks`.
        language: code of the language that is spoken.
        into: code of the language to translate into.
        hotwords: names and terms that are likely to be said; one string may hold several, with commas between them.
        speakers: whether to say who speaks.
        itn: False for the words as they were spoken, True for written form; None leaves it to the model.
        template: one of the prompt templates of the model's family.

    Raises:
        UserError: an unknown task, tasks that contradict each other, tasks and an instruction together, or a hotword
            that no prompt can hold.
    """
    options = Asked(
        language=language,
        into=into,
        hotwords=_hotwords(hotwords),
        speakers=speakers,
        itn=itn,
        template=template or "",
    )
    if instruction is None:
        usual = "asr" if into is None else "ast"
        return replace(options, tasks=table.select(usual if tasks is None else tasks))
    if tasks is not None:
        raise UserError("tasks and an instruction in plain language were given together; give one of them")
    if not instruction.strip():
        raise UserError("the instruction is empty; say in plain language what you want to know")
    return replace(options, instruction=" ".join(instruction.split()))


def fit(asked: Asked, spec: ModelSpec) -> Asked:
    """The request as this model can be asked: with its own label sets, and in a combination of tasks it knows.

    Raises:
        UserError: the model cannot do it; what it can do is listed.
    """
    family = family_of(spec)
    asked = replace(family.completed(asked), template=asked.template or str(spec.extra.get("template", "")))
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


def _hotwords(given: str | Iterable[str]) -> tuple[str, ...]:
    words = re.split(r"[,，\n]", given) if isinstance(given, str) else list(given)
    kept = tuple(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
    for word in kept:
        if _NO_HOTWORD.search(word):
            raise UserError(f"hotword {word!r} holds one of < > [ ] | or a comma, which have a meaning in prompts")
    return kept
