"""Token bias: hotwords begun go on, what was given is taken back, and without hotwords nothing changes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.test_generate import EOS, Scripted, say
from zhiyin.runtime.bias import ROOT, Bias, build, spellings
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.load import load

SIZE = 10


def logits(**scores: float) -> list[float]:
    """Scores of one step; `t3=2.0` is token 3, the others have none."""
    return [scores.get(f"t{token}", 0.0) for token in range(SIZE)]


def said(script: Sequence[Sequence[float]], bias: Bias | None, steps: int = 4) -> tuple[int, ...]:
    return decode(Scripted(script), [Prompt((8,))], max_new_tokens=steps, bias=bias)[0].ids


def test_a_hotword_that_is_nearly_the_best_is_said() -> None:
    script = [logits(t1=2.0, t2=1.5), logits(t5=2.0, t3=1.2), say(EOS)]
    assert said(script, None) == (1, 5)
    assert said(script, build([[(2, 3)]], bonus=1.0)) == (2, 3)


@pytest.mark.parametrize("gap", [1.01, 3.0, 8.0])
def test_no_hotword_is_inserted_against_better_evidence(gap: float) -> None:
    script = [logits(t1=gap), logits(t5=gap), say(EOS)]
    assert said(script, build([[(2, 3)]], bonus=1.0)) == (1, 5)


def test_what_was_given_is_taken_back_when_the_branch_is_left() -> None:
    """Two tokens were given 1 each: leaving costs 2, so that going on wins up to a gap of 3."""
    bias = build([[(2, 3, 4)]], bonus=1.0)
    begun = [logits(t2=1.0), logits(t3=1.0)]
    assert said([*begun, logits(t6=2.9), say(EOS)], bias) == (2, 3, 4)
    assert said([*begun, logits(t6=3.1), say(EOS)], bias) == (2, 3, 6)


def test_a_hotword_said_to_its_end_keeps_its_bonus() -> None:
    """After (2, 3) the longer hotword only gets the bonus of its own token."""
    bias = build([[(2, 3)], [(2, 3, 4)]], bonus=1.0)
    begun = [logits(t2=1.0), logits(t3=1.0)]
    assert said([*begun, logits(t4=0.1, t6=1.0), say(EOS)], bias) == (2, 3, 4)
    assert said([*begun, logits(t4=0.1, t6=1.2), say(EOS)], bias) == (2, 3, 6)


def test_a_heavier_hotword_gets_more() -> None:
    script = [logits(t1=1.5), logits(t5=1.5), say(EOS)]
    words = [[(2, 3)], [(4, 6)]]
    assert said(script, build(words, [1.0, 1.0], bonus=1.0)) == (1, 5)
    assert said(script, build(words, [1.0, 4.0], bonus=1.0)) == (4, 6), "a weight of 4 doubles"


def test_every_sequence_has_its_own_place_and_keeps_it_when_others_are_done() -> None:
    bias = build([[(2, 3, 4)]], bonus=1.0)
    hot = [logits(t2=1.0), logits(t3=0.5, t5=1.0), logits(t4=0.5, t5=1.0), say(EOS)]
    backend = Scripted([say(EOS)], hot, [say(1), say(EOS)], hot)
    replies = decode(backend, [Prompt((8,))] * 4, max_new_tokens=6, bias=bias)
    assert [reply.ids for reply in replies] == [(), (2, 3, 4), (1,), (2, 3, 4)]


def test_forbidden_tokens_stay_forbidden_and_confidence_is_the_model_s_own() -> None:
    bias = build([[(2, 3)]], bonus=5.0)
    script = [logits(t1=2.0), say(EOS)]
    assert decode(Scripted(script), [Prompt((8,))], max_new_tokens=3, bias=bias, forbid=(2,))[0].ids == (1,)
    [reply] = decode(Scripted([logits(t1=2.0)]), [Prompt((8,))], max_new_tokens=1, bias=bias)
    assert reply.ids == (2,)
    assert reply.mean_logprob == pytest.approx(-np.log(np.exp(2.0) + SIZE - 1))


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
WORDS = st.lists(TOKENS, min_size=1, max_size=5)


@given(WORDS, st.lists(st.integers(0, 3), max_size=12))
def test_the_place_is_the_longest_ending_that_begins_a_hotword(words: list[tuple[int, ...]], ids: list[int]) -> None:
    """Against looking at every ending of what was said."""
    bias = build([[word] for word in words])
    assert bias is not None
    node = ROOT
    for token in ids:
        node = bias.step(node, token)
    beginnings = {word[:size] for word in words for size in range(1, len(word) + 1)}
    longest = max((tuple(ids[at:]) for at in range(len(ids)) if tuple(ids[at:]) in beginnings), key=len, default=())
    walked = ROOT
    for token in longest:
        walked = bias.next_of[walked][token]
    assert node == walked


@given(WORDS, st.lists(st.integers(0, 3), max_size=12), st.floats(0.1, 5.0))
def test_no_token_gets_more_than_one_bonus_and_none_loses_more_than_was_given(
    words: list[tuple[int, ...]], ids: list[int], bonus: float
) -> None:
    bias = build([[word] for word in words], bonus=bonus)
    assert bias is not None
    node = ROOT
    for token in ids:
        node = bias.step(node, token)
    change_V = bias.add(np.zeros(5), node)
    assert change_V.max() <= bonus + 1e-9
    assert change_V.min() >= -bias.held[node] - 1e-9 >= -4 * bonus
    assert change_V[4] == -bias.held[node], "a token of no hotword"


@given(st.lists(st.lists(st.floats(-5, 5, width=32), min_size=SIZE, max_size=SIZE), min_size=1, max_size=6))
def test_without_hotwords_nothing_changes(script: list[list[float]]) -> None:
    plain = decode(Scripted(script), [Prompt((8,))], max_new_tokens=6)
    assert decode(Scripted(script), [Prompt((8,))], max_new_tokens=6, bias=build([])) == plain
    assert build([]) is None and build([[], [()]]) is None


def test_scores_given_stay_as_they_are() -> None:
    bias = build([[(2, 3)]])
    scores_V = np.zeros(SIZE, np.float32)
    assert bias is not None
    changed_V = bias.add(scores_V, ROOT)
    assert not scores_V.any() and changed_V.any() and changed_V.dtype == np.float32


def test_a_hotword_is_spelt_as_it_stands_in_sentences() -> None:
    """Each spelling says the word, and in a sentence one of them stands."""
    tokenizer = load().tokenizer
    for word, sentences in (("知音", ["知音", "打开知音", "a 知音"]), ("jarvis", ["jarvis", "hey jarvis now"])):
        found = spellings(tokenizer, word)
        assert {tokenizer.decode(list(ids)).strip() for ids in found} == {word}
        for sentence in sentences:
            ids = tokenizer.encode(sentence, add_special_tokens=False).ids
            windows = {tuple(ids[a:b]) for a in range(len(ids)) for b in range(a, len(ids) + 1)}
            assert windows & set(found), sentence
    assert set(spellings(tokenizer, "jarvis")) < set(spellings(tokenizer, "Jarvis")), "small letters too"
