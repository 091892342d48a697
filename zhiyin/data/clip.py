"""The audio of records: the samples of a part, lengths, and names of files that can hold any id."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import soundfile

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load, open_recording
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError

_NOT_IN_NAMES = re.compile(r'[%/\\:*?"<>|\x00-\x1f\x7f]|^\.|\s')


def samples(record: Record) -> Float32:
    """Mono 16 kHz samples [T] of a record; of a part only the part.

    Raises:
        UserError: the audio cannot be read.
    """
    if not record.is_part:
        return load(record.audio)
    return next(parts(record.audio, [(record.start_s, record.end_s)]))


def parts(audio: Path, spans: Sequence[tuple[float, float | None]]) -> Iterator[Float32]:
    """The samples [T] of each span (start, end or None, seconds) of a file that is decoded once.

    What lies behind the end of the file is missing from a span, so that it is shorter than asked.

    Raises:
        UserError: the audio cannot be read.
    """
    open_ended = any(end_s is None for _, end_s in spans)
    last = max((_sample(end_s) for _, end_s in spans if end_s is not None), default=0)
    blocks, count = [], 0
    for block_T in open_recording(audio).blocks():
        blocks.append(block_T)
        count += len(block_T)
        if count >= last and not open_ended:
            break
    whole_T = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    for start_s, end_s in spans:
        yield whole_T[_sample(start_s) : None if end_s is None else _sample(end_s)]


def length_s(audio: Path) -> float:
    """Seconds of an audio file, from its header where that can be trusted, else by decoding it.

    Raises:
        UserError: there is no such file, or it holds no audio.
    """
    if audio.suffix.lower() in (".wav", ".flac", ".ogg", ".opus", ".mp3") and audio.is_file():
        try:
            return round(soundfile.info(audio).duration, 6)
        except soundfile.LibsndfileError:
            pass  # the other decoders may know it, or say what is wrong
    return round(sum(map(len, open_recording(audio).blocks())) / SAMPLE_RATE_HZ, 6)


def file_name(record_id: str) -> str:
    """A name that every file system and every tar takes; `record_id` gives the id back."""
    name = _NOT_IN_NAMES.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), record_id)
    if len(name.encode()) > 200:
        raise UserError(f"id '{record_id[:60]}...' is too long for a file name; shorten it to 200 bytes")
    return name


def record_id(name: str) -> str:
    """The id that `file_name` made a name of."""
    return unquote(name)


def _sample(time_s: float) -> int:
    return round(time_s * SAMPLE_RATE_HZ)
