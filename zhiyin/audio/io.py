"""Any recording to blocks of mono 16 kHz float32: files, bytes, streams, standard input and arrays.

A recording is read in blocks, so that ten hours never sit in memory; `load` reads a short one whole.
Shapes: `T` samples, `C` channels.
"""

import os
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zhiyin.audio.decode import (
    Chunk,
    PcmFormat,
    Resampler,
    check_layout,
    decode,
    good_samples,
    has_header,
    no_audio,
    to_float,
    to_mono,
)
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.errors import UserError

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[Any]

MAX_RECORDING_S = 24 * 3600.0  # `Recording.blocks` stops here, with a note
MAX_LOAD_S = 3600.0  # `load` refuses more: an hour is 230 MB in memory
MAX_SPLIT_CHANNELS = 16  # each is decoded by itself
KEEP_S = 30.0  # of good audio: where more was read before a recording breaks, it is kept
MAX_SPOOL_BYTES = 16 * 2**30  # of a stream that cannot seek: a day of 16-bit stereo at 48 kHz
_RAW_SUFFIXES = (".pcm", ".raw")
_ARRAY_CHUNK_SAMPLES = 1 << 18
_NOTHING_T = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Recording:
    """A recording that can be read in blocks; nothing is decoded before `blocks` is asked.

    Attributes:
        source: file name, or ``<bytes>``, ``<stream>``, ``<stdin>``, ``<array>``.
        chunks: decodes from the beginning and writes its notes into the list it is given.
        max_s: longest audio read.
        notes: what the user should know (an unreadable tail, a cut); filled while blocks are read.
        channel: the one that is read, the first being 0; None for the average of all.
    """

    source: str
    chunks: Callable[[list[str]], Iterator[Chunk]] = field(repr=False)
    max_s: float = MAX_RECORDING_S
    notes: list[str] = field(default_factory=list)
    channel: int | None = None

    def blocks(self, block_s: float = 30.0, *, keep_good: bool = False) -> Iterator[Float32]:
        """Yield the recording as mono 16 kHz float32 blocks [T] of `block_s` seconds, the last one shorter.

        Channels are averaged. What a header claims is never believed: the blocks hold what really decodes. After
        `max_s` seconds reading stops and a note says so. Another call reads again from the beginning.

        Args:
            block_s: length of a block.
            keep_good: a recording that breaks after `KEEP_S` seconds ends there, with a note; otherwise, and where it
                breaks earlier, that is an error.

        Raises:
            UserError: naming the source, when it cannot be read or holds samples that are no audio.
        """
        self.notes.clear()
        block_samples = max(1, round(block_s * SAMPLE_RATE_HZ))
        pending: list[Float32] = []
        pending_samples = total_samples = 0
        for piece_T in self._until_it_breaks() if keep_good else self._limited():
            total_samples += len(piece_T)
            pending.append(piece_T)
            pending_samples += len(piece_T)
            if pending_samples >= block_samples:
                joined_T = np.concatenate(pending)
                whole = len(joined_T) // block_samples * block_samples
                for start in range(0, whole, block_samples):
                    yield joined_T[start : start + block_samples]
                pending, pending_samples = [joined_T[whole:]], len(joined_T) - whole
        if pending_samples:
            yield np.concatenate(pending)
        if not total_samples:
            self.notes.append("holds no audio samples")

    def split(self) -> "tuple[Recording, ...]":
        """The channels, each as a recording of its own; all can be read at the same time.

        Raises:
            UserError: as `blocks`, and where there are more than `MAX_SPLIT_CHANNELS` of them.
        """
        first = next(self.chunks([]), None)
        channels = 1 if first is None else first.samples_TC.shape[1]
        if channels > MAX_SPLIT_CHANNELS:
            raise UserError(
                f"cannot keep the channels of {self.source} apart: it has {channels}, and at most {MAX_SPLIT_CHANNELS}"
                " are understood one by one; mix them"
            )
        return tuple(replace(self, channel=channel, notes=[]) for channel in range(channels))

    def _until_it_breaks(self) -> Iterator[Float32]:
        """As `_limited`, but what comes after `KEEP_S` seconds and cannot be read is a note."""
        samples = 0
        try:
            for piece_T in self._limited():
                samples += len(piece_T)
                yield piece_T
        except UserError as error:
            if samples <= KEEP_S * SAMPLE_RATE_HZ:
                raise
            self.notes.append(f"broken after {samples / SAMPLE_RATE_HZ:.2f} s; what came before is kept ({error})")

    def _limited(self) -> Iterator[Float32]:
        left_samples = round(self.max_s * SAMPLE_RATE_HZ)
        for piece_T in self._pieces():
            if len(piece_T) > left_samples:
                self.notes.append(f"cut after {self.max_s:g} s, the longest recording that is read")
                yield piece_T[:left_samples]
                return
            left_samples -= len(piece_T)
            yield piece_T

    def _pieces(self) -> Iterator[Float32]:
        """Mono 16 kHz pieces of any length; a new resampler wherever the stream changes its rate."""
        resampler: Resampler | None = None
        decoded_s, channels = 0.0, 0
        try:
            for chunk in self.chunks(self.notes):
                self._note_channels(channels, chunk.samples_TC.shape[1], decoded_s)
                channels = chunk.samples_TC.shape[1]
                if resampler is None or resampler.rate_hz != chunk.rate_hz:
                    if resampler is not None:
                        yield resampler.push(_NOTHING_T, last=True)
                    resampler = Resampler(chunk.rate_hz)
                good = good_samples(chunk)
                yield resampler.push(to_mono(Chunk(chunk.samples_TC[:good], chunk.rate_hz), self.channel))
                if good < len(chunk.samples_TC):
                    raise no_audio(chunk, good, self.source, decoded_s)
                decoded_s += good / chunk.rate_hz
        except UserError:
            if resampler is not None:
                yield resampler.push(_NOTHING_T, last=True)
            raise
        if resampler is not None:
            yield resampler.push(_NOTHING_T, last=True)

    def _note_channels(self, before: int, now: int, time_s: float) -> None:
        if self.channel is not None and before and now != before:
            self.notes.append(
                f"{before} channels until {time_s:.2f} s, {now} from then on; one that is not there is silent, and only"
                " those there were at the beginning are understood"
            )


