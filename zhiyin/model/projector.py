"""OSUM's adapter: encoder frames to vectors in the decoder's embedding space.

Shapes: `B` batch, `M` mel bins, `F` mel frames, `T` encoder frames, `E` encoder width, `S` speech vectors, `D` decoder
width.
Source: OSUM `wenet/llm_asr/downsampler.py` and its 4-layer wenet TransformerEncoder (ReLU, sqrt-scaled input).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from zhiyin.model.config import ProjectorConfig
from zhiyin.model.encoder import Block, length_mask


def interleaved_sinusoids(num_positions: int, width: int) -> Tensor:
    """The position table of "Attention is all you need": sine and cosine alternate. [positions, width]

    On the CPU even inside ``torch.device("meta")``, as `encoder.sinusoids`.
    """
    scale = torch.exp(torch.arange(0, width, 2, device="cpu") * -(math.log(10_000.0) / width))
    angle = torch.arange(num_positions, device="cpu")[:, None] * scale[None, :]
    table = torch.zeros(num_positions, width, device="cpu")
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table


class Voice(nn.Module):
    """One vector of how an utterance sounds as a whole: mean and deviation of its loud frames, through two layers.

    An encoder that is trained to tell words forgets who speaks; statistics pooling over the features keeps it.
    Pooling: Snyder et al. 2018, "X-vectors", section 2.1. Low bins only: telephone speech has no others. Each half is
    normalised: the deviation is small and says most, and without it a few hundred steps never find it (docs/log.md).
    """

    LOUD = 0.8  # a frame this far below the loudest one, in units of the features (32 dB), is no speech
    HIDDEN = 256

    def __init__(self, num_mels: int, decoder_width: int):
        super().__init__()
        self.num_mels = num_mels
        self.hidden = nn.Linear(2 * num_mels, self.HIDDEN)
        self.out = nn.Linear(self.HIDDEN, decoder_width)

    def forward(self, mel_BMF: Tensor, frames_B: Tensor) -> Tensor:
        """Vectors [B, 1, D] of log-mel features [B, M, F] with so many valid frames [B]."""
        mel = mel_BMF[:, : self.num_mels].float()
        valid_B1F = length_mask(frames_B, mel.shape[2])[:, None].float()
        level = mel.mean(1, keepdim=True) * valid_B1F - 100.0 * (1.0 - valid_B1F)
        loud = (level > level.amax(2, keepdim=True) - self.LOUD).float()
        count = loud.sum(2, keepdim=True)
        mean = (mel * loud).sum(2, keepdim=True) / count
        deviation = (((mel - mean) * loud).square().sum(2, keepdim=True) / count + 1e-6).sqrt()
        pooled = torch.cat([self._normal(half.transpose(1, 2)) for half in (mean, deviation)], 2)
        return self.out(fn.gelu(self.hidden(pooled.to(self.out.weight.dtype))))

    def _normal(self, half_B1M: Tensor) -> Tensor:
        return fn.layer_norm(half_B1M, (self.num_mels,))


class Projector(nn.Module):
    """Causal convolutions (each padded on the left only), transformer blocks, one linear layer."""

    def __init__(self, config: ProjectorConfig, encoder_width: int, decoder_width: int):
        super().__init__()
        self.config = config
        self.convs = nn.ModuleList(
            nn.Conv1d(encoder_width, encoder_width, 3, stride=stride) for stride in config.conv_strides
        )
        self.input = nn.Linear(encoder_width, config.width)
        self.input_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.positions: Tensor
        table = interleaved_sinusoids(config.max_positions, config.width)
        self.register_buffer("positions", table, persistent=config.stored_positions)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.num_heads,
                config.ffn_width,
                eps=config.norm_eps,
                activation="relu",
                key_bias=True,
                dropout=config.dropout,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.out = nn.Linear(config.width, decoder_width)
        if config.voice_mels is not None:
            self.voice = Voice(config.voice_mels, decoder_width)

    def forward(self, x_BTE: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Shorten and project.

        Returns:
            Speech vectors [B, S, D] and their valid counts [B].
        """
        x, lengths = x_BTE.transpose(1, 2), frames_B
        for conv, stride in zip(self.convs, self.config.conv_strides, strict=True):
            x = fn.gelu(conv(fn.pad(x, (2, 0))))
            lengths = (lengths + stride - 1) // stride
        x = self.input_norm(self.input(x.transpose(1, 2)))
        x = x * math.sqrt(self.config.width) + self.positions[: x.shape[1]].to(x.dtype)
        mask = length_mask(lengths, x.shape[1])
        for block in self.blocks:
            x = block(x, mask)
        return self.out(self.norm(x)), lengths
