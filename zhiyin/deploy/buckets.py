"""The lengths graphs of fixed shape are made for: the one table that export, the compiler and the runtime share."""

from collections.abc import Sequence

from zhiyin.errors import UserError
from zhiyin.runtime.base import ModelSpec

CALL_TOKENS = (64, 1)  # tokens per call of the decoder graphs: prompts (and checking a draft), single steps
MAX_BATCH = 64


def parse(words: str) -> tuple[float, ...]:
    """Seconds from ``5,10,15``, smaller first; nothing gives none.

    Raises:
        UserError: a word is no positive number, or stands there twice.
    """
    found = []
    for word in words.split(",") if words.strip() else ():
        try:
            seconds = float(word)
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds < float("inf"):
            raise UserError(f"bucket '{word.strip()}': seconds of audio are wanted, e.g. --buckets 5,10,15")
        if seconds in found:
            raise UserError(f"bucket {seconds:g} is given twice; give each length once, e.g. --buckets 5,10,15")
        found.append(seconds)
    return tuple(sorted(found))


def parse_batches(words: str) -> tuple[int, ...]:
    """Rows of the decoder graphs from ``1,4``, smaller first.

    Raises:
        UserError: a word is no number from 1 to 64.
    """
    found = set()
    for word in words.split(","):
        if not word.strip().isdigit() or not 1 <= int(word) <= MAX_BATCH:
            raise UserError(f"batch '{word.strip()}': 1 to {MAX_BATCH} rows are possible, e.g. --batches 1,4")
        found.add(int(word))
    return tuple(sorted(found))


def frames(spec: ModelSpec, buckets_s: Sequence[float], *, encoder_frames: int) -> tuple[int, ...]:
    """Feature frames of each bucket.

    Args:
        spec: of the model.
        buckets_s: seconds, smaller first.
        encoder_frames: the most its position tables allow.

    Raises:
        UserError: a bucket is longer than the encoder can take or than the model's windows ever are, or two are one.
    """
    found = tuple(round(seconds * spec.frames_per_s) for seconds in buckets_s)
    for seconds, count in zip(buckets_s, found, strict=True):
        most_s = encoder_frames / spec.frames_per_s
        if count > encoder_frames:
            wrong = f"its encoder has positions for {most_s:g} s"
        elif count > spec.max_frames:
            wrong = f"its windows are at most {spec.max_window_s:g} s (max_window_s), so nothing would use it"
        elif count < 1 or found.count(count) > 1:
            wrong = f"it is {count} frames, as another bucket or none at all"
        else:
            continue
        raise UserError(f"bucket {seconds:g} s: model '{spec.name}': {wrong}; leave this bucket out")
    return found
