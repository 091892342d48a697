"""Channels one by one, and recordings that break, grow or cannot be read to their end: what is good is kept."""

import errno
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from tests.audio.test_io import FORMATS, _pipe, encode, tone, wav
from zhiyin.audio import decode
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import PcmFormat, Recording, load, open_recording
from zhiyin.errors import UserError


def read(recording: Recording) -> Float32:
    return np.concatenate([np.zeros(0, np.float32), *recording.blocks(5.0, keep_good=True)])


# --- channels


@pytest.mark.parametrize("kind", ["path", "bytes", "stream", "pipe", "array", "mp4"])
def test_channels_are_read_in_turn(tmp_path: Path, kind: str) -> None:
    """Block by block, now of one and now of the other, though a stream has a single place where it is read."""
    channels_TC = np.stack([tone(20.0), 0.3 * tone(20.0, frequency_hz=1000)], axis=1).astype(np.float32)
    path = wav(tmp_path / "a.wav", channels_TC)
    tolerance = 1e-4
    sources: dict[str, Any] = {"path": path, "bytes": path.read_bytes(), "array": channels_TC}
    sources |= {"stream": BytesIO(path.read_bytes()), "pipe": _pipe(path.read_bytes())}
    if kind == "mp4":  # FFmpeg reads it, and back and forth
        mono = encode(tmp_path / "a.mp4", tone(20.0, 48_000), *FORMATS["mp4"])
        sources["mp4"], channels_TC = BytesIO(mono.read_bytes()), load(mono)[:, None]
    recordings = open_recording(sources[kind]).split()
    assert [one.channel for one in recordings] == list(range(channels_TC.shape[1]))
    found: list[list[Float32]] = [[] for _ in recordings]
    for blocks in zip(*(one.blocks(2.0) for one in recordings), strict=True):
        for pieces, block_T in zip(found, blocks, strict=True):
            pieces.append(block_T)
    for channel, pieces in enumerate(found):
        assert np.abs(np.concatenate(pieces) - channels_TC[:, channel]).max() < tolerance
    assert all(not one.notes for one in recordings)


def test_channels_that_come_and_go() -> None:
    """As an MPEG stream may change; time goes on, and it is said."""

    def chunks(notes: list[str]):
        for channels in (2, 1, 3):
            yield decode.Chunk(np.full((16_000, channels), 0.1 * channels, np.float32), SAMPLE_RATE_HZ)

    one, two = Recording("<made>", chunks).split()
    assert read(one)[::16_000].tolist() == pytest.approx([0.2, 0.1, 0.3])
    assert read(two)[::16_000].tolist() == pytest.approx([0.2, 0.0, 0.3])
    assert [note.split(";")[0] for note in two.notes] == [
        "2 channels until 1.00 s, 1 from then on",
        "1 channels until 2.00 s, 3 from then on",
    ]


def test_no_channels_of_an_empty_array() -> None:
    assert [one.channel for one in open_recording(np.zeros(0, np.float32)).split()] == [0]


# --- breaks


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_samples_that_are_no_audio_end_a_long_recording(tmp_path: Path, bad: float) -> None:
    samples_T = tone(60.0)
    samples_T[50 * SAMPLE_RATE_HZ + 8] = bad
    recording = open_recording(wav(tmp_path / "a.wav", samples_T, subtype="FLOAT"))
    found_T = read(recording)
    assert np.array_equal(found_T, samples_T[: 50 * SAMPLE_RATE_HZ + 8]), "to the last good sample"
    (note,) = recording.notes
    assert note.startswith("broken after 50.00 s; what came before is kept (") and "at 50.001 s" in note
    for reading in (lambda: list(recording.blocks()), lambda: load(samples_T)):
        with pytest.raises(UserError, match=r"at 50\.001 s"):
            reading()


def test_at_another_rate_nothing_is_lost_in_the_resampler(tmp_path: Path) -> None:
    samples_T = tone(60.0, 8_000)
    samples_T[45 * 8_000] = np.nan
    recording = open_recording(wav(tmp_path / "a.wav", samples_T, 8_000, "FLOAT"))
    assert len(read(recording)) == pytest.approx(45 * SAMPLE_RATE_HZ, abs=2)


