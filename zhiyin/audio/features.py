"""Log-mel features as Whisper computes them, in numpy, for audio of any length.

Shapes: `T` samples, `F` frames of 10 ms, `M` mel bins.
Source: OpenAI whisper `audio.py`; OSUM uses them without padding to 30 s, so frames = samples // 160.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
MIN_SAMPLES = WINDOW_SAMPLES // 2 + 1  # reflect padding needs this many

Float32 = NDArray[np.float32]


def log_mel(samples_T: Float32, *, num_mels: int = 80) -> Float32:
    """Whisper's log-mel spectrogram of a mono 16 kHz signal.

    Args:
        samples_T: waveform in [-1, 1]; fewer than `MIN_SAMPLES` are padded with silence.
        num_mels: mel bins, 80 or 128.

    Returns:
        Features [M, F], F = samples // 160, at least one frame.
    """
    if len(samples_T) < MIN_SAMPLES:
        samples_T = np.pad(samples_T, (0, MIN_SAMPLES - len(samples_T)))
    half = WINDOW_SAMPLES // 2
    padded = np.pad(np.asarray(samples_T, np.float32), half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    frames = frames[: len(samples_T) // HOP_SAMPLES]
    spectrum = np.fft.rfft(frames * _hann(), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    mel = mel_filters(num_mels) @ power.T
    log = np.log10(np.maximum(mel, 1e-10))
    return ((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


@cache
def mel_filters(num_mels: int) -> Float32:
    """Slaney-normalised triangular filters [M, 201], 0 to 8 kHz.

    Source: the Slaney mel scale of the Auditory Toolbox (linear below 1 kHz, logarithmic above) as librosa's
    default, which Whisper uses.
    """
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, WINDOW_SAMPLES // 2 + 1)
    edges_hz = mel_to_hz(np.linspace(0.0, hz_to_mel(np.array(SAMPLE_RATE_HZ / 2)), num_mels + 2))
    width_hz = np.diff(edges_hz)
    ramps = edges_hz[:, None] - bins_hz[None, :]
    rising = -ramps[:-2] / width_hz[:-1, None]
    falling = ramps[2:] / width_hz[1:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return (filters * (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]).astype(np.float32)


_LINEAR_HZ = 200.0 / 3  # width of a mel below the break
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney mels of frequencies."""
    above = _BREAK_HZ / _LINEAR_HZ + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, above)


def mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequencies of Slaney mels."""
    break_mel = _BREAK_HZ / _LINEAR_HZ
    return np.where(mel < break_mel, mel * _LINEAR_HZ, _BREAK_HZ * np.exp(_LOG_STEP * (mel - break_mel)))


@cache
def _hann() -> Float32:
    # Periodic Hann window, the angle in float32 as the references compute it: where a bin nearly cancels, the
    # rounding of the window alone moves the reference's float32 features by 2e-5.
    angle = np.float32(2 * np.pi) * (np.arange(WINDOW_SAMPLES, dtype=np.float32) / np.float32(WINDOW_SAMPLES))
    return (np.float32(0.5) - np.float32(0.5) * np.cos(angle)).astype(np.float32)
