"""The statistics of the voice vector against numpy, written out frame by frame, and what must not move them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zhiyin.audio.features import log_mel, mel_filters, mel_to_hz
from zhiyin.model.projector import Pace, Voice
from zhiyin.model.voice import Functionals, Spectrum

Float64 = NDArray[np.float64]
MELS = 40


def loud_frames(mel_MF: Float64) -> list[int]:
    levels = [sum(frame) / len(frame) for frame in mel_MF.T]
    return [f for f, level in enumerate(levels) if level > max(levels) - 0.8]


def cepstra(frame_M: Float64) -> Float64:
    """The first 20 of the orthonormal cosine transform of type II, a quarter of each, the n-th times n**0.8."""
    count = len(frame_M)
    out = [sum(frame_M[m] * math.cos(math.pi * n * (2 * m + 1) / (2 * count)) for m in range(count)) for n in range(20)]
    return np.array([value * math.sqrt(2 / count) / 4 * (n + 1) ** 0.8 for n, value in enumerate(out)])


def ripple(frame_M: Float64) -> Float64:
    sharp = [frame_M[m] - frame_M[max(0, m - 3) : m + 4].mean() for m in range(26)]
    power = sum(value**2 for value in sharp) / 26
    alike = [sum(sharp[m] * sharp[m + lag] for m in range(26 - lag)) / (26 - lag) for lag in range(2, 14)]
    return np.array(alike) / (power + 1e-3)


def functionals(mel_MF: Float64) -> Float64:
    """What `Functionals` says it computes, of one utterance without padding."""
    loud = loud_frames(mel_MF)
    chosen = mel_MF[:, loud]
    ripples = np.array([ripple(frame) for frame in mel_MF.T])
    moving = np.concatenate([np.array([cepstra(frame) for frame in mel_MF.T]), ripples], 1)
    said = [4 * (chosen.mean(1) - chosen.mean()), 4 * (np.log(np.sqrt(chosen.var(1) + 1e-6) + 0.01) + 1.2)]
    said += [6 * ripples[loud].mean(0), 4 * (np.log(np.sqrt(ripples[loud].var(0) + 1e-6) + 0.01) + 1.3)]
    for lag in (1, 2, 4, 8, 16, 32):
        steps = [np.abs(moving[f + lag] - moving[f]) for f in loud if f + lag in loud]
        moved = np.mean(steps, axis=0) if steps else np.zeros(32)
        said.append(4 * (np.log(moved + 0.01) + 1.7 - 0.25 * math.log(lag)))
    level = mel_MF.mean(0)
    share = [(level > level.max() - tenth / 10).sum() / len(loud) for tenth in range(1, 8)]
    said += [4 * (np.array(share) - 0.5), np.array([math.log(len(loud)) - 5])]
    return np.clip(np.concatenate(said), -5, 5)


def recording(frames: int, seed: int) -> torch.Tensor:
    """Noise that swells and falls, with a pause of a tenth of its length; [M, F]."""
    generator = torch.Generator().manual_seed(seed)
    mel = torch.rand(MELS, frames, generator=generator) + 0.3 * torch.sin(torch.arange(frames) / 7.0)
    mel[:, frames // 3 : frames // 3 + frames // 10] -= 2.0
    return mel


def stacked(*mels_MF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(mel.shape[1] for mel in mels_MF)
    rows = [torch.nn.functional.pad(mel, (0, longest - mel.shape[1]), value=0.9) for mel in mels_MF]
    return torch.stack(rows), torch.tensor([mel.shape[1] for mel in mels_MF])


def test_the_functionals_are_what_they_say(device):
    mels = [recording(frames, seed) for seed, frames in enumerate((90, 61, 20, 1))]
    batch, lengths = stacked(*mels)
    seen = Functionals(MELS).to(device)(batch.to(device), lengths.to(device)).cpu().numpy()
    for row, mel in zip(seen, mels, strict=True):
        np.testing.assert_allclose(row, functionals(mel.numpy().astype(np.float64)), atol=2e-4)


@pytest.mark.parametrize("kind", [Spectrum, Functionals])
def test_neither_padding_nor_quiet_frames_nor_loudness_nor_high_bins_count(device, kind):
    alone, pool = recording(80, 3), kind(32).to(device)
    lengths = torch.tensor([80], device=device)
    expected = pool(alone[None].to(device), lengths).cpu()
    quiet = torch.full((MELS, 25), -1.5)
    around = torch.cat([quiet, alone, quiet], 1)
    higher = torch.cat([alone[:32], torch.randn(20, 80)])
    for mel in (around, alone + 0.37, higher):
        seen = pool(mel[None].to(device), torch.tensor([mel.shape[1]], device=device)).cpu()
        torch.testing.assert_close(seen, expected, atol=1e-3, rtol=1e-3)
    batch, counts = stacked(alone, recording(140, 4))
    torch.testing.assert_close(pool(batch.to(device), counts.to(device)).cpu()[:1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 33])
@pytest.mark.parametrize("kind", [Spectrum, Functionals])
def test_silence_has_finite_numbers_and_gradients(device, kind, frames):
    mel = torch.full((2, MELS, frames), -1.5, device=device, requires_grad=True)
    with torch.enable_grad():
        seen = kind(MELS).to(device)(mel, torch.tensor([frames, 1], device=device))
        seen.sum().backward()
    assert torch.isfinite(seen).all() and torch.isfinite(mel.grad).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 10_000), st.floats(0.0, 30.0))
def test_any_features_give_small_numbers(frames, seed, height):
    generator = torch.Generator().manual_seed(seed)
    mel = (torch.rand(1, MELS, frames, generator=generator) - 0.5) * height
    assert float(Functionals(MELS)(mel, torch.tensor([frames])).abs().max()) <= 5.0


def test_reduced_precision_does_not_touch_the_statistics(device):
    pool, mel = Functionals(MELS).to(device), recording(50, 5)[None].to(device)
    frames = torch.tensor([50], device=device)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        rounded = pool(mel, frames)
    assert rounded.dtype == torch.float32 and torch.equal(rounded, pool(mel, frames))


def test_the_ripple_is_the_pitch():
    """Of a tone with harmonics the ripple peaks at the distance of its harmonics."""
    time_s = np.arange(16_000) / 16_000
    spacing_hz = float(np.diff(bin_centres_hz()[:20]).mean())
    pool = Functionals(80)
    for pitch_hz in (190.0, 260.0, 330.0):
        tone = sum(np.sin(2 * np.pi * pitch_hz * k * time_s + k * k) / k for k in range(1, 20))
        mel = torch.from_numpy(log_mel((0.05 * tone).astype(np.float32)))[None]
        found = pool(mel, torch.tensor([mel.shape[2]]))[0, 160:172]  # behind means and deviations of 80 bins
        assert int(found.argmax()) + 2 == round(pitch_hz / spacing_hz)


def bin_centres_hz() -> Float64:
    peaks = mel_filters(80).argmax(1) * 40.0
    centres = mel_to_hz(np.linspace(0.0, 15 + 27 * math.log(8) / math.log(6.4), 82))[1:-1]
    assert np.abs(peaks - centres)[:20].max() < 40.0
    return centres


def test_dropout_is_for_training_alone():
    voice = Voice(MELS, 12, stats="functionals", dropout=0.5)
    mel, frames = recording(50, 6)[None], torch.tensor([50])
    assert not torch.equal(voice(mel, frames), voice(mel, frames))
    voice.eval()
    assert torch.equal(voice(mel, frames), voice(mel, frames))
    plain = Voice(MELS, 12, stats="functionals").train()
    plain.load_state_dict(voice.state_dict())
    assert torch.equal(plain(mel, frames), voice(mel, frames))


def test_the_statistics_add_nothing_to_a_checkpoint():
    names = ["hidden.weight", "hidden.bias", "out.weight", "out.bias"]
    for stats in ("spectrum", "functionals"):
        assert list(Voice(MELS, 12, stats=stats).state_dict()) == names
    assert Voice(80, 12, stats="functionals").hidden.in_features == 2 * 80 + 2 * 12 + 6 * (20 + 12) + 7 + 1


def test_the_pace_is_mean_and_movement_of_the_valid_frames(device):
    frames_BTE, counts = torch.randn(3, 9, 16), torch.tensor([9, 4, 1])
    pace = Pace(16, 12)
    seen = pace.to(device)(frames_BTE.to(device), counts.to(device))[:, 0].cpu()
    pace.cpu()
    for row, count in enumerate(counts.tolist()):
        valid = frames_BTE[row, :count].numpy().astype(np.float64)
        halves = [valid.mean(0), np.abs(np.diff(valid, axis=0)).mean(0) if count > 1 else np.zeros(16)]
        pooled = np.concatenate([(half - half.mean()) / np.sqrt(half.var() + 1e-5) for half in halves])
        hidden = pace.hidden.weight.numpy() @ pooled + pace.hidden.bias.numpy()
        smooth = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
        expected = pace.out.weight.numpy() @ smooth + pace.out.bias.numpy()
        np.testing.assert_allclose(seen[row].numpy(), expected, atol=1e-5)
