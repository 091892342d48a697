"""Statistics of how an utterance sounds as a whole: who speaks, in which mood, how fast, or whether it is speech.

Shapes: `B` batch, `M` mel bins, `C` bins or coefficients, `F` mel frames, `P` numbers per utterance.
Pooling: Snyder et al. 2018, "X-vectors", section 2.1. Only loud frames count, so that neither padding nor pauses do.
All is means, products with constant matrices and slices of fixed sizes: it exports to graphs of fixed and of free
shapes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from zhiyin.model.encoder import length_mask

LOUD = 0.8  # a frame this far below the loudest one, in units of the features (32 dB), is no speech


class Spectrum(nn.Module):
    """Mean and deviation of each mel bin over the loud frames.

    Each half is normalised: the deviation is small and says most, and without it a few hundred steps never find it
    (docs/log.md).
    """

    def __init__(self, num_mels: int):
        super().__init__()
        self.num_mels = num_mels
        self.size = 2 * num_mels

    def forward(self, mel_BMF: Tensor, frames_B: Tensor) -> Tensor:
        """Statistics [B, P] of log-mel features [B, M, F] with so many valid frames [B]."""
        mel, _, loud = _loud(mel_BMF, frames_B, self.num_mels)
        mean, deviation = _moments(mel, loud)
        return torch.cat([fn.layer_norm(half, (self.num_mels,)) for half in (mean, deviation)], 1)


class Functionals(nn.Module):
    """What spectrum, pitch, loudness and their movement are like over the loud frames of an utterance.

    | part | numbers | says |
    |---|--:|---|
    | mean and deviation of each mel bin | 2 M | timbre: vocal tract, voice quality |
    | mean and deviation of the ripple over the low bins | 24 | pitch: harmonics are as many bins apart |
    | movement of 20 cepstra over 10 to 320 ms | 120 | pace, liveliness, bursts and wails |
    | movement of the ripple over the same times | 72 | how the pitch moves |
    | share of the loud frames within 4 to 28 dB of the loudest | 7 | how even the loudness is |
    | how many frames are loud | 1 | length, without pauses |

    Movement is the mean of |x[t + lag] - x[t]| over the pairs of loud frames. Deviations and movements are compressed
    by a logarithm, and every part is brought to about zero mean and unit deviation by constants measured on speech,
    so that a few hundred steps find them all. Chosen by probes that were cross-validated over speakers (docs/log.md).
    """

    CEPSTRA = 20
    LAGS = (1, 2, 4, 8, 16, 32)  # frames of 10 ms
    RIPPLE_BINS = 26  # up to 1 kHz, where mel bins lie evenly, 37 Hz apart with 80 bins
    RIPPLE_LAGS = range(2, 14)  # bins: a pitch of 75 to 490 Hz
    SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # in units of the features, 40 dB
    MOST = 5.0  # no number is larger, whatever is heard

    def __init__(self, num_mels: int):
        super().__init__()
        self.num_mels = num_mels
        ripples, moving = len(self.RIPPLE_LAGS), self.CEPSTRA + len(self.RIPPLE_LAGS)
        self.size = 2 * num_mels + 2 * ripples + len(self.LAGS) * moving + len(self.SHARES) + 1
        self.cosines_CM: Tensor
        self.sharpen_RM: Tensor
        self.register_buffer("cosines_CM", _cosines(self.CEPSTRA, num_mels), persistent=False)
        self.register_buffer("sharpen_RM", _sharpen(self.RIPPLE_BINS, num_mels), persistent=False)

    def forward(self, mel_BMF: Tensor, frames_B: Tensor) -> Tensor:
        """Statistics [B, P] of log-mel features [B, M, F] with so many valid frames [B]."""
        with torch.autocast(mel_BMF.device.type, enabled=False):  # bfloat16 is coarser than what moves in 10 ms
            return self._pooled(*_loud(mel_BMF, frames_B, self.num_mels))

    def _pooled(self, mel_BMF: Tensor, level_B1F: Tensor, loud_B1F: Tensor) -> Tensor:
        mean, deviation = _moments(mel_BMF, loud_B1F)
        shape = mean - mean.mean(1, keepdim=True)
        ripple = self._ripple(mel_BMF)
        ripple_mean, ripple_deviation = _moments(ripple, loud_B1F)
        moving = torch.cat([self.cosines_CM.float() @ (mel_BMF - mean[:, :, None]), ripple], 1)
        movements = [self._movement(moving, loud_B1F, lag) for lag in self.LAGS]
        top = level_B1F.amax(2, keepdim=True)
        count = loud_B1F.sum(2)
        shares = [((level_B1F > top - part).float().sum(2) / count) for part in self.SHARES]
        parts = [
            shape * 4.0,
            (_log(deviation) + 1.2) * 4.0,
            ripple_mean * 6.0,
            (_log(ripple_deviation) + 1.3) * 4.0,
            *movements,
            (torch.cat(shares, 1) - 0.5) * 4.0,
            count.log() - 5.0,
        ]
        return torch.cat(parts, 1).clamp(-self.MOST, self.MOST)

    def _ripple(self, mel_BMF: Tensor) -> Tensor:
        """How alike the low bins and those some bins higher are, in each frame. [B, ripple lags, F]"""
        low = self.sharpen_RM.float() @ mel_BMF
        power = low.square().mean(1) + 1e-3
        size = self.RIPPLE_BINS
        alike = [(low[:, : size - lag] * low[:, lag:]).mean(1) / power for lag in self.RIPPLE_LAGS]
        return torch.stack(alike, 1)

    def _movement(self, x_BCF: Tensor, loud_B1F: Tensor, lag: int) -> Tensor:
        later = fn.pad(x_BCF, (0, lag))[:, :, lag:]
        both = loud_B1F * fn.pad(loud_B1F, (0, lag))[:, :, lag:]
        moved = ((later - x_BCF).abs() * both).sum(2) / both.sum(2).clamp(min=1.0)
        return (_log(moved) + 1.7 - 0.25 * math.log(lag)) * 4.0


def _loud(mel_BMF: Tensor, frames_B: Tensor, num_mels: int) -> tuple[Tensor, Tensor, Tensor]:
    """The low bins, the level of each frame, far down where it is padding, and 1.0 where it is loud."""
    mel = mel_BMF[:, :num_mels].float()
    valid_B1F = length_mask(frames_B, mel.shape[2])[:, None].float()
    level = mel.mean(1, keepdim=True) * valid_B1F - 100.0 * (1.0 - valid_B1F)
    return mel, level, (level > level.amax(2, keepdim=True) - LOUD).float()


def _moments(x_BCF: Tensor, loud_B1F: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the loud frames. Each [B, C]"""
    count = loud_B1F.sum(2, keepdim=True)
    mean = (x_BCF * loud_B1F).sum(2, keepdim=True) / count
    deviation = (((x_BCF - mean) * loud_B1F).square().sum(2, keepdim=True) / count + 1e-6).sqrt()
    return mean[:, :, 0], deviation[:, :, 0]


def _log(x: Tensor) -> Tensor:
    return (x + 0.01).log()


def _cosines(num_cepstra: int, num_mels: int) -> Tensor:
    """The orthonormal cosine transform of the bins of a frame, lifted so that all cepstra of speech move alike."""
    order = torch.arange(num_cepstra, device="cpu")[:, None]
    angle = math.pi / num_mels * order * (torch.arange(num_mels, device="cpu") + 0.5)
    return angle.cos() * math.sqrt(2.0 / num_mels) * 0.25 * (order + 1.0) ** 0.8


def _sharpen(num_bins: int, num_mels: int) -> Tensor:
    """Each of the lowest bins less the mean of the seven around it (at the edge, of those that are there)."""
    away = (torch.arange(num_bins, device="cpu")[:, None] - torch.arange(num_mels, device="cpu")).abs()
    near = (away <= 3).float()
    return (away == 0).float() - near / near.sum(1, keepdim=True)
