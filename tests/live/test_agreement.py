"""What is committed stays, and nothing that was said is lost or comes twice, however windows grow and are cut."""

from hypothesis import given
from hypothesis import strategies as st

from zhiyin.live.agreement import Agreement, continuation, split
from zhiyin.result import Word
from zhiyin.text.score import edits

NAMES = ("five", "two", "打", "开", "signal", "Two,")


def timed(texts: list[str], step_s: float = 0.4) -> list[Word]:
    """Words one after the other, each with a pause behind it."""
    return [Word(text, i * step_s, (i + 0.8) * step_s, "ctc") for i, text in enumerate(texts)]


def texts(words: list[Word]) -> list[str]:
    return [word.text for word in words]


words_strategy = st.lists(st.sampled_from(NAMES), max_size=8)


@given(words_strategy, words_strategy, st.integers(0, 8))
def test_continuation_is_the_split_with_the_fewest_edits(known: list[str], heard: list[str], guess: int) -> None:
    keys = [[word.strip(",").lower() for word in some] for some in (known, heard)]
    costs = [edits(keys[0], keys[1][:count]) for count in range(len(heard) + 1)]
    best = [count for count, cost in enumerate(costs) if cost == min(costs)]
    found = continuation(timed(known), timed(heard), guess=guess)
    assert found in best and abs(found - guess) == min(abs(count - guess) for count in best)


@given(st.booleans(), st.data())
def test_committed_words_never_change(is_timed: bool, data: st.DataObject) -> None:
    """For any hypotheses, however absurd: everything that was ever fixed comes out, once, in order, unchanged."""
    state = Agreement(timed=is_timed, hold_s=0.3, hold_words=1)
    fixed: list[str] = []  # everything ever committed or closed
    dropped = 0  # of them, no longer in the window
    said: list[str] = []  # what segments were made of
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(("hear", "hear", "hear", "close", "drop", "part")))
        heard = timed(data.draw(words_strategy), data.draw(st.sampled_from((0.3, 0.5))))
        if action == "hear":
            state.hear(heard, data.draw(st.floats(0, 5)))
        elif action == "close":
            said += texts(state.close(heard))
        elif action == "drop":
            count = data.draw(st.integers(0, len(state.fixed)))
            said += texts(state.settle())
            state.drop(count)
            dropped += count
        else:
            held = len(state.fixed)
            first = state.first_open
            closed = texts(state.close_part(heard, data.draw(st.floats(0, 5))))
            said += closed
            fixed += closed[held - first :]
            dropped = len(fixed) - len(state.fixed)
        now = texts(state.fixed)
        assert now[: len(fixed) - dropped] == fixed[dropped:], "a fixed word changed"
        fixed = fixed[:dropped] + now
        assert said == fixed[: len(said)], "a segment says something else than was committed"
        assert said + texts(state.committed) == fixed, "a committed word is in no segment"
        starts = [word.start_s for word in state.fixed]
        assert not is_timed or starts == sorted(starts)


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=30), st.data())
def test_nothing_is_lost_or_comes_twice(truth: list[str], data: st.DataObject) -> None:
    """Hypotheses that are right but for the last 0.3 s; the window is cut where the words say it can be."""
    state = Agreement(timed=True, hold_s=0.3, hold_words=1)
    words = timed(truth)
    start_s, until_s, out = 0.0, 0.0, list[str]()
    while until_s < words[-1].end_s + 0.5:
        until_s += data.draw(st.floats(0.1, 0.9))
        jitter = data.draw(st.floats(-0.05, 0.05))
        heard = [
            Word(word.text, word.start_s + jitter, word.end_s + jitter, "ctc")
            for word in words
            if start_s < (word.start_s + word.end_s) / 2 and word.end_s <= until_s - 0.3
        ]
        if data.draw(st.integers(0, 3)) == 0:  # a pause ends a segment, the window goes on
            out += texts(state.close(heard))
            continue
        noise = data.draw(st.lists(st.sampled_from(("mumble", *NAMES)), max_size=1))
        state.hear([*heard, *(Word(text, until_s - 0.2, until_s, "ctc") for text in noise)], until_s)
        if until_s - start_s > 3 and (found := state.boundary(until_s - 1.5)):
            out += texts(state.settle())
            state.drop(found[0])
            start_s = max(start_s, found[1])
    out += texts(state.close([word for word in words if start_s < (word.start_s + word.end_s) / 2]))
    assert out == truth


@given(st.lists(st.sampled_from(("one", "two", "三", "six")), min_size=1, max_size=12, unique=False))
def test_agreement_by_text_alone(truth: list[str]) -> None:
    """Without times: every hypothesis one word longer, its last word wrong."""
    state = Agreement(timed=False, hold_s=0.3, hold_words=1)
    for count in range(1, len(truth) + 1):
        state.hear(split(" ".join([*truth[: count - 1], "mumble"])), float(count))
        assert texts(state.fixed) == truth[: max(0, count - 2)]
    assert texts(state.close(split(" ".join(truth)))) == truth


def test_punctuation_and_case_are_no_disagreement() -> None:
    state = Agreement(timed=False, hold_s=0.3, hold_words=1)
    state.hear(split("Turn left."), 1.0)
    state.hear(split("turn left and go"), 2.0)
    assert texts(state.fixed) == ["turn", "left"]


def test_what_is_fixed_behind_a_cut_is_not_said_again() -> None:
    for is_timed in (True, False):
        state = Agreement(timed=is_timed, hold_s=0.0, hold_words=0)
        heard = timed(["one", "two", "three", "four"])
        state.hear(heard, 9.0)
        state.hear(heard, 9.0)
        assert texts(state.close_part(heard[:2], 0.75)) == ["one", "two", "three", "four"]
        assert texts(state.fixed) == ["three", "four"] and not state.committed
        assert texts(state.close([*heard[2:], Word("five", 1.6, 1.9)])) == ["five"]


def test_words_of_a_text() -> None:
    assert texts(split("打开，wifi (now)! 好的。 it's")) == ["打", "开，", "wifi", "(now)!", "好", "的。", "it's"]
