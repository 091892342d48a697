"""Guards against text that no speech can have been: repetition loops, and more words than the time allows.

A guard only takes text away and always says so; what it says goes into `Segment.guards`. Pieces are what is
counted: a word, or a single Chinese or Japanese character.
"""

import re
from collections.abc import Sequence

REPETITION = "repetition cut"
DENSITY = "text denser than speech cut"

# The most often a unit of n pieces may follow itself; one more is a loop. People repeat short things ("no no no",
# a telephone number) and say a chorus a few times, but not beyond this inside one window of 15 s.
_MOST_REPEATS = {1: 8, 2: 6, 3: 5}
_MOST_REPEATS_LONG = 4
_LONGEST_UNIT_PIECES = 32

# The least time a piece needs: half of what the fastest speakers take (about 6 to 7 words or 9 to 10 Chinese
# syllables a second), so that only impossible text is cut. Letters bound words that are themselves loops.
_CHARACTER_S = 1 / 18
_WORD_S = 1 / 12
_LETTER_S = 1 / 50
_SLACK_S = 1.0  # windows are cut close to the speech

_CHARACTER = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]"
_PIECE = re.compile(rf"{_CHARACTER}|(?:(?!{_CHARACTER})\S)+")


def guard_text(text: str, *, duration_s: float | None = None) -> tuple[str, tuple[str, ...]]:
    """Text without loops and without what exceeds the time, and what was done to it.

    Args:
        text: transcript, answer or translation of one window.
        duration_s: length of the window; None where text is not bound to the speech (an answer).

    >>> guard_text("go " + "left " * 20 + "now")
    ('go left now', ('repetition cut',))
    """
    found = list(_PIECE.finditer(text))
    kept, flags = guard_pieces([match.group() for match in found], duration_s=duration_s)
    if not flags:
        return text, ()
    ends = [match.start() for match in found[1:]] + [len(text)]
    return "".join(text[found[i].start() : ends[i]] for i in kept).strip(), flags


def guard_pieces(pieces: Sequence[str], *, duration_s: float | None = None) -> tuple[list[int], tuple[str, ...]]:
    """Indices of the pieces (words or characters) that stay, and what was done; see `guard_text`."""
    kept = _without_loops([_plain(piece) for piece in pieces])
    flags = (REPETITION,) if len(kept) < len(pieces) else ()
    if duration_s is None:
        return kept, flags
    room_s = duration_s + _SLACK_S
    for place, i in enumerate(kept):
        room_s -= least_s(pieces[i])
        if room_s < 0:
            return kept[:place], (*flags, DENSITY)
    return kept, flags


def least_s(text: str) -> float:
    """The least time in which a text can be said."""
    return sum(_CHARACTER_S if re.match(_CHARACTER, piece) else _word_s(piece) for piece in _PIECE.findall(text))


def _word_s(word: str) -> float:
    return max(_WORD_S, len(word) * _LETTER_S)


def _plain(piece: str) -> str:
    return re.sub(r"\W", "", piece).casefold() or piece


def _without_loops(pieces: Sequence[str]) -> list[int]:
    kept: list[int] = []
    i = 0
    while i < len(pieces):
        size, end = _loop_at(pieces, i)
        kept.extend(range(i, i + size))
        i = end
    return kept


def _loop_at(pieces: Sequence[str], start: int) -> tuple[int, int]:
    """Pieces of the shortest unit that loops from `start`, and where the loop ends; one piece where none does."""
    for size in range(1, min(_LONGEST_UNIT_PIECES, (len(pieces) - start) // 2) + 1):
        end = start + size
        while end < len(pieces) and pieces[end] == pieces[end - size]:
            end += 1
        repeats = (end - start) // size
        if repeats > _MOST_REPEATS.get(size, _MOST_REPEATS_LONG):
            # a unit that was broken off at the end of the reply belongs to the loop, elsewhere it is new text
            return size, end if end == len(pieces) else start + repeats * size
    return 1, start + 1
