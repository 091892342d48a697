"""What was heard is kept line by line, and only what is whole and of the same recording counts."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.audio.vad import Span
from zhiyin.audio.windows import Window
from zhiyin.errors import UserError
from zhiyin.journal import Journal
from zhiyin.result import Segment, Turn, Word

KEY = {"recording": "a.wav", "bytes": 5}


def window(start_s: float) -> Window:
    return Window(start_s, np.zeros(16_000, np.float32), (Span(start_s, start_s + 1),))


def segment(start_s: float) -> Segment:
    words = (Word("知", start_s, start_s + 1 / 3, "ctc"), Word("b\udcff", start_s + 0.5, start_s + 0.7))
    return Segment(start_s, start_s + 1, "知b", words, {"sgc": "male"}, turns=(Turn("", "知"),), guards=("cut",))


def filled(path: Path, channel: int | None = None) -> tuple[list[list[Window]], list[list[Segment]]]:
    """Three batches of two windows, kept in a journal."""
    batches = [[window(4 * i), window(4 * i + 2.1)] for i in range(3)]
    heard = [[segment(one.start_s) for one in batch] for batch in batches]
    journal = Journal(path, KEY)
    for batch, found in zip(batches, heard, strict=True):
        assert journal.take(channel, batch) == []
        journal.add(channel, batch, found)
    journal.close()
    return batches, heard


@pytest.mark.parametrize("channel", [None, 1])
def test_what_was_kept_comes_back_as_it_was(tmp_path: Path, channel: int | None) -> None:
    batches, heard = filled(tmp_path / "j", channel)
    journal = Journal(tmp_path / "j", KEY)
    assert journal.until_s == heard[-1][-1].end_s
    assert [journal.take(channel, batch) for batch in batches] == heard
    assert journal.take(channel, [window(99.0)]) == []
    journal.add(channel, [window(99.0)], [segment(99.0)])
    journal.close()
    again = Journal(tmp_path / "j", KEY)
    assert [again.take(channel, batch) for batch in [*batches, [window(99.0)]]] == [*heard, [segment(99.0)]]


def test_another_recording_begins_anew(tmp_path: Path) -> None:
    batches, _ = filled(tmp_path / "j")
    journal = Journal(tmp_path / "j", {**KEY, "bytes": 6})
    assert journal.take(None, batches[0]) == [] and journal.until_s == 0
    journal.add(None, batches[0], [segment(7.0)] * 2)
    journal.close()
    assert (tmp_path / "j").read_bytes().count(b"\n") == 2


def test_other_windows_begin_anew(tmp_path: Path) -> None:
    batches, heard = filled(tmp_path / "j")
    journal = Journal(tmp_path / "j", KEY)
    assert journal.take(None, batches[0]) == heard[0]
    other = [window(4.5)]
    assert journal.take(None, other) == [] == journal.take(None, batches[2])
    journal.add(None, other, [segment(4.5)])
    journal.close()
    assert Journal(tmp_path / "j", KEY).take(None, other) == [segment(4.5)]


@given(at=st.integers(0, 5000), rubbish=st.binary(max_size=20))
def test_a_file_that_was_cut_anywhere_gives_whole_batches_only(
    tmp_path_factory: pytest.TempPathFactory, at: int, rubbish: bytes
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    batches, heard = filled(path)
    path.write_bytes(path.read_bytes()[:at] + rubbish.replace(b"\n", b""))
    journal = Journal(path, KEY)
    kept = []
    for batch, found in zip(batches, heard, strict=True):
        kept.append(journal.take(None, batch))
        if not kept[-1]:
            journal.add(None, batch, found)
    journal.close()
    size = next((i for i, one in enumerate(kept) if not one), 3)
    assert kept[:size] == heard[:size] and not any(kept[size:])
    again = Journal(path, KEY)
    assert [again.take(None, batch) for batch in batches] == heard


def test_a_place_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the journal .*is a directory; choose another place"):
        Journal(tmp_path, KEY)
    journal = Journal(tmp_path / "none" / "j", KEY)
    with pytest.raises(UserError, match=r"cannot write the journal .*no such file"):
        journal.add(None, [window(0.0)], [segment(0.0)])
