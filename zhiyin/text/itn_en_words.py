"""English number words: what they are worth and how they combine. No rule of writing lives here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ONE_WORDS = "zero one two three four five six seven eight nine"
_TEEN_WORDS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_FIRST_WORDS = "first second third fourth fifth sixth seventh eighth ninth"
_TENTH_WORDS = "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
_TWENTIETH_WORDS = "twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth"

ONES = {word: i for i, word in enumerate(_ONE_WORDS.split())}
TEENS = {word: 10 + i for i, word in enumerate(_TEEN_WORDS.split())}
TENS = {word: 20 + 10 * i for i, word in enumerate(_TENS_WORDS.split())}
LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
DIGITS = ONES | {"oh": 0, "o": 0}
NUMBERS = ONES | TEENS | TENS
ORDINALS = {word: 1 + i for i, word in enumerate(_FIRST_WORDS.split())}
ORDINALS |= {word: 10 + i for i, word in enumerate(_TENTH_WORDS.split())}
ORDINALS |= {word: 20 + 10 * i for i, word in enumerate(_TWENTIETH_WORDS.split())}
DENOMINATORS = {word + "s": value for word, value in ORDINALS.items() if value > 2} | {"halves": 2, "quarters": 4}
DENOMINATORS |= {"hundredths": 100, "thousandths": 1000}
DECADES = {word[:-1] + "ies": value for word, value in TENS.items()}

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\d+")
_GAP = re.compile(r"[ \t\n]+|-")
_LONGEST = 24  # words of the longest number that is read as one


@dataclass(frozen=True)
class Word:
    """A word of a text, in lower case; `joined` if only a space or a hyphen lies between it and the word before."""

    text: str
    start: int
    end: int
    joined: bool


def word_set(text: str) -> frozenset[str]:
    """The words of a list with spaces between them."""
    return frozenset(text.split())


def words(text: str) -> list[Word]:
    """The words of a text with their places."""
    found: list[Word] = []
    for match in _WORD.finditer(text):
        gap = text[found[-1].end : match.start()] if found else ","
        found.append(Word(match.group().lower(), match.start(), match.end(), _GAP.fullmatch(gap) is not None))
    return found


def phrase(words: Sequence[Word], at: int, size: int = _LONGEST) -> list[str]:
    """Up to `size` words from `at` on that are joined to each other."""
    out: list[str] = []
    for word in words[at : at + size]:
        if out and not word.joined:
            break
        out.append(word.text)
    return out


def below_hundred(said: Sequence[str]) -> tuple[int, int]:
    """Size in words and value of a number from 0 to 99 at the beginning; size 0 where there is none."""
    first = said[0] if said else ""
    if first in TENS:
        if len(said) > 1 and ONES.get(said[1], 0):
            return 2, TENS[first] + ONES[said[1]]
        return 1, TENS[first]
    return (1, NUMBERS[first]) if first in NUMBERS else (0, 0)


def _below_thousand(said: Sequence[str]) -> tuple[int, int]:
    size, value = (1, 1) if said[:1] == ["a"] and said[1:2] == ["hundred"] else below_hundred(said)
    if not value or said[size : size + 1] != ["hundred"]:
        return size, value
    size += 1
    skip = int(said[size : size + 1] == ["and"])
    more, rest = below_hundred(said[size + skip :])
    return (size + skip + more, value * 100 + rest) if rest else (size, value * 100)


def cardinal(said: Sequence[str]) -> tuple[int, int]:
    """Size in words and value of the longest cardinal at the beginning; size 0 where there is none.

    >>> cardinal("two thousand and five people".split())
    (4, 2005)
    """
    size = total = 0
    limit = 10**15
    while True:
        skip = int(size > 0 and said[size : size + 1] == ["and"])
        more, value = _below_thousand(said[size + skip :])
        power = LARGE.get(said[size + skip + more], 0) if len(said) > size + skip + more else 0
        if not more and not size and said[:1] == ["a"] and said[1:2] and said[1] in LARGE:
            more, value, power = 1, 1, LARGE[said[1]]
        if not more or (size and not value) or (power and skip) or max(power, 1) >= limit:
            return size, total
        size += skip + more + (power > 0)
        total += value * (power or 1)
        if not power:
            return size, total
        limit = power


def ordinal(said: Sequence[str]) -> tuple[int, int]:
    """Size in words and value of an ordinal at the beginning: ``twenty first``, ``one hundred and third``."""
    if said[:1] in (["hundredth"], ["thousandth"]):
        return 1, 100 if said[0] == "hundredth" else 1000
    for size in range(1, min(len(said), 8) + 1):
        last = said[size - 1]
        if last not in ORDINALS and last not in ("hundredth", "thousandth"):
            continue
        cardinal_last = {value: word for word, value in NUMBERS.items()}.get(ORDINALS.get(last, -1), last[:-2])
        read, value = cardinal([*said[: size - 1], cardinal_last])
        return (size, value) if read == size else (0, 0)
    return 0, 0


def digits(said: Sequence[str], *, in_decimal: bool = False) -> tuple[int, str]:
    """Size in words and figures of what is said digit by digit, with ``oh``, ``double two`` and ``triple five``.

    The last of them is left to a hundred or thousand behind it, except in a decimal (``one point six nine billion``).
    """
    size = 0
    out = ""
    while size < len(said):
        word = said[size]
        times = {"double": 2, "triple": 3}.get(word, 0)
        if times and said[size + 1 : size + 2] and said[size + 1] in DIGITS:
            out += str(DIGITS[said[size + 1]]) * times
            size += 2
        elif word in DIGITS:
            out += str(DIGITS[word])
            size += 1
        else:
            break
    if size and not in_decimal and size < len(said) and (said[size] in LARGE or said[size] == "hundred"):
        return size - 1, out[:-1]
    return size, out


def year(said: Sequence[str]) -> tuple[int, str]:
    """Size in words and figures of a year said in pairs: ``nineteen oh five``, ``twenty twenty six``; also a decade."""
    first = NUMBERS.get(said[0], 0) if said else 0
    if not 13 <= first <= 20 or len(said) < 2:
        return 0, ""
    if said[1] in DECADES:
        return 2, f"{first}{DECADES[said[1]]}s"
    if said[1] == "hundreds":
        return 2, f"{first}00s"
    if said[1] == "hundred" and said[2:3] != ["and"] and not (said[2:3] and said[2] in NUMBERS):
        return 2, f"{first}00"
    if said[1] in ("oh", "o") and said[2:3] and ONES.get(said[2], 0):
        return 3, f"{first}0{ONES[said[2]]}"
    size, value = below_hundred(said[1:])
    return (1 + size, f"{first}{value}") if value >= 10 else (0, "")
