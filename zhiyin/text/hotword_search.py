"""Where in a text a hotword may have been said: an index of sounds, and the rules that keep common words safe."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice, product
from pathlib import Path
from weakref import WeakKeyDictionary

from zhiyin.text import phonetics
from zhiyin.text.hotword_list import Hotword, HotwordList
from zhiyin.text.score import edits

THRESHOLD = 0.8  # of sounds alike; benchmarks/hotwords.py measures it
SHORT_EN = 0.88  # up to five letters
SHORT_ZH = 0.95  # two characters: so many words sound like them that at most one tone may differ
MANY_SHORT_ZH = 60  # from so many listed words of two characters on, chance finds too many: they must sound the same
ONLY_COMMON = 0.92  # a stretch made of common words alone must sound nearly the same
STRONG = 2.0  # from this weight on, a hotword that sounds exactly so replaces even a common word
SAME = 0.999

_DATA = Path(__file__).parent / "data"
_MIN_LETTERS = 4
_SHORT_LETTERS = 5
_MIN_CONSONANTS = 2
_MAX_COMBINATIONS = 8  # of readings, in one stretch
_MAX_LATIN_UNITS = 5

_UNIT = re.compile(r"(?P<han>[\u4e00-\u9fff])|(?P<digits>\d+)|(?P<latin>[^\W\d_\u2e80-\uffef]+(?:(?<=n)['’]t\b)?)")
_GAP = re.compile(r"[ \t'’.·-]{0,2}")
_NUMERALS = frozenset("零〇一二三四五六七八九十百千万亿两")
_FUNCTION_ZH = frozenset("的了是在我你他她它们这那有不也就都和与吗呢吧啊个很要会说到去来上下着过为对把被让给从")
_BOUND_ZH = _FUNCTION_ZH | frozenset("其之以及或而并由于等每各某该此已曾便即则却若如因所者将向往最更再又才只能可")
_FUNCTION_WORDS = """a an the of to in on at is it i and or as be by for he we me my no so up us you are was the that
this with from not but if do did can will would has have had his her its our your they them there here what who how when
s ll re ve d m t"""
_NUMBER_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion oh"""
_ENDINGS = (
    "s",
    "es",
    "ed",
    "d",
    "ing",
    "er",
    "or",
    "r",
    "est",
    "st",
    "ly",
    "y",
    "ness",
    "less",
    "ful",
    "able",
    "ment",
    "al",
)
_FUNCTION_EN = frozenset(_FUNCTION_WORDS.split())
_NUMBERS_EN = frozenset(_NUMBER_WORDS.split())


@dataclass(frozen=True)
class Unit:
    """A Chinese character, a word in letters or a run of digits; `joined` where nothing much parts it from the last."""

    start: int
    end: int
    kind: str
    text: str
    joined: bool


@dataclass(frozen=True)
class Found:
    """A stretch of text that sounds like a hotword; `score` is 1 for equal sounds."""

    start: int
    end: int
    word: Hotword
    score: float
    order: int


@cache
def common(language: str) -> frozenset[str]:
    """Common words of `zh` (two characters and more) or `en` (in lower case, without endings)."""
    return _own(language) | phonetics.phrases() if language == "zh" else _own(language)


