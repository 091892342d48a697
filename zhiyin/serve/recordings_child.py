"""The child process behind `recordings`: a line of JSON in, a line of JSON out, until its input ends.

Strange files are decoded here first. What breaks the process breaks nothing else.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.audio import vad
from zhiyin.audio.decode import PcmFormat, decode, has_header
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import open_recording
from zhiyin.errors import UserError

RAW_SUFFIXES = (".pcm", ".raw")
NICE = 5  # the event loop of the server goes first
_PEAK_BLOCK_S = 0.01  # the finest waveform that is kept while a recording is read


def count(path: str, limit_s: float, budget_s: float) -> dict[str, Any]:
    """How long a recording is, by decoding it, for at most so many seconds of work.

    Args:
        path: of the recording.
        limit_s: decoding stops beyond this length.
        budget_s: wall time after which counting is given up.

    Returns:
        ``duration_s`` decoded so far, ``is_whole``: whether that is all of it, and its ``channels``.
    """
    began_s, decoded_s, channels = time.monotonic(), 0.0, 0
    with Path(path).open("rb") as file:
        raw = PcmFormat() if path.endswith(RAW_SUFFIXES) and not has_header(file) else None
        for chunk in decode(file, "the upload", raw, []):
            channels = max(channels, chunk.samples_TC.shape[1])
            decoded_s += len(chunk.samples_TC) / chunk.rate_hz
            if decoded_s > limit_s or time.monotonic() - began_s > budget_s:
                return {"duration_s": decoded_s, "is_whole": False, "channels": channels}
    return {"duration_s": decoded_s, "is_whole": True, "channels": channels}


def look(path: str, limit_s: float, points: int, thresholds: dict[str, float] | None) -> dict[str, Any]:
    """The outline of a recording and, where thresholds are given, its spans of speech.

    Returns:
        ``duration_s``, ``peaks``: at most `points` pairs of the lowest and highest sample of equal stretches, and
        ``spans`` with ``start_s``, ``end_s`` and ``peak``.
    """
    outline: list[Float32] = []
    recording = open_recording(path, max_s=limit_s)
    samples = 0

    def read() -> Iterator[Float32]:
        nonlocal samples
        for block_T in recording.blocks(keep_good=True):
            samples += len(block_T)
            outline.append(_outline(block_T))
            yield block_T

    spans: list[vad.Span] = []
    if thresholds is None:
        for _ in read():
            pass
    else:
        spans = list(vad.spans(read(), thresholds=vad.Thresholds(**thresholds)))
    return {
        "duration_s": round(samples / SAMPLE_RATE_HZ, 3),
        "peaks": _thinned(outline, points),
        "spans": [
            {"start_s": round(span.start_s, 3), "end_s": round(span.end_s, 3), "peak": round(span.peak, 4)}
            for span in spans
        ],
    }


def _outline(block_T: Float32) -> Float32:
    """Lowest and highest sample [n, 2] of each hundredth of a second."""
    step = round(_PEAK_BLOCK_S * SAMPLE_RATE_HZ)
    padded_T = np.pad(block_T, (0, -len(block_T) % step), mode="edge")
    rows = padded_T.reshape(-1, step)
    return np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1)


def _thinned(outline: list[Float32], points: int) -> list[list[float]]:
    if not outline or points < 1:
        return []
    all_n2 = np.concatenate(outline)
    cuts = np.unique(np.linspace(0, len(all_n2), min(points, len(all_n2)) + 1).astype(int))
    low = np.minimum.reduceat(all_n2[:, 0], cuts[:-1])
    high = np.maximum.reduceat(all_n2[:, 1], cuts[:-1])
    return [[round(float(a), 4), round(float(b), 4)] for a, b in zip(low, high, strict=True)]


def _answer(wish: dict[str, Any]) -> dict[str, Any]:
    what = wish.pop("do")
    try:
        return count(**wish) if what == "count" else look(**wish)
    except UserError as error:
        return {"error": str(error).replace(wish["path"], "the upload")}
    except OSError as error:
        return {"error": f"cannot read the upload: {(error.strerror or str(error)).lower()}"}


def main() -> None:
    """Answer until the parent closes the pipe."""
    os.nice(NICE)
    answers = sys.stdout
    sys.stdout = sys.stderr  # a library that prints must not be taken for an answer
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
