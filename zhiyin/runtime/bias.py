"""Hotwords in the decoder: a trie of their tokens makes the tokens that go on with a begun hotword likelier.

Each token of a hotword adds a bonus to its score; when the branch is left before its end, what it was given is taken
back: half a hotword is worth nothing. Where a branch breaks off, the longest ending of what was said that begins
another hotword goes on (Aho and Corasick 1975). This is the arithmetic of icefall's `context_graph.py` (k2-fsa/icefall)
and of shallow fusion with a biasing FST (Zhao et al. 2019, "Shallow-Fusion End-to-End Contextual Biasing", section 3),
here for greedy decoding, as in Andrusenko et al. 2025 ("TurboBias", arXiv 2508.07014).

How the pipeline uses it, once for a request::

    bias = build([spellings(model.tokenizer, word.text) for word in hotwords.words], [word.weight for word in ...])
    replies = decode(backend, prompts, ..., bias=bias)

Every sequence of the batch has its own place in the trie. Without hotwords, pass None: nothing changes.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

BONUS = 1.0  # added to the logit of each token of a hotword; benchmarks/hotwords_model.py measures it
ROOT = 0


@dataclass(frozen=True, eq=False)
class Bias:
    """A trie of hotwords; a node stands for the tokens of a hotword said so far, `ROOT` for none.

    Attributes:
        next_of: for each node, token -> node.
        fail: for each node, the node of the longest ending of its tokens that begins a hotword.
        gain: for each node, what its token adds.
        held: for each node, what was added on the way to it and is taken back where no hotword gets complete.
    """

    next_of: tuple[dict[int, int], ...]
    fail: tuple[int, ...]
    gain: tuple[float, ...]
    held: tuple[float, ...]

    def step(self, node: int, token: int) -> int:
        """The node after one more token."""
        while node != ROOT and token not in self.next_of[node]:
            node = self.fail[node]
        return self.next_of[node].get(token, ROOT)

    def add(self, scores_V: NDArray[np.floating], node: int) -> NDArray[np.floating]:
        """Scores of the next token with the bonuses of a sequence that has come to this node; a new array."""
        biased_V = scores_V - scores_V.dtype.type(self.held[node])
        seen: set[int] = set()
        at = node
        while True:  # the nearest node that a token goes on from counts
            fresh = {token: child for token, child in self.next_of[at].items() if token not in seen}
            tokens = np.fromiter(fresh, np.int64, len(fresh))
            kept = min(self.held[at], self.held[node])  # of what was given; the rest is lost with the branch
            bonus = np.array([self.gain[child] + kept for child in fresh.values()], scores_V.dtype)
            biased_V[tokens] += bonus
            seen |= fresh.keys()
            if at == ROOT:
                return biased_V
            at = self.fail[at]


def build(
    words: Sequence[Sequence[Sequence[int]]], weights: Sequence[float] | None = None, *, bonus: float = BONUS
) -> Bias | None:
    """A trie of hotwords, or None where there are no tokens.

    Args:
        words: for each hotword the token sequences it may be said in, from `spellings`.
        weights: of each hotword; its tokens get `bonus` times the square root of it, so that 1 is usual and 4 doubles.
        bonus: of one token, in units of logits (natural logarithm).
    """
    children: list[dict[int, int]] = [{}]
    gain, held, complete = [0.0], [0.0], [False]
    for i, variants in enumerate(words):
        own = bonus * float(np.sqrt(weights[i])) if weights is not None else bonus
        for ids in variants:
            node = ROOT
            for token in ids:
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                    gain.append(0.0)
                    complete.append(False)
                node = children[node][token]
                gain[node] = max(gain[node], own)
            complete[node] = node != ROOT
    if len(children) == 1:
        return None
    held = [0.0] * len(children)
    fail = [ROOT] * len(children)
    waiting = deque([ROOT])
    while waiting:  # breadth first: the fail of a node is nearer to the root
        node = waiting.popleft()
        for token, child in children[node].items():
            held[child] = 0.0 if complete[child] else held[node] + gain[child]
            at = fail[node]
            while at != ROOT and token not in children[at]:
                at = fail[at]
            fail[child] = children[at].get(token, ROOT) if node != ROOT else ROOT
            waiting.append(child)
    return Bias(tuple(children), tuple(fail), tuple(gain), tuple(held))


def spellings(tokenizer: Tokenizer, word: str) -> list[tuple[int, ...]]:
    """The token sequences a hotword may be said in: first, after a space or another character, in small letters.

    Some models know small letters only; the correction by sound puts the capitals right afterwards.
    """
    found: dict[tuple[int, ...], None] = {}
    for form in dict.fromkeys((word, word.lower())):
        for text in (form, f" {form}"):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            while ids and len(ids) > 1 and not tokenizer.decode(ids[:1]).strip():
                found[tuple(ids)] = None
                ids = ids[1:]  # the mark of a space stands alone before Chinese
            found[tuple(ids)] = None
    found.pop((), None)
    return list(found)
