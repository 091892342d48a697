"""Guards against text that no speech can have been: repetition loops, and more words than the time allows.

A guard only takes text away and always says so; what it says goes into `Segment.guards`. Pieces are what is
counted: a word, or a single Chinese or Japanese character.
"""

import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence

REPETITION = "repetition cut"
DENSITY = "text denser than speech cut"

# The most often a unit of n pieces may follow itself; one more is a loop. People repeat short things ("no no no",
# a telephone number) and say a chorus a few times, but not beyond this inside one window of 15 s.
_MOST_REPEATS = {1: 8, 2: 6, 3: 5}
_MOST_REPEATS_LONG = 4
_LONGEST_UNIT_PIECES = 32

# A loop whose turns differ a little ("thank you", "thank you so much", ...) is told by what it compresses to. Whisper
# (Radford et al. 2022, section 4.5) takes 2.4 times as a loop, but a long telephone number reaches that too; so it must
# also be the order of the pieces that is compressed: digits, counting and prose need 0.8 to 1 of what the same pieces
# in any order do, a chorus sung three times 0.65.
_COMPRESSION = 2.4
_ORDER_SHARE = 0.6
_LEAST_PIECES = 24

# The least time a piece needs: half of what the fastest speakers take (about 6 to 7 words or 9 to 10 Chinese
# syllables a second), so that only impossible text is cut. Letters bound words that are themselves loops.
_CHARACTER_S = 1 / 18
_WORD_S = 1 / 12
_LETTER_S = 1 / 50
_SLACK_S = 1.0  # windows are cut close to the speech

_CHARACTER = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]"
_PIECE = re.compile(rf"{_CHARACTER}|(?:(?!{_CHARACTER})\S)+")

# When a transcript must be surer than usual, and how sure; measured, see docs/guards.md.
_CLEAR_PEAK = 0.92  # the detector's probability
_CLEAR_RANGE_DB = 13.0  # how much the level moves: less in a crowd and where noise is 8 dB or less below the speech
_SURE = 0.8
_SLOWEST_PIECE_S = 2.5  # of speech for each word: what a detector calls speech and no word is found in is a crowd


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
    kept = kept[: _loose_loop_at([_plain(pieces[i]) for i in kept])]
    flags = (REPETITION,) if len(kept) < len(pieces) else ()
    if duration_s is None:
        return kept, flags
    room_s = duration_s + _SLACK_S
    for place, i in enumerate(kept):
        room_s -= least_s(pieces[i])
        if room_s < 0:
            return kept[:place], (*flags, DENSITY)
    return kept, flags


def is_sure(
    text: str, confidence: float, *, at_least: float, peak: float, level_range_db: float, speech_s: float
) -> bool:
    """Whether a transcript is sure enough for what the audio says of itself.

    Args:
        text: transcript of one window.
        confidence: mean probability of what says it, 0 to 1.
        at_least: what the model asks for; 0 where its probabilities are not calibrated, and all is believed.
        peak: the detector's highest probability in the window.
        level_range_db: how much the level moves in the window, from `audio.evidence.range_db`.
        speech_s: how long speech was detected in the window.

    >>> is_sure("open", 0.7, at_least=0.4, peak=0.9, level_range_db=58.0, speech_s=0.3)  # a knock at a door
    False
    """
    if not at_least:
        return True
    if peak >= _CLEAR_PEAK and level_range_db >= _CLEAR_RANGE_DB:
        return confidence >= at_least
    pieces = len(_PIECE.findall(text))
    return confidence >= max(at_least, _SURE) and speech_s <= _SLOWEST_PIECE_S * pieces


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


def _loose_loop_at(pieces: Sequence[str]) -> int:
    """Where the second turn begins of a loop whose turns differ; the number of pieces where there is none."""
    triples = Counter(zip(pieces, pieces[1:], pieces[2:], strict=False))
    if len(pieces) < _LEAST_PIECES or max(triples.values()) < 3:
        return len(pieces)
    mixed = sorted(pieces)
    random.Random(0).shuffle(mixed)
    said, shuffled = (" ".join(some).encode() for some in (pieces, mixed))
    size = len(zlib.compress(said))
    if len(said) < _COMPRESSION * size or size > _ORDER_SHARE * len(zlib.compress(shuffled)):
        return len(pieces)
    often, _ = triples.most_common(1)[0]
    places = [i for i in range(len(pieces) - 2) if tuple(pieces[i : i + 3]) == often]
    return places[1]


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
