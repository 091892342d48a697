"""Where the samples of a live stream come from: raw bytes that arrive in pieces of any length, or a microphone.

Shapes: `T` samples, `C` channels.
"""

import importlib
import importlib.util
import queue
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import soundfile

from zhiyin.audio.decode import PcmFormat, Resampler, has_header
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.errors import UserError

MICROPHONE_BLOCK_S = 0.064
_CODINGS = {  # libsndfile's names, and the bytes of a sample
    "u8": ("PCM_U8", "LITTLE", 1),
    "s8": ("PCM_S8", "LITTLE", 1),
    "s16le": ("PCM_16", "LITTLE", 2),
    "s16be": ("PCM_16", "BIG", 2),
    "s24le": ("PCM_24", "LITTLE", 3),
    "s32le": ("PCM_32", "LITTLE", 4),
    "f32le": ("FLOAT", "LITTLE", 4),
    "mulaw": ("ULAW", "LITTLE", 1),
    "alaw": ("ALAW", "LITTLE", 1),
}
_PIECES = 16  # that wait; then whoever sends must wait


class PcmReader:
    """Raw PCM in pieces cut anywhere, also inside a sample, to mono 16 kHz; channels are averaged."""

    def __init__(self, pcm: PcmFormat) -> None:
        self._pcm = pcm
        self._subtype, self._endian, sample_bytes = _CODINGS[pcm.coding]
        self._frame_bytes = sample_bytes * pcm.channels
        self._resampler = Resampler(pcm.sample_rate_hz)
        self._rest = b""
        self._is_begun = False

    @property
    def left_bytes(self) -> int:
        """Bytes of a frame whose other bytes have not come."""
        return len(self._rest)

    def push(self, data: bytes) -> Float32:
        """The samples [T] that are complete with these bytes; a resampled stream lags by the filter's delay.

        Raises:
            UserError: the stream begins with the header of a recording.
        """
        data = self._rest + data
        whole = len(data) // self._frame_bytes * self._frame_bytes
        self._rest = data[whole:]
        if not whole:
            return np.zeros(0, np.float32)
        if not self._is_begun and has_header(BytesIO(data)):
            raise UserError(
                f"the stream begins with the header of a recording and was declared as raw PCM {self._pcm}; send raw "
                "samples, or give the recording to `zhiyin understand`"
            )
        self._is_begun = True
        samples_TC, _ = soundfile.read(
            BytesIO(data[:whole]),
            dtype="float32",
            always_2d=True,
            samplerate=self._pcm.sample_rate_hz,
            channels=self._pcm.channels,
            format="RAW",
            subtype=self._subtype,
            endian=self._endian,
        )
        return self._resampler.push(samples_TC.mean(axis=1, dtype=np.float32))

    def finish(self) -> Float32:
        """The samples that the resampler still holds."""
        return self._resampler.push(np.zeros(0, np.float32), last=True) if self._is_begun else np.zeros(0, np.float32)


def arriving(read: Callable[[], bytes], *, stall_s: float, timeout_s: float = 0.0) -> Iterator[bytes]:
    """Yield what `read` gives, as it comes; what has come meanwhile is one piece.

    Reading has its own thread, so that a stall can be seen: nothing at all (``b""``) is yielded once when nothing has
    come for `stall_s`.

    Args:
        read: gives the next bytes, waits for them, and gives none at the end.
        stall_s: see above.
        timeout_s: end when nothing has come for so long; 0 waits for ever.

    Raises:
        UserError: reading failed.
    """
    pieces: queue.Queue[bytes | OSError] = queue.Queue(_PIECES)
    threading.Thread(target=_read_all, args=(read, pieces), daemon=True).start()
    last_s, is_told = time.monotonic(), False
    while True:
        silent_s = time.monotonic() - last_s
        if timeout_s and silent_s >= timeout_s:
            return
        try:
            limits_s = ([] if is_told else [stall_s]) + ([timeout_s] if timeout_s else [])
            piece = pieces.get(timeout=max(0.0, min(limits_s) - silent_s) if limits_s else None)
        except queue.Empty:
            if not is_told and time.monotonic() - last_s >= stall_s:
                is_told = True
                yield b""
            continue
        joined = b""
        while isinstance(piece, bytes) and piece:
            joined += piece
            if pieces.empty():
                break
            piece = pieces.get()
        if joined:
            yield joined
            last_s, is_told = time.monotonic(), False  # the time it took to understand it is no stall
        if isinstance(piece, OSError):
            raise UserError(f"live stream: reading failed ({(piece.strerror or str(piece)).lower()})")
        if not piece:
            return


def _read_all(read: Callable[[], bytes], pieces: "queue.Queue[bytes | OSError]") -> None:
    try:
        while data := read():
            pieces.put(data)
        pieces.put(b"")
    except OSError as error:
        pieces.put(error)


class Microphone:
    """A microphone as a source of raw PCM, through the library sounddevice (extra `live`)."""

    def __init__(self, name: str = "") -> None:
        """Open it.

        Args:
            name: of the device, or a part of it; the system's default without one.

        Raises:
            UserError: the library is missing, or there is no such microphone.
        """
        self._library = _sounddevice()
        device = name or None
        try:
            facts = self._library.query_devices(device, "input")
            rate_hz = self._rate_hz(device, facts)
            block = round(MICROPHONE_BLOCK_S * rate_hz)
            self._stream = self._library.RawInputStream(
                samplerate=rate_hz, blocksize=block, device=device, channels=1, dtype="float32"
            )
            self._stream.start()
        except (ValueError, self._library.PortAudioError) as error:
            known = [one["name"] for one in self._library.query_devices() if one["max_input_channels"]]
            listed = f"there are: {'; '.join(known)}" if known else "this machine has none"
            line = str(error).strip().split("\n")[0]
            raise UserError(f"microphone '{name or 'default'}' cannot be opened ({line}); {listed}") from None
        self.name = str(facts["name"])
        self.pcm = PcmFormat("f32le", rate_hz, 1)
        self.lost_blocks = 0  # samples were lost before them: the machine was too slow
        self._block = block

    def read(self) -> bytes:
        """The next block; nothing when the microphone was closed."""
        try:
            data, is_lost = self._stream.read(self._block)
        except self._library.PortAudioError:
            return b""
        self.lost_blocks += bool(is_lost)
        return bytes(data)

    def close(self) -> None:
        """Let go of the device."""
        self._stream.abort()
        self._stream.close()

    def _rate_hz(self, device: str | None, facts: Any) -> int:
        """16 kHz where the device can, else its own rate."""
        try:
            self._library.check_input_settings(
                device=device, channels=1, dtype="float32", samplerate=float(SAMPLE_RATE_HZ)
            )
        except (ValueError, self._library.PortAudioError):
            return int(facts["default_samplerate"])
        return SAMPLE_RATE_HZ


def _sounddevice() -> Any:
    if importlib.util.find_spec("sounddevice") is None:
        raise UserError(
            "a microphone needs the library sounddevice: pip install 'zhiyin[live]'; or send raw PCM to standard input"
        )
    try:
        return importlib.import_module("sounddevice")
    except OSError:
        raise UserError(
            "a microphone needs the system library PortAudio, which is not there (on Debian and Ubuntu: apt install "
            "libportaudio2); or send raw PCM to standard input"
        ) from None
