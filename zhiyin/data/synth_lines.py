"""Sentences drawn from a grammar: slots filled, answers computed, and each sentence in one split for good."""

import ast
import hashlib
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from zhiyin.data import synth_numbers
from zhiyin.data.synth_rules import LANGUAGES, Rule, Slot, Source
from zhiyin.errors import UserError

_SLOT = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"([a-z_]\w*)(?:\.([a-z_]\w*))?(:count)?")
TRIES = 2000  # draws until values fit, or a sentence belongs to the wanted split

# Words whose characters espeak-ng 1.51 reads in another of their ways, and how they are read.
READINGS = {
    "首都": "shou3 du1",
    "睡觉": "shui4 jiao4",
    "音乐": "yin1 yue4",
    "便宜": "pian2 yi5",
    "柏林": "bo2 lin2",
    "调到": "tiao2 dao4",
    "商行": "shang1 hang2",
    "数字": "shu4 zi4",
    "等着": "deng3 zhe5",
    "后退": "hou4 tui4",
}

Value = int | tuple[int, ...]  # a number or the place of a form, or the digits of a string


@dataclass(frozen=True)
class Line:
    """One sentence to be spoken and what is true of it.

    Attributes:
        grammar: name of the grammar it is from.
        rule: id of its rule.
        text: transcript.
        spoken: what the voice is given, word by word.
        language: of both.
        answer: reply to it, or empty.
        translation: of it, or empty.
        into: language of the translation, or empty.
        topic: what the answer is the answer to, where that is not the text itself (`Rule.topic`).
    """

    grammar: str
    rule: str
    text: str
    spoken: tuple[str, ...]
    language: str
    answer: str = ""
    translation: str = ""
    into: str = ""
    topic: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The transcript in words, or Chinese characters."""
        return tuple(self.text.replace(" ", "")) if self.language == "zh" else tuple(self.text.split())


def draw(source: Source, split: str, rng: random.Random, shares: Mapping[str, float]) -> Line:
    """A sentence that belongs to a split.

    Args:
        source: one of `read`.
        split: train, dev or test.
        rng: source of the choices.
        shares: of dev and test, 0 to 1; they decide which sentence belongs where.

    Raises:
        UserError: no sentence of the grammar belongs to the split.
    """
    grammar = source.grammar
    weights = [rule.weight for rule in grammar.rules]
    for _ in range(TRIES):
        rule = rng.choices(grammar.rules, weights)[0]
        values = values_of(rule, source.used[rule.id], grammar.slots, rng)
        if values is None:
            continue
        pair = rng.choice(rule.translate) if rule.translate else ""
        language = pair.partition(">")[0] or rng.choice(sorted(rule.text))
        way = rng.randrange(len(rule.text[language]))
        if rule.held_out == "never" or home(source, rule, way, values, shares) == split:
            return _line(source.name, rule, way, values, language, pair.partition(">")[2], grammar.slots)
    raise UserError(f"grammar {source.name}: {TRIES} sentences were drawn, none for the {split} split; add sentences")


def home(source: Source, rule: Rule, way: int, values: Mapping[str, Value], shares: Mapping[str, float]) -> str:
    """The split a sentence belongs to, the same in every run, language, rule and grammar that has it.

    It is decided by the words in the first language the rule has, or by the values alone (`Rule.held_out`).
    """
    if rule.held_out == "values":
        key = f"{source.name}/{rule.id}/" + ",".join(f"{slot}={values[slot]}" for slot in sorted(values))
    else:
        first = next(language for language in LANGUAGES if language in rule.text)
        key = fill(rule.text[first][way], values, first, source.grammar.slots)
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if place < shares["test"]:
        return "test"
    return "dev" if place < shares["test"] + shares["dev"] else "train"


def values_of(
    rule: Rule, used: Iterable[str], slots: Mapping[str, Slot], rng: random.Random
) -> dict[str, Value] | None:
    """Random values for the slots of a rule; None where they do not fit its `where`."""
    values: dict[str, Value] = {}
    for name in used:
        slot = slots[name]
        if slot.numbers is not None:
            values[name] = rng.randint(*slot.numbers)
        elif slot.digits is not None:
            values[name] = tuple(rng.randrange(10) for _ in range(rng.randint(*slot.digits)))
        else:
            values[name] = rng.randrange(_rows(slot))
    return values if not rule.where or _compute(rule.where, values) else None


def slots_of(rule: Rule, slots: Mapping[str, Slot]) -> tuple[str, ...]:
    """Names of the slots of a rule, in order."""
    texts = [text for ways in rule.text.values() for text in ways] + list(rule.answer.values())
    found = {
        name for text in texts for part in _SLOT.findall(text) for name in re.findall(r"(?<![.:])\b[a-z_]\w*", part)
    }
    return tuple(sorted(found & set(slots)))


def _line(
    grammar: str, rule: Rule, way: int, values: Mapping[str, Value], language: str, into: str, slots: Mapping[str, Slot]
) -> Line:
    template = rule.text[language][way]
    spoken = fill(template, values, language, slots, aloud=True)
    return Line(
        grammar,
        rule.id,
        fill(template, values, language, slots),
        tuple(_spoken_words(spoken, language)),
        language,
        fill(rule.answer[language], values, language, slots) if rule.answer else "",
        fill(rule.text[into][way], values, into, slots) if into else "",
        into,
        rule.topic,
    )


def _spoken_words(spoken: str, language: str) -> list[str]:
    if language != "zh":
        return spoken.split()
    for written, read in READINGS.items():
        spoken = spoken.replace(written, f" {read} ")
    return re.findall(r"[a-zü]+[1-5]|[^\sa-zü0-9]", spoken)


def fill(
    template: str, values: Mapping[str, Value], language: str, slots: Mapping[str, Slot], *, aloud: bool = False
) -> str:
    """A template with its slots filled, in one language; `aloud` as the voice needs it."""

    def one(found: re.Match[str]) -> str:
        name = _NAME.fullmatch(found[1])
        if name is None or name[1] not in values:
            total = _compute(found[1].removesuffix(":count"), values)
            return synth_numbers.spoken(total, language, counting=found[1].endswith(":count"))
        value, slot = values[name[1]], slots[name[1]]
        if isinstance(value, tuple):
            gap = "" if language == "zh" else " "
            return gap.join(synth_numbers.digit(digit, language) for digit in value)
        if slot.numbers is not None:
            return synth_numbers.spoken(value, language, counting=name[3] is not None)
        return _form(slot, name[2] or "", value, language, aloud)

    return _SLOT.sub(one, template).strip()


def _form(slot: Slot, column: str, row: int, language: str, aloud: bool) -> str:
    if column:
        return slot.more[column][language][row]
    if aloud and language in slot.spoken:
        return slot.spoken[language][row]
    forms: tuple[str, ...] = getattr(slot, language)
    return forms[row]


def _rows(slot: Slot) -> int:
    return max(len(slot.en), len(slot.zh), len(slot.de))


def _compute(text: str, values: Mapping[str, Value]) -> int:
    """The value of a sum or a comparison; only whole numbers, slots and + - * // % < <= > >= == != and or."""
    try:
        return _node(_parsed(text.strip()), values)
    except (SyntaxError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"'{text}' cannot be computed ({error}); numbers, slots of numbers and + - * // % can"
        ) from error


@cache
def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _node(node: ast.AST, values: Mapping[str, Value]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        value = values[node.id]
        if isinstance(value, int):
            return value
    if isinstance(node, ast.BoolOp):
        found = [_node(part, values) for part in node.values]
        return int(all(found) if isinstance(node.op, ast.And) else any(found))
    if isinstance(node, ast.Compare):
        sides = [_node(side, values) for side in (node.left, *node.comparators)]
        return int(all(_COMPARE[type(op)](sides[i], sides[i + 1]) for i, op in enumerate(node.ops)))
    if isinstance(node, ast.BinOp):
        return _SUMS[type(node.op)](_node(node.left, values), _node(node.right, values))
    raise ValueError(f"{type(node).__name__} is not allowed")


_SUMS = {
    ast.Add: int.__add__,
    ast.Sub: int.__sub__,
    ast.Mult: int.__mul__,
    ast.FloorDiv: int.__floordiv__,
    ast.Mod: int.__mod__,
}
_COMPARE = {
    ast.Lt: int.__lt__,
    ast.LtE: int.__le__,
    ast.Gt: int.__gt__,
    ast.GtE: int.__ge__,
    ast.Eq: int.__eq__,
    ast.NotEq: int.__ne__,
}
