"""Times of words from a CTC head: forced alignment of known tokens, in numpy.

Shapes: `T` frames of the head, `V` vocabulary, `U` tokens, `S` states (a blank before, between and after the tokens).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np
from numpy.typing import NDArray

from zhiyin.tasks.render import TimedWord

Float32 = NDArray[np.float32]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# One character of Chinese or Japanese, or a run of anything else; punctuation belongs to the word before it.
_WORD = re.compile(rf"[{_CJK}][^\w\s(\[{{<\"'“‘（《【「]*|[^\s{_CJK}]+")
_SPOKEN = re.compile(r"\w")

# A CTC head says a token in few frames, somewhere inside the sound that it stands for, and blanks in the rest. How far
# a word reaches beyond the frames of its tokens, where blanks allow it; measured, see docs/times.md.
BEFORE_S = 0.12
AFTER_S = 0.12


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
    place of the sum (Viterbi 1967). Of equally probable paths, the one that says each token as late as possible.

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
    needed = len(ids) + sum(a == b for a, b in zip(ids, ids[1:], strict=False))
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
    before_s: float = BEFORE_S,
    after_s: float = AFTER_S,
) -> tuple[TimedWord, ...]:
    """Words with times, from tokens with frames.

    A word is a character of Chinese or Japanese, or what stands between spaces elsewhere. It is said in the frames
    from its first token's first to its last token's last, and a little longer on both sides: by `before_s` and
    `after_s`, but never into the frames of its neighbours; the blanks between two words are shared out in proportion
    where they are too few for both. Frame i stands for the stretch of `frame_s` around i times `frame_s`, as the
    centred windows and convolutions of the Whisper encoder have it.

    Args:
        ids: tokens, in order.
        aligned: from `align`, one for each token.
        decode: tokens -> text; the text of some first tokens is the beginning of the text of all.
        frame_s: seconds from one frame to the next.
        duration_s: length of the audio; no time lies beyond it.
        before_s: how far a word begins before its first frame.
        after_s: how far it ends behind its last frame.
    """
    found = _pieces(list(ids), decode)
    starts = [(aligned[tokens[0]].start_frame - 0.5) * frame_s for _, tokens in found]
    ends = [(aligned[tokens[-1]].end_frame - 0.5) * frame_s for _, tokens in found]
    out = []
    for i, (text, _) in enumerate(found):
        # 1 where the gap holds both neighbours' extensions, less where they share what there is
        left = _share(starts[i] - ends[i - 1], before_s + after_s) if i else 1.0
        right = _share(starts[i + 1] - ends[i], before_s + after_s) if i + 1 < len(found) else 1.0
        start_s, end_s = starts[i] - left * before_s, ends[i] + right * after_s
        out.append(TimedWord(text, min(max(start_s, 0.0), duration_s), min(max(end_s, 0.0), duration_s)))
    return tuple(out)


def _share(gap_s: float, wanted_s: float) -> float:
    return min(1.0, max(0.0, gap_s) / wanted_s) if wanted_s else 0.0


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
    done, waiting = 0, []  # a character of several byte tokens is complete with the last of them
    for number in range(len(ids)):
        waiting.append(number)
        reached = len(commonprefix([decode(ids[: number + 1]), text])) if number + 1 < len(ids) else len(text)
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
