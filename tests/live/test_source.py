"""Raw samples in pieces of any length, streams that stall, end early or send something else, and a microphone."""

import importlib
import importlib.machinery
import importlib.util
import io
import queue
import sys
import threading
import types
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.audio.decode import PcmFormat
from zhiyin.errors import UserError
from zhiyin.live import source
from zhiyin.live.source import Microphone, PcmReader, arriving

RATE_HZ = 16_000


def waves(seconds: float, rate_hz: int, channels: int = 1) -> np.ndarray:
    """Tones [T, C], another in each channel."""
    time_T1 = np.arange(round(seconds * rate_hz))[:, None] / rate_hz
    return 0.4 * np.sin(2 * np.pi * (300 + 200 * np.arange(channels)) * time_T1)


def read(reader: PcmReader, data: bytes, cuts: list[int]) -> np.ndarray:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [reader.push(data[a:b]) for a, b in pairwise(edges)]
    return np.concatenate([*pieces, reader.finish()])


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from((1, 2)))
def test_pieces_cut_anywhere(cuts: list[int], channels: int) -> None:
    samples_TC = (waves(0.05, RATE_HZ, channels) * 32768).astype("<i2")
    heard = read(PcmReader(PcmFormat("s16le", RATE_HZ, channels)), samples_TC.tobytes(), cuts)
    np.testing.assert_allclose(heard, (samples_TC / 32768).mean(axis=1), atol=1e-6)


def test_every_coding() -> None:
    samples_TC = waves(0.02, RATE_HZ)
    scaled = {bits: np.round(samples_TC * (2 ** (bits - 1) - 1)).astype(np.int64) for bits in (8, 16, 24, 32)}
    coded = {
        "u8": (scaled[8] + 128).astype("u1").tobytes(),
        "s8": scaled[8].astype("i1").tobytes(),
        "s16le": scaled[16].astype("<i2").tobytes(),
        "s16be": scaled[16].astype(">i2").tobytes(),
        "s24le": b"".join(int(value).to_bytes(3, "little", signed=True) for value in scaled[24].ravel()),
        "s32le": scaled[32].astype("<i4").tobytes(),
        "f32le": samples_TC.astype("<f4").tobytes(),
        "mulaw": law("ULAW", samples_TC),
        "alaw": law("ALAW", samples_TC),
    }
    for coding, data in coded.items():
        heard = read(PcmReader(PcmFormat(coding)), data, [101])
        np.testing.assert_allclose(heard, samples_TC[:, 0], atol=0.02, err_msg=coding)
    assert coded.keys() == source._CODINGS.keys()


def law(subtype: str, samples_TC: np.ndarray) -> bytes:
    """G.711 as a file of it holds it, behind its header."""
    file = io.BytesIO()
    soundfile.write(file, samples_TC, RATE_HZ, format="WAV", subtype=subtype)
    data = file.getvalue()
    return data[data.index(b"data") + 8 :][: len(samples_TC)]


def test_44100_hz_where_it_is_declared() -> None:
    samples_TC = waves(0.5, 44_100)
    data = (samples_TC * 32768).astype("<i2").tobytes()
    heard = read(PcmReader(PcmFormat("s16le", 44_100)), data, [1, 5000, 33_333])
    wanted = soxr.resample(samples_TC[:, 0].astype(np.float32), 44_100, RATE_HZ)
    assert abs(len(heard) - len(wanted)) <= 1
    np.testing.assert_allclose(heard[200:7000], wanted[200:7000], atol=1e-3)


def test_an_end_inside_a_sample() -> None:
    reader = PcmReader(PcmFormat("s16le", RATE_HZ, 2))
    assert len(reader.push(b"\x00" * 4 * 10 + b"\x01\x02\x03")) == 10
    assert (reader.left_bytes, len(reader.finish())) == (3, 0)


def test_a_recording_is_no_raw_stream() -> None:
    file = io.BytesIO()
    soundfile.write(file, waves(0.1, RATE_HZ), RATE_HZ, format="WAV")
    with pytest.raises(UserError, match=r"header.*understand"):
        PcmReader(PcmFormat()).push(file.getvalue())


class Pipe:
    """A source that gives what a test puts in, and counts how much was taken."""

    def __init__(self, *pieces: bytes) -> None:
        self.waiting: queue.Queue[bytes | OSError] = queue.Queue()
        self.taken = 0
        for piece in pieces:
            self.waiting.put(piece)

    def read(self) -> bytes:
        piece = self.waiting.get(timeout=10)
        self.taken += 1
        if isinstance(piece, OSError):
            raise piece
        return piece


def test_all_that_came_and_then_the_end() -> None:
    assert b"".join(arriving(Pipe(b"one", b"two", b"three", b"").read, stall_s=9)) == b"onetwothree"
    assert list(arriving(Pipe(b"").read, stall_s=9)) == []


