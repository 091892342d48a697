"""Times of words from a CTC head: forced alignment of known tokens, in numpy.

Shapes: `T` frames of the head, `V` vocabulary, `U` tokens, `S` states (a blank before, between and after the tokens).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zhiyin.audio.pauses import MIN_PAUSE_S
from zhiyin.audio.vad import Span
from zhiyin.tasks.render import TimedWord

Float32 = NDArray[np.float32]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# One character of Chinese or Japanese, or a run of anything else; punctuation belongs to the word before it.
_WORD = re.compile(rf"[{_CJK}][^\w\s(\[{{<\"'“‘（《【「]*|[^\s{_CJK}]+")
_SPOKEN = re.compile(r"\w")

LEAD_S = 0.16  # how long a word is heard before a CTC head says its first token; measured, see docs/times.md
_LONG_S = 0.25  # a pause that no word has inside


@dataclass(frozen=True)
class Aligned:
    """Where a token is said: frames `start_frame` to `end_frame` (not included), and how sure that is.

    `score` is the mean log-probability of the token in these frames, natural logarithm.
    """

    start_frame: int
    end_frame: int
    score: float


def align(logits_TV: Float32, ids: Sequence[int], *, blank: int = 0) -> tuple[Aligned, ...]:
    """The most probable path through the frames that says exactly these tokens.

    Source: Graves et al. 2006, "Connectionist Temporal Classification", section 4.1 (the states), with the maximum in
    place of the sum (Viterbi 1967). Of equally probable paths, the one that says each token as early as possible.

    Args:
        logits_TV: scores of the head, not normalised.
        ids: tokens, none of them the blank.
        blank: the token that says nothing.

    Raises:
        ValueError: a blank among the tokens or a token outside the vocabulary, or fewer frames than the tokens need:
            one each, and one more between two equal ones.
    """
    frames, size = logits_TV.shape
    if any(not 0 <= token < size or token == blank for token in ids):
        raise ValueError(f"tokens to align must lie in 0 to {size - 1} and none may be the blank {blank}: {list(ids)}")
    needed = len(ids) + sum(a == b for a, b in pairwise(ids))
    if frames < needed:
        raise ValueError(f"{len(ids)} tokens need at least {needed} frames, the audio has {frames}")
    if not len(ids):
        return ()
    logprobs_TS = _states(logits_TV, ids, blank)
    path_T = _viterbi(logprobs_TS, ids)
    spoken = [np.flatnonzero(path_T == 2 * i + 1) for i in range(len(ids))]
    return tuple(
        Aligned(int(at[0]), int(at[-1]) + 1, float(logprobs_TS[at, 2 * i + 1].mean())) for i, at in enumerate(spoken)
    )


def words(
    ids: Sequence[int],
    aligned: Sequence[Aligned],
    decode: Callable[[list[int]], str],
    *,
    frame_s: float,
    duration_s: float,
    pauses: Sequence[Span] = (),
) -> tuple[TimedWord, ...]:
    """Words with times, from tokens with frames and the pauses of the audio.

    A word is a character of Chinese or Japanese, or what stands between spaces elsewhere. The tokens say which word is
    where; the pauses say where it begins and ends, which a CTC head does not know (`docs/times.md`): between two words
    lies the pause that fits best, being long and ending shortly before the second word's first token; without a pause
    they touch, `LEAD_S` before that token. The first word begins, and the last ends, with the sound around its tokens.
    Frame i stands for the time i times `frame_s`, as the centred windows of the features have it.

    Args:
        ids: tokens, in order.
        aligned: from `align`, one for each token.
        decode: tokens -> text; the text of some first tokens is the beginning of the text of all.
        frame_s: seconds from one frame to the next.
        duration_s: length of the audio.
        pauses: its quiet stretches, from `audio.pauses.find`.

    Returns:
        Words in order, none beginning before the one before it has ended, all within the audio.
    """
    pieces = _pieces(list(ids), decode)
    if not pieces:
        return ()
    heard = [
        (max(0.0, (aligned[tokens[0]].start_frame - 0.5) * frame_s), (aligned[tokens[-1]].end_frame - 0.5) * frame_s)
        for _, tokens in pieces
    ]
    start_s, end_s = _outer(heard[0][0], heard[-1][0], duration_s, pauses)
    heard = _within(start_s, end_s, heard, frame_s)
    cuts = [_between(left[1], right[0], pauses) for left, right in pairwise(heard)]
    starts = [start_s, *(cut.end_s for cut in cuts)]
    ends = [*(cut.start_s for cut in cuts), end_s]
    return tuple(TimedWord(text, a, b) for (text, _), a, b in zip(pieces, starts, ends, strict=True))


def _outer(first_s: float, last_s: float, duration_s: float, pauses: Sequence[Span]) -> tuple[float, float]:
    """Where the sound begins that holds the first word's first token, and ends that holds the last word's."""
    start_s, end_s = 0.0, duration_s
    for pause in pauses:
        is_long = pause.end_s - pause.start_s >= _LONG_S
        is_last = pause.end_s > duration_s - LEAD_S  # what comes after is too short to hold a word
        if (is_long or pause.start_s <= 0) and pause.start_s <= first_s and not is_last:
            start_s = pause.end_s
        if (is_long or is_last) and pause.start_s > start_s and pause.end_s > last_s:
            end_s = min(end_s, pause.start_s)
    return start_s, end_s


def _within(
    start_s: float, end_s: float, heard: list[tuple[float, float]], frame_s: float
) -> list[tuple[float, float]]:
    """Tokens that the head said before or after all sound, in equal parts of the sound up to the nearest other one."""
    early = sum(first_s < start_s for first_s, _ in heard)
    late = sum(first_s >= end_s for first_s, _ in heard)
    inside = [first_s for first_s, _ in heard[early : len(heard) - late]]
    if inside:
        firsts = [*_parts(start_s, inside[0], early), *inside, *_parts(inside[-1], end_s, late)]
    else:
        firsts = _parts(start_s, end_s, len(heard))
    following = [*firsts[1:], end_s]
    lasts = [last_s for _, last_s in heard]
    return [
        (a, min(b, c) if a in inside else a + min(frame_s, (c - a) / 2))
        for a, b, c in zip(firsts, lasts, following, strict=True)
    ]


def _parts(start_s: float, end_s: float, count: int) -> list[float]:
    """A place in each of so many equal parts, a little before its middle, where a word is more likely to go on."""
    return [start_s + (i + 0.4) * (end_s - start_s) / count for i in range(count)]


def _between(left_s: float, right_s: float, pauses: Sequence[Span]) -> Span:
    """The pause between a word whose tokens end and one whose tokens begin at these times, or where the two touch."""
    inside = [Span(max(p.start_s, left_s), min(p.end_s, right_s)) for p in pauses]
    long_enough = [pause for pause in inside if pause.end_s - pause.start_s >= MIN_PAUSE_S]
    fits = {pause.end_s - pause.start_s - abs(right_s - LEAD_S - pause.end_s): pause for pause in long_enough}
    if fits:
        return fits[max(fits)]
    touch_s = max((left_s + right_s) / 2, right_s - LEAD_S)
    return Span(touch_s, touch_s)


def _states(logits_TV: Float32, ids: Sequence[int], blank: int) -> NDArray[np.float64]:
    """Log-probabilities [T, S] of blank, token, blank, token, ..., blank."""
    logits = logits_TV.astype(np.float64)
    top_T1 = logits.max(axis=1, keepdims=True)
    total_T1 = top_T1 + np.log(np.exp(logits - top_T1).sum(axis=1, keepdims=True))
    columns = np.full(2 * len(ids) + 1, blank)
    columns[1::2] = ids
    return logits[:, columns] - total_T1


def _viterbi(logprobs_TS: NDArray[np.float64], ids: Sequence[int]) -> NDArray[np.int64]:
    """The best path [T] through the states: each frame stays, goes on by one, or by two over an optional blank."""
    frames, states = logprobs_TS.shape
    tokens = np.asarray(ids)
    can_skip = np.zeros(states, bool)
    can_skip[3::2] = tokens[1:] != tokens[:-1]  # between equal tokens the blank is what tells them apart
    steps_TS = np.zeros((frames, states), np.int8)
    best_S = np.full(states, -np.inf)
    best_S[:2] = logprobs_TS[0, :2]
    for t in range(1, frames):
        options = np.full((3, states), -np.inf)
        options[0] = best_S
        options[1, 1:] = best_S[:-1]
        options[2, 2:] = np.where(can_skip[2:], best_S[:-2], -np.inf)
        steps_TS[t] = options.argmax(axis=0)
        best_S = options.max(axis=0) + logprobs_TS[t]
    path_T = np.empty(frames, np.int64)
    path_T[-1] = states - 1 if best_S[-1] >= best_S[-2] else states - 2
    for t in range(frames - 1, 0, -1):
        path_T[t - 1] = path_T[t] - steps_TS[t, path_T[t]]
    return path_T


def _pieces(ids: list[int], decode: Callable[[list[int]], str]) -> list[tuple[str, list[int]]]:
    """Words and the numbers of the tokens that spell them; tokens that spell no word (a space) belong to none."""
    text = decode(ids)
    spelled: list[list[int]] = [[] for _ in text]
    done, waiting = 0, list[int]()  # a character of several byte tokens is complete with the last of them
    for number in range(len(ids)):
        waiting.append(number)
        reached = _shared(decode(ids[: number + 1]), text) if number + 1 < len(ids) else len(text)
        for at in range(done, reached):
            spelled[at] = waiting
        if reached > done:
            done, waiting = reached, []
    found: list[tuple[str, list[int]]] = []
    for match in _WORD.finditer(text):
        tokens = sorted({number for at in range(*match.span()) for number in spelled[at]})
        if not _SPOKEN.search(match[0]) and found:
            found[-1] = (found[-1][0] + match[0], found[-1][1])
        else:
            found.append((match[0], tokens))
    return found


def _shared(a: str, b: str) -> int:
    """How many first characters are the same."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
