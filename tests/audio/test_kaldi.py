"""Kaldi's features equal its published formulas written out in float64, and other implementations where installed."""

import importlib

import numpy as np
import pytest
from numpy.typing import NDArray

from zhiyin.audio import kaldi

Float64 = NDArray[np.float64]


def voiced(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Something like speech: harmonics that rise and fall, and noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    pitch = np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.3 * time_s)) / 16_000
    tone = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 20))
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 0.7 * time_s)
    return (0.1 * swell * tone + 0.001 * rng.standard_normal(len(time_s))).astype(np.float32)


def as_published(samples_T: NDArray[np.float32]) -> Float64:
    """Frame by frame, bin by bin, in the words of Kaldi's source; [F, 80]."""
    wave = samples_T.astype(np.float64) * 2**15
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)

    def mel(hz: float) -> float:
        return 1127.0 * np.log(1.0 + hz / 700.0)

    low, delta = mel(20.0), (mel(8000.0) - mel(20.0)) / 81
    rows = []
    for begin in range(0, len(wave) - 399, 160):
        frame = wave[begin : begin + 400].copy()
        frame -= frame.mean()
        for i in range(399, 0, -1):
            frame[i] -= 0.97 * frame[i - 1]
        frame[0] -= 0.97 * frame[0]
        power = np.abs(turns @ np.concatenate([frame * window, np.zeros(112)])) ** 2
        energies = np.zeros(80)
        for b in range(80):
            left, center, right = low + b * delta, low + (b + 1) * delta, low + (b + 2) * delta
            for k in range(256):
                m = mel(k * 16_000 / 512)
                if left < m < right:
                    slope = (m - left) / (center - left) if m <= center else (right - m) / (right - center)
                    energies[b] += slope * power[k]
        rows.append(np.log(np.maximum(energies, 2.0**-23)))
    return np.array(rows)


def test_equals_the_published_formula() -> None:
    samples_T = voiced(0.5)
    expected = as_published(samples_T)
    found = kaldi.fbank(samples_T).T
    assert found.dtype == np.float32 and found.shape == expected.shape == (48, 80)
    assert np.abs(found - expected).max() <= 5e-6


def test_equals_kaldi_native_fbank() -> None:
    knf = pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hamming"
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    samples_T = voiced(2.0)
    online = knf.OnlineFbank(options)
    online.accept_waveform(16_000, (samples_T * 2**15).tolist())
    online.input_finished()
    expected = np.stack([online.get_frame(i) for i in range(online.num_frames_ready)])
    assert np.abs(kaldi.fbank(samples_T).T - expected).max() <= 1e-3


def test_equals_torchaudio() -> None:
    try:
        torch, compliance = importlib.import_module("torch"), importlib.import_module("torchaudio.compliance.kaldi")
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio cannot be imported: {error}")
    samples_T = voiced(2.0)
    expected = compliance.fbank(
        torch.from_numpy(samples_T)[None] * 2**15, num_mel_bins=80, window_type="hamming", sample_frequency=16_000
    )
    assert np.abs(kaldi.fbank(samples_T).T - expected.numpy()).max() <= 1e-3


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 7, 12, 13, 100])
def test_low_frame_rate_as_funasr_stacks(frames: int) -> None:
    """FunASR `apply_lfr`: pad the front by three, take seven from every sixth, repeat the last frame at the end."""
    mel_FM = np.random.default_rng(frames).standard_normal((frames, 4)).astype(np.float32)
    padded = [mel_FM[0]] * 3 + list(mel_FM)
    rows = []
    for begin in range(0, frames, 6):
        taken = padded[begin : begin + 7]
        rows.append(np.concatenate(taken + [padded[-1]] * (7 - len(taken))))
    found = kaldi.low_frame_rate(mel_FM.T)
    assert found.flags.c_contiguous and np.array_equal(found, np.array(rows).T)


def test_scale_only_shifts_all_bins_alike() -> None:
    """transformers' extractor leaves the samples in [-1, 1]; the first layer norm of the model takes the shift away."""
    samples_T = voiced(0.5)
    shift = kaldi.fbank(samples_T) - kaldi.fbank(samples_T / 64)
    assert np.abs(shift - 2 * np.log(64)).max() <= 1e-5


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 559, 560, 16_000])
def test_number_of_frames(samples: int) -> None:
    mel_MF = kaldi.fbank(voiced(1.0)[:samples], num_mels=23)
    assert mel_MF.shape == (23, 1 + max(0, samples - 400) // 160) and np.isfinite(mel_MF).all()


def test_silence_is_the_floor() -> None:
    assert np.allclose(kaldi.fbank(np.zeros(1600, np.float32)), np.log(2.0**-23))
