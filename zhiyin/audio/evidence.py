"""What speaks for speech in a window, besides the detector: its level moves.

Between syllables and words a voice falls by 20 dB and more, in a loud room by what it stands above the room. Engines,
hum, hiss, tones and the sum of many voices hardly move. Measured, see docs/guards.md.
Shapes: `T` samples, `N` steps of 10 ms.
"""

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32

STEADY_DB = 6.0  # speech moves more: by 7.5 dB and more where noise is only 5 dB below it
_STEP_S = 0.01
_LOUD, _SOFT = 0.95, 0.05  # quantiles of the level


def range_db(samples_T: Float32) -> float:
    """By how much the level moves, in decibels; 0 for what is shorter than two steps."""
    hop = round(_STEP_S * SAMPLE_RATE_HZ)
    steps = len(samples_T) // hop
    if steps < 2:
        return 0.0
    power_N = np.square(samples_T[: steps * hop], dtype=np.float64).reshape(steps, hop).mean(axis=1)
    power_N = np.convolve(np.pad(power_N, 1, mode="edge"), np.full(3, 1 / 3), "valid")
    loud, soft = np.quantile(10 * np.log10(power_N + 1e-12), [_LOUD, _SOFT])
    return float(loud - soft)


def is_steady(samples_T: Float32) -> bool:
    """Whether the level moves less than that of any speech that could be understood."""
    return range_db(samples_T) < STEADY_DB
