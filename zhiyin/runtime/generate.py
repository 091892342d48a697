"""Prompts in, token ids out: greedy decoding of a batch on any backend, in numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zhiyin.errors import UserError
from zhiyin.runtime.base import Backend, Float32
from zhiyin.runtime.bias import ROOT, Bias


@dataclass(frozen=True)
class Prompt:
    """What the model is told: ``[before] [begin] [speech] [end] [after]``; without speech, text alone."""

    before_ids: Sequence[int] = ()
    vectors_SD: Float32 | None = None
    after_ids: Sequence[int] = ()


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        ids: tokens, without the end token.
        ended: whether the model ended by itself; otherwise the limit or the end of its memory cut it.
        mean_logprob: mean log-probability of the tokens said, the end token included, natural logarithm.
    """

    ids: tuple[int, ...]
    ended: bool
    mean_logprob: float


def decode(
    backend: Backend,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
    forbid: Sequence[int] = (),
    bias: Bias | None = None,
) -> list[Reply]:
    """Greedy replies; each is what the prompt alone would get.

    Args:
        backend: a model.
        prompts: one or more, of any lengths.
        max_new_tokens: at most so many tokens per reply, at least 1; the cache may allow fewer.
        repetition_penalty: divides positive and multiplies negative scores of tokens already said (CTRL, Keskar et
            al. 2019, equation 1); 1 changes nothing.
        forbid: ids that are never said.
        bias: hotwords made likelier, from `runtime.bias.build`; confidences stay those of the model alone.

    Raises:
        UserError: a prompt does not fit the model's memory.
    """
    embeds = [_embed(backend, prompt) for prompt in prompts]
    for row in embeds:
        if len(row) > backend.spec.max_tokens:
            raise UserError(
                f"prompt: {len(row)} tokens with its speech; model '{backend.spec.name}' remembers"
                f" {backend.spec.max_tokens} including its reply; use shorter text or shorter windows"
            )
    drafts = [_Draft(min(max_new_tokens, backend.spec.max_tokens - len(row) + 1)) for row in embeds]
    active = list(range(len(prompts)))
    session = backend.start(len(prompts)) if prompts else None
    while active and session is not None:
        logits_BV = session.extend(embeds)
        for i, logits_V in zip(active, logits_BV, strict=True):
            drafts[i].choose(logits_V, backend.spec.eos_id, repetition_penalty, forbid, bias)
        rows = [row for row, i in enumerate(active) if not drafts[i].done]
        if 0 < len(rows) < len(active):
            session.keep(rows)
        active = [active[row] for row in rows]
        embeds = list(backend.embed([drafts[i].ids[-1] for i in active])[:, None]) if active else []
    return [draft.reply() for draft in drafts]


def ctc_greedy(logits_TV: Float32 | None) -> tuple[list[int], float]:
    """The best path through a CTC head's logits: repeats merged, blanks (id 0) left out.

    Returns:
        Token ids, and the mean probability of the frames that say them (1 where nothing is said).

    Source: Graves et al. 2006, section 3.2, best path decoding.

    Raises:
        UserError: the model has no CTC head.
    """
    if logits_TV is None:
        raise UserError("the model says its transcript comes from a CTC head, but has none; export it again")
    path = logits_TV.argmax(axis=1)
    kept = path[np.diff(path, prepend=-1) != 0]
    spoken = logits_TV[path != 0].astype(np.float64)
    best = 1.0 / np.exp(spoken - spoken.max(axis=1, keepdims=True, initial=-np.inf)).sum(axis=1)
    return [int(token) for token in kept if token != 0], float(best.mean()) if len(best) else 1.0


class _Draft:
    """A reply while it grows."""

    def __init__(self, limit: int):
        self.limit = limit
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.ended = False
        self.node = ROOT  # of the bias

    @property
    def done(self) -> bool:
        return self.ended or len(self.ids) >= self.limit

    def choose(
        self, logits_V: np.ndarray, eos_id: int, penalty: float, forbid: Sequence[int], bias: Bias | None
    ) -> None:
        """Take the best token of one step."""
        if not np.isfinite(logits_V).all():
            raise FloatingPointError("the model's scores are not finite: its weights are broken, or overflow here")
        scores_V = logits_V
        if penalty != 1.0 or len(forbid):
            scores_V = logits_V.copy()
            said = list(set(self.ids))
            scores_V[said] = np.where(scores_V[said] > 0, scores_V[said] / penalty, scores_V[said] * penalty)
            scores_V[list(forbid)] = -np.inf
        if bias is not None:
            scores_V = bias.add(scores_V, self.node)
        token = int(scores_V.argmax())
        self.node = bias.step(self.node, token) if bias is not None else ROOT
        top = logits_V.max()
        total = np.exp(logits_V - top).sum(dtype=np.float64)  # a vocabulary of 150,000 is summed each step
        self.logprobs.append(float(logits_V[token]) - float(top) - float(np.log(total)))
        self.ended = token == eos_id
        if not self.ended:
            self.ids.append(token)

    def reply(self) -> Reply:
        return Reply(tuple(self.ids), self.ended, float(np.mean(self.logprobs)))


def _embed(backend: Backend, prompt: Prompt) -> Float32:
    parts = [backend.embed(prompt.before_ids)]
    if prompt.vectors_SD is not None:
        parts += [backend.markers[:1], prompt.vectors_SD, backend.markers[1:]]
    return np.concatenate([*parts, backend.embed(prompt.after_ids)])
