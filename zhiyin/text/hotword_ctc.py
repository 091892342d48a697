"""Which hotwords a CTC head may have heard: of thousands, the few worth naming in a prompt.

A prompt bears about fifty words; more of them make a model worse (`docs/hotwords.md`). Where a model has a CTC head,
its logits say what may have been said before the prompt is made::

    said_in = [spellings(tokenizer, word) for word in words]  # runtime.bias; once for a request
    if len(words) > MAX_IN_PROMPT and encoded.ctc_TV is not None:
        words = [words[i] for i in likely(encoded.ctc_TV, said_in)]

The head must speak the tokens of that tokenizer. A transcript that is the CTC path itself is left alone: words put into
it by their score came too often where nobody had said them (`docs/hotwords.md`).

The score of a word is what the best path through the frames loses when it is made to say the word somewhere: the
log-probability of the best stretch of path that says its tokens, less that of the best path of all through the same
frames, for each token. 0 means that greedy decoding says it. This is the keyword score of CTC word spotting (Andrusenko
et al. 2024, "Fast Context-Biasing for CTC and Transducer ASR models with CTC-based Word Spotter", arXiv 2406.07096)
with the greedy path as what else may have been said. Nothing of the head's normalisation is needed: it falls out.

Shapes: `T` frames, `V` vocabulary, `W` words, `N` nodes of the trie of all words, `N = 0` its root.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zhiyin.text.hotwords import MAX_IN_PROMPT

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

LEAST = -8.0  # of the score, in natural logarithms for each token; benchmarks/hotwords_model.py measures it
_NODES_AT_ONCE = 16_384  # of the trie: with 750 frames 50 MB


def likely(
    ctc_TV: Float32,
    words: Sequence[Sequence[Sequence[int]]],
    *,
    limit: int = MAX_IN_PROMPT,
    least: float = LEAST,
    blank: int = 0,
) -> list[int]:
    """Numbers of the words that may have been said, the likeliest first; of equal ones the longer, then the earlier.

    Args:
        ctc_TV: scores of the CTC head, not normalised.
        words: of each word the token sequences it may be said in; the best counts.
        limit: at most so many.
        least: the lowest score, see `scores`.
        blank: the token that says nothing.

    Raises:
        ValueError: as for `scores`.
    """
    owners = [i for i, spellings in enumerate(words) for _ in spellings]
    flat = [ids for spellings in words for ids in spellings]
    found = scores(ctc_TV, flat, least=least, blank=blank)
    best: dict[int, tuple[float, int]] = {}
    for i, ids, score in zip(owners, flat, found, strict=True):
        if score >= least:
            best[i] = max(best.get(i, (-np.inf, 0)), (round(float(score), 4), len(ids)))
    return sorted(best, key=lambda i: (-best[i][0], -best[i][1], i))[:limit]


def scores(
    ctc_TV: Float32, words: Sequence[Sequence[int]], *, least: float = -np.inf, blank: int = 0
) -> NDArray[np.float64]:
    """What saying each token sequence [W] costs for each of its tokens, at most 0; minus infinity where it cannot be.

    Sequences that cannot reach `least`, because no frame holds their tokens, are not searched: minus infinity as well.
    The time grows with frames times different beginnings of words.

    Raises:
        ValueError: a blank among the tokens, or a token outside the vocabulary.
    """
    found_W = np.full(len(words), -np.inf)
    sizes_W = np.array([len(ids) for ids in words], np.int64)
    flat = np.fromiter((token for ids in words for token in ids), np.int64, int(sizes_W.sum()))
    if len(flat) and (flat.min() < 0 or flat.max() >= ctc_TV.shape[1] or (flat == blank).any()):
        raise ValueError(f"tokens of hotwords lie in 0 to {ctc_TV.shape[1] - 1} and none is the blank {blank}")
    if not len(flat) or not len(ctc_TV):
        return found_W
    lost_TV = ctc_TV - ctc_TV.max(axis=1, keepdims=True)
    best_V = lost_TV.max(axis=0)  # no word can do better than each token in its best frame
    ends_W = np.cumsum(sizes_W)
    total = np.concatenate([[0.0], np.cumsum(best_V[flat], dtype=np.float64)])
    hope_W = (total[ends_W] - total[ends_W - sizes_W]) / np.maximum(sizes_W, 1)
    rows = [int(i) for i in np.flatnonzero((sizes_W > 0) & (hope_W >= least - 1e-6))]
    rows.sort(key=lambda i: tuple(words[i]))  # neighbours share their beginnings
    while rows:
        tokens_N, parents_N, last, done = _trie(rows, words)
        best_N = _search(lost_TV, tokens_N, parents_N, blank)
        found_W[rows[:done]] = best_N[last] / sizes_W[rows[:done]]
        rows = rows[done:]
    return np.minimum(found_W, 0.0)


def _trie(rows: Sequence[int], words: Sequence[Sequence[int]]) -> tuple[Int64, Int64, list[int], int]:
    """Tokens [N] and parents [N] of a trie of the first words, where each of them ends, and how many they are."""
    tokens, parents, last = [-1], [0], list[int]()
    known: dict[tuple[int, int], int] = {}
    for row in rows:
        if len(tokens) >= _NODES_AT_ONCE:
            break
        node = 0
        for token in words[row]:
            key = (node, token)
            if key not in known:
                known[key] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = known[key]
        last.append(node)
    return np.array(tokens, np.int64), np.array(parents, np.int64), last, len(last)


def _search(lost_TV: Float32, tokens_N: Int64, parents_N: Int64, blank: int) -> Float32:
    """What the best path that says the tokens from the root to each node loses, wherever it begins and ends.

    Two states for each node, its token and the blank after it (Graves et al. 2006, section 4.1); a path begins before
    any frame at no cost, which is what the root's states stand for.
    """
    again = np.flatnonzero(tokens_N == tokens_N[parents_N])[1:]  # between equal tokens a blank must stand; not the root
    above = parents_N[again]
    said_N = np.full(len(tokens_N), -np.inf, np.float32)  # the path ends in the node's token
    waits_N = said_N.copy()  # or in a blank after it
    said_N[0] = waits_N[0] = 0.0
    best_N = said_N.copy()
    for lost_V in lost_TV:
        either_N = np.maximum(said_N, waits_N)
        begun_N = either_N[parents_N]
        begun_N[again] = waits_N[above]
        np.add(either_N, lost_V[blank], out=waits_N)
        np.maximum(said_N, begun_N, out=said_N)
        said_N += lost_V[tokens_N]
        said_N[0] = waits_N[0] = 0.0
        np.maximum(best_N, said_N, out=best_N)
    return best_N
