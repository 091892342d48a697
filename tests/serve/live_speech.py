"""Streams for the tests of the live sockets: our samples, and what they say."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

import zhiyin
from zhiyin.ask import Options
from zhiyin.audio.io import load
from zhiyin.live.events import Final
from zhiyin.live.session import LiveSession
from zhiyin.result import Segment

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
PAUSE_T = np.zeros(16_000, np.float32)


@cache
def truth() -> dict[str, str]:
    """File name without ending -> what is said."""
    rows = [json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["file"].removesuffix(".flac"): row["text"] for row in rows}


def stream(*names: str) -> NDArray[np.float32]:
    """Samples one after the other, with a second of silence behind each; 16 kHz [T]."""
    return np.concatenate([piece_T for name in names for piece_T in (load(SAMPLES / f"{name}.flac"), PAUSE_T)])


def pcm16(samples_T: NDArray[np.float32], rate_hz: int = 16_000) -> bytes:
    """As 16-bit little-endian PCM of a rate."""
    if rate_hz != 16_000:
        samples_T = soxr.resample(samples_T, 16_000, rate_hz)
    return (samples_T * 32767).round().clip(-32768, 32767).astype("<i2").tobytes()


def heard(model: zhiyin.Model, samples_T: NDArray[np.float32]) -> list[Segment]:
    """What a session of the live engine makes of it, without any server."""
    session = LiveSession(model.loaded, options=Options(written=True))
    events = [event for at in range(0, len(samples_T), 1600) for event in session.push(samples_T[at : at + 1600])]
    return [event.segment for event in [*events, *session.finish()] if isinstance(event, Final)]
