"""An open file to decoded pieces, by libsndfile or FFmpeg, and pieces to mono 16 kHz.

One rule chooses the decoder, by the first bytes and never by the name: libsndfile reads WAV, FLAC and Ogg, and raw PCM
where it is announced; FFmpeg (PyAV) reads the rest and what libsndfile refuses. Both get an open file object, never a
name, so neither can reach a network protocol, a playlist or a second file.
Shapes: `T` samples, `C` channels.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.errors import UserError

RATES_HZ = (4_000, 768_000)  # below: no speech left; above: no recorder, only a tiny file that unfolds without bound
MAX_CHANNELS = 256
MAX_PEAK = 16.0  # 24 dB over full scale: floats beyond are integers in disguise, not loud audio

_SNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS")
# Containers that hold their audio themselves. Playlists (hls, concat, dash, sdp), text and images stay out.
_FFMPEG_FORMATS = "mp3,aac,mov,mp4,m4a,matroska,webm,asf,ogg,flac,wav,w64,aiff,caf,au,amr,ac3,avi,flv,mpegts,mpeg"
_HEADER_FORMATS = ("mp3", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "wav", "ogg", "flac")  # length written
_RAW_CODINGS = {
    "u8": ("PCM_U8", "LITTLE"),
    "s8": ("PCM_S8", "LITTLE"),
    "s16le": ("PCM_16", "LITTLE"),
    "s16be": ("PCM_16", "BIG"),
    "s24le": ("PCM_24", "LITTLE"),
    "s32le": ("PCM_32", "LITTLE"),
    "f32le": ("FLOAT", "LITTLE"),
    "mulaw": ("ULAW", "LITTLE"),
    "alaw": ("ALAW", "LITTLE"),
}
_READ_SAMPLES = 1 << 18  # over all channels, per read: 1 MB
_HEADER_BYTES = 4096  # a file without samples is hardly longer
_WAV_LENGTHS = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)  # libsndfile's log
_UNKNOWN_LENGTH = 0xFFFF_0000  # a recorder that cannot know the length writes the largest number, or near it
_MISSING_S = 0.2  # a header may differ from the audio by codec delay and padding


@dataclass(frozen=True)
class PcmFormat:
    """How raw samples without a header are to be read: coding, rate and interleaved channels."""

    coding: str = "s16le"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    channels: int = 1

    def __post_init__(self) -> None:
        if self.coding not in _RAW_CODINGS:
            raise UserError(f"raw PCM coding {self.coding!r} is not known; known: {' '.join(_RAW_CODINGS)}")
        check_layout(f"raw PCM {self}", self.sample_rate_hz, self.channels)

    @classmethod
    def parse(cls, text: str) -> "PcmFormat":
        """Read ``CODING[:RATE_HZ[:CHANNELS]]``, e.g. ``s16le:16000:1``.

        Raises:
            UserError: when the text is not of this form.
        """
        coding, *numbers = text.split(":")
        if len(numbers) > 2 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise UserError(f"raw PCM format {text!r} is not CODING[:RATE[:CHANNELS]], e.g. s16le:16000:1")
        return cls(coding, *map(int, numbers))

    def __str__(self) -> str:
        return f"{self.coding}:{self.sample_rate_hz}:{self.channels}"


@dataclass(frozen=True)
class Chunk:
    """A decoded piece: samples [T, C] as float32 and their rate, which may change inside a stream."""

    samples_TC: Float32
    rate_hz: int


def decode(file: BinaryIO, name: str, pcm: PcmFormat | None, notes: list[str]) -> Iterator[Chunk]:
    """Decode an open, seekable file piece by piece, whatever its header claims.

    Args:
        file: positioned anywhere; read from its beginning.
        name: for messages.
        pcm: the file is raw PCM of this format.
        notes: gets a line for every piece that is missing or damaged.

    Raises:
        UserError: when the file is empty or nothing in it can be decoded.
    """
    size_bytes = file.seek(0, 2)
    if not size_bytes:
        raise UserError(f"cannot read {name}: the file is empty (0 bytes)")
    known = has_header(file)
    view = _View(file, size_bytes)
    if pcm is not None:
        if known:
            raise UserError(f"cannot read {name} as raw PCM: it has a header; leave the raw PCM format out")
        yield from _decode_sndfile(_open_raw(view, pcm), view, name, notes)
    elif (opened := _open_sndfile(view, notes) if known else None) is not None:
        yield from _decode_sndfile(opened, view, name, notes)
    else:
        yield from _decode_ffmpeg(view, name, notes)
    if view.fault:
        notes.append(f"a part of the file could not be read ({view.fault})")
    if file.seek(0, 2) > size_bytes:
        notes.append("the file grew while it was read; what came later is not in the result")


def has_header(file: BinaryIO) -> bool:
    """Whether the first bytes announce WAV, FLAC or Ogg; leaves the file at its beginning."""
    file.seek(0)
    magic = file.read(4)
    file.seek(0)
    return magic in _SNDFILE_MAGIC


class Resampler:
    """Mono pieces of one rate to 16 kHz, streaming; all pieces joined equal one resampling of the whole."""

    def __init__(self, rate_hz: int) -> None:
        import soxr

        self.rate_hz = rate_hz
        self._stream = None if rate_hz == SAMPLE_RATE_HZ else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1)

    def push(self, samples_T: Float32, *, last: bool = False) -> Float32:
        """Resample the next piece [T]; what comes back lags by the filter's delay until `last`."""
        if self._stream is None:
            return samples_T
        return self._stream.resample_chunk(np.ascontiguousarray(samples_T), last=last)