@cache
def _own(language: str) -> frozenset[str]:
    """Our own list, which has only what is really common; the phrases of pypinyin have rare words too."""
    text = (_DATA / f"common_{language}.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


def units(text: str) -> list[Unit]:
    """What a text is made of; punctuation parts units and is none."""
    found: list[Unit] = []
    for match in _UNIT.finditer(text):
        last = found[-1] if found else None
        joined = last is not None and _GAP.fullmatch(text, last.end, match.start()) is not None
        found.append(Unit(match.start(), match.end(), str(match.lastgroup), match.group(), joined))
    return found


class Index:
    """Hotwords by their sounds. Building takes time in proportion to their number, looking up hardly depends on it."""

    def __init__(self, words: Sequence[Hotword]) -> None:
        self.words = words
        self.texts = {word.text for word in words}
        self.forms: dict[str, list[int]] = defaultdict(list)
        self.zh: dict[str, list[int]] = defaultdict(list)
        self.en: dict[str, list[int]] = defaultdict(list)
        self.zh_sizes: set[int] = set()
        self.longest_form = 0
        self.letters: dict[int, str] = {}  # of the words in `en`
        self.edges: set[str] = set()  # function words that hotwords begin or end with
        self.has_strong = any(word.weight >= STRONG for word in words)
        for number, word in enumerate(words):
            self._add(number, [unit for unit in units(word.text)], word.text)
        pairs = sum(len(word.text) == 2 and all(map(phonetics.readings, word.text)) for word in words)
        self.short_zh = SHORT_ZH if pairs < MANY_SHORT_ZH else SAME

    def _add(self, number: int, parts: list[Unit], text: str) -> None:
        kinds = {unit.kind for unit in parts}
        if kinds == {"han"}:
            self.zh_sizes.add(len(parts))
            for key in _zh_keys([unit.text for unit in parts]):
                self.zh[key].append(number)
            return
        form = phonetics.letters(text)
        self.forms[form].append(number)
        self.longest_form = max(self.longest_form, len(form))
        if kinds == {"latin"} and len(form) >= _MIN_LETTERS:
            bones = phonetics.skeleton(phonetics.sounds(form))
            if len(bones) >= _MIN_CONSONANTS:
                self.letters[number] = form
                own = text.lower().split()
                self.edges |= {own[0], own[-1]} & _FUNCTION_EN
                for key in _en_keys(bones):
                    self.en[key].append(number)

    def near(self, text: str, *, language: str | None, threshold: float, careful: bool = True) -> list[Found]:
        """All stretches that sound like a hotword, or are spelt nearly like one.

        Args:
            text: what was recognised.
            language: its code; sounds are compared for `zh` and `en`, and for None.
            threshold: the least score.
            careful: whether to leave out what must not be replaced: common words and numbers.
        """
        parts = units(text)
        found = list(self._spelt(text, parts))
        if language in (None, "zh", "en"):
            found += self._near_zh(text, parts, threshold, careful)
            found += self._near_en(parts, threshold, careful)
        return found

    def present(self, text: str) -> list[tuple[int, int]]:
        """Where hotwords stand in the text as they are written in the list."""
        parts = units(text)
        stretches = [(i, i + n - 1) for i in range(len(parts)) for n in self.zh_sizes if i + n <= len(parts)]
        stretches += _stretches(parts, ("latin", "digits", "han"), self.longest_form)
        places = {(parts[first].start, parts[last].end) for first, last in stretches}
        return sorted((start, end) for start, end in places if text[start:end] in self.texts)

    def _spelt(self, text: str, parts: list[Unit]) -> Iterator[Found]:
        """Hotwords with letters that are there but for capitals, spaces and hyphens."""
        for first, last in _stretches(parts, ("latin", "digits", "han"), self.longest_form):
            start, end = parts[first].start, parts[last].end
            numbers = self.forms.get(phonetics.letters(text[start:end]), ())
            if any(self.words[number].text == text[start:end] for number in numbers):
                continue
            if first != last and end - start < _MIN_LETTERS + last - first:
                continue  # "b 2" is hardly ever the hotword "B2"
            stretch = [part.text.lower() for part in parts[first : last + 1]]
            for number in numbers[:1]:
                word = self.words[number]
                if word.weight >= STRONG or _may_respell(stretch, word):
                    yield Found(start, end, word, 1.0, number)

    def _near_zh(self, text: str, parts: list[Unit], threshold: float, careful: bool) -> Iterator[Found]:
        if not self.zh:
            return
        inside = _inside_common(text)
        sizes = sorted(self.zh_sizes - {1})
        ends = _runs(parts, "han")
        for first, unit in enumerate(parts):
            for size in sizes if unit.kind == "han" else ():
                if first + size > ends[first]:
                    break
                stretch = parts[first : first + size]
                chars = [part.text for part in stretch]
                numbers = {number for key in _zh_keys(chars) for number in self.zh.get(key, ())}
                for number in sorted(numbers):
                    start, end = unit.start, stretch[-1].end
                    word = self.words[number]
                    score = zh_score(chars, word.text)
                    short = self.short_zh if careful and size == 2 else 0.0
                    if score < needed(word, threshold, short) or text[start:end] == word.text:
                        continue
                    if not careful or _may_replace_zh(chars, word, score, inside[start] or inside[end]):
                        yield Found(start, end, word, score, number)

    def _near_en(self, parts: list[Unit], threshold: float, careful: bool) -> Iterator[Found]:
        if not self.en:
            return
        for first, last in _stretches(parts, ("latin",), self.longest_form):
            words = [part.text.lower() for part in parts[first : last + 1]]
            if careful and not self.has_strong and not self._is_free(words):
                continue
            form = phonetics.letters("".join(words))
            said = phonetics.sounds(form)
            bones = phonetics.skeleton(said)
            if len(bones) < _MIN_CONSONANTS or len(form) < _MIN_LETTERS or form in self.forms:
                continue
            short = SHORT_EN if careful and len(form) <= _SHORT_LETTERS else 0.0
            for number in sorted({number for key in _en_keys(bones) for number in self.en.get(key, ())}):
                word = self.words[number]
                least = needed(word, threshold, short)
                score = en_score(form, said, self.letters[number], least)
                if score >= least and (not careful or _may_replace_en(words, form, word, score)):
                    yield Found(parts[first].start, parts[last].end, word, score, number)

    def _is_free(self, words: list[str]) -> bool:
        """Whether any hotword could replace these words; most words of a text are common and end here."""
        if len(words) == 1:
            return not _is_common_en(words[0])
        starts = words[0] not in _FUNCTION_EN or words[0] in self.edges
        return starts and (words[-1] not in _FUNCTION_EN or words[-1] in self.edges)


_indexes: WeakKeyDictionary[HotwordList, Index] = WeakKeyDictionary()


def index(words: HotwordList) -> Index:
    """The index of a list, made once for as long as the list lives."""
    if words not in _indexes:
        _indexes[words] = Index(words.words)
    return _indexes[words]


def needed(word: Hotword, threshold: float, least: float = 0.0) -> float:
    """The score a stretch needs: each doubling of the weight takes 0.03 off."""
    least = max(threshold, least)
    return min(max(least - 0.03 * math.log2(word.weight), 0.7), SAME)


def zh_score(chars: Sequence[str], word: str) -> float:
    """How alike two strings of Chinese characters of one length sound, 0 to 1."""
    theirs = [char for char in word if phonetics.readings(char)]
    if len(theirs) != len(chars):
        return 0.0
    return max(0.0, 1 - sum(map(phonetics.syllable_distance, chars, theirs)) / len(chars))


def en_score(form: str, said: str, word: str, least: float = 0.0) -> float:
    """How alike two words in letters are, 0 to 1: three parts sound, two parts spelling; 0 where below `least`."""
    longer = max(len(form), len(word))
    unlike = sum((Counter(form) - Counter(word)).values()), sum((Counter(word) - Counter(form)).values())
    if 1 - 0.4 * max(unlike) / longer < least or min(len(form), len(word)) < 0.6 * longer:
        return 0.0  # each letter the other has not is at least one edit: spelling alone rules it out
    spelt = 1 - edits(form, word) / longer
    if 0.6 + 0.4 * spelt < least:
        return 0.0
    return 0.6 * phonetics.sound_likeness(said, phonetics.sounds(word)) + 0.4 * spelt


def _may_replace_zh(chars: list[str], word: Hotword, score: float, crosses: bool) -> bool:
    new = [char for char in word.text if phonetics.readings(char)]
    if any(a in _NUMERALS and a != b for a, b in zip(chars, new, strict=True)):
        return False
    if word.weight >= STRONG and score >= SAME:
        return True
    if "".join(chars) in common("zh"):
        return False
    if len(chars) == 2:
        changed = [a for a, b in zip(chars, new, strict=True) if a != b]
        return not (crosses or _only_common_zh("".join(chars)) or any(char in _FUNCTION_ZH for char in changed))
    return score >= ONLY_COMMON or not (crosses or _only_common_zh("".join(chars)))


def _only_common_zh(text: str) -> bool:
    """Whether a stretch can be read as common words and function words one after the other."""
    reached = {0}
    for end in range(1, len(text) + 1):
        starts = {start for start in reached if end - 4 <= start}
        if any(text[start:end] in common("zh") or text[start:end] in _BOUND_ZH for start in starts):
            reached.add(end)
    return len(text) in reached


def _may_respell(words: list[str], word: Hotword) -> bool:
    """Capitals of a common word stay; and what ends in a function word is two words, but "a lexa" is none."""
    if len(words) == 1:
        return words[0] not in common("en")
    return words[-1] not in _FUNCTION_EN or word.text.lower().split()[-1] == words[-1]


def _may_replace_en(words: list[str], form: str, word: Hotword, score: float) -> bool:
    new = phonetics.letters(word.text)
    if any(part in _NUMBERS_EN for part in words):
        return False
    if re.fullmatch(re.escape(new) + r"(?:(?<!s)e?s|e?d|ing|er|ly)", form):
        return False  # the hotword itself, inflected
    if word.weight >= STRONG and phonetics.sounds(form) == phonetics.sounds(new):
        return True
    if len(words) == 1:
        return not _is_common_en(words[0])
    own = word.text.lower().split()
    if (words[0] in _FUNCTION_EN and words[0] != own[0]) or (words[-1] in _FUNCTION_EN and words[-1] != own[-1]):
        return False
    return score >= ONLY_COMMON or not all(map(_is_common_en, words))


@lru_cache(maxsize=2**16)
def _is_common_en(word: str) -> bool:
    if "'" in word or "’" in word:
        return True
    known = common("en")
    return word in known or any(stem in known for stem in _stems(word))


def _stems(word: str) -> Iterator[str]:
    """What a word may be without an ending: made -> mad, mak(e); running -> run; happily -> happy."""
    for ending in _ENDINGS:
        stem = word[: -len(ending)]
        if word.endswith(ending) and len(stem) >= 2:
            yield stem
            if ending[0] in "aeiou":
                yield stem + "e"
            if stem.endswith("i"):
                yield stem[:-1] + "y"
            if stem[-1] == stem[-2]:
                yield stem[:-1]


def _inside_common(text: str) -> list[bool]:
    """For each place between two characters, whether it lies inside a common Chinese word."""
    inside = [False] * (len(text) + 1)
    for start in range(len(text) - 1):
        for size, known in ((2, _own("zh")), (3, common("zh")), (4, common("zh"))):
            if text[start : start + size] in known:
                for at in range(start + 1, min(start + size, len(text))):
                    inside[at] = True
    return inside


def _runs(parts: list[Unit], kind: str) -> list[int]:
    """For each unit the end (exclusive) of the run of joined units of that kind it stands in."""
    ends = [0] * len(parts)
    for i in range(len(parts) - 1, -1, -1):
        goes_on = i + 1 < len(parts) and parts[i + 1].joined and parts[i + 1].kind == kind == parts[i].kind
        ends[i] = ends[i + 1] if goes_on else i + 1
    return ends


def _stretches(parts: list[Unit], kinds: tuple[str, ...], longest: int) -> Iterator[tuple[int, int]]:
    """First and last unit of every stretch of at most `_MAX_LATIN_UNITS` joined units with letters in it."""
    for first, unit in enumerate(parts):
        has_letters = False
        for last in range(first, min(first + _MAX_LATIN_UNITS, len(parts))):
            part = parts[last]
            if part.kind not in kinds or (last > first and not part.joined) or part.end - unit.start > 2 * longest + 4:
                break
            has_letters = has_letters or part.kind == "latin"
            if has_letters:
                yield first, last


def _zh_keys(chars: Sequence[str]) -> list[str]:
    """What a string of characters is filed under: all its rough syllables or, from four on, either half of them."""
    if len(chars) < 2:
        return []
    if len(chars) < 4:
        pieces = [("", chars)]
    else:
        half = len(chars) // 2
        pieces = [(f"{len(chars)}<", chars[:half]), (f"{len(chars)}>", chars[half:])]
    return [
        mark + " ".join(sounds)
        for mark, piece in pieces
        for sounds in islice(product(*(phonetics.rough(char) for char in piece)), _MAX_COMBINATIONS)
    ]


def _en_keys(bones: str) -> list[str]:
    """A skeleton and, from four sounds on, what is left of it without one of them: one error is always met."""
    shorter = {bones[:i] + bones[i + 1 :] for i in range(len(bones))} if len(bones) >= 4 else set()
    return [bones, *sorted(shorter)]
