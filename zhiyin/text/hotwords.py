"""Hotwords found by their sound in what was recognised, and put right; times and everything else stay.

A recogniser that has never met a name writes other characters or words that sound the same. `correct` looks for
stretches that sound like a hotword (pinyin for Chinese, a key of sounds for English) and writes the hotword there. It
never touches numbers, nor a common word, unless the hotword sounds exactly so and was given a weight of at least 2.
Pairs `wrong => right` are replaced by spelling. Correcting twice changes nothing more.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from zhiyin.result import Segment, Word
from zhiyin.text.hotword_list import HotwordList, Rule
from zhiyin.text.hotword_search import ONLY_COMMON, THRESHOLD, Found, Index, index

MAX_IN_PROMPT = 50
_MOST_PASSES = 5


@dataclass(frozen=True)
class Change:
    """One stretch of text that was replaced.

    Attributes:
        start, end: characters of the text as it was.
        new_start, new_end: characters of the text as it is now.
        old, new: what stands there.
        by: `sound`, or `pair` for a pair `wrong => right`.
        score: how alike both sound, 0 to 1; 1 for a pair.
    """

    start: int
    end: int
    new_start: int
    new_end: int
    old: str
    new: str
    by: str
    score: float


@dataclass(frozen=True)
class Corrected:
    """A text with its hotwords put right, and every change, in order and without overlap."""

    text: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class _Piece:
    """Characters `start` to `end` of the first text, and what stands there now; `by` is empty where nothing changed."""

    start: int
    end: int
    text: str
    by: str = ""
    score: float = 1.0


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    text: str
    by: str
    score: float


def correct(text: str, words: HotwordList, *, language: str | None = None, threshold: float = THRESHOLD) -> Corrected:
    """Put the hotwords right that were recognised as something which sounds like them.

    Args:
        text: what was recognised, of one segment.
        words: from `hotword_list.read`.
        language: code of the language spoken. Sounds are compared for Chinese and English, and where it is not known;
            in any other language only spelling (capitals, spaces, hyphens) and pairs are put right.
        threshold: how alike a stretch must sound, 0 to 1.
    """
    if not words or not text:
        return Corrected(text)
    sounds = index(words)
    pairs = _pairs_of(words)
    pieces = [_Piece(0, len(text), text)]
    for _ in range(_MOST_PASSES):
        now = "".join(piece.text for piece in pieces)
        edits = pairs.edits(now) or _sound_edits(now, sounds, pairs, language, threshold)
        if not edits:
            return Corrected(now, _changes(pieces, text))
        for edit in reversed(edits):
            pieces = _apply(pieces, edit)
    return Corrected(text)  # pairs that feed each other without end: better nothing than half of it


def correct_segment(
    segment: Segment, words: HotwordList, *, language: str | None = None, threshold: float = THRESHOLD
) -> tuple[Segment, tuple[Change, ...]]:
    """A segment with its hotwords put right in text, word times and turns, and the changes of its text."""
    heard = segment.language or language
    done = correct(segment.text, words, language=heard, threshold=threshold)
    if not done.changes:
        return segment, ()
    turns = tuple(
        replace(turn, text=correct(turn.text, words, language=heard, threshold=threshold).text)
        for turn in segment.turns
    )
    moved = move_times(segment.words, segment.text, done)
    return replace(segment, text=done.text, words=moved, turns=turns), done.changes


def move_times(timed: Sequence[Word], text: str, done: Corrected) -> tuple[Word, ...]:
    """Word times of a corrected text; no time is invented.

    Words that no change touches stay. Those a change touches become one word from the first one's start to the last
    one's end or, where as many characters replace as many words of one character, one each.

    Args:
        timed: the words of `text`, in order.
        text: the text before it was corrected.
        done: what `correct` made of it.
    """
    places = []
    at = 0
    for word in timed:
        found = text.find(word.text, at)
        start = at if found < 0 else found
        at = start if found < 0 else start + len(word.text)
        places.append((start, at))
    moved: list[Word] = []
    i = 0
    for change in done.changes:
        while i < len(timed) and places[i][1] <= change.start:
            moved.append(timed[i])
            i += 1
        first = i
        while i < len(timed) and places[i][0] < change.end:
            i += 1
        moved += _replaced(timed[first:i], places[first:i], change, text)
    return (*moved, *timed[i:])


def _replaced(touched: Sequence[Word], places: Sequence[tuple[int, int]], change: Change, text: str) -> Iterator[Word]:
    if not touched:
        return
    if len(touched) == len(change.new) and [b - a for a, b in places] == [1] * len(change.new):
        yield from (replace(word, text=char) for word, char in zip(touched, change.new, strict=True))
        return
    before = text[min(places[0][0], change.start) : change.start]
    after = text[change.end : max(places[-1][1], change.end)]
    yield replace(touched[0], text=before + change.new + after, end_s=touched[-1].end_s)


class _Pairs:
    """Pairs by spelling, whatever the capitals; a word in letters only where it stands alone."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = {_lower(rule.wrong): rule for rule in rules}
        self.rights = {rule.right for rule in rules}
        self.wrong_sizes = _sizes(self.rules)
        self.right_sizes = _sizes(self.rights)

    def edits(self, text: str) -> list[_Edit]:
        """Left to right, the longest first; where the right text stands already nothing is done."""
        found: list[_Edit] = []
        flat = _lower(text)
        for start, end in _spans(flat, self.wrong_sizes):
            rule = self.rules.get(flat[start:end])
            after_last = not found or start >= found[-1].end
            if rule and after_last and _stands_alone(flat, start, end) and not _is_right(text, start, rule):
                found.append(_Edit(start, end, rule.right, "pair", 1.0))
        return found

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where what a pair wrote stands; sound must not change it."""
        return [(start, end) for start, end in _spans(text, self.right_sizes) if text[start:end] in self.rights]


_pairs: WeakKeyDictionary[HotwordList, _Pairs] = WeakKeyDictionary()


def _pairs_of(words: HotwordList) -> _Pairs:
    if words not in _pairs:
        _pairs[words] = _Pairs(words.rules)
    return _pairs[words]


def _sizes(texts: Iterable[str]) -> dict[str, list[int]]:
    """First character -> lengths, the longest first."""
    sizes: dict[str, set[int]] = defaultdict(set)
    for text in texts:
        sizes[text[0]].add(len(text))
    return {first: sorted(found, reverse=True) for first, found in sizes.items()}


def _spans(text: str, sizes: dict[str, list[int]]) -> Iterator[tuple[int, int]]:
    """Stretches that begin and are as long as one of the texts looked for, from left to right."""
    for start, char in enumerate(text):
        for size in sizes.get(char, ()):
            yield start, start + size


def _lower(text: str) -> str:
    """Lower case, one character for one."""
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def _stands_alone(text: str, start: int, end: int) -> bool:
    def joins(a: str, b: str) -> bool:
        return a.isascii() and b.isascii() and a.isalnum() and b.isalnum()

    return not (start and joins(text[start - 1], text[start])) and not (
        end < len(text) and joins(text[end - 1], text[end])
    )


def _is_right(text: str, at: int, rule: Rule) -> bool:
    """Whether the wrong text at this place is a part of the right one: `音 => 知音` leaves 知音 alone."""
    inside = (start for start, _ in _occurrences(_lower(rule.right), _lower(rule.wrong)))
    return any(at >= offset and text.startswith(rule.right, at - offset) for offset in inside)


def _occurrences(text: str, part: str) -> Iterator[tuple[int, int]]:
    at = text.find(part)
    while at >= 0:
        yield at, at + len(part)
        at = text.find(part, at + 1)


def _sound_edits(text: str, sounds: Index, pairs: _Pairs, language: str | None, threshold: float) -> list[_Edit]:
    """The best candidates that do not overlap: by score, length, weight, characters kept, and from left to right."""
    candidates = sounds.near(text, language=language, threshold=threshold)
    if not candidates:
        return []
    settled = pairs.places(text)
    present = sounds.present(text)
    chosen: list[Found] = []
    taken = bytearray(len(text))
    candidates.sort(key=lambda found: _rank(found, text))
    for found in candidates:
        free = not any(taken[found.start : found.end]) and not any(_overlap(found, place) for place in settled)
        if free and all(_grows(found, place) for place in present if _overlap(found, place)):
            taken[found.start : found.end] = b"\x01" * (found.end - found.start)
            chosen.append(found)
    chosen.sort(key=lambda found: found.start)
    return [_Edit(found.start, found.end, found.word.text, "sound", round(found.score, 3)) for found in chosen]


def _rank(found: Found, text: str) -> tuple[float, ...]:
    kept = sum(a == b for a, b in zip(text[found.start : found.end], found.word.text, strict=False))
    size = found.end - found.start
    return -round(found.score, 3), -size, -found.word.weight, -kept, found.start, found.order


def _overlap(found: Found, place: tuple[int, int]) -> bool:
    return found.start < place[1] and place[0] < found.end


def _grows(found: Found, place: tuple[int, int]) -> bool:
    """A hotword that stands there already gives way only to a longer one around it that sounds nearly the same."""
    size = place[1] - place[0]
    around = found.start <= place[0] and place[1] <= found.end and size < found.end - found.start
    return around and found.score >= ONLY_COMMON


def _apply(pieces: list[_Piece], edit: _Edit) -> list[_Piece]:
    """Pieces after an edit whose places count in their joined texts; a change it meets becomes part of it."""
    done: list[_Piece] = []
    start, end, old_start, old_end = 0, 0, -1, -1
    before, after = "", ""
    for piece in pieces:
        start, end = end, end + len(piece.text)
        if end <= edit.start or start >= edit.end:
            done.append(piece)
            continue
        cut_a, cut_b = max(edit.start - start, 0), min(edit.end - start, len(piece.text))
        plain = not piece.by
        if old_start < 0:
            old_start = piece.start + cut_a if plain else piece.start
            before = "" if plain else piece.text[:cut_a]
            if plain and cut_a:
                done.append(_Piece(piece.start, old_start, piece.text[:cut_a]))
            place = len(done)
        old_end = piece.start + cut_b if plain else piece.end
        after = "" if plain else piece.text[cut_b:]
        if plain and cut_b < len(piece.text):
            done.append(_Piece(old_end, piece.end, piece.text[cut_b:]))
    done.insert(place, _Piece(old_start, old_end, before + edit.text + after, edit.by, edit.score))
    return done


def _changes(pieces: Sequence[_Piece], text: str) -> tuple[Change, ...]:
    found = []
    at = 0
    for piece in pieces:
        old, size = text[piece.start : piece.end], len(piece.text)
        if old != piece.text:
            found.append(Change(piece.start, piece.end, at, at + size, old, piece.text, piece.by, piece.score))
        at += size
    return tuple(found)
