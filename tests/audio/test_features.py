"""The log-mel front end equals the references' recorded features and is safe at its edges."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from zhiyin.audio.features import HOP_SAMPLES, MIN_SAMPLES, log_mel, mel_filters


@pytest.mark.parametrize("utterance", ["a", "b", "c"])
def test_equals_the_reference(shared: Path, utterance: str) -> None:
    folder = shared / "golden" / "frontend"
    samples_T, _ = soundfile.read(folder / f"{utterance}.wav", dtype="float32")
    golden = np.load(folder / "frontend.npz")[f"mel/{utterance}"]
    mel_MF = log_mel(samples_T)
    assert mel_MF.dtype == np.float32 and mel_MF.shape == golden.T.shape
    assert np.abs(mel_MF.T - golden).max() <= 1e-5


def test_filters_equal_the_reference(shared: Path) -> None:
    golden = np.load(shared / "golden" / "frontend" / "frontend.npz")["mel_filters"]
    assert np.abs(mel_filters(80) - golden).max() <= 1e-7


@pytest.mark.parametrize("num_samples", [0, 1, MIN_SAMPLES - 1, MIN_SAMPLES, 400, 800, 16_000, 16_159])
def test_number_of_frames(num_samples: int) -> None:
    mel_MF = log_mel(np.random.default_rng(0).standard_normal(num_samples).astype(np.float32))
    assert mel_MF.shape == (80, max(num_samples, MIN_SAMPLES) // HOP_SAMPLES)
    assert np.isfinite(mel_MF).all()


def test_128_bins_and_silence() -> None:
    assert mel_filters(128).shape == (128, 201)
    assert np.allclose(log_mel(np.zeros(16_000, np.float32), num_mels=128), (-10 + 4) / 4)
