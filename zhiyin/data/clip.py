"""The audio of records: the samples of a part, lengths, and names of files that can hold any id."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load, open_recording
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError

SUFFIXES = ("wav", "flac", "mp3", "m4a", "ogg", "opus", "wma")  # what OSUM takes for audio in a tar
_NOTHING_T = np.zeros(0, np.float32)
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*:/{2}")
_CODED = re.compile(r"(?:%[0-9A-F]{2})+")
_NOT_IN_NAMES = re.compile(r'[%@/\\:*?"<>|\x00-\x1f\x7f]|^\.|\s')


def samples(record: Record) -> Float32:
    """Mono 16 kHz samples [T] of a record; of a part only the part.

    Raises:
        UserError: the audio cannot be read.
    """
    if not record.is_part:
        return load(record.audio)
    return next(samples_T for _, samples_T in parts(record.audio, [(record.start_s, record.end_s)]))


def parts(audio: Path, spans: Sequence[tuple[float, float | None]]) -> Iterator[tuple[int, Float32]]:
    """Number and samples [T] of each span (start, end or None, seconds) of a file, which is decoded once.

    Spans come in the order in which they end. One that reaches behind the end of the file is shorter than asked.

    Raises:
        UserError: the audio cannot be read.
    """
    waiting = {i: (_sample(a), None if b is None else _sample(b)) for i, (a, b) in enumerate(spans)}
    pieces: dict[int, list[Float32]] = {i: [_NOTHING_T] for i in waiting}
    place = 0
    for block_T in open_recording(audio).blocks():
        for i, (start, end) in list(waiting.items()):
            pieces[i].append(block_T[max(0, start - place) : None if end is None else max(0, end - place)])
            if end is not None and end <= place + len(block_T):
                del waiting[i]
                yield i, np.concatenate(pieces.pop(i))
        place += len(block_T)
        if not waiting:
            return
    for i in waiting:
        yield i, np.concatenate(pieces[i])


def encoded(record: Record) -> tuple[str, bytes]:
    """Suffix and bytes of a record's audio: the file as it is, or FLAC of 16 kHz for a part or an unusual format.

    Raises:
        UserError: the audio cannot be read.
    """
    suffix = record.audio.suffix.lower().removeprefix(".")
    if not record.is_part and suffix in SUFFIXES:
        try:
            return suffix, record.audio.read_bytes()
        except OSError as error:
            raise UserError(f"record '{record.id}': {record.audio} cannot be read ({error.strerror})") from error
    buffer = io.BytesIO()
    soundfile.write(buffer, samples(record).clip(-1, 1), SAMPLE_RATE_HZ, subtype="PCM_16", format="FLAC")
    return "flac", buffer.getvalue()


def length_s(audio: Path) -> float:
    """Seconds of an audio file, from its header where that can be trusted, else by decoding it.

    Raises:
        UserError: there is no such file, or it holds no audio.
    """
    if audio.suffix.lower() in (".wav", ".flac", ".ogg", ".opus", ".mp3") and audio.is_file():
        with contextlib.suppress(soundfile.LibsndfileError):  # the other decoders may know it, or say what is wrong
            return float(round(soundfile.info(audio).duration, 6))
    return round(sum(map(len, open_recording(audio).blocks())) / SAMPLE_RATE_HZ, 6)


def file_name(record_id: str) -> str:
    """A name that every file system and every tar takes; `record_id` gives the id back."""
    name = _NOT_IN_NAMES.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), record_id)
    if len(name.encode()) > 200:
        raise UserError(f"id '{record_id[:60]}...' is too long for a file name; shorten it to 200 bytes")
    return name


def record_id(name: str) -> str:
    """The id that `file_name` made a name of."""
    return _CODED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(errors="replace"), name)


def is_address(place: str) -> bool:
    """Whether this names something on another machine, by its scheme, and no path."""
    return _ADDRESS.match(place) is not None


def _sample(time_s: float) -> int:
    return round(time_s * SAMPLE_RATE_HZ)
