"""Shards: what goes in comes out from any place on; damage is told with its place; tars of others are read the same."""

import io
import json
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.data.made import RATE_HZ, tone
from zhiyin.data import shards, tars
from zhiyin.data.formats import osum_tars
from zhiyin.data.manifest import Record
from zhiyin.data.shards import Place
from zhiyin.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], Path]:
    """Seven records, the last a part, in shards of three."""
    folder = tmp_path_factory.mktemp("data")
    records = [
        Record(f"记录 {i}", tone(folder / f"{i}.wav", 0.1 + i / 100, i), 0.1 + i / 100, ("asr",), f"text {i}")
        for i in range(6)
    ]
    records.append(Record("part", folder / "5.wav", 0.05, ("asr",), "", start_s=0.05, end_s=0.1))
    shards.write(records, folder / "out", per_shard=3)
    return records, folder / "out"


def copy(folder: Path, to: Path) -> Path:
    """A copy that can be damaged."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_records_and_audio_come_out(made: tuple[list[Record], Path]) -> None:
    records, folder = made
    items = list(shards.open_shards(folder).stream())
    assert [item.record.id for item in items] == [record.id for record in records]
    for item, record in zip(items[:-1], records, strict=False):
        assert item.audio == record.audio.read_bytes()
        assert replace(item.record, audio=record.audio) == record
    part, _ = soundfile.read(io.BytesIO(items[-1].audio), dtype="int16")
    whole, _ = soundfile.read(records[5].audio, dtype="int16")
    assert np.abs(part.astype(int) - whole[RATE_HZ // 20 : RATE_HZ // 10]).max() <= 1
    assert (items[-1].record.start_s, items[-1].record.end_s) == (0.0, None), "the part is a file of its own now"
    assert [path.name for path in sorted(folder.glob("*.tar"))] == [f"shard-0000{i}.tar" for i in range(3)]
    with tarfile.open(folder / "shard-00002.tar") as tar:  # a plain tar for everybody else
        assert tar.getnames() == ["000000.json", "000000.flac"]


def test_any_place_is_resumed_exactly(made: tuple[list[Record], Path]) -> None:
    reader = shards.open_shards(made[1])
    whole = list(reader.stream())
    assert whole[-1].after == Place(3, 0) and list(reader.stream(Place(3, 0))) == []
    for number, item in enumerate(whole):
        assert list(reader.stream(item.after)) == whole[number + 1 :]
    for number in range(7):
        assert reader.read(Place(number // 3, number % 3)) == whole[number]
    with pytest.raises(UserError, match="nothing at shard 2, sample 1"):
        reader.read(Place(2, 1))


def test_the_same_input_gives_the_same_bytes_and_a_seed_another_order(
    made: tuple[list[Record], Path], tmp_path: Path
) -> None:
    records, folder = made
    shards.write(records, tmp_path / "again", per_shard=3)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    mixed = shards.write(records, tmp_path / "mixed", per_shard=3, seed=1)
    ids = [item.record.id for item in mixed.stream()]
    assert ids != [r.id for r in records] and sorted(ids) == sorted(r.id for r in records)
    with pytest.raises(UserError, match="holds something"):
        shards.write(records, folder)


def test_a_cut_off_tar_gives_what_is_whole_and_says_where(made: tuple[list[Record], Path], tmp_path: Path) -> None:
    folder = copy(made[1], tmp_path / "cut")
    tar = folder / "shard-00001.tar"
    places = json.loads((folder / "shard-00001.json").read_text())["samples"]
    size = places[1][2] + 100  # inside the audio of the second sample
    tar.write_bytes(tar.read_bytes()[:size])
    seen = []
    with pytest.raises(UserError, match=rf"shard-00001\.tar is cut off at byte {size} of .* 1 are whole"):
        for item in shards.open_shards(folder).stream():
            seen.append(item.record.id)
    assert seen == [record.id for record in made[0][:4]]
    assert len(list(shards.open_shards(folder).faults())) == 1


def test_a_damaged_sample_is_named(made: tuple[list[Record], Path], tmp_path: Path) -> None:
    folder = copy(made[1], tmp_path / "damaged")
    places = json.loads((folder / "shard-00000.json").read_text())["samples"]
    data = bytearray((folder / "shard-00000.tar").read_bytes())
    data[places[1][2] + 60] ^= 1
    (folder / "shard-00000.tar").write_bytes(data)
    with pytest.raises(UserError, match=rf"shard-00000\.tar sample 1 \(byte {places[1][0]}\): damaged"):
        list(shards.open_shards(folder).stream())
    assert len(list(shards.open_shards(folder).stream(Place(0, 2)))) == 5, "one can go on behind it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "index.json").unlink(), "index.json cannot be read"),
        (lambda folder: (folder / "index.json").write_text("{"), "index.json is broken"),
        (lambda folder: (folder / "index.json").write_text("{}"), "of format None"),
        (lambda folder: (folder / "shard-00000.tar").unlink(), "shard-00000.tar cannot be read"),
        (lambda folder: (folder / "shard-00000.json").write_text('{"samples": []}'), "does not belong"),
    ],
)
def test_a_broken_folder_is_named(made: tuple[list[Record], Path], tmp_path: Path, change, said: str) -> None:
    folder = copy(made[1], tmp_path / "broken")
    change(folder)
    with pytest.raises(UserError, match=said):
        list(shards.open_shards(folder).stream())


def test_an_address_is_read_through_fsspec(made: tuple[list[Record], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in made[1].iterdir():
        memory.pipe(f"/far/away/{path.name}", path.read_bytes())
    far = shards.open_shards("memory://far/away")
    here = shards.open_shards(made[1])
    assert list(far.stream(Place(1, 1))) == list(here.stream(Place(1, 1)))
    with pytest.raises(UserError, match="cannot be read"):
        shards.open_shards("memory://far/nowhere")
    with pytest.raises(UserError, match="cannot be read"):
        shards.open_shards("nosuch://y; touch x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the library fsspec"):
        shards.open_shards("memory://far/away")


def plain_tar(path: Path, sizes: list[int]) -> bytes:
    """A tar as Python writes it."""
    with tarfile.open(path, "w") as tar:
        for number, size in enumerate(sizes):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([65 + number]) * size))
    return path.read_bytes()


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=4), st.data())
def test_a_tar_cut_anywhere_is_never_taken_for_whole(sizes: list[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        whole = plain_tar(path, sizes)
        got = list(tars.members(path))
        assert [(m.name, tars.read(path, m)) for m in got] == [
            (f"{n}.txt", bytes([65 + n]) * size) for n, size in enumerate(sizes)
        ]
        end = got[-1].offset_bytes + -(-got[-1].size_bytes // 512) * 512
        cut = data.draw(st.integers(0, end + 511))
        path.write_bytes(whole[:cut])
        found = []
        with pytest.raises(UserError, match=r"cut off|damaged"):
            for member in tars.members(path):
                found.append(member)
        assert found == [m for m in got if m.offset_bytes + m.size_bytes <= cut][: len(found)]


def test_a_broken_header_is_no_end(tmp_path: Path) -> None:
    data = bytearray(plain_tar(tmp_path / "a.tar", [10, 10, 10]))
    data[1024 + 150] ^= 0xFF  # the checksum of the second header: Python's reader stops there in silence
    (tmp_path / "a.tar").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["0.txt"]
    with pytest.raises(UserError, match=r"damaged at byte 1024: after 1 members, the last one '0\.txt'"):
        list(tars.members(tmp_path / "a.tar"))


def test_a_sample_that_is_there_twice_is_named(tmp_path: Path) -> None:
    audio = tone(tmp_path / "a.wav").read_bytes()
    tars.write(tmp_path / "x.tar", [("a.txt", b"hi"), ("a.wav", audio), ("a.txt", b"ho")])
    with pytest.raises(UserError, match="sample 'a' has txt twice"):
        osum_tars.read_shards(tmp_path / "x.tar", tmp_path)


def test_names_in_a_tar_cannot_leave_the_folder(tmp_path: Path) -> None:
    audio = tone(tmp_path / "a.wav").read_bytes()
    files = [("../../evil.txt", b"hi"), ("../../evil.wav", audio), ("/abs.txt", b"ho"), ("/abs.wav", audio)]
    tars.write(tmp_path / "in" / "x.tar", files)
    got = osum_tars.read_shards(tmp_path / "in" / "x.tar", tmp_path / "in" / "out").splits["all"]
    assert [(record.id, record.text) for record in got] == [("../../evil", "hi"), ("/abs", "ho")]
    assert all(r.audio.resolve().is_relative_to((tmp_path / "in" / "out").resolve()) for r in got)
    (tmp_path / "far.list").write_text("https://example.org/x.tar; touch ran\n")
    with pytest.raises(UserError, match="lies on another machine"):
        osum_tars.read_shards(tmp_path / "far.list", tmp_path)
