"""Greedy decoding, on a backend that says what a script tells it."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.errors import UserError
from zhiyin.runtime.base import Device, Encoded, ModelSpec
from zhiyin.runtime.generate import Prompt, Reply, ctc_greedy, decode

EOS, WIDTH = 9, 4


class Scripted:
    """Row i of a batch follows script i: logits per step; embeddings carry the token id, markers -1 and -2."""

    name = "scripted"
    device = Device("cpu", "test")
    markers = np.array([[-1.0] * WIDTH, [-2.0] * WIDTH], np.float32)

    def __init__(self, *scripts: Sequence[Sequence[float]], places: int = 100):
        self.spec = ModelSpec("scripted", "zhiyin", ("asr",), EOS, max_tokens=places)
        self.scripts = scripts
        self.seen: list[list[list[float]]] = []

    def encode(self, mels: Sequence[np.ndarray]) -> list[Encoded]:
        raise NotImplementedError

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        return np.repeat(np.asarray(ids, np.float32)[:, None], WIDTH, axis=1)

    def start(self, batch: int) -> "Scripted":
        self.rows, self.step = list(range(batch)), 0
        return self

    def extend(self, embeds: Sequence[np.ndarray]) -> np.ndarray:
        self.seen.append([row[:, 0].tolist() for row in embeds])
        logits = [self.scripts[row][min(self.step, len(self.scripts[row]) - 1)] for row in self.rows]
        self.step += 1
        return np.array(logits, np.float32)

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


def say(token: int, score: float = 5.0, size: int = 10) -> list[float]:
    logits = [0.0] * size
    logits[token] = score
    return logits


def test_prompt_is_text_begin_speech_end_text() -> None:
    backend = Scripted([say(EOS)])
    decode(backend, [Prompt((1, 2), np.full((3, WIDTH), 0.5, np.float32), (4,))], max_new_tokens=5)
    assert backend.seen == [[[1, 2, -1, 0.5, 0.5, 0.5, -2, 4]]]


def test_rows_end_by_themselves_or_at_the_limit_and_leave_the_batch() -> None:
    backend = Scripted([say(1), say(2), say(EOS)], [say(EOS)], [say(3)])
    replies = decode(backend, [Prompt((7,)), Prompt((7, 7)), Prompt((8,))], max_new_tokens=4)
    assert [(reply.ids, reply.ended) for reply in replies] == [((1, 2), True), ((), True), ((3, 3, 3, 3), False)]
    assert backend.seen == [[[7], [7, 7], [8]], [[1], [3]], [[2], [3]], [[3]]], "each call gets the tokens just said"


def test_confidence_is_the_mean_log_probability_with_the_end_token() -> None:
    backend = Scripted([say(1, 2.0), say(EOS, 3.0)])
    [reply] = decode(backend, [Prompt((7,))], max_new_tokens=4)
    first, last = (np.exp(score) / (np.exp(score) + 9) for score in (2.0, 3.0))
    assert reply == Reply((1,), True, pytest.approx((np.log(first) + np.log(last)) / 2))


def test_the_end_of_the_memory_cuts_a_reply() -> None:
    backend = Scripted([say(3)], [say(4)], places=6)
    replies = decode(backend, [Prompt((1, 2)), Prompt((1,) * 6)], max_new_tokens=50)
    assert [(len(reply.ids), reply.ended) for reply in replies] == [(5, False), (1, False)]
    fed = max(len(call[0]) for call in backend.seen[1:])
    assert 2 + (len(backend.seen) - 1) * fed == 6, "the last token needs no place"


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"prompt: 7 tokens .* remembers 6 including its reply"):
        decode(Scripted([say(3)], places=6), [Prompt((1,) * 7)], max_new_tokens=5)


def test_repetition_penalty_divides_what_was_said_whatever_its_sign() -> None:
    positive = [[0.0] * 5 + [4.0, 3.0, 0.0, 0.0, 0.0]]
    negative = [[-9.0] * 5 + [-2.0, -3.0, -9.0, -9.0, -9.0]]
    for script in (positive, negative):
        assert decode(Scripted(script), [Prompt((5,))], max_new_tokens=2)[0].ids == (5, 5), "a prompt is no repetition"
        replies = decode(Scripted(script), [Prompt((5,))], max_new_tokens=2, repetition_penalty=2.0)
        assert replies[0].ids == (5, 6)


def test_forbidden_tokens_are_never_said() -> None:
    script = [[0.0] * 5 + [4.0, 3.0, 0.0, 0.0, 0.0]]
    [reply] = decode(Scripted(script), [Prompt((1,))], max_new_tokens=3, forbid=(5, EOS))
    assert reply.ids == (6, 6, 6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_stop_the_run(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        decode(Scripted([say(1, bad)]), [Prompt((1,))], max_new_tokens=3)


def test_no_prompts_no_replies() -> None:
    assert decode(Scripted(), [], max_new_tokens=3) == []


@given(st.lists(st.integers(0, 4), max_size=12))
def test_the_best_ctc_path_merges_repeats_and_drops_blanks(path: list[int]) -> None:
    logits = np.full((len(path), 5), -3.0, np.float32)
    logits[np.arange(len(path)), path] = 1.0
    ids, confidence = ctc_greedy(logits)
    assert ids == [token for token, _ in itertools.groupby(path) if token]
    sure = np.exp(1.0) / (np.exp(1.0) + 4 * np.exp(-3.0))
    assert confidence == pytest.approx(sure if any(path) else 1.0)


def test_a_model_without_ctc_head_says_so() -> None:
    with pytest.raises(UserError, match="has none"):
        ctc_greedy(None)