def test_what_came_meanwhile_is_one_piece() -> None:
    pipe = Pipe(b"a")
    pieces = arriving(pipe.read, stall_s=9)
    assert next(pieces) == b"a"
    for piece in (b"b", b"c", b"d", b""):
        pipe.waiting.put(piece)
    while pipe.taken < 5:
        pass
    assert b"".join(pieces) == b"bcd"


def test_a_stall_is_told_once_and_the_stream_goes_on() -> None:
    pipe = Pipe(b"a")
    pieces = arriving(pipe.read, stall_s=0.05)
    assert [next(pieces), next(pieces)] == [b"a", b""]
    threading.Timer(0.2, lambda: [pipe.waiting.put(piece) for piece in (b"b", b"")]).start()
    assert list(pieces) == [b"b"]


def test_a_stream_that_stays_away() -> None:
    pipe = Pipe(b"a")
    assert list(arriving(pipe.read, stall_s=0.05, timeout_s=0.2)) == [b"a", b""]
    nothing = Pipe()
    assert list(arriving(nothing.read, stall_s=9, timeout_s=0.05)) == []
    for waiting in (pipe, nothing):  # their threads end
        waiting.waiting.put(b"")


def test_a_stream_that_breaks() -> None:
    pieces = arriving(Pipe(b"a", OSError(5, "Input/output error")).read, stall_s=9)
    with pytest.raises(UserError, match=r"reading failed \(input/output error\)"):
        list(pieces)


def test_who_sends_too_fast_must_wait() -> None:
    pipe = Pipe(*[b"x"] * 100, b"")
    pieces = arriving(pipe.read, stall_s=9)
    first = next(pieces)
    while pipe.taken - len(first) < 17 and pipe.taken < 100:
        pass
    assert pipe.taken <= len(first) + 17
    assert len(first) + len(b"".join(pieces)) == 100


class FakeSounddevice(types.ModuleType):
    """The part of sounddevice that we use, as strict as it is; one microphone that knows one rate."""

    class PortAudioError(Exception):
        pass

    def __init__(self, rate_hz: int, blocks: list[tuple[np.ndarray, bool]]) -> None:
        super().__init__("sounddevice")
        self.__spec__ = importlib.machinery.ModuleSpec("sounddevice", None)
        self.rate_hz, self.blocks, self.is_open = rate_hz, blocks, False

    def query_devices(self, device: str | None = None, kind: str | None = None):
        facts = {"name": "USB mic", "max_input_channels": 1, "default_samplerate": float(self.rate_hz)}
        if kind is None:
            return [facts, {"name": "speaker", "max_input_channels": 0}]
        if device is not None and device not in "USB mic":
            raise ValueError(f"No {kind} device matching {device!r}")
        return facts

    def check_input_settings(self, *, device: str | None, channels: int, dtype: str, samplerate: float) -> None:
        if samplerate != self.rate_hz:
            raise self.PortAudioError("Invalid sample rate")

    def RawInputStream(self, *, samplerate: int, blocksize: int, device: str | None, channels: int, dtype: str):
        assert (samplerate, channels, dtype) == (self.rate_hz, 1, "float32")
        module = self

        class Stream:
            def start(self) -> None:
                module.is_open = True

            def read(self, frames: int) -> tuple[memoryview, bool]:
                assert frames == blocksize
                if not module.is_open or not module.blocks:
                    raise module.PortAudioError("Stream is stopped")
                samples, is_lost = module.blocks.pop(0)
                return memoryview(samples.astype("<f4").tobytes()), is_lost

            def abort(self) -> None:
                module.is_open = False

            def close(self) -> None:
                assert not module.is_open

        return Stream()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[types.ModuleType], None]:
    return lambda module: monkeypatch.setitem(sys.modules, "sounddevice", module)


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_a_microphone(install, rate_hz: int) -> None:
    wave_T = waves(0.192, rate_hz)[:, 0]
    blocks = [(piece, number == 1) for number, piece in enumerate(np.split(wave_T, 3))]
    install(FakeSounddevice(rate_hz, blocks))
    microphone = Microphone("USB")
    data = b"".join(iter(microphone.read, b""))
    assert (microphone.name, str(microphone.pcm)) == ("USB mic", f"f32le:{rate_hz}:1")
    assert microphone.lost_blocks == 1
    np.testing.assert_allclose(np.frombuffer(data, "<f4"), wave_T, atol=1e-7)
    microphone.close()


def test_a_microphone_that_is_not_there(install) -> None:
    install(FakeSounddevice(16_000, []))
    with pytest.raises(UserError, match=r"microphone 'desk' cannot be opened .*there are: USB mic"):
        Microphone("desk")


def test_no_library_for_microphones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'zhiyin\[live\]'"):
        Microphone()


def test_no_system_library_for_microphones(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeSounddevice(16_000, []))

    def missing(name: str) -> types.ModuleType:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match="PortAudio"):
        Microphone()
