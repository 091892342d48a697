"""Every way audio can come in, and every way a file can be wrong."""

import os
import struct
import sys
import threading
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.audio import decode, io
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import PcmFormat, load, open_recording
from zhiyin.errors import UserError


def tone(seconds: float = 2.0, rate_hz: int = SAMPLE_RATE_HZ, frequency_hz: float = 440.0) -> Float32:
    """A sine of amplitude 0.5."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def encode(path: Path, samples_T: Float32, codec: str, container: str, rate_hz: int = 48_000) -> Path:
    """Write a compressed file with FFmpeg's encoder (Vorbis, which it lacks here, with libsndfile)."""
    if codec == "vorbis":
        soundfile.write(path, samples_T, rate_hz, format="OGG", subtype="VORBIS")
        return path
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate_hz)
        stream.layout, stream.bit_rate = "mono", 96_000
        frame = av.AudioFrame.from_ndarray(samples_T[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(stream.format, "mono", rate_hz, stream.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return path


def wav(path: Path, samples: np.ndarray, rate_hz: int = SAMPLE_RATE_HZ, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def strength(samples_T: Float32, frequency_hz: float = 440.0) -> float:
    """Amplitude of a frequency in the middle of a signal."""
    middle = samples_T[len(samples_T) // 4 : -len(samples_T) // 4]
    phase = np.exp(-2j * np.pi * frequency_hz * np.arange(len(middle)) / SAMPLE_RATE_HZ)
    return float(2 * np.abs(np.mean(middle * phase)))


FORMATS = {
    "mp3": ("libmp3lame", "mp3"),
    "ogg": ("vorbis", "ogg"),
    "opus": ("libopus", "ogg"),
    "m4a": ("aac", "ipod"),
    "aac": ("aac", "adts"),
    "webm": ("libopus", "webm"),
    "mp4": ("aac", "mp4"),
    "wma": ("wmav2", "asf"),
    "flac": ("flac", "flac"),
    "wav": ("pcm_s16le", "wav"),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_formats(tmp_path: Path, suffix: str, as_bytes: bool) -> None:
    path = encode(tmp_path / f"a.{suffix}", tone(rate_hz=48_000), *FORMATS[suffix])
    samples_T = load(path.read_bytes() if as_bytes else path)
    assert samples_T.dtype == np.float32
    assert len(samples_T) == pytest.approx(2 * SAMPLE_RATE_HZ, abs=0.15 * SAMPLE_RATE_HZ)  # codec delay and padding
    assert strength(samples_T) == pytest.approx(0.5, rel=0.05)
    assert strength(samples_T, 700.0) < 0.01


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", tone(rate_hz=48_000), "libmp3lame", "mp3")
    assert strength(load(path)) == pytest.approx(0.5, rel=0.05)
    raw_named_wav = wav(tmp_path / "b.wav", tone()).rename(tmp_path / "b.raw")
    assert len(load(raw_named_wav)) == 2 * SAMPLE_RATE_HZ


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_wav_codings(tmp_path: Path, subtype: str) -> None:
    expected_T = tone()
    tolerance = {"PCM_U8": 0.009, "ULAW": 0.02, "ALAW": 0.02}.get(subtype, 4e-5)
    assert np.abs(load(wav(tmp_path / "a.wav", expected_T, subtype=subtype)) - expected_T).max() < tolerance


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_sample_rates(tmp_path: Path, rate_hz: int) -> None:
    given_T = tone(rate_hz=rate_hz)
    samples_T = load(wav(tmp_path / "a.wav", given_T, rate_hz, "FLOAT"))
    assert abs(len(samples_T) - 2 * SAMPLE_RATE_HZ) <= 1
    assert strength(samples_T) == pytest.approx(0.5, rel=0.001)
    whole_T = soxr.resample(given_T, rate_hz, SAMPLE_RATE_HZ)
    assert np.abs(samples_T - whole_T[: len(samples_T)]).max() < 1e-5


def test_high_rates_do_not_alias(tmp_path: Path) -> None:
    """A tone at 15 kHz would be heard at 1 kHz, were samples simply dropped."""
    samples_T = load(wav(tmp_path / "a.wav", tone(rate_hz=192_000, frequency_hz=15_000), 192_000))
    assert np.abs(samples_T[1_000:-1_000]).max() < 1e-3


def test_eight_channels_are_averaged(tmp_path: Path) -> None:
    channels_TC = np.random.default_rng(0).uniform(-0.9, 0.9, (20_000, 8)).astype(np.float32)
    samples_T = load(wav(tmp_path / "a.wav", channels_TC, subtype="FLOAT"))
    assert np.abs(samples_T - channels_TC.mean(axis=1)).max() < 1e-6


@given(
    cuts=st.integers(1, 60_000),
    rate_hz=st.sampled_from([8_000, 16_000, 44_100]),
    channels=st.integers(1, 3),
)
def test_blocks_joined_are_the_whole(cuts: int, rate_hz: int, channels: int) -> None:
    noise_TC = np.random.default_rng(1).uniform(-0.5, 0.5, (70_001, channels)).astype(np.float32)
    recording = open_recording(noise_TC, sample_rate_hz=rate_hz)
    blocks = list(recording.blocks(cuts / SAMPLE_RATE_HZ))
    assert all(len(block) == cuts for block in blocks[:-1]) and 0 < len(blocks[-1]) <= cuts
    assert np.array_equal(np.concatenate(blocks), load(noise_TC, sample_rate_hz=rate_hz))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float16", "float32", "float64"])
def test_array_types(dtype: str) -> None:
    expected_T = tone()
    kind = np.dtype(dtype)
    if kind.kind == "f":
        array = expected_T.astype(kind)
    else:
        full = 2.0 ** (8 * kind.itemsize - 1)
        array = np.round(expected_T * full + (full if kind.kind == "u" else 0)).astype(kind)
    tolerance = {"uint8": 0.005, "int8": 0.005, "float16": 3e-4}.get(dtype, 2e-5)
    assert np.abs(load(array) - expected_T).max() < tolerance


def test_array_shapes() -> None:
    stereo_TC = np.stack([tone(), -0.5 * tone()], axis=1)
    assert np.array_equal(load(stereo_TC), load(stereo_TC.T))
    assert np.allclose(load(stereo_TC), 0.25 * tone(), atol=1e-6)
    for wrong in (np.zeros((2, 2, 2)), np.zeros(()), np.zeros(4, np.int64), np.zeros(4, complex), np.zeros(4, bool)):
        with pytest.raises(UserError, match="array of"):
            open_recording(wrong)
    with pytest.raises(UserError, match="allowed: path"):
        open_recording([0.0, 0.1])  # type: ignore[arg-type]


def test_reading_twice_and_streams(tmp_path: Path) -> None:
    data = wav(tmp_path / "a.wav", tone()).read_bytes()
    expected_T = load(data)
    with (tmp_path / "a.wav").open("rb") as file:
        for recording in (open_recording(file), open_recording(BytesIO(data)), open_recording(_pipe(data))):
            for _ in range(2):
                assert np.array_equal(np.concatenate(list(recording.blocks(0.3))), expected_T)
    with pytest.raises(UserError, match="binary mode"):
        load(StringIO("RIFF"))  # type: ignore[arg-type]


def test_an_mp4_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MP4 keeps its index at the end, so a pipe has to be kept before it can be read."""
    data = encode(tmp_path / "a.mp4", tone(rate_hz=48_000), *FORMATS["mp4"]).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=_pipe(data)))
    recording = open_recording("-")
    assert recording.source == "<stdin>"
    assert strength(np.concatenate(list(recording.blocks()))) == pytest.approx(0.5, rel=0.05)
    monkeypatch.setattr(io, "MAX_SPOOL_BYTES", 1000)
    with pytest.raises(UserError, match="<stream>: more than"):
        load(_pipe(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe(tmp_path: Path) -> None:
    data = wav(tmp_path / "a.wav", tone()).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    samples_T = load(tmp_path / "pipe")
    writer.join()
    assert np.array_equal(samples_T, load(data))


class _Pipe(BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError("a pipe cannot seek")


def _pipe(data: bytes) -> BytesIO:
    return _Pipe(data)


@pytest.mark.parametrize(
    ("coding", "dtype", "scale"),
    [("s16le", "<i2", 32_767), ("s16be", ">i2", 32_767), ("s32le", "<i4", 2**31 - 1), ("f32le", "<f4", 1.0)],
)
def test_raw_pcm(coding: str, dtype: str, scale: float) -> None:
    stereo_TC = np.stack([tone(rate_hz=8_000)] * 2, axis=1)
    data = (stereo_TC.astype(np.float64) * scale).astype(dtype).tobytes()
    samples_T = load(data, pcm=PcmFormat.parse(f"{coding}:8000:2"))
    assert strength(samples_T) == pytest.approx(0.5, rel=0.001)


def test_raw_pcm_by_name_and_its_faults(tmp_path: Path) -> None:
    (tmp_path / "a.pcm").write_bytes((tone() * 32_767).astype("<i2").tobytes() + b"x")  # half a sample is left out
    recording = open_recording(tmp_path / "a.pcm")
    assert sum(map(len, recording.blocks())) == 2 * SAMPLE_RATE_HZ
    assert recording.notes == ["read as raw PCM s16le:16000:1, by its name"]
    with pytest.raises(UserError, match="has a header"):
        load(wav(tmp_path / "a.wav", tone()), pcm=PcmFormat())
    for text in ("s16le:16000:1:2", "s16le:fast", "s17le", "s16le:1", "s16le:16000:0", "s16le:-1", ""):
        with pytest.raises(UserError, match="raw PCM"):
            PcmFormat.parse(text)
    with pytest.raises(UserError, match="describes an array"):
        open_recording(b"", sample_rate_hz=8_000)


def faulty(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    text = b"This is a letter, not a recording.\n" * 400
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n" + bytes(tmp_path / "real.mp3") + b"\n#EXT-X-ENDLIST\n"
    encode(tmp_path / "real.mp3", tone(rate_hz=48_000), *FORMATS["mp3"])
    (tmp_path / "folder.wav").mkdir()
    cases: dict[Any, str] = {
        tmp_path / "missing.wav": "no such file",
        "": "without a name",
        "a\0b\n.wav": r"a\\x00b\\n.wav",
        tmp_path / "folder.wav": "is a folder",
        faulty(tmp_path / "empty.wav", b""): "empty",
        faulty(tmp_path / "text.wav", text): "not a recording",
        faulty(tmp_path / "text.mp3", text): "not a recording",
        faulty(tmp_path / "riff.wav", b"RIFF" + text): "not a recording",
        faulty(tmp_path / "list.m3u8", playlist): "not a recording",
        faulty(tmp_path / "list.mp3", playlist): "not a recording",
        faulty(tmp_path / "concat.mp3", b"ffconcat version 1.0\nfile real.mp3\n"): "not a recording",
        f"concat:{tmp_path / 'real.mp3'}": "no such file",
        f"file://{tmp_path / 'real.mp3'}": "no such file",
        "http://127.0.0.1:9/a.mp3": "no such file",
        os.devnull: "is a device",
    }
    for source, why in cases.items():
        with pytest.raises(UserError, match=why) as caught:
            load(source)
        message = str(caught.value)
        assert "\n" not in message and (os.path.basename(str(source)).isprintable() is False or str(source) in message)


def test_a_video_without_sound(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream: Any = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"a\.mp4: it holds no audio"):
        load(tmp_path / "a.mp4")


def test_no_file_beside_the_recording_is_opened(tmp_path: Path) -> None:
    """Even were FFmpeg to take a file for a playlist, it could not open what the playlist names."""
    path = encode(tmp_path / "real.ts", tone(rate_hz=48_000), "aac", "mpegts")
    assert len(load(path)) > SAMPLE_RATE_HZ
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n" + bytes(path) + b"\n#EXT-X-ENDLIST\n"
    with av.open(str(faulty(tmp_path / "list.m3u8", playlist))) as unguarded:
        assert sum(frame.samples for frame in unguarded.decode(audio=0)) > SAMPLE_RATE_HZ
    with pytest.raises(PermissionError, match="may not open another file"):
        av.open(BytesIO(playlist), format="hls", io_open=decode._refuse_side_file)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 20_000.0])
def test_samples_that_are_no_audio(tmp_path: Path, bad: float) -> None:
    channels_TC = np.stack([tone(), tone()], axis=1)
    channels_TC[8_000, 1] = bad
    path = wav(tmp_path / "a.wav", channels_TC, subtype="FLOAT")
    with pytest.raises(UserError, match=r"a\.wav: channel 2 has the sample .* at 0\.500 s"):
        load(path)
    with pytest.raises(UserError, match=r"<array>: channel 2"):
        load(channels_TC)


def test_loud_floats_are_kept(tmp_path: Path) -> None:
    loud_T = 3 * tone()
    assert np.abs(load(wav(tmp_path / "a.wav", loud_T, subtype="FLOAT")) - loud_T).max() < 1e-6


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_short_files(tmp_path: Path, seconds: float) -> None:
    recording = open_recording(wav(tmp_path / "a.wav", tone(seconds)))
    assert sum(map(len, recording.blocks())) == round(seconds * SAMPLE_RATE_HZ)
    assert recording.notes == ([] if seconds else ["holds no audio samples"])
    assert len(load(np.zeros(0, np.float32))) == 0


@pytest.mark.parametrize("suffix", ["mp3", "aac", "opus", "m4a"])
def test_50_ms_in_compressed_files(tmp_path: Path, suffix: str) -> None:
    path = encode(tmp_path / f"a.{suffix}", tone(0.05, 48_000), *FORMATS[suffix])
    assert 0.05 * SAMPLE_RATE_HZ <= len(load(path)) <= 0.2 * SAMPLE_RATE_HZ


def test_absurd_headers(tmp_path: Path) -> None:
    data = bytearray(wav(tmp_path / "a.wav", tone(1.0), 8_000, "PCM_U8").read_bytes())
    hundred_hours = 100 * 3600 * 8_000
    struct.pack_into("<I", data, data.index(b"data") + 4, hundred_hours)
    recording = open_recording(bytes(data))
    assert sum(map(len, recording.blocks())) == pytest.approx(2 * SAMPLE_RATE_HZ, abs=1)
    assert "header promises more" in recording.notes[0]
    for rate_hz in (1, 2**31 - 1):
        struct.pack_into("<I", data, 24, rate_hz)
        with pytest.raises(UserError, match=r"sample rate|not a recording"):
            load(bytes(data))


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_recorder_that_never_wrote_the_length(tmp_path: Path, length: int) -> None:
    data = bytearray(wav(tmp_path / "a.wav", tone(), subtype="PCM_24").read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, length)
    recording = open_recording(bytes(data))
    assert np.abs(np.concatenate(list(recording.blocks())) - tone()).max() < 1e-5
    assert recording.notes == (
        [] if length else ["its header was never finished; everything behind it is read as audio"]
    )


@pytest.mark.parametrize("suffix", ["mp3", "flac", "opus", "aac", "webm", "wma", "wav"])
def test_truncated_files_give_what_decodes_and_a_note(tmp_path: Path, suffix: str) -> None:
    data = encode(tmp_path / f"a.{suffix}", tone(20.0, 48_000), *FORMATS[suffix]).read_bytes()
    recording = open_recording(data[: len(data) * 6 // 10 + 7])
    samples_T = np.concatenate(list(recording.blocks()))
    assert 9 < len(samples_T) / SAMPLE_RATE_HZ < 14
    assert strength(samples_T) == pytest.approx(0.5, rel=0.15)
    assert any("truncated" in note or "damaged" in note for note in recording.notes), recording.notes
    whole = open_recording(data)
    assert sum(map(len, whole.blocks())) > 19 * SAMPLE_RATE_HZ and whole.notes == []


def test_an_mp3_damaged_inside(tmp_path: Path) -> None:
    data = bytearray(encode(tmp_path / "a.mp3", tone(10.0, 48_000), *FORMATS["mp3"]).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3_000] = bytes(3_000)
    recording = open_recording(bytes(data))
    assert 8 < sum(map(len, recording.blocks())) / SAMPLE_RATE_HZ <= 10 and recording.notes


def test_the_longest_recording() -> None:
    recording = open_recording(tone(3.0), max_s=2.0)
    assert sum(map(len, recording.blocks(0.7))) == 2 * SAMPLE_RATE_HZ
    assert recording.notes == ["cut after 2 s, the longest recording that is read"]
    with pytest.raises(UserError, match="longer than 2 s"):
        load(tone(3.0), max_s=2.0)
    assert len(load(tone(2.0), max_s=2.0)) == 2 * SAMPLE_RATE_HZ


def test_a_long_file_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes stand for ten hours: what is decoded at once does not depend on the length."""
    path = wav(tmp_path / "a.wav", np.zeros((600 * 8_000, 2), np.int16), 8_000)
    largest = 0
    original = decode.to_mono

    def watched(chunk: decode.Chunk, channel: int | None = None) -> Float32:
        nonlocal largest
        largest = max(largest, chunk.samples_TC.size)
        return original(chunk, channel)

    monkeypatch.setattr(io, "to_mono", watched)
    lengths = [len(block) for block in open_recording(path).blocks(5.0)]
    assert lengths == [5 * SAMPLE_RATE_HZ] * 120
    assert largest <= 1 << 18