def check_layout(name: str, rate_hz: int, channels: int) -> None:
    """Refuse rates and channel counts no recording has.

    Raises:
        UserError: naming the source.
    """
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        low, high = RATES_HZ
        raise UserError(f"cannot read {name}: a sample rate of {rate_hz} Hz; allowed: {low} to {high} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"cannot read {name}: {channels} channels; allowed: 1 to {MAX_CHANNELS}")


def good_samples(chunk: Chunk) -> int:
    """How many samples there are before the first that is NaN, infinite or far beyond full scale."""
    with np.errstate(over="ignore", invalid="ignore"):
        sane_TC = np.abs(chunk.samples_TC) <= MAX_PEAK
    return len(sane_TC) if sane_TC.all() else int(np.argmin(sane_TC.all(axis=1)))


def no_audio(chunk: Chunk, at: int, name: str, offset_s: float) -> UserError:
    """What to say of a chunk whose samples from `at` on are no audio.

    Args:
        chunk: decoded samples.
        at: the first of them that is none.
        name: of the source.
        offset_s: where the chunk begins in the recording.
    """
    values = chunk.samples_TC[at]
    channel = int(np.argmin(np.abs(values) <= MAX_PEAK))
    value, time_s = float(values[channel]), offset_s + at / chunk.rate_hz
    seen = f"cannot read {name}: channel {channel + 1} has the sample {value:g} at {time_s:.3f} s"
    if np.isfinite(value):
        return UserError(f"{seen}; floats must lie in [-1, 1], so divide by full scale or give integers")
    return UserError(f"{seen}; every sample must be a finite number, so repair or export the file again")


def to_mono(chunk: Chunk, channel: int | None = None) -> Float32:
    """The average of the channels of a chunk as [T], or one of them; silence for one that is not there."""
    if channel is None:
        return chunk.samples_TC.mean(axis=1, dtype=np.float32)
    if channel >= chunk.samples_TC.shape[1]:
        return np.zeros(len(chunk.samples_TC), np.float32)
    return np.ascontiguousarray(chunk.samples_TC[:, channel])


def to_float(samples: NDArray[Any]) -> Float32 | None:
    """Samples of any usual type to float32, full scale at 1; None when the type holds no audio."""
    kind, bits = samples.dtype.kind, samples.dtype.itemsize * 8
    if kind == "f":
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused as such
            return samples.astype(np.float32)
    if kind == "u" and bits == 8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if kind == "i" and bits in (8, 16, 32):
        return samples.astype(np.float32) / np.float32(2.0 ** (bits - 1))
    return None


def _open_raw(file: "_View", pcm: PcmFormat) -> soundfile.SoundFile:
    coding, endian = _RAW_CODINGS[pcm.coding]
    return soundfile.SoundFile(
        file, "r", pcm.sample_rate_hz, pcm.channels, coding, endian=endian, format="RAW", closefd=False
    )


def _open_sndfile(view: "_View", notes: list[str]) -> soundfile.SoundFile | None:
    """None where FFmpeg must try: libsndfile lacks the coding or cannot make sense of the file."""
    try:
        opened = soundfile.SoundFile(view.again(), "r", closefd=False)
    except soundfile.LibsndfileError:
        return None
    if opened.frames or not opened.format.startswith("WAV"):
        return opened
    header = view.again().read(_HEADER_BYTES)
    data_at = header.find(b"data") + 8
    endian = "BIG" if header.startswith(b"RIFX") else "LITTLE"
    if len(header) < _HEADER_BYTES or data_at < 8:
        return opened
    notes.append("its header was never finished; everything behind it is read as audio")
    shape = opened.samplerate, opened.channels, opened.subtype
    return soundfile.SoundFile(view.again(data_at), "r", *shape, endian=endian, format="RAW", closefd=False)


def _decode_sndfile(opened: soundfile.SoundFile, view: "_View", name: str, notes: list[str]) -> Iterator[Chunk]:
    decoded = 0
    with opened:
        rate_hz, claimed = opened.samplerate, opened.frames
        check_layout(name, rate_hz, opened.channels)
        frames_per_read = max(1, _READ_SAMPLES // opened.channels)
        is_damaged = False
        while True:
            try:
                samples_TC = opened.read(frames_per_read, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                is_damaged = True
                break
            if not len(samples_TC):
                break
            decoded += len(samples_TC)
            yield Chunk(samples_TC, rate_hz)
        log = opened.extra_info
    if is_damaged:  # libsndfile gives up where FFmpeg still finds whole frames
        notes.append(f"damaged after {decoded / rate_hz:.2f} s: a part may be missing or sound wrong")
        try:
            yield from _skip(_decode_ffmpeg(view, name, notes), decoded)
        except UserError:
            if not decoded:
                raise
        return
    _note_missing(claimed / rate_hz, decoded / rate_hz, notes)
    # libsndfile believes the length of a WAV file over its header, and the last page of an Ogg file over the mark that
    # it is the last.
    lengths = _WAV_LENGTHS.search(log)
    if lengths and int(lengths[2]) < int(lengths[1]) < _UNKNOWN_LENGTH:
        notes.append(f"truncated: its header promises more than the {decoded / rate_hz:.2f} s it holds")
    elif opened.format == "OGG" and not _has_last_page(view.again()):
        notes.append(f"truncated after {decoded / rate_hz:.2f} s: its last page is missing")


def _skip(chunks: Iterator[Chunk], samples: int) -> Iterator[Chunk]:
    for chunk in chunks:
        if samples < len(chunk.samples_TC):
            yield Chunk(chunk.samples_TC[samples:], chunk.rate_hz)
        samples = max(0, samples - len(chunk.samples_TC))


def _has_last_page(file: "_View") -> bool:
    """Whether the last page of an Ogg file is marked as the last; a page is at most 65307 bytes (RFC 3533)."""
    size_bytes = file.seek(0, 2)
    file.seek(max(0, size_bytes - 2 * 65_307))
    end = file.read()
    page = end.rfind(b"OggS")
    return page >= 0 and (page + 5 >= len(end) or bool(end[page + 5] & 4))


def _decode_ffmpeg(view: "_View", name: str, notes: list[str]) -> Iterator[Chunk]:
    import av  # 0.1 s and 30 MB, paid only by the formats that need it

    sync = view.again().read(2)
    # FFmpeg does not recognise an AAC stream of a few frames by itself (ISO 14496-3: 12 bits set, layer 0).
    is_aac = len(sync) == 2 and sync[0] == 0xFF and sync[1] & 0xF6 == 0xF0
    try:
        container = av.open(
            cast(IO[bytes], view.again()),
            mode="r",
            format="aac" if is_aac else None,
            container_options={"format_whitelist": _FFMPEG_FORMATS},
            io_open=_refuse_side_file,
        )
    except (av.FFmpegError, ValueError, OSError):
        raise UserError(
            f"cannot read {name}: not a recording in a format we know, or damaged at its beginning"
        ) from None
    with container:
        if not container.streams.audio:
            raise UserError(f"cannot read {name}: it holds no audio")
        claimed_s = (container.duration or 0) / av.time_base if container.format.name in _HEADER_FORMATS else 0.0
        decoded_s = 0.0
        for chunk in _frames(container, notes):
            check_layout(name, chunk.rate_hz, chunk.samples_TC.shape[1])
            decoded_s += len(chunk.samples_TC) / chunk.rate_hz
            yield chunk
    if not decoded_s:
        raise UserError(f"cannot read {name}: nothing in it could be decoded")
    _note_missing(claimed_s, decoded_s, notes)


def _frames(container: Any, notes: list[str]) -> Iterator[Chunk]:
    """Frames of the first audio stream; damaged packets are skipped and counted."""
    import av

    stream = container.streams.audio[0]
    damaged, decoded_s, first_s = 0, 0.0, 0.0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            damaged, first_s = damaged + 1, first_s if damaged else decoded_s
            break
        if packet is None:
            break
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged, first_s = damaged + 1, first_s if damaged else decoded_s
            continue
        for frame in frames:
            samples = to_float(frame.to_ndarray())
            if samples is None:
                raise UserError(f"cannot read a stream of {frame.format.name} samples")
            channels = frame.layout.nb_channels
            decoded_s += frame.samples / frame.sample_rate
            yield Chunk(samples.T if frame.format.is_planar else samples.reshape(-1, channels), frame.sample_rate)
    if damaged:
        notes.append(f"{damaged} damaged or cut-off pieces could not be decoded, the first after {first_s:.2f} s")


def _note_missing(claimed_s: float, decoded_s: float, notes: list[str]) -> None:
    if claimed_s - decoded_s > _MISSING_S:
        notes.append(f"truncated: {decoded_s:.2f} s could be decoded of the {claimed_s:.2f} s its header promises")


def _refuse_side_file(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError(f"a recording may not open another file: {url}")


class _View:
    """A part of a file, without its name: both libraries would trust its ending over the content.

    It has a place of its own, so that several can read one file in turn, and it ends where the file ended when reading
    began. An error of the disk ends it too; `fault` says which.
    """

    def __init__(self, file: BinaryIO, size_bytes: int, offset: int = 0) -> None:
        self.fault = ""
        self._file, self._size_bytes, self._offset = file, size_bytes, offset
        self._at = offset
        self._source = self

    def again(self, offset: int = 0) -> "_View":
        """The same file from an offset on; its faults are told here too."""
        view = _View(self._file, self._size_bytes, offset)
        view._source = self._source
        return view

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; all for -1."""
        left = max(0, self._size_bytes - self._at)
        try:
            self._file.seek(self._at)
            data = self._file.read(left if size < 0 else min(size, left))
        except OSError as error:  # raised inside a library in C, it would be lost
            self._source.fault = (error.strerror or str(error)).lower()
            return b""
        self._at += len(data)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """As of a file."""
        start = (self._offset, self._at, self._size_bytes)[whence]
        self._at = max(self._offset, start + position)
        return self.tell()

    def tell(self) -> int:
        """As of a file."""
        return self._at - self._offset
