"""Joining what was heard in two neighbouring windows, which may share a piece of audio and then say some words twice.

Text alone is aligned as overlapping pieces of a sequence: the end of the left text against the beginning of the right.
With times, words are matched by text and time. Han and kana count one by one, other scripts word by word; case and
punctuation do not count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zhiyin.audio.vad import Span
from zhiyin.result import Word

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(f"[{_CJK}]|[^\\s{_CJK}]+")
_PUNCTUATION = re.compile(r"^[\W_]+|[\W_]+$")
_CLOSING = re.compile(r"[^\w\s(\[{<\"'“‘（《【「]")

# Alignment scores. One equal word is evidence enough, but not if a whole word must be given up for it.
_EQUAL = 1.0
_EQUAL_PER_LETTER = 0.01  # a long word agrees less easily by chance; it decides between equal scores
_DIFFERENT = -0.5
_MISSING = -0.75
_BROKEN_EDGE = -0.4  # the word at a window's edge may be half a word, in any spelling
_ENOUGH = 0.75
_SAME_WORD_S = 0.4  # further apart, equal words are two words
_COLLISION = 0.3  # of the shorter word's duration


@dataclass(frozen=True)
class _Token:
    """A word or character without the punctuation around it, and its place in the text."""

    key: str
    start: int
    end: int


def merge_text(left: str, right: str, *, overlap_share: float = 0.0) -> str:
    """Join the texts of two neighbouring windows so that no word is lost or said twice.

    A word that one window heard only in part, at its edge, is taken from the other one. Where the shared words are one
    word repeated ("five five five"), how often it was said follows from `overlap_share`.

    Args:
        left: text of the earlier window.
        right: text of the later window.
        overlap_share: part of the left window's audio that the right one holds too; 0 joins without looking for
            repeated words.
    """
    left_tokens, right_tokens = _tokens(left), _tokens(right)
    if overlap_share <= 0 or not left_tokens or not right_tokens:
        return _join(left, right)
    expected = overlap_share * len(left_tokens)
    reach = round(3 * expected) + 4
    tail, head = left_tokens[-reach:], right_tokens[:reach]
    if shared := _shared(tail, head, expected):
        pairs = [(len(tail) - shared + i, i) for i in range(shared)]
    else:
        score, pairs = _align(tail, head)
        if score < _ENOUGH:
            return _join_halves(left, right, left_tokens[-1], right_tokens[0])
    left_at, right_at = pairs[len(pairs) // 2]
    return left[: tail[left_at].end] + right[head[right_at].end :]


def merge_words(previous: Sequence[Word], following: Sequence[Word], *, overlap: Span) -> tuple[Word, ...]:
    """Join the words of two neighbouring windows, in order of time; words heard twice come once.

    Of a word heard twice, and of two words heard at the same time, the one further from its window's edge is kept.

    Args:
        previous: words of the earlier window, with times in the recording.
        following: words of the later window, with times in the recording.
        overlap: the stretch both windows hold.
    """
    seam_s = (overlap.start_s + overlap.end_s) / 2
    early = [word for word in previous if word.end_s <= overlap.start_s]
    late = [word for word in following if word.start_s >= overlap.end_s]
    left = [word for word in previous if word.end_s > overlap.start_s]
    right = [word for word in following if word.start_s < overlap.end_s]
    pairs = _match(left, right)
    merged: list[Word] = []
    left_at = right_at = 0
    for left_end, right_end in [*pairs, (len(left), len(right))]:
        merged += _settle(left[left_at:left_end], right[right_at:right_end], seam_s)
        if left_end < len(left):
            merged.append(left[left_end] if _middle_s(left[left_end]) < seam_s else right[right_end])
        left_at, right_at = left_end + 1, right_end + 1
    return (*early, *merged, *late)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    for match in _TOKEN.finditer(text):
        bare = _PUNCTUATION.sub("", match[0])
        if bare:
            start = match.start() + match[0].index(bare)
            tokens.append(_Token(bare.lower(), start, start + len(bare)))
    return tokens


def _join(left: str, right: str) -> str:
    left, right = left.rstrip(), right.lstrip()
    tight = not left or not right or _CLOSING.match(right) or re.search(f"[{_CJK}][^\\w\\s]*$", left)
    return left + right if tight or re.match(f"[{_CJK}]", right) else f"{left} {right}"


def _join_halves(left: str, right: str, last: _Token, first: _Token) -> str:
    """Nothing matches; the overlap may lie inside one long word: "internatio" + "rnational"."""
    for size in range(min(len(last.key), len(first.key)), 3, -1):
        if last.key.endswith(first.key[:size]):
            return left[: last.end] + right[first.start + size :]
    return _join(left, right)


def _shared(tail: Sequence[_Token], head: Sequence[_Token], expected: float) -> int:
    """How many words the end of `tail` and the beginning of `head` have in common: as near to `expected` as they allow.

    0 where they agree at no length near it: one of the windows heard something else, or broke a word. A single word
    does not count where it may be a piece of another one: "a" at the edge of a window that cuts "apple".
    """
    left, right = [token.key for token in tail], [token.key for token in head]
    sizes = [size for size in range(1, min(len(left), len(right)) + 1) if left[-size:] == right[:size]]
    if any(key != left[-1] and key.startswith(left[-1]) for key in right) or any(
        key != right[0] and key.endswith(right[0]) for key in left
    ):
        sizes = [size for size in sizes if size > 1]
    best = min(sizes, key=lambda size: (abs(size - expected), -size), default=0)
    return best if abs(best - expected) <= 1 + expected / 2 else 0


def _align(tail: Sequence[_Token], head: Sequence[_Token]) -> tuple[float, list[tuple[int, int]]]:
    """Best alignment of an end of `tail` with a beginning of `head`: its score and the pairs of equal tokens.

    The dovetail form of Needleman and Wunsch's alignment: what lies before it in `tail` and after it in `head` is free.
    """
    rows, columns = len(tail), len(head)
    score = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    came = [[(0, 0)] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows + 1):
        for j in range(1, columns + 1):
            skip_right = _edge(head[0].key, tail[i - 1].key if i else "", at_end=True) if j == 1 else _MISSING
            options = [(score[i][j - 1] + skip_right, (0, 1))]
            if i:
                same = tail[i - 1].key == head[j - 1].key
                gain = _EQUAL + _EQUAL_PER_LETTER * len(tail[i - 1].key) if same else _DIFFERENT
                options.append((score[i - 1][j - 1] + gain, (1, 1)))
                next_key = head[j].key if j < columns else ""
                skip_left = _edge(tail[i - 1].key, next_key, at_end=False) if i == rows else _MISSING
                options.append((score[i - 1][j] + skip_left, (1, 0)))
            score[i][j], came[i][j] = max(options)
    j = max(range(columns + 1), key=lambda column: score[rows][column])
    best, i, pairs = score[rows][j], rows, []
    while j:
        step_i, step_j = came[i][j]
        i, j = i - step_i, j - step_j
        if step_i and step_j and tail[i].key == head[j].key:
            pairs.append((i, j))
    return best, pairs[::-1]


def _edge(part: str, whole: str, *, at_end: bool) -> float:
    """The price of leaving out the word at a window's edge: none when it is visibly a piece of the whole word."""
    is_piece = part != whole and (whole.endswith(part) if at_end else whole.startswith(part))
    return 0.0 if is_piece else _BROKEN_EDGE