def open_recording(
    source: Source,
    *,
    sample_rate_hz: int | None = None,
    pcm: PcmFormat | None = None,
    max_s: float = MAX_RECORDING_S,
) -> Recording:
    """Make a `Recording` of anything that can hold audio.

    Args:
        source: path, ``-`` (standard input), bytes of a file, binary file object, or array [T], [T, C] or [C, T]
            (the longer axis is time) of floats in [-1, 1] or of uint8, int8, int16, int32.
        sample_rate_hz: of an array, default 16000; not allowed for anything else.
        pcm: read the bytes as raw PCM. Files named ``.pcm`` or ``.raw`` are read as s16le:16000:1 by default.
        max_s: longest audio read; the rest is left out with a note.

    Raises:
        UserError: naming the source, when it is missing, a folder, or nothing that holds audio.
    """
    if isinstance(source, np.ndarray):
        return _open_array(source, sample_rate_hz or SAMPLE_RATE_HZ, max_s)
    if sample_rate_hz is not None:
        raise UserError("sample_rate_hz describes an array; for raw PCM give its format, e.g. s16le:8000:1")
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return Recording("<bytes>", lambda notes: decode(BytesIO(data), "<bytes>", pcm, notes), max_s)
    if isinstance(source, (str, os.PathLike)):
        if os.fspath(source) == "-":
            return _open_stream("<stdin>", sys.stdin.buffer, pcm, max_s)
        return _open_path(os.fspath(source), pcm, max_s)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return _open_stream(name if isinstance(name, str) else "<stream>", source, pcm, max_s)
    raise UserError(f"cannot read audio from {type(source).__name__}; allowed: path, bytes, binary file object, array")


