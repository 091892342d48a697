"""Where a window of speech is quiet: the pauses between words, and before and after them.

Shapes: `T` samples, `N` steps of 10 ms.
"""

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.vad import Span

STEP_S = 0.01
MIN_PAUSE_S = 0.06  # shorter ones are closures of consonants
# Quiet is 32 dB below the loud part of the window. Where the room is louder than that, it is what is nearer to the room
# than to the speech: 30 % of the way up, in decibels, but no more than 6 dB above it. Measured, see docs/times.md.
QUIET_DB = 32.0
_ROOM_SHARE, _ROOM_DB = 0.3, 6.0
_LOUD, _ROOM = 0.9, 0.05  # quantiles of the level


def find(samples_T: Float32, *, min_s: float = MIN_PAUSE_S) -> tuple[Span, ...]:
    """Quiet stretches of at least `min_s`, in seconds from the first sample."""
    hop = round(STEP_S * SAMPLE_RATE_HZ)
    steps = len(samples_T) // hop
    if not steps:
        return ()
    power_N = np.square(samples_T[: steps * hop], dtype=np.float64).reshape(steps, hop).mean(axis=1)
    power_N = np.convolve(np.pad(power_N, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    level_N = 10 * np.log10(power_N + 1e-12)  # -120 dB for digital silence
    loud, room = np.quantile(level_N, [_LOUD, _ROOM])
    limit = max(loud - QUIET_DB, room + min(_ROOM_DB, _ROOM_SHARE * (loud - room)))
    edges = np.flatnonzero(np.diff(level_N < limit, prepend=False, append=False))
    return tuple(
        Span(float(start) * STEP_S, float(end) * STEP_S)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if (end - start) * STEP_S >= min_s - 1e-9
    )
