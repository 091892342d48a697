"""Word times as CTM and TextGrid."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.made import lists
from zhiyin.data.formats import words
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord

AUDIO = Path("a.wav")
RECORD = Record("u1", AUDIO, 1.0, ("asr",), "turn left")
WORDS = (TimedWord("turn", 0.1, 0.35), TimedWord("left", 0.4, 0.9))

# As the Praat manual shows them: long with two tiers, short with quotation marks.
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 1
        points: size = 1
        points [1]:
            number = 0.5
            mark = "ding 7"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "AH1"
    item [3]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.35
            text = "turn"
        intervals [3]:
            xmin = 0.4
            xmax = 0.9
            text = "left"
"""
SHORT = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"w"\n0\n1\n2\n'
SHORT += '0\n0.5\n"say ""hi"" 5"\n0.5\n1\n"你好"\n'


@settings(max_examples=25)
@given(lists(AUDIO, st.from_regex(r"[a-zA-Z0-9._%/\-]{1,8}", fullmatch=True)))
def test_times_come_back(records: list[Record]) -> None:
    bare = [replace(r, words=(), tasks=tuple(t for t in r.tasks if t != "srwt")) for r in records]
    with tempfile.TemporaryDirectory() as folder:
        if not any(record.words for record in records):
            return
        words.write_ctm(records, Path(folder) / "w.ctm")
        assert words.read_ctm(Path(folder) / "w.ctm", bare).splits["all"] == records
        words.write_textgrids(records, Path(folder) / "grids")
        assert words.read_textgrids(Path(folder) / "grids", bare).splits["all"] == records


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrids_of_praat_are_read(tmp_path: Path, coding: str) -> None:
    (tmp_path / "u1.TextGrid").write_bytes(LONG.replace("\n", "\r\n").encode(coding))
    (record,) = words.read_textgrids(tmp_path, [RECORD]).splits["all"]
    assert record.words == WORDS and record.tasks == ("asr", "srwt")
    (tmp_path / "u1.TextGrid").write_bytes(SHORT.encode(coding))
    got = words.read_textgrid(tmp_path / "u1.TextGrid")
    assert got == (TimedWord('say "hi" 5', 0.0, 0.5), TimedWord("你好", 0.5, 1.0))


def test_ctm_of_nist_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.ctm").write_text(";; made by hand\nu1 1 0.4 0.5 left 0.98\nu1 1 0.1 0.25 turn 1.0\nzz 1 0 1 x\n")
    got = words.read_ctm(tmp_path / "w.ctm", [RECORD, replace(RECORD, id="u2")])
    assert got.splits["all"] == [replace(RECORD, words=WORDS, tasks=("asr", "srwt")), replace(RECORD, id="u2")]
    assert any("zz" in note for note in got.notes) and "1 of 2 records" in got.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("u1 1 0.1 turn", "line 1: 4 fields"),
        ("u1 1 x 0.1 turn", "line 1: 'x' is no time"),
        ("no 1 0 1 a", "none of its"),
    ],
)
def test_a_broken_ctm_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "w.ctm").write_text(text)
    with pytest.raises(UserError, match=said):
        words.read_ctm(tmp_path / "w.ctm", [RECORD])


@pytest.mark.parametrize("text", ["", "hello", LONG[:400], LONG[: LONG.index('"left"')], SHORT[:60]])
def test_a_broken_textgrid_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "u1.TextGrid").write_text(text)
    with pytest.raises(UserError, match=r"u1\.TextGrid"):
        words.read_textgrids(tmp_path, [RECORD])


def test_what_a_ctm_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="white space"):
        words.write_ctm([replace(RECORD, words=(TimedWord("new york", 0.0, 0.5),))], tmp_path / "w.ctm")
    assert not (tmp_path / "w.ctm").exists()