def load(
    source: Source,
    *,
    sample_rate_hz: int | None = None,
    pcm: PcmFormat | None = None,
    max_s: float = MAX_LOAD_S,
) -> Float32:
    """Read a short recording whole, as mono 16 kHz float32 [T]; arguments as for `open_recording`.

    Raises:
        UserError: as `open_recording`, and when the recording is longer than `max_s`.
    """
    recording = open_recording(source, sample_rate_hz=sample_rate_hz, pcm=pcm, max_s=max_s + 1.0)
    blocks = list(recording.blocks())
    if sum(map(len, blocks)) > max_s * SAMPLE_RATE_HZ:
        raise UserError(f"cannot load {recording.source} at once: longer than {max_s:g} s; read it in blocks")
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _open_path(given: str, pcm: PcmFormat | None, max_s: float) -> Recording:
    name = given if given.isprintable() else repr(given)
    if not given:
        raise UserError("cannot read a recording without a name; give a local audio file, or - for standard input")
    path = Path(given)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"cannot read {name}: {why}; give a local audio file, or - for standard input") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"cannot read {name}: it is a folder; give one of the recordings in it")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise UserError(f"cannot read {name}: it is a device, not a file")
    copies: list[BinaryIO] = []

    def chunks(notes: list[str]) -> Iterator[Chunk]:
        try:
            if stat.S_ISFIFO(mode) and not copies:
                with path.open("rb") as pipe:
                    copies.append(_spool(pipe, name))
            file = nullcontext(copies[0]) if copies else path.open("rb")
        except OSError as error:
            raise UserError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
        with file as seekable:
            by_name = None
            if pcm is None and path.suffix.lower() in _RAW_SUFFIXES and not has_header(seekable):
                by_name = PcmFormat()
                notes.append(f"read as raw PCM {by_name}, by its name")
            yield from decode(seekable, name, pcm or by_name, notes)

    weakref.finalize(chunks, _close, copies)
    return Recording(name, chunks, max_s)


def _open_stream(name: str, stream: BinaryIO, pcm: PcmFormat | None, max_s: float) -> Recording:
    """A stream that cannot seek (a pipe) is kept in a temporary file on disk: MP4 must be read back and forth."""
    if not isinstance(stream.read(0), bytes):
        raise UserError(f"cannot read {name}: it gives text; open it in binary mode")
    seekable = getattr(stream, "seekable", lambda: False)() and stream.tell() == 0
    copies: list[BinaryIO] = []

    def chunks(notes: list[str]) -> Iterator[Chunk]:
        if not seekable and not copies:
            copies.append(_spool(stream, name))
        yield from decode(stream if seekable else copies[0], name, pcm, notes)

    weakref.finalize(chunks, _close, copies)
    return Recording(name, chunks, max_s)


def _close(copies: list[BinaryIO]) -> None:
    for copy in copies:
        copy.close()


def _spool(stream: BinaryIO, name: str) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the recording
    try:
        while data := stream.read(1 << 20):
            if copy.tell() + len(data) > MAX_SPOOL_BYTES:
                limit = f"{MAX_SPOOL_BYTES / 2**30:g} GiB"
                raise UserError(f"cannot read {name}: more than {limit} in a stream; give a file instead")
            copy.write(data)
    except BaseException:
        copy.close()
        raise
    return copy


def _open_array(array: NDArray[Any], rate_hz: int, max_s: float) -> Recording:
    name = "<array>"
    if array.ndim not in (1, 2):
        raise UserError(f"cannot read audio from an array of shape {array.shape}; allowed: [T], [T, C] or [C, T]")
    if to_float(array[:0]) is None:
        raise UserError(f"cannot read audio from an array of {array.dtype}; allowed: floats, uint8, int8, int16, int32")
    array_TC = array[:, None] if array.ndim == 1 else array if array.shape[0] >= array.shape[1] else array.T
    check_layout(name, rate_hz, array_TC.shape[1])

    def chunks(notes: list[str]) -> Iterator[Chunk]:
        step = max(1, _ARRAY_CHUNK_SAMPLES // array_TC.shape[1])
        for start in range(0, len(array_TC), step):
            samples_TC = to_float(array_TC[start : start + step])
            assert samples_TC is not None
            yield Chunk(samples_TC, rate_hz)

    return Recording(name, chunks, max_s)
