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
from zhiyin.model.voice import Functionals, Spectrum


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
    """One vector of how an utterance sounds as a whole: statistics of its loud frames, through two layers.

    An encoder that is trained to tell words forgets who speaks; statistics pooling over the features keeps it. Which
    statistics: `ProjectorConfig.voice_stats`.
    """

    HIDDEN = 256

    def __init__(self, num_mels: int, decoder_width: int, *, stats: str = "spectrum", dropout: float = 0.0):
        super().__init__()
        self.pool = Functionals(num_mels) if stats == "functionals" else Spectrum(num_mels)
        self.hidden = nn.Linear(self.pool.size, self.HIDDEN)
        self.out = nn.Linear(self.HIDDEN, decoder_width)
        self.dropout = dropout

    def forward(self, mel_BMF: Tensor, frames_B: Tensor) -> Tensor:
        """Vectors [B, 1, D] of log-mel features [B, M, F] with so many valid frames [B]."""
        pooled = self.pool(mel_BMF, frames_B).to(self.out.weight.dtype)
        hidden = fn.gelu(self.hidden(fn.dropout(pooled, self.dropout, self.training)))
        return self.out(fn.dropout(hidden, self.dropout, self.training))[:, None]


class Pace(nn.Module):
    """One vector of how an utterance flows: mean and movement of the encoder's frames, through two layers.

    The frames of an encoder that hears words say where one piece ends and the next begins, so their means say how many
    there are in a second, which the sound alone tells badly (docs/log.md). Each half is normalised.
    """

    HIDDEN = 256

    def __init__(self, encoder_width: int, decoder_width: int, *, dropout: float = 0.0):
        super().__init__()
        self.width = encoder_width
        self.hidden = nn.Linear(2 * encoder_width, self.HIDDEN)
        self.out = nn.Linear(self.HIDDEN, decoder_width)
        self.dropout = dropout

    def forward(self, x_BTE: Tensor, frames_B: Tensor) -> Tensor:
        """Vectors [B, 1, D] of encoder frames [B, T, E], of which so many are valid [B]."""
        valid_BT1 = length_mask(frames_B, x_BTE.shape[1])[:, :, None].float()
        x = x_BTE.float() * valid_BT1
        mean = x.sum(1) / valid_BT1.sum(1)
        both = valid_BT1[:, 1:] * valid_BT1[:, :-1]
        moved = ((x[:, 1:] - x[:, :-1]).abs() * both).sum(1) / both.sum(1).clamp(min=1.0)
        halves = [fn.layer_norm(half, (self.width,)) for half in (mean, moved)]
        pooled = torch.cat(halves, 1).to(self.out.weight.dtype)
        hidden = fn.gelu(self.hidden(fn.dropout(pooled, self.dropout, self.training)))
        return self.out(fn.dropout(hidden, self.dropout, self.training))[:, None]


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
            dropout = config.voice_dropout
            self.voice = Voice(config.voice_mels, decoder_width, stats=config.voice_stats, dropout=dropout)
        if config.pace:
            self.pace = Pace(encoder_width, decoder_width, dropout=config.voice_dropout)

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
