"""Turns after a cut: what a guard or a merge leaves of a text is left of its turns. And segments in written form."""

from hypothesis import given
from hypothesis import strategies as st

from zhiyin.result import Rewrite, Segment, Turn, Word
from zhiyin.segments import cut_turns, with_written
from zhiyin.tasks.parse import join_words

_WORDS = st.lists(st.sampled_from(["a", "ab", "b", "好", "天", "c,"]), min_size=1, max_size=5)
_TURNS = st.lists(st.tuples(st.sampled_from(["Speaker 1", "Speaker 2", ""]), _WORDS), max_size=5)


def bare(text: str) -> str:
    return "".join(text.split())


@given(_TURNS, st.booleans(), st.data())
def test_turns_hold_what_is_left_of_their_text(
    talk: list[tuple[str, list[str]]], from_end: bool, data: st.DataObject
) -> None:
    turns = tuple(Turn(speaker, join_words(words)) for speaker, words in talk)
    words = [word for _, words in talk for word in words]
    kept = [word for word in words if data.draw(st.booleans())]
    left = cut_turns(turns, join_words(kept), from_end=from_end)
    assert bare("".join(turn.text for turn in left)) == bare(join_words(kept))
    speakers = iter(turn.speaker for turn in turns)
    assert all(turn.speaker in speakers for turn in left), "in the order in which they spoke"
    assert all(turn.text for turn in left)


def test_a_beginning_is_cut_off_the_first_turns() -> None:
    turns = (Turn("Speaker 1", "b c"), Turn("Speaker 2", "b c d"))
    assert cut_turns(turns, "b c d", from_end=True) == (Turn("Speaker 2", "b c d"),)
    assert cut_turns(turns, "b c", from_end=False) == (Turn("Speaker 1", "b c"),)
    assert cut_turns(turns, "b c b c d") == turns
    assert cut_turns((), "b") == ()


WORDS = (Word("they", 0.0, 0.5), Word("paid", 0.5, 0.9))


def test_both_forms_and_the_map_between_them() -> None:
    segment = with_written(Segment(0.0, 2.0, "they paid twenty five dollars today", WORDS))
    assert segment.text == "they paid twenty five dollars today"
    assert segment.written == "they paid $25 today"
    assert segment.written_spans == (Rewrite(10, 29, 10, 13),)
    assert segment.words == WORDS, "times are those of the words as spoken"
    assert with_written(Segment(0.0, 1.0)).written == ""
    assert with_written(Segment(0.0, 1.0, "go left")).written == "go left", "shows that it was asked"


def test_a_language_without_rules_is_left_alone() -> None:
    assert with_written(Segment(0.0, 1.0, "三十二", language="ja")).written == "三十二"
    assert with_written(Segment(0.0, 1.0, "三十二", language="zh-CN")).written == "32"
    assert with_written(Segment(0.0, 1.0, "三十二", language="Chinese")).written == "32"


def test_turns_have_their_written_form() -> None:
    turns = (Turn("Speaker 1", "twenty five"), Turn("Speaker 2", "thirty"))
    segment = with_written(Segment(0.0, 1.0, "twenty five thirty", turns=turns))
    assert [turn.written for turn in segment.turns] == ["25", "30"]
