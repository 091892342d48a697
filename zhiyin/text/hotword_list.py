"""Hotwords as people write them down: one per line, with an optional weight, and `wrong => right` pairs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zhiyin.errors import UserError

MAX_LINES = 100_000
MAX_BYTES = 16 * 2**20
MAX_CHARS = 100
WEIGHTS = (0.1, 10.0)

_ARROW = re.compile(r"\s*(?:=>|⇒)\s*")
# "iPhone 15" is a name, "阿里巴巴 4" and "iPhone 1.5" have a weight; after a tab or a colon it always is one
_WEIGHT = re.compile(
    r"(?:(?:\t\s*:?|\s+:)(?P<marked>[+-]?[\d.]+)|\s+(?P<decimal>\d*\.\d+)|(?<=[^\x00-\x7f])\s+(?P<whole>\d+))$"
)
_NO_HOTWORD = re.compile(r"[<>\[\]|,，\x00-\x1f\x7f]")  # would read as a mark of a prompt, or as two words


@dataclass(frozen=True)
class Hotword:
    """A name or term that is likely to be said; a `weight` above 1 makes it easier to find, one below 1 harder."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Rule:
    """Text that is always replaced, whatever it sounds like."""

    wrong: str
    right: str


@dataclass(frozen=True, eq=False)
class HotwordList:
    """Checked hotwords and rules, without duplicates, in the order given.

    Two lists are never equal: what is worked out for one is kept by identity.
    """

    words: tuple[Hotword, ...] = ()
    rules: tuple[Rule, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.words or self.rules)

    @property
    def texts(self) -> tuple[str, ...]:
        """The words alone, as a prompt wants them: by falling weight, then in the order given."""
        return tuple(word.text for word in sorted(self.words, key=lambda word: -word.weight))


def read(given: str | Path | Iterable[str]) -> HotwordList:
    """Hotwords from a file, from one string with commas between them, or from several strings.

    Args:
        given: a path; a string, which is a path where a file of that name exists or where it ends in `.txt`; or entries
            as they would stand on the lines of a file.

    Raises:
        UserError: a file that cannot be read or is not UTF-8, too many lines, or an entry that makes no sense.
    """
    if isinstance(given, Path) or (isinstance(given, str) and _names_a_file(given)):
        return _read_file(Path(given))
    entries = re.split(r"[,，\n]", given) if isinstance(given, str) else list(given)
    return _parse([str(entry) for entry in entries], "hotwords, entry")


def _names_a_file(given: str) -> bool:
    if "\n" in given or len(given) > 1000:
        return False
    try:
        return given.strip().lower().endswith(".txt") or Path(given).is_file()
    except (OSError, ValueError):  # no name a file could have
        return False


def _read_file(path: Path) -> HotwordList:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot read the hotword file {path}: {reason}; give a text file, one word per line") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"hotword file {path} is larger than {MAX_BYTES // 2**20} MB; give at most {MAX_LINES} lines")
    found = _parse(_decode(raw, path).split("\n"), f"hotword file {path}, line")
    if not found:
        raise UserError(f"hotword file {path} holds no words; write one per line, or leave the option out")
    return found


def _decode(raw: bytes, path: Path) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        name = _other_encoding(raw)
        how = f"it looks like {name}; convert it: iconv -f {name} -t UTF-8 FILE > NEW" if name else "save it as UTF-8"
        raise UserError(f"hotword file {path} is not UTF-8 (line {line}); {how}") from None
    if "\x00" in text:
        raise UserError(f"hotword file {path} is not a text file in UTF-8 (it holds zero bytes); save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _other_encoding(raw: bytes) -> str:
    """The encoding that a file which is not UTF-8 most likely has; empty where nothing fits."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return "GB18030"


def _parse(lines: list[str], place: str) -> HotwordList:
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) > MAX_LINES:
        where = place.rpartition(",")[0]
        raise UserError(f"{where}: {len(lines)} lines; at most {MAX_LINES} are taken: keep those that are really said")
    words: dict[str, Hotword] = {}
    rules: dict[str, Rule] = {}
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        where = f"{place} {number}"
        if _ARROW.search(entry):
            rule = _rule(entry, where)
            known = rules.setdefault(rule.wrong.casefold(), rule)
            if known.right != rule.right:
                raise UserError(f"{where}: '{rule.wrong}' already becomes '{known.right}'; keep one of the two lines")
        else:
            word = _word(entry, where)
            known_word = words.get(word.text)
            if known_word is None or known_word.weight < word.weight:
                words[word.text] = word
    _refuse_circles(rules, place)
    return HotwordList(tuple(words.values()), tuple(rules.values()))


def _word(entry: str, where: str) -> Hotword:
    found = _WEIGHT.search(entry)
    text, weight = (entry[: found.start()], _number(found[found.lastindex or 0], where)) if found else (entry, 1.0)
    if not found and "\t" in entry:
        _number(entry.rpartition("\t")[2].strip(), where)
    if not WEIGHTS[0] <= weight <= WEIGHTS[1]:
        raise UserError(
            f"{where}: weight {weight:g} of '{text}'; weights go from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}, 1 is usual"
        )
    return Hotword(_checked(text, where), weight)


def _number(written: str, where: str) -> float:
    try:
        return float(written)
    except ValueError:
        raise UserError(f"{where}: the weight '{written}' is no number; write `word 2.0` or `wrong => right`") from None


def _rule(entry: str, where: str) -> Rule:
    sides = _ARROW.split(entry)
    if len(sides) != 2 or not all(side.strip() for side in sides):
        raise UserError(f"{where}: '{entry[:40]}' is no pair; write `wrong => right`")
    wrong, right = (_checked(side, where) for side in sides)
    if wrong == right:
        raise UserError(f"{where}: '{wrong}' would become itself; write `wrong => right`, or the word alone")
    return Rule(wrong, right)


def _checked(text: str, where: str) -> str:
    text = " ".join(text.split())
    if len(text) > MAX_CHARS:
        raise UserError(f"{where}: {len(text)} characters; a hotword has at most {MAX_CHARS}, one word per line")
    if _NO_HOTWORD.search(text):
        raise UserError(f"{where}: {text!r} holds one of < > [ ] | or a comma, which have a meaning in prompts")
    if not any(char.isalnum() for char in text):
        raise UserError(f"{where}: {text!r} has no letter; give a word or a name")
    return text


def _refuse_circles(rules: dict[str, Rule], place: str) -> None:
    """`a => b` with `b => a` would turn for ever."""
    settled: set[str] = set()
    for start in rules:
        key, seen = start, set()
        while key in rules and key not in settled:
            if key in seen:
                where = place.rpartition(",")[0]
                raise UserError(f"{where}: the pairs with '{rules[key].wrong}' go in a circle; keep one of them")
            seen.add(key)
            key = rules[key].right.casefold()
        settled |= seen