@pytest.mark.parametrize("suffix", ["mp3", "flac", "opus", "wav", "m4a"])
def test_rubbish_after_good_audio(tmp_path: Path, suffix: str) -> None:
    """The last two fifths overwritten: all before is kept, and a note says from which second on it is damaged."""
    data = bytearray(encode(tmp_path / f"a.{suffix}", tone(20.0, 48_000), *FORMATS[suffix]).read_bytes())
    at = len(data) * 3 // 5
    rubbish = np.random.default_rng(0).integers(0, 256, len(data) - at, np.uint8).tobytes()
    index = bytes(data).find(b"moov") if suffix == "m4a" else -1  # of an m4a the index is at the end, and stays
    end = index - 4 if index > at else len(data)
    data[at:end] = rubbish[: end - at]
    recording = open_recording(bytes(data))
    found_T = read(recording)
    good_T = tone(10.0)
    assert np.abs(np.abs(np.fft.rfft(found_T[: len(good_T)])).argmax() - 440 * 10) <= 1
    if suffix == "wav":  # nothing marks a sample as wrong
        return
    assert recording.notes, "it is said"
    assert any(f"after {second}." in note for note in recording.notes for second in range(8, 13)), recording.notes


class _Worn(BytesIO):
    """A disk that gives an error behind a place."""

    def __init__(self, data: bytes, good: int):
        super().__init__(data)
        self.good = good

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() + max(size or 0, 0) > self.good:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_a_disk_error_ends_it(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = encode(tmp_path / f"a.{suffix}", tone(16.0, 48_000), *FORMATS[suffix]).read_bytes()
    recording = open_recording(_Worn(data, len(data) // 2))
    found_T = read(recording)
    assert len(found_T) / SAMPLE_RATE_HZ == pytest.approx(8, abs=3)
    assert "a part of the file could not be read (input/output error)" in recording.notes
    assert not capfd.readouterr().err, "no traceback out of a library in C"


# --- files that grow


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "pcm"])
def test_a_file_that_grows_while_it_is_read(tmp_path: Path, suffix: str) -> None:
    """What was there when reading began is read, whatever comes after; and it is said."""
    path = tmp_path / f"a.{suffix}"
    if suffix == "pcm":
        path.write_bytes((tone(15.0) * 32_767).astype("<i2").tobytes())
    else:
        encode(path, tone(15.0, 48_000), *FORMATS[suffix])
    whole_T = load(path)
    recording = open_recording(path, pcm=PcmFormat() if suffix == "pcm" else None)
    pieces = []
    for block_T in recording.blocks(1.0):
        pieces.append(block_T)
        if len(pieces) == 3:
            with path.open("ab") as file:
                file.write(path.read_bytes())
    assert np.array_equal(np.concatenate(pieces), whole_T)
    assert recording.notes == ["the file grew while it was read; what came later is not in the result"]


def test_a_recorder_that_is_still_writing(tmp_path: Path) -> None:
    """A header that says nothing of the length yet, and samples that keep coming."""
    data = bytearray(wav(tmp_path / "a.wav", tone(60.0)).read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = bytes(4)
    (tmp_path / "a.wav").write_bytes(data)
    recording = open_recording(tmp_path / "a.wav")
    samples = 0
    with (tmp_path / "a.wav").open("ab") as recorder:
        for block_T in recording.blocks(1.0):
            samples += len(block_T)
            recorder.write(bytes(32_000))
            recorder.flush()
    assert samples == 60 * SAMPLE_RATE_HZ
    assert [note.split(";")[0] for note in recording.notes] == [
        "its header was never finished",
        "the file grew while it was read",
    ]


def test_reading_ends_where_a_view_ends(tmp_path: Path) -> None:
    file: BinaryIO = BytesIO(b"0123456789")
    view = decode._View(file, 6)
    other = view.again(2)
    assert (view.read(4), other.read(3), view.read(), other.tell(), view.read()) == (b"0123", b"234", b"45", 3, b"")
    assert (other.seek(-1, 2), other.read(), other.seek(1), other.read(1)) == (3, b"5", 1, b"3")
    assert other.seek(-9, 1) == 0
