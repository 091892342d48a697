"""Segments as subtitle cues that can be read: short lines, few of them, long enough on the screen.

Only times that were heard are used. A segment whose words have times is cut between words; one without them stays one
cue, however long, and only its lines are wrapped: to say when a word in its middle was spoken would be invented.
"""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from zhiyin.result import Segment, Word
from zhiyin.tasks.parse import join_words


@dataclass(frozen=True)
class Rules:
    """What a reader can follow.

    Source: Netflix Timed Text Style Guides, General Requirements (duration 5/6 s to 7 s, two lines), English (42
    characters a line, 20 a second) and Chinese, Simplified (16 a line, 9 a second). Wide characters (Chinese, Japanese,
    Korean) count by the second pair, all others by the first, in one line too.

    Attributes:
        line_letters: most letters in a line.
        line_characters: most wide characters in a line.
        lines: most lines of a cue.
        min_s: shortest cue, where the next one leaves the time.
        max_s: longest cue.
        letters_per_s: how fast letters are read.
        characters_per_s: how fast wide characters are read.
        pause_s: a pause from which on the next words have a cue of their own; they would be read before they are said.
    """

    line_letters: int = 42
    line_characters: int = 16
    lines: int = 2
    min_s: float = 5 / 6
    max_s: float = 7.0
    letters_per_s: float = 20.0
    characters_per_s: float = 9.0
    pause_s: float = 1.0


RULES = Rules()


