"""BLEU and chrF of sums are those of sacreBLEU."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.evaluate import translation
from zhiyin.text.target import language_of

PAIRS = [
    ("the cat sat on the mat .", "the cat sat on a mat ."),
    ("Hello, world! It costs 3.5%.", "hello world , it costs 3.5 % ."),
    ("", "nothing was said here"),
    ("a", "b"),
    ("今天天气很好，我们去公园吧。", "今天天气不错，我们去公园。"),
    ("打开客厅的灯 please", "请打开客厅灯"),
]
needs_sacrebleu = pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is None, reason="needs the extra eval")


def chrf(pairs: list[tuple[str, str]]) -> float:
    sums_RK = np.sum([translation.chrf_stats(*pair) for pair in pairs], 0, keepdims=True)
    return float(translation.chrf(sums_RK.astype(float))[0])


@pytest.mark.parametrize(
    ("text", "spoken", "language"),
    [
        ("房子太大 ok", "en", "zh"),
        ("das haus", "en", "de"),
        ("the house", "de", "en"),
        ("the house", "", "en"),
        ("家は大きい", "en", ""),
        (" ", "en", ""),
    ],
)
def test_the_language_of_a_translation(text: str, spoken: str, language: str) -> None:
    assert language_of(text, spoken) == language


@needs_sacrebleu
@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_bleu_of_a_corpus(tokenize: str) -> None:
    import sacrebleu

    theirs = sacrebleu.BLEU(tokenize=tokenize)
    expected = theirs.corpus_score([hyp for hyp, _ in PAIRS], [[ref for _, ref in PAIRS]])
    sums_RK = np.sum([translation.bleu_stats(*pair, tokenize) for pair in PAIRS], 0, keepdims=True)
    assert translation.bleu(sums_RK)[0] == pytest.approx(expected.score / 100)
    assert str(theirs.get_signature()) == translation.signature(tokenize)


@needs_sacrebleu
def test_chrf_of_a_corpus() -> None:
    import sacrebleu

    expected = sacrebleu.CHRF().corpus_score([hyp for hyp, _ in PAIRS], [[ref for _, ref in PAIRS]])
    assert chrf(PAIRS) == pytest.approx(expected.score / 100)


@needs_sacrebleu
@settings(max_examples=50)
@given(st.lists(st.tuples(st.text("ab 好的", max_size=10), st.text("ab 好的", max_size=10)), min_size=1, max_size=3))
def test_chrf_of_odd_texts(pairs: list[tuple[str, str]]) -> None:
    import sacrebleu

    expected = sacrebleu.CHRF().corpus_score([hyp for hyp, _ in pairs], [[ref for _, ref in pairs]])
    assert chrf(pairs) == pytest.approx(expected.score / 100, abs=1e-9)


def test_the_tokeniser_follows_the_script_of_the_truth() -> None:
    assert [translation.tokenizer(text) for text in ("turn left", "向左转", "左に曲がる")] == ["13a", "zh", "char"]
