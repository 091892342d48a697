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
    beam: dict[tuple[int, ...], _Score] = {(): (0.0, _NEVER)}
    prior: dict[tuple[int, ...], float] = {(): 0.0}
    # Most frames are blank for certain: there every path ends with one, and which is best does not change.
    is_blank_T = logits_TV[:, BLANK + 1 :].max(axis=1, initial=-np.inf) < logits_TV[:, BLANK] + math.log(LIKELY)
    for logits_V, is_blank in zip(logits_TV, is_blank_T, strict=True):
        if is_blank:
            beam = {prefix: (_sum(*score), _NEVER) for prefix, score in beam.items()}
            continue
        scores_V = _log_softmax(logits_V)
        likely = np.flatnonzero(scores_V > math.log(LIKELY)).tolist()
        beam = _step(beam, scores_V, [token for token in likely if token != BLANK])
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


def _log_softmax(logits_V: Float32) -> np.ndarray:
    scores_V = logits_V.astype(np.float64) - logits_V.max()
    return scores_V - math.log(np.exp(scores_V).sum())


def _sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    low, high = min(a, b), max(a, b)
    return high if low <= _NEVER / 2 else high + math.log1p(math.exp(low - high))
