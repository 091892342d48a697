"""Whisper-style speech encoder for audio of any length.

Shapes: `B` batch, `M` mel bins, `F` mel frames, `T` encoder frames, `E` encoder width.
Source: OpenAI whisper `model.py` (AudioEncoder); OSUM runs it on the real length, without padding to 30 s.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from zhiyin.model.config import EncoderConfig


def sinusoids(num_positions: int, width: int, *, max_timescale: float = 10_000.0) -> Tensor:
    """Whisper's position table: sines in the first half of the width, cosines in the second. [positions, width]

    On the CPU even inside ``torch.device("meta")``, so that a model built without weights still has its table.
    """
    half = width // 2
    scale = torch.exp(-math.log(max_timescale) / (half - 1) * torch.arange(half, device="cpu"))
    angle = torch.arange(num_positions, device="cpu")[:, None] * scale[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def length_mask(lengths_B: Tensor, size: int) -> Tensor:
    """True where a frame belongs to the utterance. [B, size]"""
    return torch.arange(size, device=lengths_B.device)[None, :] < lengths_B[:, None]


class SelfAttention(nn.Module):
    """Multi-head attention over a whole sequence; Whisper's has no bias on the key projection."""

    def __init__(self, width: int, num_heads: int, *, key_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=key_bias)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTE: Tensor, mask_BT: Tensor, dropout: float = 0.0) -> Tensor:
        """Attend; frames where the mask is False are not seen."""
        b, t, e = x_BTE.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(b, t, self.num_heads, e // self.num_heads).transpose(1, 2)

        y = fn.scaled_dot_product_attention(
            heads(self.query(x_BTE)),
            heads(self.key(x_BTE)),
            heads(self.value(x_BTE)),
            attn_mask=mask_BT[:, None, None, :],
            dropout_p=dropout if self.training else 0.0,
        )
        return self.out(y.transpose(1, 2).reshape(b, t, e))


class LocalConv(nn.Module):
    """A gated depthwise convolution over neighbouring frames, the convolution module of the Conformer.

    Whisper's blocks have none. A small encoder trained on hours instead of years of speech needs it: it sees what is
    near from the first step on, where attention must first learn what the positions mean.
    Source: Gulati et al. 2020, "Conformer", figure 2, with layer norm in place of batch norm.
    """

    def __init__(self, width: int, kernel: int, *, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.depthwise_norm = nn.LayerNorm(width, eps=eps)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Same shape out; padded frames are seen as zeros, as the edge of the utterance alone."""
        y = fn.glu(self.gate(self.norm(x_BTE)), dim=-1) * mask_BT[:, :, None].to(x_BTE.dtype)
        y = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        return self.out(fn.silu(self.depthwise_norm(y)))


class Block(nn.Module):
    """Pre-norm transformer block, with a convolution after the attention where `conv_kernel` is more than 1."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        ffn_width: int,
        *,
        eps: float,
        activation: str,
        key_bias: bool,
        dropout: float,
        conv_kernel: int = 1,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, num_heads, key_bias=key_bias)
        self.conv = LocalConv(width, conv_kernel, eps=eps) if conv_kernel > 1 else None
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.activation = fn.gelu if activation == "gelu" else fn.relu
        self.dropout = dropout

    def forward(self, x_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """One block, same shape out."""
        x = x_BTE + self._drop(self.attn(self.norm1(x_BTE), mask_BT, self.dropout))
        if self.conv is not None:
            x = x + self._drop(self.conv(x, mask_BT))
        return x + self._drop(self.fc2(self._drop(self.activation(self.fc1(self.norm2(x))))))

    def _drop(self, x: Tensor) -> Tensor:
        return fn.dropout(x, self.dropout, self.training) if self.dropout else x


class Encoder(nn.Module):
    """Log-mel features to encoder frames, any length, correct under batching.

    A batch gives each utterance what it would get alone: lengths are ceil(F / stride) and the activated output of
    the first convolution is set to zero at padded frames, where the utterance alone would see zero padding.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mels, config.width, 3, stride=config.conv_strides[0], padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=config.conv_strides[1], padding=1)
        self.positions: Tensor
        table = sinusoids(config.max_positions, config.width)
        self.register_buffer("positions", table, persistent=config.stored_positions)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.num_heads,
                config.ffn_width,
                eps=config.norm_eps,
                activation="gelu",
                key_bias=False,
                dropout=config.dropout,
                conv_kernel=config.conv_kernel,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, mel_BMF: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a right-padded batch.

        Args:
            mel_BMF: log-mel features; what stands in padded frames does not matter.
            frames_B: valid frames per utterance.

        Returns:
            Encoder frames [B, T, E] and their valid lengths [B].
        """
        x = mel_BMF * length_mask(frames_B, mel_BMF.shape[2])[:, None, :].to(mel_BMF.dtype)
        lengths = frames_B
        for conv, stride in zip((self.conv1, self.conv2), self.config.conv_strides, strict=True):
            x = fn.gelu(conv(x))
            lengths = (lengths + stride - 1) // stride
            x = x * length_mask(lengths, x.shape[2])[:, None, :].to(x.dtype)
        mask = length_mask(lengths, x.shape[2])
        x = x.transpose(1, 2) + self.positions[: x.shape[2]].to(x.dtype)
        if self.config.dropout:
            x = fn.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), lengths
