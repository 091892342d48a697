"""Every kind of features equals the published formula, or the extractor it stands for, and is safe at its edges."""

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from zhiyin.audio import front_end, kaldi
from zhiyin.audio.features import log_mel
from zhiyin.errors import UserError

Float32, Float64 = NDArray[np.float32], NDArray[np.float64]
ROWS = {"whisper": 80, "whisper-30s": 128, "whisper-30s-mask": 129, "qwen3-asr": 128, "granite": 160, "kaldi-lfr": 560}


@pytest.fixture(scope="module")
def speech_T(shared: Path) -> Float32:
    """Real speech, 1.4 s."""
    samples_T, _ = soundfile.read(shared / "golden" / "frontend" / "a.wav", dtype="float32")
    return samples_T


def noise(samples: int) -> Float32:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def granite_as_published(samples_T: Float32) -> Float64:
    """torchaudio's MelSpectrogram and what follows it, as their formulas stand, in float64; [F, 160]."""
    wave = np.pad(samples_T.astype(np.float64), 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    frames = [wave[begin : begin + 512] * window for begin in range(0, len(wave) - 511, 160)]
    power = np.abs(np.array(frames) @ turns.T) ** 2
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82)
    corners = [700 * (10 ** (mel / 2595) - 1) for mel in mels]
    bank = np.zeros((257, 80))
    for m in range(80):
        left, center, right = corners[m : m + 3]
        for k in range(257):
            hz = k * 8000 / 256
            bank[k, m] = max(0.0, min((hz - left) / (center - left), (right - hz) / (right - center)))
    log = np.log10(np.clip(power @ bank, 1e-10, None))
    log = np.maximum(log, log.max() - 8) / 4 + 1
    return np.array([np.concatenate(log[i : i + 2]) for i in range(0, len(log) - 1, 2)])


def test_whisper_is_what_it_was(speech_T: Float32) -> None:
    assert np.array_equal(front_end.compute("whisper", speech_T, num_mels=80), log_mel(speech_T, num_mels=80))


@pytest.mark.parametrize("num_mels", [80, 128])
def test_30_s_equals_transformers(speech_T: Float32, num_mels: int) -> None:
    transformers: Any = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=num_mels)
    for samples_T in (speech_T, noise(16_001), noise(480_000)):
        expected = extractor(samples_T, sampling_rate=16_000, return_tensors="np", return_attention_mask=True)
        found = front_end.compute("whisper-30s", samples_T, num_mels=num_mels)
        assert found.shape == (num_mels, 3000) and found.dtype == np.float32
        assert np.abs(found - expected["input_features"][0]).max() <= 2e-5
        masked = front_end.compute("whisper-30s-mask", samples_T, num_mels=num_mels + 1)
        assert np.array_equal(masked[:-1], found)
        assert np.array_equal(masked[-1], expected["attention_mask"][0])


@pytest.mark.parametrize("samples", [100, 7_999, 8_000, 12_345, 160_000])
def test_qwen3_asr_equals_transformers(samples: int) -> None:
    transformers: Any = pytest.importorskip("transformers")
    extractor = transformers.Qwen3ASRFeatureExtractor(n_window=50)
    samples_T = noise(samples)
    expected = extractor(samples_T, sampling_rate=16_000, padding=True, return_attention_mask=True, return_tensors="np")
    found = front_end.compute("qwen3-asr", samples_T, num_mels=128)
    frames = int(expected["attention_mask"].sum())
    assert found.shape == (128, frames)
    assert np.abs(found - expected["input_features"][0, :, :frames]).max() <= 2e-5


@pytest.mark.parametrize("samples", [16_000, 16_160, 8_123])
def test_granite_equals_the_published_formula(samples: int) -> None:
    samples_T = noise(samples)
    expected = granite_as_published(samples_T)
    found = front_end.compute("granite", samples_T, num_mels=160)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert found.shape == (160, (samples // 160 + 1) // 2)
    assert np.abs(found.T - expected).max() <= 2e-6


def test_granite_of_speech(speech_T: Float32) -> None:
    found = front_end.compute("granite", speech_T, num_mels=160)
    assert np.abs(found.T - granite_as_published(speech_T)).max() <= 1e-4


def test_granite_equals_torchaudio(speech_T: Float32) -> None:
    try:
        torch, torchaudio = importlib.import_module("torch"), importlib.import_module("torchaudio")
        mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=80
        )
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio cannot be imported: {error}")
    log = mel(torch.from_numpy(speech_T)).T.clip(min=1e-10).log10()
    log = torch.maximum(log, log.max() - 8.0) / 4 + 1
    expected = log[: len(log) // 2 * 2].reshape(-1, 160).numpy()
    assert np.abs(front_end.compute("granite", speech_T, num_mels=160).T - expected).max() <= 1e-4


def test_kaldi_low_frame_rate_is_both_together(speech_T: Float32) -> None:
    """The parts are proven in `test_kaldi`."""
    found = front_end.compute("kaldi-lfr", speech_T, num_mels=560)
    assert np.array_equal(found, kaldi.low_frame_rate(kaldi.fbank(speech_T, num_mels=80)))


@pytest.mark.parametrize("samples", [0, 1, 199, 200, 201, 256, 257, 400, 800, 16_000, 16_159])
@pytest.mark.parametrize("name", front_end.FRONT_ENDS)
def test_any_length_gives_at_least_one_frame(name: str, samples: int) -> None:
    features_MF = front_end.compute(name, noise(samples), num_mels=ROWS[name])
    assert len(features_MF) == ROWS[name] and features_MF.shape[1] >= 1 and np.isfinite(features_MF).all()


@pytest.mark.parametrize("name", ["whisper", "qwen3-asr", "granite", "kaldi-lfr"])
def test_frames_per_second(name: str) -> None:
    expected = front_end.FRONT_ENDS[name].frames_per_s * 20
    assert abs(front_end.compute(name, noise(320_000), num_mels=ROWS[name]).shape[1] - expected) <= 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"features 'plp' are not known.*whisper-30s"):
        front_end.compute("plp", noise(16_000), num_mels=80)
    with pytest.raises(ValueError, match="multiple"):
        front_end.compute("granite", noise(16_000), num_mels=81)
    with pytest.raises(ValueError, match="multiple"):
        front_end.compute("kaldi-lfr", noise(16_000), num_mels=80)
    with pytest.raises(ValueError, match="at most 30 s"):
        front_end.compute("whisper-30s", noise(480_001), num_mels=80)


@pytest.mark.parametrize("name", front_end.FRONT_ENDS)
def test_much_faster_than_speech(name: str) -> None:
    samples_T = noise(480_000)
    front_end.compute(name, samples_T, num_mels=ROWS[name])  # tables are made once
    took_s = []
    for _ in range(3):
        began_s = time.perf_counter()
        front_end.compute(name, samples_T, num_mels=ROWS[name])
        took_s.append(time.perf_counter() - began_s)
    assert 30 / min(took_s) > 200