@dataclass(frozen=True)
class Cue:
    """What is on the screen, and when."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """What is to be shown of one segment.

    Attributes:
        start_s: of the segment.
        end_s: of the segment.
        lines: all of its text, a line for each thing said; shown in one cue where there are no `words`.
        words: pieces of the text with times, from `timed`; they are cut into cues instead of `lines`.
        note: stands behind the first cue of words, e.g. ``[happy]``; the rules do not count it.
        lead: stands before each cue, e.g. ``[channel 0] ``; the rules do not count it.
    """

    start_s: float
    end_s: float
    lines: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    note: str = ""
    lead: str = ""


def timed(segment: Segment) -> tuple[Word, ...]:
    """The text of a segment as pieces with times, which joined as they are make it up, spaces included.

    The written form is shown where there is one; words that became one number are one piece. No pieces where the words
    have no times or are not those of the text.
    """
    if not segment.words or join_words(word.text for word in segment.words) != segment.text:
        return ()
    starts, end = list[int](), 0
    for word in segment.words:
        starts.append(segment.text.index(word.text, end))
        end = starts[-1] + len(word.text)
    rewrites = [(span.spoken_start, span.spoken_end) for span in segment.written_spans]
    kept = [i for i, at in enumerate(starts) if not any(start < at < end for start, end in rewrites)]
    text = segment.written or segment.text
    cuts = [0, *(_written(starts[i], segment) for i in kept[1:]), len(text)]
    return tuple(
        replace(segment.words[i], text=text[a:b], end_s=segment.words[j - 1].end_s)
        for (i, j), (a, b) in zip(pairwise([*kept, len(starts)]), pairwise(cuts), strict=True)
    )


def cues(shown: Sequence[Shown], *, rules: Rules = RULES, duration_s: float = math.inf) -> list[Cue]:
    """Cues in order, of which none overlaps the next.

    A cue of words stays longer than they sound where reading takes longer, but not into the next cue; speech that is
    faster than reading is shown whole.

    Args:
        shown: segments in order of time.
        rules: what a reader can follow.
        duration_s: of the recording; no cue is made to last longer.
    """
    found: list[Cue] = []
    wanted: list[float] = []  # when each can be taken away
    for one in shown:
        made = list(_of_words(one, rules, duration_s) if one.words else _of_lines(one, rules))
        found += [replace(cue, lines=(one.lead + cue.lines[0], *cue.lines[1:])) for cue, _ in made if cue.lines]
        wanted += [end_s for cue, end_s in made if cue.lines]
    following = [cue.start_s for cue in found[1:]] + [math.inf] * bool(found)
    return [
        replace(cue, end_s=min(end_s, next_s) if next_s > cue.start_s else cue.end_s)
        for cue, end_s, next_s in zip(found, wanted, following, strict=True)
    ]


def wrap(text: str, *, rules: Rules = RULES) -> list[str]:
    """As few lines as possible, two of them as equal as possible; a word that is longer than a line is broken."""
    lines: list[str] = []
    for piece in _pieces(text, rules):
        if lines and _length(lines[-1] + piece.rstrip(), rules) <= 1:
            lines[-1] += piece
        else:
            lines.append(piece)
    if len(lines) == 2:
        whole = list(_pieces(text, rules))
        halves = [("".join(whole[:i]).rstrip(), "".join(whole[i:]).rstrip()) for i in range(1, len(whole))]
        lines = list(min(halves, key=lambda pair: max(_length(half, rules) for half in pair)))
    return [line.rstrip() for line in lines]


def _written(at: int, segment: Segment) -> int:
    """The place in the written form of a place in the text that lies inside no rewritten piece."""
    before = [span for span in segment.written_spans if span.spoken_end <= at]
    return at - before[-1].spoken_end + before[-1].written_end if before and segment.written else at


def _cut(words: Sequence[Word], rules: Rules) -> Iterator[Sequence[Word]]:
    """Words in cues: cut in two, at the best place, until each part fits."""
    gaps = [right.start_s - left.end_s for left, right in pairwise(words)]
    is_long = words[-1].end_s - words[0].start_s > rules.max_s or max(gaps, default=0) >= rules.pause_s
    if not gaps or not (is_long or len(wrap(_text(words), rules=rules)) > rules.lines):
        yield words
        return
    total = sum(_length(word.text, rules) for word in words)
    done, scores = 0.0, []
    for word, gap_s in zip(words, gaps, strict=False):
        done += _length(word.text, rules)
        # the end of a sentence is worth a cut far from the middle, a comma or half a second of pause half as much
        mark = 1.0 if _ends(word.text, ".!?。！？…") else 0.5 if _ends(word.text, ",;:，；：、") else 0.0
        pause = gap_s if gap_s < rules.pause_s else 10.0
        scores.append(pause + mark - abs(2 * done / total - 1))
    at = scores.index(max(scores)) + 1
    yield from _cut(words[:at], rules)
    yield from _cut(words[at:], rules)


def _ends(text: str, marks: str) -> bool:
    return bool(text.strip()) and text.rstrip()[-1] in marks


def _of_words(one: Shown, rules: Rules, duration_s: float) -> Iterator[tuple[Cue, float]]:
    """Cues of the time in which they are spoken, and when they have been read."""
    for i, words in enumerate(_cut(one.words, rules)):
        start_s = words[0].start_s
        lines = tuple(wrap(_text(words), rules=rules))
        cue = Cue(start_s, min(words[-1].end_s, start_s + rules.max_s), lines)
        needs_s = min(max(rules.min_s, _reading_s(lines, rules)), rules.max_s)
        noted = replace(cue, lines=_noted(lines, one.note, rules)) if one.note and not i else cue
        yield noted, max(cue.end_s, min(start_s + needs_s, duration_s))


def _of_lines(one: Shown, rules: Rules) -> Iterator[tuple[Cue, float]]:
    yield Cue(one.start_s, one.end_s, tuple(part for line in one.lines for part in wrap(line, rules=rules))), one.end_s


def _text(words: Sequence[Word]) -> str:
    return " ".join("".join(word.text for word in words).split())


def _noted(lines: Sequence[str], note: str, rules: Rules) -> tuple[str, ...]:
    """A note behind the last line, or in a line of its own."""
    longer = f"{lines[-1]} {note}" if lines else note
    return (*lines[:-1], longer) if _length(longer, rules) <= 1 else (*lines, note)


def _length(text: str, rules: Rules) -> float:
    """Share of a line; a little less, so that sums of fractions do not overflow it."""
    wide = sum(map(_is_wide, text))
    return wide / rules.line_characters + (len(text) - wide) / rules.line_letters - 1e-9


def _reading_s(lines: Sequence[str], rules: Rules) -> float:
    text = " ".join(lines)
    wide = sum(map(_is_wide, text))
    return wide / rules.characters_per_s + (len(text) - wide) / rules.letters_per_s


def _pieces(text: str, rules: Rules) -> Iterator[str]:
    """What a line may hold or not, each with the space after it: words, wide characters, parts of endless words."""
    start = 0
    for at in range(1, len(text) + 1):
        piece = text[start:at]
        if at == len(text) or _may_break(text[at - 1], text[at]) or _length(text[start : at + 1].rstrip(), rules) > 1:
            yield piece
            start = at


def _may_break(left: str, right: str) -> bool:
    """Behind a space, and beside a wide character; no line begins with what closes or ends with what opens."""
    if left == " ":
        return True
    closes = unicodedata.category(right) in ("Pe", "Pf", "Po")
    opens = unicodedata.category(left) in ("Ps", "Pi")
    return right != " " and not closes and not opens and (_is_wide(left) or _is_wide(right))


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in ("W", "F")
