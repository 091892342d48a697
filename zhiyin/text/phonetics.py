"""How alike two words sound: Chinese by pinyin, English by a key of sounds. Every distance is 0 for equal sounds.

Readings come from pypinyin (MIT), which is loaded with the first Chinese hotword: the usual one of a character, and
those it has in at least two of the library's phrases. The nearest pair counts, so that no text is cut into words. The
English key follows the letter rules of Metaphone (L. Philips, "Hanging on the Metaphone", Computer Language 7(12),
1990) but keeps vowels, as one rough sound each, because they cost less than consonants and are not free. Weights are
ours; `benchmarks/hotwords.py` says what they bring.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import product

Syllable = tuple[str, str, int]  # initial, final, tone 1 to 5

TONE = 0.08  # of one syllable; recognisers hear tones badly
NEAR = 0.15  # a pair that speakers themselves mix up
RELATED = 0.3  # differ in one feature
APART = 0.6  # any other initial or final
_PHRASES = 2  # that a reading needs; dictionaries list many that nobody says

_INITIAL = re.compile(r"zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw]?")
_SAME_INITIAL = {"zh": "z", "ch": "c", "sh": "s", "l": "n", "r": "n", "h": "f"}
_SAME_FINAL = {"ing": "in", "eng": "en", "ang": "an", "iang": "ian", "uang": "uan", "uo": "o"}
_RELATED_INITIALS = {
    frozenset(pair) for pair in ("bp", "dt", "gk", "jq", "jz", "qc", "xs", "gh", "kh", "mn", "zc", "sc")
}
_RELATED_FINALS = {
    frozenset(pair.split())
    for pair in (
        "a ia",
        "a ua",
        "e o",
        "i v",
        "u v",
        "an ian",
        "an uan",
        "ai ei",
        "ao o",
        "en in",
        "en un",
        "i ei",
        "ong eng",
        "ou o",
        "ou uo",
    )
}


@cache
def _said() -> Counter[tuple[str, str]]:
    """How many phrases a character has which reading in."""
    from pypinyin.constants import PHRASES_DICT  # takes a third of a second and 55 MB

    return Counter(
        (char, said[0])
        for phrase, readings in PHRASES_DICT.items()
        for char, said in zip(phrase, readings, strict=False)
    )


def phrases() -> frozenset[str]:
    """The Chinese words of two to four characters that pypinyin lists: those with a character of several readings."""
    from pypinyin.constants import PHRASES_DICT

    return frozenset(phrase for phrase in PHRASES_DICT if 2 <= len(phrase) <= 4)


def _syllable(marked: str) -> Syllable | None:
    """`zhōng` -> zh, ong, 1; y and w are written for i and u, and u after j q x y is ü (written v)."""
    marks = unicodedata.normalize("NFD", marked)
    tone = next((_TONES[mark] for mark in marks if mark in _TONES), 5)
    plain = unicodedata.normalize("NFC", "".join(mark for mark in marks if mark not in _TONES))
    letters = plain.replace("ü", "v").replace("ê", "e")
    if not re.fullmatch(r"[a-z]*[aeiouv][a-z]*", letters):
        return None  # a grunt without a vowel, as 嗯 may have
    initial = _INITIAL.match(letters)[0]  # type: ignore[index]
    final = letters[len(initial) :]
    if initial in ("j", "q", "x", "y") and final.startswith("u"):
        final = "v" + final[1:]
    if initial == "y":
        final = final if final[:1] in ("i", "v") else "i" + final
    if initial == "w":
        final = final if final == "u" else "u" + final
    return ("" if initial in ("y", "w") else initial), _SPELT.get(final, final), tone


_TONES = {"\u0304": 1, "\u0301": 2, "\u030c": 3, "\u0300": 4}
_SPELT = {"uei": "ui", "uen": "un", "iou": "iu", "ueng": "ong", "ue": "ve"}


@cache
def readings(char: str) -> tuple[Syllable, ...]:
    """Readings in use of a Chinese character, the usual one first; none for any other character."""
    if not "\u4e00" <= char <= "\u9fff":
        return ()
    from pypinyin.constants import PINYIN_DICT

    first, *others = PINYIN_DICT.get(ord(char), "").split(",")
    used = [first, *(other for other in others if _said()[char, other] >= _PHRASES)]
    return tuple(dict.fromkeys(syllable for syllable in map(_syllable, used) if syllable is not None))


@cache
def rough(char: str) -> tuple[str, ...]:
    """Classes of syllables that are mixed up: two characters may sound nearly alike if they share one."""
    both = ((_SAME_INITIAL.get(i, i), _SAME_FINAL.get(f, f)) for i, f, _ in readings(char))
    return tuple(dict.fromkeys(f"{initial}-{final}" for initial, final in both))


@lru_cache(maxsize=2**17)
def syllable_distance(one: str, other: str) -> float:
    """How unlike two Chinese characters sound, 0 to 1.2: the nearest pair of their readings."""
    if one == other:
        return 0.0
    pairs = product(readings(one), readings(other))
    return min((_syllables(a, b) for a, b in pairs), default=2 * APART)


def _syllables(one: Syllable, other: Syllable) -> float:
    initials = _part(one[0], other[0], _SAME_INITIAL, _RELATED_INITIALS)
    finals = _part(one[1], other[1], _SAME_FINAL, _RELATED_FINALS)
    tones = TONE if one[2] != other[2] and 5 not in (one[2], other[2]) else 0.0
    return initials + finals + tones


def _part(one: str, other: str, same: Mapping[str, str], related: set[frozenset[str]]) -> float:
    if one == other:
        return 0.0
    if same.get(one, one) == same.get(other, other):
        return NEAR
    return RELATED if frozenset((one, other)) in related else APART


def letters(text: str) -> str:
    """Lower-case letters and digits alone, without accents: `Zhi-Yin` and `zhiyin` are one."""
    flat = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in flat if char.isalnum())


# Letter rules, tried in this order at each place. Capitals are sounds: X is sh, C is ch, 0 is th; vowels A E I O U.
_RULES = (
    (r"^(?:kn|gn|pn|mn)", "N"), (r"^wr", "R"), (r"^x", "S"), (r"^wh", "W"), (r"^ps", "S"), (r"^mc", "MK"),
    (r"mb$", "M"), (r"sch", "SK"), (r"tch", "C"), (r"ch(?=[rl])", "K"), (r"ch", "C"), (r"sh", "X"),
    (r"[sc]i(?=[ao])", "X"), (r"ti(?=[ao])", "X"), (r"ssi(?=o)", "X"), (r"th", "0"), (r"ph", "F"),
    (r"gh(?=[aeiouy])", "G"), (r"(?<=[aeiou])gh", ""), (r"gh", "G"), (r"gn$", "N"), (r"dg(?=[eiy])", "J"),
    (r"sc(?=[eiy])", "S"), (r"ck", "K"), (r"cc(?=[eiy])", "KS"), (r"c(?=[eiy])", "S"), (r"c", "K"),
    (r"g(?=[eiy])", "J"), (r"gg?", "G"), (r"qu?", "K"), (r"x", "KS"), (r"zh", "J"), (r"z", "S"),
    (r"wh?(?=[aeiouy])", "W"), (r"w", ""), (r"y(?=[aeiou])", "Y"), (r"h(?=[aeiouy])", "H"), (r"h", ""),
    (r"ee|ea|ie|ei(?!gh)", "I"), (r"oo|ou|ew|ue|ui", "U"), (r"ai|ay|ey|ei", "E"), (r"au|aw", "O"),
    (r"oa|ow|oe", "O"), (r"oi|oy", "OI"), (r"(?<=[b-df-hj-np-tv-z])e$", ""), (r"a", "A"), (r"e", "E"),
    (r"[iy]", "I"), (r"o", "O"), (r"u", "U"), (r".", None),
)  # fmt: skip
_LETTERS = re.compile("|".join(f"({pattern})" for pattern, _ in _RULES))


@lru_cache(maxsize=2**17)
def sounds(word: str) -> str:
    """The sounds of an English word (letters only), one character each; digits stand for themselves.

    >>> sounds("phoenix"), sounds("knight")
    ('FONIKS', 'NIT')
    """
    found: list[str] = []
    for match in _LETTERS.finditer(word):
        said = _RULES[(match.lastindex or 1) - 1][1]
        found.append(match[0].upper() if said is None else said)
    return re.sub(r"(.)\1+", r"\1", "".join(found))


_VOWELS = frozenset("AEIOU")
_SOFT = frozenset("HWY")  # easily unheard
_CLASS = str.maketrans("BDGVJXCM0Z", "PTKFSSSNTS")
_ALIKE = {
    frozenset(pair) for pair in ("BP", "DT", "GK", "FV", "JC", "XC", "JX", "SX", "MN", "0T", "0S", "0F", "SJ", "BV")
}
_ALIKE |= {frozenset(pair) for pair in ("LR", "CT", "DJ", "D0", "WV", "0V")}


def skeleton(said: str) -> str:
    """Classes of the consonants, for looking up what may sound alike."""
    kept = "".join(sound for sound in said if sound not in _VOWELS and sound not in _SOFT).translate(_CLASS)
    return re.sub(r"(.)\1+", r"\1", kept)


def sound_distance(one: str, other: str) -> float:
    """Edit distance between two keys of sounds; vowels and soft sounds cost less, and so do sounds that are alike."""
    row = [0.0]
    for sound in other:
        row.append(row[-1] + _alone(sound))
    for a in one:
        diagonal, row[0] = row[0], row[0] + _alone(a)
        for j, b in enumerate(other, start=1):
            best = min(row[j] + _alone(a), row[j - 1] + _alone(b), diagonal + _swap(a, b))
            diagonal, row[j] = row[j], best
    return row[-1]


def _alone(sound: str) -> float:
    return 0.5 if sound in _VOWELS else 0.4 if sound in _SOFT else 1.0


def _swap(one: str, other: str) -> float:
    if one == other:
        return 0.0
    if one in _VOWELS and other in _VOWELS:
        return 0.3
    return 0.4 if frozenset((one, other)) in _ALIKE else 1.0


def sound_likeness(one: str, other: str) -> float:
    """1 for equal sounds, 0 for nothing in common: one minus the distance over the weight of the heavier key."""
    whole = max(sum(map(_alone, one)), sum(map(_alone, other)))
    return max(0.0, 1 - sound_distance(one, other) / whole) if whole else 0.0
