"""Kaldi's log filter-bank energies, and the low frame rate that the FunASR family stacks them to; in numpy.

Shapes: `T` samples, `F` frames of 10 ms, `M` mel bins.
Source: Kaldi `feat/feature-window.cc`, `feat/feature-fbank.cc`, `feat/mel-computations.cc` with the options that
FunASR's `WavFrontend` sets (`funasr/frontends/wav_frontend.py`): 25 ms Hamming windows every 10 ms, no dither (its
noise would make no two runs alike), whole windows only, samples on the scale of 16-bit integers.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from zhiyin.audio.features import HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES, Float32

FFT_SAMPLES = 512  # the next power of two
LOWEST_HZ = 20.0
PRE_EMPHASIS = 0.97
FULL_SCALE = 32_768.0
STACKED_FRAMES = 7  # frames in a column of low frame rate
STRIDE_FRAMES = 6  # frames from one column to the next

Float64 = NDArray[np.float64]


def fbank(samples_T: Float32, *, num_mels: int = 80) -> Float32:
    """Log energies of Kaldi's mel filters for a mono 16 kHz signal.

    Args:
        samples_T: waveform in [-1, 1]; less than one window is padded with silence.
        num_mels: mel bins.

    Returns:
        Features [M, F], F = 1 + (samples - 400) // 160, natural logarithm.
    """
    if len(samples_T) < WINDOW_SAMPLES:
        samples_T = np.pad(samples_T, (0, WINDOW_SAMPLES - len(samples_T)))
    # In double precision: in float32 the rounding of a loud bin shows in the logarithm of a quiet one.
    scaled = np.asarray(samples_T, np.float64) * FULL_SCALE
    frames = np.lib.stride_tricks.sliding_window_view(scaled, WINDOW_SAMPLES)[::HOP_SAMPLES]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = np.fft.rfft((frames - PRE_EMPHASIS * before) * _hamming(), n=FFT_SAMPLES, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    energy = mel_filters(num_mels) @ power.T
    return np.log(np.maximum(energy, np.finfo(np.float32).eps)).astype(np.float32)


def low_frame_rate(mel_MF: Float32) -> Float32:
    """Seven frames stacked, every sixth one: [7 M, ceil(F / 6)]; a column holds its frames one after the other.

    The first frame stands three times before the beginning, the last one as often as needed after the end.
    """
    columns = -(-mel_MF.shape[1] // STRIDE_FRAMES)
    middle = (STACKED_FRAMES - 1) // 2
    places = STRIDE_FRAMES * np.arange(columns)[:, None] + np.arange(STACKED_FRAMES) - middle
    stacked = mel_MF.T[np.clip(places, 0, mel_MF.shape[1] - 1)]
    return np.ascontiguousarray(stacked.reshape(columns, -1).T)


@cache
def mel_filters(num_mels: int) -> Float64:
    """Kaldi's triangular filters [M, 257], 20 Hz to 8 kHz: straight lines in mel, and the highest bin unused."""
    edges = np.linspace(_mel(np.array(LOWEST_HZ)), _mel(np.array(SAMPLE_RATE_HZ / 2)), num_mels + 2)
    bins = _mel(np.arange(FFT_SAMPLES // 2) * np.float64(SAMPLE_RATE_HZ / FFT_SAMPLES))
    step = edges[1] - edges[0]
    rising = (bins - edges[:-2, None]) / step
    falling = (edges[2:, None] - bins) / step
    return np.pad(np.maximum(0.0, np.minimum(rising, falling)), ((0, 0), (0, 1)))


def _mel(hz: Float64) -> Float64:
    return np.asarray(1127.0 * np.log1p(hz / 700.0))


@cache
def _hamming() -> Float64:
    return np.hamming(WINDOW_SAMPLES)  # symmetric, as Kaldi's
