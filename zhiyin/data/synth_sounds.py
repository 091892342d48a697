"""Whispering and shouting made of plain speech, and sounds of people made of noise and pulses.

The sounds are imitations, of our own making: they teach a model that something else than words can be heard, and let
the whole path be tried. They are no measure of how well real coughs are heard. `T` is samples at 16 kHz.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.data import augment_wave

_FRAME, _HOP = 512, 128
_LIFTER = 40  # cepstral coefficients kept: no trace of a pitch below 400 Hz is left

Array = NDArray[np.float64]


def whispered(samples_T: Float32, rng: np.random.Generator) -> Float32:
    """Speech with its voice replaced by breath: noise through the same vocal tract, as long as before.

    Frame by frame the smooth envelope of the spectrum (cepstral liftering, Oppenheim and Schafer) is put on Gaussian
    noise; the fall of the voice's own spectrum, about 6 dB per octave, is taken back in part.
    """
    window = np.hanning(_FRAME + 1)[:-1]
    padded_T = np.pad(samples_T.astype(np.float64), (_FRAME, 2 * _FRAME))
    starts = np.arange(0, len(padded_T) - _FRAME, _HOP)
    frames = padded_T[starts[:, None] + np.arange(_FRAME)] * window
    cepstra = np.fft.irfft(np.log(np.abs(np.fft.rfft(frames)) + 1e-7))
    cepstra[:, _LIFTER : _FRAME - _LIFTER + 1] = 0.0
    envelope = np.exp(np.fft.rfft(cepstra).real)
    hz = np.fft.rfftfreq(_FRAME, 1 / SAMPLE_RATE_HZ)
    envelope *= (np.maximum(hz, 200.0) / 1000.0) ** 0.6
    breath = np.fft.rfft(rng.standard_normal(frames.shape) * window) / np.sqrt(np.sum(window**2))
    spoken = np.fft.irfft(envelope * breath) * window
    out_T = np.zeros(len(padded_T))
    np.add.at(out_T, starts[:, None] + np.arange(_FRAME), spoken)
    out_T = out_T[_FRAME : _FRAME + len(samples_T)]
    level = np.sqrt(np.mean(out_T**2)) or 1.0
    return (out_T * (0.5 * np.sqrt(augment_wave.power(samples_T)) / level)).astype(np.float32)


def shouted(samples_T: Float32, rng: np.random.Generator) -> Float32:
    """Speech with the energy of a shout: 1 to 4 kHz lifted by 6 to 12 dB, then driven into a limiter.

    Pitch and rate are the voice's business: it is asked to speak higher and slower.
    """
    spectrum = np.fft.rfft(samples_T)
    hz = np.fft.rfftfreq(len(samples_T), 1 / SAMPLE_RATE_HZ)
    lift_db = rng.uniform(6.0, 12.0) * np.exp(-(np.log2(np.maximum(hz, 1.0) / 2000.0) ** 2))
    lifted_T = np.fft.irfft(spectrum * 10 ** (lift_db / 20), len(samples_T))
    peak = np.quantile(np.abs(lifted_T), 0.999) or 1.0
    return np.tanh(rng.uniform(1.5, 3.0) * lifted_T / peak).astype(np.float32)


def event(kind: str, rng: np.random.Generator) -> Float32:
    """A made sound of a person: one of `EVENTS`; peak 1."""
    sound_T = EVENTS[kind](rng)
    return (sound_T / np.abs(sound_T).max()).astype(np.float32)


def _cough(rng: np.random.Generator) -> Array:
    parts = []
    for _ in range(rng.integers(1, 4)):
        length_s = rng.uniform(0.15, 0.3)
        burst = _noise(length_s, rng) * _decay(length_s, rng.uniform(0.03, 0.08))
        parts += [_shaped(burst, rng.uniform(500, 900), 1800.0, 3200.0), _quiet(rng.uniform(0.08, 0.25))]
    return np.concatenate(parts)


def _sneeze(rng: np.random.Generator) -> Array:
    length_s = rng.uniform(0.25, 0.5)
    breath = _noise(length_s, rng) * np.linspace(0.02, 0.25, round(length_s * SAMPLE_RATE_HZ)) ** 1.5
    burst = _noise(0.35, rng) * _decay(0.35, rng.uniform(0.06, 0.12))
    return np.concatenate(
        [_shaped(breath, 700.0, 1600.0), _quiet(rng.uniform(0.02, 0.08)), _shaped(burst, 2500.0, 5500.0)]
    )


def _laugh(rng: np.random.Generator) -> Array:
    pitch_hz, parts = rng.uniform(150, 350), []
    for place in range(rng.integers(3, 8)):
        length_s = rng.uniform(0.07, 0.11)
        voice = _buzz(np.full(round(length_s * SAMPLE_RATE_HZ), pitch_hz * 0.95**place)) + 0.6 * _noise(length_s, rng)
        parts += [_shaped(voice * _hump(length_s), 750.0, 1250.0, 2600.0), _quiet(rng.uniform(0.08, 0.13))]
    return np.concatenate(parts)


def _cry(rng: np.random.Generator) -> Array:
    parts = []
    for _ in range(rng.integers(1, 4)):
        length_s = rng.uniform(0.6, 1.2)
        time_s = np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        rise = 1 + 0.25 * np.sin(np.pi * time_s / length_s)
        pitch_hz = rng.uniform(350, 550) * rise * (1 + 0.02 * np.sin(2 * np.pi * rng.uniform(5, 7) * time_s))
        parts += [_shaped(_buzz(pitch_hz) * _hump(length_s), 1100.0, 2800.0), _quiet(rng.uniform(0.2, 0.4))]
    return np.concatenate(parts)


def _scream(rng: np.random.Generator) -> Array:
    length_s = rng.uniform(0.5, 1.1)
    pitch_hz = np.linspace(rng.uniform(700, 900), rng.uniform(900, 1300), round(length_s * SAMPLE_RATE_HZ))
    return _shaped(np.tanh(3 * _buzz(pitch_hz)) + 0.3 * _noise(length_s, rng), 1400.0, 3200.0) * _hump(length_s)


def _sigh(rng: np.random.Generator) -> Array:
    length_s = rng.uniform(0.8, 1.5)
    return _shaped(_noise(length_s, rng), rng.uniform(450, 700), 1500.0) * _hump(length_s, 0.25)


def _throat(rng: np.random.Generator) -> Array:
    parts = []
    for _ in range(rng.integers(1, 3)):
        length_s = rng.uniform(0.25, 0.5)
        pulses = _buzz(np.full(round(length_s * SAMPLE_RATE_HZ), rng.uniform(45, 80))) + 0.3 * _noise(length_s, rng)
        parts += [_shaped(pulses, 500.0, 1300.0) * _hump(length_s), _quiet(rng.uniform(0.1, 0.2))]
    return np.concatenate(parts)


def _other(rng: np.random.Generator) -> Array:
    if rng.random() < 0.5:  # beeps
        length_s = rng.uniform(0.08, 0.2)
        time_s = np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        beep = np.sin(2 * np.pi * rng.uniform(500, 2500) * time_s) * _hump(length_s, 0.5)
        return np.tile(np.concatenate([beep, _quiet(length_s)]), rng.integers(1, 5))
    knock = _shaped(_noise(0.1, rng) * _decay(0.1, 0.01), rng.uniform(150, 400), 900.0)
    return np.tile(np.concatenate([knock, _quiet(rng.uniform(0.1, 0.2))]), rng.integers(2, 5))


# The labels are those of the task table.
EVENTS: dict[str, Callable[[np.random.Generator], Array]] = {
    "laugh": _laugh,
    "cough": _cough,
    "cry": _cry,
    "screaming": _scream,
    "sigh": _sigh,
    "throat clearing": _throat,
    "sneeze": _sneeze,
    "other": _other,
}


def _noise(length_s: float, rng: np.random.Generator) -> Array:
    return rng.standard_normal(round(length_s * SAMPLE_RATE_HZ))


def _quiet(length_s: float) -> Array:
    return np.zeros(round(length_s * SAMPLE_RATE_HZ))


def _decay(length_s: float, time_constant_s: float) -> Array:
    time_s = np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return np.minimum(1.0, time_s / 0.005) * np.exp(-time_s / time_constant_s)


def _hump(length_s: float, peak: float = 0.4) -> Array:
    place = np.linspace(0, 1, round(length_s * SAMPLE_RATE_HZ))
    return np.sin(np.pi * place ** (np.log(0.5) / np.log(peak)))


def _buzz(pitch_hz_T: Array) -> Array:
    """A voice source: harmonics up to 5 kHz that fall by 6 dB per octave."""
    phase_T = 2 * np.pi * np.cumsum(pitch_hz_T) / SAMPLE_RATE_HZ
    harmonics: Sequence[int] = range(1, max(2, int(5000 / pitch_hz_T.max())))
    return np.sum([np.sin(n * phase_T) / n for n in harmonics], axis=0)


def _shaped(samples_T: Array, *resonances_hz: float) -> Array:
    """Samples through resonances of 200 Hz and a tenth of their frequency wide."""
    hz = np.fft.rfftfreq(len(samples_T), 1 / SAMPLE_RATE_HZ)
    gains = [1 / (1 + ((hz - middle) / (200 + 0.1 * middle)) ** 2) for middle in resonances_hz]
    return np.fft.irfft(np.fft.rfft(samples_T) * np.sum(gains, axis=0), len(samples_T))
