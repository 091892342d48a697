"""Grammar files read, with those they include, and checked before anything is spoken."""

import random
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from zhiyin import config
from zhiyin.data.manifest import near
from zhiyin.data.synth_lines import TRIES, Value, fill, slots_of, values_of
from zhiyin.data.synth_rules import HELD_OUT, LANGUAGES, STYLES, Grammar, Rule, Slot, Source
from zhiyin.errors import UserError
from zhiyin.tasks.instructions import TOPICS

FOLDER = Path(__file__).with_name("grammars")
_SAMPLES = 20  # sets of values every text is filled with, to see that it can be


def read(name: str) -> list[Source]:
    """The grammar of a name (`names`) or a file, with those it includes.

    Raises:
        UserError: there is none, or something in it does not fit; the file and the rule are named.
    """
    return _read(name, 1.0, ())


def names() -> list[str]:
    """Grammars that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _read(name: str, weight: float, above: tuple[str, ...]) -> list[Source]:
    path = Path(name)
    if path.suffix != ".toml":
        path = FOLDER / f"{name}.toml"
        if not path.is_file():
            raise UserError(
                f"grammar '{name}' is not known{near(name, names())}; known: {' '.join(names())}, or a file"
            )
    if path.stem in above:
        raise UserError(f"grammar {path.stem}: includes itself, by way of {' and '.join(above)}")
    grammar = config.read_toml(path, Grammar)
    _check(grammar, path.stem)
    used = {rule.id: slots_of(rule, grammar.slots) for rule in grammar.rules}
    found = [Source(path.stem, weight, grammar, used)] if grammar.rules else []
    for included in grammar.include:
        inner = included.name
        if inner.endswith(".toml"):
            inner = str(path.parent / inner)
        found += _read(inner, weight * included.weight, (*above, path.stem))
    if not found:
        raise UserError(f"grammar {path.stem}: there are no rules in it and it includes none; see docs/data.md")
    return found


def _check(grammar: Grammar, name: str) -> None:
    for slot_name, slot in grammar.slots.items():
        _check_slot(slot, f"grammar {name}: slot '{slot_name}'")
    seen: set[str] = set()
    for rule in grammar.rules:
        where = f"grammar {name}: rule '{rule.id}'"
        if rule.id in seen:
            raise UserError(f"{where}: the id is there twice; give each its own")
        seen.add(rule.id)
        _check_rule(rule, grammar.slots, where)
    for style in grammar.scene.styles:
        if style not in STYLES:
            raise UserError(f"grammar {name}: style '{style}'{near(style, STYLES)}; known: {' '.join(STYLES)}")


def _check_slot(slot: Slot, where: str) -> None:
    columns = [forms for forms in (slot.en, slot.zh, slot.de) if forms]
    columns += [forms for column in (slot.spoken, *slot.more.values()) for forms in column.values()]
    kinds = (slot.numbers is not None) + (slot.digits is not None) + bool(columns)
    if kinds != 1:
        raise UserError(f"{where}: needs one of numbers, digits, or forms (en, zh, de)")
    if len({len(forms) for forms in columns}) > 1:
        raise UserError(
            f"{where}: its lists have {', '.join(str(len(forms)) for forms in columns)} forms; all need as many"
        )
    low, high = slot.numbers or slot.digits or (1, 1)
    if low > high or low < 0 or (slot.digits and low < 1):
        raise UserError(f"{where}: from {low} to {high} is no range; the lowest comes first")


def _check_rule(rule: Rule, slots: Mapping[str, Slot], where: str) -> None:
    if rule.held_out not in HELD_OUT or rule.weight <= 0 or not rule.text:
        raise UserError(f"{where}: needs text, a weight above 0, and held_out as one of {' '.join(HELD_OUT)}")
    for language in (*rule.text, *rule.answer):
        if language not in LANGUAGES:
            raise UserError(f"{where}: language '{language}' is not known; known: {' '.join(LANGUAGES)}")
    if rule.answer and set(rule.answer) != set(rule.text):
        raise UserError(
            f"{where}: text is in {' '.join(rule.text)}, answer in {' '.join(rule.answer)}; answer them all"
        )
    if rule.topic and (rule.topic not in TOPICS or not rule.answer):
        raise UserError(
            f"{where}: topic '{rule.topic}'{near(rule.topic, TOPICS)} needs an answer; topics: {' '.join(TOPICS)}"
        )
    for pair in rule.translate:
        sides = pair.split(">")
        if len(sides) != 2 or not set(sides) <= set(rule.text) or rule.answer:
            raise UserError(f"{where}: '{pair}' is no pair of its languages, as in en>zh, or the rule has answers too")
    if len({len(ways) for ways in rule.text.values()}) > 1:
        raise UserError(f"{where}: every language needs as many wordings, in the same order")
    rng = random.Random(0)
    drawn = (values_of(rule, slots_of(rule, slots), slots, rng) for _ in range(TRIES))
    some = list(islice((values for values in drawn if values is not None), _SAMPLES))
    if not some:
        raise UserError(f"{where}: no values were found where {rule.where}")
    for language, ways in rule.text.items():
        for template in (*ways, *([rule.answer[language]] if rule.answer else [])):
            for values in some:
                _check_template(template, values, language, slots, where)


def _check_template(
    template: str, values: Mapping[str, Value], language: str, slots: Mapping[str, Slot], where: str
) -> None:
    try:
        filled = fill(template, values, language, slots)
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{where}: {template!r} has a slot or column without forms in '{language}' ({error})"
        ) from error
    except UserError as error:
        raise UserError(f"{where}: {template!r}: {error}") from error
    if re.search(r"[<>{}]", filled) or not filled:
        raise UserError(f"{where}: {template!r} became {filled!r}; '<', '>' and single braces cannot stand in a text")
