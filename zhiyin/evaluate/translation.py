"""BLEU and chrF of translations, as what each sentence adds to the sums they are made of."""

import importlib
import importlib.util
from collections import Counter
from typing import Any

import numpy as np

from zhiyin.evaluate.bootstrap import Matrix
from zhiyin.text.normalize import has_wide

CHRF_ORDER = 6
CHRF_BETA = 2.0
BLEU_ORDER = 4


def can_bleu() -> bool:
    """Whether sacreBLEU is here (extra ``eval``)."""
    return importlib.util.find_spec("sacrebleu") is not None


def tokenizer(reference: str) -> str:
    """The sacreBLEU tokeniser for the language of a reference: ``char`` with kana, ``zh`` with Han, else ``13a``."""
    if any("\u3040" <= char <= "\u30ff" for char in reference):
        return "char"
    return "zh" if has_wide(reference) else "13a"


def bleu_stats(hypothesis: str, reference: str, tokenize: str) -> list[float]:
    """Matches and n-grams of orders 1 to 4, then lengths of hypothesis and reference, by sacreBLEU."""
    scored = _metric(tokenize).sentence_score(hypothesis, [reference])
    return [*scored.counts, *scored.totals, scored.sys_len, scored.ref_len]


def bleu(sums_RK: Matrix) -> Matrix:
    """Corpus BLEU between 0 and 1 of sums of `bleu_stats`, with sacreBLEU's own settings (smoothing ``exp``).

    Source: Papineni et al. 2002; Post 2018, "A call for clarity in reporting BLEU scores".
    """
    compute = importlib.import_module("sacrebleu").BLEU.compute_bleu
    found = []
    for sums in np.rint(sums_RK).astype(int).tolist():
        parts = (sums[:BLEU_ORDER], sums[BLEU_ORDER : 2 * BLEU_ORDER], sums[-2], sums[-1])
        found.append(compute(*parts, smooth_method="exp").score / 100)
    return np.array(found)


def signature(tokenize: str) -> str:
    """sacreBLEU's name for the settings, for the report."""
    version = importlib.import_module("sacrebleu").__version__
    return f"nrefs:1|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{version}"


def chrf_stats(hypothesis: str, reference: str) -> list[float]:
    """For each order 1 to 6: character n-grams of the hypothesis, of the reference, and those both have."""
    said, heard = "".join(reference.split()), "".join(hypothesis.split())
    stats: list[float] = []
    for order in range(1, CHRF_ORDER + 1):
        expected, got = _ngrams(said, order), _ngrams(heard, order)
        # without a reference of this order there is nothing to be right about, as sacreBLEU has it
        stats += [got.total() if expected else 0, expected.total(), (expected & got).total()]
    return stats


def chrf(sums_RK: Matrix) -> Matrix:
    """Corpus chrF2 between 0 and 1 of sums of `chrf_stats`: the F-score of mean precision and mean recall.

    Source: Popović 2015, "chrF: character n-gram F-score"; orders that one side lacks do not count, as in sacreBLEU.
    """
    got, expected, both = (sums_RK[:, kind::3] for kind in range(3))
    counts = (got > 0) & (expected > 0)
    orders = np.maximum(1, counts.sum(1))
    precision = np.where(counts, both / np.maximum(1, got), 0).sum(1) / orders
    recall = np.where(counts, both / np.maximum(1, expected), 0).sum(1) / orders
    below = CHRF_BETA**2 * precision + recall
    return np.where(below > 0, (1 + CHRF_BETA**2) * precision * recall / np.where(below > 0, below, 1), 0.0)


def _ngrams(text: str, order: int) -> "Counter[str]":
    return Counter(text[at : at + order] for at in range(len(text) - order + 1))


def _metric(tokenize: str) -> Any:
    return importlib.import_module("sacrebleu").BLEU(tokenize=tokenize, effective_order=True)