def _middle_s(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def _match(left: Sequence[Word], right: Sequence[Word]) -> list[tuple[int, int]]:
    """Pairs of equal words close in time, in order; as many and as close as possible."""
    keys = [[_PUNCTUATION.sub("", word.text).lower() or word.text for word in words] for words in (left, right)]
    best: list[list[tuple[float, tuple[tuple[int, int], ...]]]] = [[(0.0, ())] * (len(right) + 1)]
    for i, left_word in enumerate(left):
        row: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]
        for j, right_word in enumerate(right):
            choice = max(best[i][j + 1], row[j], key=lambda option: option[0])
            closeness = 1 - abs(_middle_s(left_word) - _middle_s(right_word)) / _SAME_WORD_S
            if keys[0][i] == keys[1][j] and best[i][j][0] + closeness > choice[0] and closeness > 0:
                choice = (best[i][j][0] + closeness, (*best[i][j][1], (i, j)))
            row.append(choice)
        best.append(row)
    return list(best[-1][-1][1])


def _settle(left: Sequence[Word], right: Sequence[Word], seam_s: float) -> list[Word]:
    """Unmatched words between two matches: all of them, but of two that collide the one on its own side of the seam."""
    dropped: set[tuple[str, int]] = set()
    for i, left_word in enumerate(left):
        for j, right_word in enumerate(right):
            if ("left", i) in dropped or ("right", j) in dropped or not _collide(left_word, right_word):
                continue
            is_early = _middle_s(left_word) + _middle_s(right_word) < 2 * seam_s
            dropped.add(("right", j) if is_early else ("left", i))
    kept = [word for i, word in enumerate(left) if ("left", i) not in dropped]
    kept += [word for j, word in enumerate(right) if ("right", j) not in dropped]
    return sorted(kept, key=_middle_s)


def _collide(a: Word, b: Word) -> bool:
    shared_s = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    shorter_s = min(a.end_s - a.start_s, b.end_s - b.start_s)
    return shared_s > _COLLISION * shorter_s
