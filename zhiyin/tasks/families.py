"""How each family of models is asked and how its replies are read: one data file per family, `prompts/families/*.json`.

A family's file::

    title, source       what it is, and where every string of the file comes from
    templates           name -> pieces of text before and after the speech, e.g. a chat template with `{prompt}` in it;
                        the first is the default, the others can be asked for
    systems             name -> use -> the system text that `{system}` stands for
    forms               what can be asked (`tasks`: combinations like "asr+ser", "any" for all; none for a request in
                        plain language) and the prompt for it
    languages, into     code -> how a prompt names the language of the speech, and the one to translate into
    hears               codes of languages that it knows but that no prompt names
    pairs               "en>fr": what it translates; none for anything
    reply               how its replies are read: a name in `replies.READERS`

A piece or prompt is a text or a list of texts; one of the form ``{"language": "..."}`` is said only when that option is
given. What is asked is matched with a form that takes exactly the options given; what no form takes is refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Protocol

from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.tasks import prompts, render, replies
from zhiyin.tasks.dialect import DIALECTS, ZHIYIN, Dialect
from zhiyin.tasks.parse import Parsed
from zhiyin.tasks.table import TASKS, Task

FOLDER = prompts.FOLDER / "families"
ANY = "any"
NO_ITN = "no-itn"
OPTIONS = ("language", "into", "hotwords", "speakers", NO_ITN)  # what a form may take beside its tasks


@dataclass(frozen=True)
class Asked:
    """What is asked of a model.

    Attributes:
        tasks: rows of the task table, with the model's own labels; none for a request in plain language.
        instruction: that request; with tasks, what it was understood to ask for.
        language: code of the language that is spoken.
        into: code of the language to translate into.
        hotwords: names and terms that are likely to be said.
        speakers: whether to say who speaks.
        itn: False for the words as they were spoken; True for written form, which a family that can do both does
            anyway; None leaves it to the family.
        template: one of the family's templates; by default its first.
        table: rows a plain-language request may be understood as, with the model's own labels.
    """

    tasks: tuple[Task, ...] = ()
    instruction: str = ""
    language: str | None = None
    into: str | None = None
    hotwords: tuple[str, ...] = ()
    speakers: bool = False
    itn: bool | None = None
    template: str = ""
    table: tuple[Task, ...] = TASKS


@dataclass(frozen=True)
class Told:
    """A prompt: pieces of text around the speech, each tokenised by itself, its special tokens parsed."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Able(Protocol):
    """What must be known of a model before it is asked; `runtime.base.ModelSpec` fits."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task ids it can do."""
        ...

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages it knows; none where it does not say."""
        ...

    @property
    def can_follow_instructions(self) -> bool:
        """Whether it understands requests in plain language."""
        ...


@dataclass(frozen=True)
class Template:
    """Pieces around the speech; `systems` names the set of system texts that `{system}` is taken from."""

    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    systems: str = ""


@dataclass(frozen=True)
class Form:
    """A prompt and what it is for; `system`, `template`, `reply` and `max_new_tokens` where they are its own."""

    tasks: tuple[str, ...]
    prompt: Any = ""
    uses: tuple[str, ...] = ()
    system: str = ""
    template: str = ""
    reply: str = ""
    max_new_tokens: int = 0


@dataclass(frozen=True)
class Family:
    """A family of models, as its file says; see the module for the fields.

    Attributes:
        repetition_penalty: what its reference decodes with; 1 is none.
        max_new_tokens: longest reply; 0 for what the model's memory allows.
        thinking: tokens before and after thoughts, which are no part of the reply.
        marks: other tokens that its replies are read by, and that decoding must not drop.
        hotword_gap: what stands between two hotwords.
    """

    name: str
    title: str
    source: str
    reply: str
    templates: dict[str, Template]
    forms: tuple[Form, ...]
    systems: dict[str, dict[str, str]] = field(default_factory=dict)
    languages: dict[str, str] = field(default_factory=dict)
    hears: tuple[str, ...] = ()
    into: dict[str, str] = field(default_factory=dict)
    pairs: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    max_new_tokens: int = 0
    thinking: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    hotword_gap: str = ", "

    @property
    def dialect(self) -> Dialect:
        """How it writes tags and marks."""
        return next((dialect for dialect in DIALECTS if dialect.name == self.reply), ZHIYIN)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids of the tasks it can do, in table order."""
        ids = {task for combination in self.combinations for task in combination.split("+")}
        return tuple(task.id for task in TASKS if ANY in ids or task.id in ids)

    @property
    def combinations(self) -> tuple[str, ...]:
        """What can be asked at once, e.g. ``asr+ser``; ``any`` for every combination."""
        return tuple(dict.fromkeys(name for form in self.forms for name in form.tasks))

    @property
    def options(self) -> tuple[str, ...]:
        """What some of its prompts take, of `OPTIONS`."""
        taken = {name for form in self.forms for name in self._takes(form)[1]}
        return tuple(name for name in OPTIONS if name in taken)

    @property
    def choices(self) -> tuple[str, ...]:
        """Templates one may choose from; none where each form has its own."""
        return () if any(form.template for form in self.forms) else tuple(self.templates)

    @property
    def can_follow_instructions(self) -> bool:
        """Whether any model of the family takes requests in plain language."""
        return any(not form.tasks for form in self.forms)

    def at_once(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The combinations that hold no other tasks than these."""
        return tuple(name for name in self.combinations if name == ANY or set(name.split("+")) <= set(tasks))

    def completed(self, asked: Asked) -> Asked:
        """The same with the tasks of the smallest combination the family knows that holds them.

        Models that were trained on whole sentences give some labels only together with the transcript.
        """
        ids = {task.id for task in asked.tasks}
        known = [set(name.split("+")) for name in self.combinations]
        if not ids or {ANY} in known or ids in known or {"asr", *ids} not in known:
            return asked
        rows = [next(row for row in (*asked.tasks, *asked.table) if row.id == name) for name in ("asr", *ids)]
        order = [task.id for task in TASKS]
        return replace(asked, tasks=tuple(sorted(rows, key=lambda row: order.index(row.id))))

    def check(self, asked: Asked, spec: Able) -> None:
        """Refuse what this model cannot do.

        Raises:
            UserError: one line that says what it can.
        """
        able = [task for task in self.tasks if task in spec.tasks]
        unable = [task.id for task in asked.tasks if task.id not in able]
        if unable:
            can = " ".join(able) or "nothing, it is not trained"
            raise UserError(f"model '{spec.name}' cannot do {' '.join(unable)}; it can do: {can}")
        if asked.instruction and not (spec.can_follow_instructions and self.can_follow_instructions):
            raise UserError(f"model '{spec.name}' takes no plain language; ask for tasks: {' '.join(able)}")
        if asked.template and asked.template not in self.choices:
            known = " ".join(self.choices) or "it has only its own"
            raise UserError(f"model '{spec.name}' has no prompt template '{asked.template}'; templates: {known}")
        self._check_languages(asked, spec)
        if self._form(asked) is None:
            raise UserError(self._refusal(asked, spec))

    def told(self, asked: Asked, heard: str = "") -> Told:
        """The prompt for something that `check` let through; of one answer or translation also what was `heard`."""
        form = self._sure_form(asked)
        template = self._template(form, asked)
        given = self._given(asked)
        reply = form.reply or self.reply
        values = {
            "instruction": asked.instruction,
            "language": self.languages.get(asked.language or "", ""),
            "into": self.into.get(asked.into or "", ""),
            "hotwords": self.hotword_gap.join(asked.hotwords),
            "tags": render.tags(asked.tasks, dialect=next((d for d in DIALECTS if d.name == reply), ZHIYIN)),
            "system": self.systems.get(template.systems, {}).get(form.system, ""),
        }
        if "fixed" in _names(form.prompt):
            values["fixed"] = prompts.fixed(asked.tasks)
        values["prompt"] = _filled(form.prompt, given, values)
        before, after = (
            tuple(text for piece in pieces if (text := _filled(piece, given, values)))
            for pieces in (template.before, template.after)
        )
        if not heard:
            return Told(before, after)
        dialect, (task,) = self.dialect, asked.tasks
        return Told(before, (*after, *render.heard(task, heard, with_tag=bool(asked.instruction), dialect=dialect)))

    def read(self, reply: str, asked: Asked, *, duration_s: float | None = None) -> Parsed:
        """What a reply to `asked` says; nothing of it is guessed or lost.

        Args:
            reply: what the model said, without the end token.
            asked: what it was asked, as `check` let it through.
            duration_s: length of the audio given to the model; times beyond it are not believed.
        """
        form = self._sure_form(asked)
        said, thought = replies.without_thoughts(reply, self.thinking)
        heard = replies.Heard(
            said, asked.tasks, asked.table, asked.speakers, self._uses(form, asked, "language"), duration_s
        )
        parsed = replies.READERS[form.reply or self.reply](heard)
        codes = {name.casefold(): code for code, name in self.languages.items()}
        language = codes.get(parsed.language.casefold(), parsed.language)
        return replace(parsed, language=language, unparsed=(*parsed.unparsed, *thought))

    def limit_tokens(self, asked: Asked, memory_tokens: int) -> int:
        """The longest reply to `asked` of a model that remembers `memory_tokens`."""
        own = self._sure_form(asked).max_new_tokens or self.max_new_tokens
        return min(own or memory_tokens, memory_tokens)

    def template_name(self, asked: Asked) -> str:
        """The template that `asked` is put into, where there is a choice."""
        return asked.template or self.choices[0] if len(self.choices) > 1 else ""

    def names_language(self, asked: Asked) -> bool:
        """Whether the language of the speech stands in the prompt."""
        return asked.language is not None and self._uses(self._sure_form(asked), asked, "language")

    def _check_languages(self, asked: Asked, spec: Able) -> None:
        known = spec.languages or self.hears or tuple(self.languages)
        if asked.language is not None and asked.language not in known:
            names = " ".join(known) or "it does not say which; leave the language out"
            raise UserError(f"model '{spec.name}' does not know language '{asked.language}'; languages: {names}")
        translates = any(task.kind == "translation" for task in asked.tasks)
        if asked.into is None and translates and self.into:
            raise UserError(
                f"model '{spec.name}' must know the language to translate into; choose from: {' '.join(self.into)}"
            )
        if asked.into is None:
            return
        if not translates or not self.into:
            can = "add the task ast" if self.into and not translates else "leave it out"
            raise UserError(f"model '{spec.name}' was given a language to translate into, '{asked.into}'; {can}")
        pairs = [pair.split(">") for pair in self.pairs]
        targets = [to for of, to in pairs if asked.language in (None, of)] if pairs else list(self.into)
        if asked.into not in targets:
            of = f" from '{asked.language}'" if asked.language else ""
            can = " ".join(dict.fromkeys(targets)) or "nothing"
            raise UserError(f"model '{spec.name}' cannot translate{of} into '{asked.into}'; it can into: {can}")

    def _refusal(self, asked: Asked, spec: Able) -> str:
        wanted = "+".join(task.id for task in asked.tasks) or "plain language"
        takes = [self._takes(form) for form in self._forms(asked)]
        if not takes:
            known = " ".join(self.at_once(spec.tasks))
            return f"model '{spec.name}' cannot do {wanted} at once; together it can do: {known}"
        known = "; or ".join(dict.fromkeys(_listed(must, may - must) for must, may in takes))
        given = " and ".join(sorted(self._given(asked))) or "itn"
        return f"model '{spec.name}' cannot take {given} with {wanted}; there it takes {known}"

    def _forms(self, asked: Asked) -> Iterator[Form]:
        """Forms for these tasks, whatever their options."""
        ids = set() if asked.instruction else {task.id for task in self.completed(asked).tasks}
        for form in self.forms:
            combinations = [set(name.split("+")) for name in form.tasks]
            if (ids in combinations or (ids and {ANY} in combinations)) if ids else not form.tasks:
                yield form

    def _form(self, asked: Asked) -> Form | None:
        """The form that takes exactly the options given. A language that no form names is only checked."""
        forms = list(self._forms(asked))
        takes = [self._takes(form, asked) for form in forms]
        given = self._given(asked)
        if not any("language" in may for _, may in takes):
            given = given - {"language"}
        if asked.itn and not any(NO_ITN in may for _, may in takes):
            return None
        return next((form for form, (must, may) in zip(forms, takes, strict=True) if must <= given <= may), None)

    def _sure_form(self, asked: Asked) -> Form:
        form = self._form(asked)
        if form is None:
            raise ValueError(f"family {self.name}: {asked} was not checked")
        return form

    def _template(self, form: Form, asked: Asked) -> Template:
        return self.templates[form.template or asked.template or next(iter(self.templates))]

    def _takes(self, form: Form, asked: Asked | None = None) -> tuple[set[str], set[str]]:
        """Options a form must be given, and those it may be given."""
        template = self._template(form, asked or Asked())
        said = (form.prompt, *template.before, *template.after)
        must = {*form.uses, *(name for piece in said for name in _names(piece) if name in OPTIONS)}
        return must, must | {name for piece in said for name in _conditions(piece)}

    def _uses(self, form: Form, asked: Asked, option: str) -> bool:
        return option in self._given(asked) and option in self._takes(form, asked)[1]

    def _given(self, asked: Asked) -> set[str]:
        values = {NO_ITN: asked.itn is False, "speakers": asked.speakers, "hotwords": bool(asked.hotwords)}
        values |= {"language": asked.language is not None, "into": asked.into is not None}
        return {name for name, is_given in values.items() if is_given}


def find(name: str) -> Family:
    """The family of that name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        raise UserError(f"models of family '{name}' cannot be asked; this version speaks: {' '.join(NAMES)}")
    return _read(FOLDER / f"{name}.json")


NAMES = ("zhiyin", *sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "zhiyin"))


@cache
def _read(path: Path) -> Family:
    record = json.loads(path.read_text(encoding="utf-8"))
    return build(Family, {"name": path.stem, **record}, f"family {path.name}")


def _listed(must: set[str], may: set[str]) -> str:
    needed, free = " and ".join(sorted(must)), " ".join(sorted(may))
    return " and ".join(text for text in (needed, f"any of: {free}" if free else "") if text) or "nothing"


def _parts(piece: Any) -> Sequence[str | Mapping[str, str]]:
    return piece if isinstance(piece, list) else [piece]


def _names(piece: Any) -> set[str]:
    """Placeholders that are always filled."""
    texts = [part for part in _parts(piece) if isinstance(part, str)]
    return {name for text in texts for _, name, _, _ in Formatter().parse(text) if name}


def _conditions(piece: Any) -> set[str]:
    return {option for part in _parts(piece) if not isinstance(part, str) for option in part}


def _filled(piece: Any, given: set[str], values: Mapping[str, str]) -> str:
    """The text of a piece: parts that are always said and those whose option is given."""
    out = []
    for part in _parts(piece):
        texts = [part] if isinstance(part, str) else [text for option, text in part.items() if option in given]
        out += [text.format_map(values) for text in texts]
    return "".join(out)
