"""The likeliest tokens of a CTC head when what usually follows what is known: prefix beam search.

Shapes: `T` frames, `V` vocabulary.
"""

import math

import numpy as np

from zhiyin.audio.features import Float32
from zhiyin.text.bigram import END, Bigram

BLANK = 0
WEIGHT = 0.3  # of the bigram beside the CTC head; chosen on the dev split of the pocket model, docs/log.md 2026-11-21
BONUS = 1.0  # of each token, else the bigram would favour short transcripts
WIDTH = 8
LIKELY = 3e-3  # a frame's tokens below this probability are not tried
_NEVER = -1e30

_Score = tuple[float, float]  # log probabilities of the paths that end with a blank, and with the last token


def beam_search(logits_TV: Float32, bigram: Bigram) -> list[int]:
    """Token ids of the best transcript.

    Paths of the same tokens are summed (Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition
    using Bi-Directional Recurrent DNNs", algorithm 1); the score of a transcript is log p(CTC) + `WEIGHT` log p(bigram)
    + `BONUS` for each token.

    Args:
        logits_TV: scores of a CTC head, not normalised; token 0 is the blank.
        bigram: of the same vocabulary.
    """
    scores_TV = logits_TV.astype(np.float64)
    scores_TV -= scores_TV.max(axis=1, keepdims=True, initial=-np.inf)
    scores_TV -= np.log(np.exp(scores_TV).sum(axis=1, keepdims=True))
    beam: dict[tuple[int, ...], _Score] = {(): (0.0, _NEVER)}
    prior: dict[tuple[int, ...], float] = {(): 0.0}
    for scores_V in scores_TV:
        tokens = [token for token in np.flatnonzero(scores_V > math.log(LIKELY)).tolist() if token != BLANK]
        beam = _step(beam, scores_V, tokens)
        for prefix in beam:
            if prefix not in prior:
                last = prefix[-2] if len(prefix) > 1 else END
                prior[prefix] = prior[prefix[:-1]] + WEIGHT * bigram.logprob(last, prefix[-1]) + BONUS
        best = sorted(beam, key=lambda prefix: _sum(*beam[prefix]) + prior[prefix], reverse=True)[:WIDTH]
        beam = {prefix: beam[prefix] for prefix in best}

    def whole(prefix: tuple[int, ...]) -> float:
        last = prefix[-1] if prefix else END
        return _sum(*beam[prefix]) + prior[prefix] + WEIGHT * bigram.logprob(last, END)

    best = sorted(beam, key=whole, reverse=True)
    return list(best[0])


def _step(
    beam: dict[tuple[int, ...], _Score], scores_V: np.ndarray, tokens: list[int]
) -> dict[tuple[int, ...], _Score]:
    """Each prefix goes on with a blank, with its last token again, or with a new one."""
    found: dict[tuple[int, ...], _Score] = {}
    blank = float(scores_V[BLANK])
    for prefix, (ended_blank, ended_token) in beam.items():
        total = _sum(ended_blank, ended_token)
        was_blank, was_token = found.get(prefix, (_NEVER, _NEVER))
        again = ended_token + float(scores_V[prefix[-1]]) if prefix else _NEVER
        found[prefix] = _sum(was_blank, total + blank), _sum(was_token, again)
        for token in tokens:
            # the same token twice needs a blank between
            source = ended_blank if prefix and token == prefix[-1] else total
            if source <= _NEVER / 2:
                continue
            longer = (*prefix, token)
            was_blank, was_token = found.get(longer, (_NEVER, _NEVER))
            found[longer] = was_blank, _sum(was_token, source + float(scores_V[token]))
    return found


def _sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    low, high = min(a, b), max(a, b)
    return high if low <= _NEVER / 2 else high + math.log1p(math.exp(low - high))
