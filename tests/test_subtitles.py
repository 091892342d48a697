"""Cues by the rules of the style guides: nothing lost, nothing too long, no time that was not heard."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin import write
from zhiyin.result import Result, Rewrite, Segment, Word
from zhiyin.subtitles import RULES, Cue, Rules, Shown, cues, timed, wrap
from zhiyin.tasks.parse import join_words

LETTERS, WIDE = 42, 16
TEXTS = st.one_of(
    st.text("abcdefgh", min_size=1, max_size=14),
    st.sampled_from("天地玄黄宇宙洪荒"),
    st.sampled_from(["yes.", "well,", "really?", "好。", "对，", "don't", "(so)"]),
)


def line_share(line: str) -> float:
    wide = len(re.findall("[\u2e80-\uffef]", line))
    return wide / WIDE + (len(line) - wide) / LETTERS


def reading_s(cue: Cue) -> float:
    text = " ".join(cue.lines)
    wide = len(re.findall("[\u2e80-\uffef]", text))
    return wide / 9 + (len(text) - wide) / 20


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    """Timed words one after the other, some with long pauses before them, in segments of any number of words."""
    made, now_s = [], 0.0
    for _ in range(draw(st.integers(1, 4))):
        words = []
        for text in draw(st.lists(TEXTS, min_size=1, max_size=40)):
            start_s = now_s + draw(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.5]))
            now_s = start_s + draw(st.floats(0.05, 1.2))
            words.append(Word(text, start_s, now_s))
        text = join_words(word.text for word in words)
        made.append(Segment(words[0].start_s, now_s, text, tuple(words)))
    return made


def shown(found: list[Segment]) -> list[Shown]:
    return [Shown(one.start_s, one.end_s, (one.text,), timed(one)) for one in found]


@given(segments())
def test_cues_of_timed_words_keep_all_rules(found: list[Segment]) -> None:
    made = cues(shown(found))
    assert " ".join(" ".join(cue.lines) for cue in made).replace(" ", "") == "".join(
        one.text.replace(" ", "") for one in found
    )
    words = [word for one in found for word in one.words]
    for cue, following in pairwise([*made, Cue(1e9, 1e9, ())]):
        assert 1 <= len(cue.lines) <= 2 and all(line == line.strip() and line for line in cue.lines)
        assert all(line_share(line) <= 1 + 1e-6 for line in cue.lines), cue
        assert cue.start_s < cue.end_s <= following.start_s
        assert cue.end_s - cue.start_s <= 7.0 + 1e-9
        assert cue.start_s in {word.start_s for word in words}, "a time nobody heard"
        # long enough to be read, where the next cue leaves the time
        enough = min(max(reading_s(cue), 5 / 6), 7.0)
        assert cue.end_s - cue.start_s >= min(enough, following.start_s - cue.start_s) - 1e-6
    for word in words:
        inside = [cue for cue in made if cue.start_s <= word.start_s < cue.end_s]
        assert len(inside) == 1 or word.start_s - 7.0 >= min(cue.start_s for cue in made)


@given(segments())
def test_words_are_read_when_they_are_said(found: list[Segment]) -> None:
    """Each cue holds exactly the words that begin in its own time, whatever the language between them."""
    made = cues(shown(found))
    for cue, following in pairwise([*made, Cue(1e9, 1e9, ())]):
        said = [w.text for one in found for w in one.words if cue.start_s <= w.start_s < following.start_s]
        assert "".join(cue.lines).replace(" ", "") == "".join(said).replace(" ", "")


@given(segments())
def test_the_same_again(found: list[Segment]) -> None:
    assert cues(shown(found)) == cues(shown(found))


@given(st.lists(TEXTS, max_size=60).map(join_words))
def test_without_times_lines_are_wrapped_and_no_time_is_made_up(text: str) -> None:
    segment = Segment(3.0, 25.0, text)
    assert timed(segment) == ()
    made = cues([Shown(3.0, 25.0, (text,))])
    assert [(cue.start_s, cue.end_s) for cue in made] == ([(3.0, 25.0)] if text else [])
    lines = [line for cue in made for line in cue.lines]
    assert all(line_share(line) <= 1 + 1e-6 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("turn left", ["turn left"]),
        ("a" * 42, ["a" * 42]),
        ("a" * 50, ["a" * 42, "a" * 8]),
        ("and then they went down to the harbour to see it", ["and then they went down", "to the harbour to see it"]),
        ("天" * 16, ["天" * 16]),
        ("天" * 17, ["天" * 8, "天" * 9]),
        ("今天天气很好我们去公园走一走吧。", ["今天天气很好我们去公园走一走吧。"]),
        ("今天天气很好我们要去那边公园走，一走吧", ["今天天气很好我们要", "去那边公园走，一走吧"]),
        ("打开 wifi 然后把北京的灯都关上再打开", ["打开 wifi 然后把北", "京的灯都关上再打开"]),
    ],
)
def test_lines(text: str, lines: list[str]) -> None:
    assert wrap(text) == lines


def test_no_line_begins_with_a_closing_mark() -> None:
    for size in range(10, 20):
        first, second = wrap("天" * size + "，" + "地" * (28 - size))
        assert not second.startswith("，")
        assert first + second == "天" * size + "，" + "地" * (28 - size)


def spoken(text: str, *, each_s: float = 0.4, pauses: dict[int, float] | None = None) -> Segment:
    words, now_s = [], 0.0
    for i, word in enumerate(text.split()):
        now_s += (pauses or {}).get(i, 0.0)
        words.append(Word(word, now_s, now_s + each_s))
        now_s += each_s
    return Segment(0.0, now_s, join_words(word.text for word in words), tuple(words))


def texts(made: list[Cue]) -> list[str]:
    return [" ".join(cue.lines) for cue in made]


def test_cut_where_a_sentence_ends_or_a_speaker_pauses() -> None:
    first, second = (
        "we went to the harbour and we saw no ship at all.",
        "so we came home again by the old road in the dark",
    )
    made = cues(shown([spoken(f"{first} {second}", each_s=0.3)]))
    assert texts(made) == [first, second]
    plain = spoken(f"{first} {second}".replace(".", ""), each_s=0.3, pauses={8: 0.9})
    assert texts(cues(shown([plain])))[0] == "we went to the harbour and we saw"


def test_a_long_pause_divides_what_would_fit() -> None:
    made = cues(shown([spoken("well yes", pauses={1: 1.2})]))
    assert [(cue.start_s, round(cue.end_s, 3), cue.lines) for cue in made] == [
        (0.0, 0.833, ("well",)),
        (1.6, 2.433, ("yes",)),
    ]
    assert [cue.end_s for cue in cues(shown([spoken("well yes", pauses={1: 1.2})]), duration_s=2.1)][1] == 2.1


def test_the_rules_are_parameters() -> None:
    narrow = Rules(line_letters=10, lines=1, max_s=2.0, min_s=0.1, letters_per_s=1e9)
    made = cues(shown([spoken("turn left at the next light and go on")]), rules=narrow)
    assert all(len(cue.lines) == 1 and len(cue.lines[0]) <= 10 for cue in made)
    assert all(cue.end_s - cue.start_s <= 2.0 for cue in made)
    assert Rules(42, 16, 2, 5 / 6, 7.0, 20.0, 9.0, 1.0) == RULES


def test_written_numbers_take_the_time_of_all_their_words() -> None:
    segment = replace(
        spoken("call me at ten past five then", each_s=0.5),
        written="call me at 5:10 then",
        written_spans=(Rewrite(11, 24, 11, 15),),
    )
    assert timed(segment) == (
        Word("call ", 0.0, 0.5),
        Word("me ", 0.5, 1.0),
        Word("at ", 1.0, 1.5),
        Word("5:10 ", 1.5, 3.0),
        Word("then", 3.0, 3.5),
    )
    chinese = Segment(0, 4, "二零二四年好", tuple(Word(c, i / 2, i / 2 + 0.5) for i, c in enumerate("二零二四年好")))
    chinese = replace(chinese, written="2024年好", written_spans=(Rewrite(0, 4, 0, 4),))
    assert [(w.text, w.start_s, w.end_s) for w in timed(chinese)] == [("2024", 0, 2), ("年", 2, 2.5), ("好", 2.5, 3)]


def test_words_that_are_not_those_of_the_text_have_no_times() -> None:
    assert timed(replace(spoken("turn left"), text="turn right")) == ()


@given(segments())
def test_files_hold_the_cues(found: list[Segment]) -> None:
    """An SRT file read back by its own rules; labels stand in the first cue of a segment."""
    labelled = [replace(one, labels={"sgc": "male"}) for one in found]
    text = write.srt(Result("a.wav", found[-1].end_s + 1, ("asr",), segments=tuple(labelled)))
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    assert [int(block[0]) for block in blocks] == list(range(1, len(blocks) + 1))
    clock = r"(\d\d):(\d\d):(\d\d),(\d\d\d)"
    times = []
    for block in blocks:
        match = re.fullmatch(f"{clock} --> {clock}", block[1])
        assert match
        h, m, s, ms, *end = map(int, match.groups())
        times += [((h * 60 + m) * 60 + s) * 1000 + ms, ((end[0] * 60 + end[1]) * 60 + end[2]) * 1000 + end[3]]
    assert times == sorted(times)
    said = "".join("".join(block[2:]) for block in blocks)
    assert said.count("[male]") == len(found)
    assert said.replace("[male]", "").replace(" ", "") == "".join(one.text.replace(" ", "") for one in found)
