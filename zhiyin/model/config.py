"""Sizes of the three components; the same record is written to `config.json` of a checkpoint."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from zhiyin.config import build
from zhiyin.errors import UserError

VOICE_STATS = ("spectrum", "functionals")
MIN_FUNCTIONALS_MELS = 29  # what the ripple of the lowest 26 looks at (`zhiyin.model.voice`)


def _check_parts(config: Any, whole: str, parts: str | int) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type is int and value < 1:
            raise UserError(f"{type(config).__name__}: {field.name} is {value}; at least 1 is needed")
    count = parts if isinstance(parts, int) else getattr(config, parts)
    if getattr(config, whole) % count:
        raise UserError(f"{type(config).__name__}: {whole} {getattr(config, whole)} is no multiple of {parts} {count}")


@dataclass(frozen=True)
class EncoderConfig:
    """A Whisper-style encoder: two convolutions, sinusoid positions, pre-norm blocks.

    The defaults are Whisper-medium as OSUM uses it; `conv_strides` (2, 2) halves the frame rate once more.
    """

    num_mels: int = 80
    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    ffn_width: int = 4096
    max_positions: int = 1500
    stored_positions: bool = False  # the checkpoint brings its own table (a bf16 engine rounded it)
    conv_strides: tuple[int, int] = (1, 2)
    conv_kernel: int = 1  # frames a block's own convolution sees; 1 is Whisper's block, which has none
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_parts(self, "width", "num_heads")
        if self.conv_kernel % 2 == 0:
            raise UserError(f"EncoderConfig: conv_kernel is {self.conv_kernel}; an odd number keeps the length")


@dataclass(frozen=True)
class ProjectorConfig:
    """Causal convolutions, a small transformer and a linear layer into the decoder's width (OSUM's adapter)."""

    conv_strides: tuple[int, ...] = (1, 2, 2)
    width: int = 1024
    num_layers: int = 4
    num_heads: int = 4
    ffn_width: int = 2560
    max_positions: int = 5000
    stored_positions: bool = False  # as in the encoder
    voice_mels: int | None = None  # one more vector of the whole utterance, from so many low mel bins (`Voice`)
    voice_stats: str = "spectrum"  # what it is made of: spectrum (timbre) or functionals (pitch, pace and more too)
    pace: bool = False  # one more vector, of how the encoder's frames move (`Pace`); it comes after that of the voice
    voice_dropout: float = 0.0  # of what these two are made of, and their hidden layers: there are few speakers
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_parts(self, "width", "num_heads")
        if self.voice_mels is not None and self.voice_mels < 1:
            raise UserError(f"ProjectorConfig: voice_mels is {self.voice_mels}; at least 1, or leave it out")
        if self.voice_stats not in VOICE_STATS:
            raise UserError(f"ProjectorConfig: voice_stats is '{self.voice_stats}'; one of {', '.join(VOICE_STATS)}")
        if self.voice_stats == "functionals" and (self.voice_mels or 0) < MIN_FUNCTIONALS_MELS:
            raise UserError(
                f"ProjectorConfig: voice_stats functionals takes the pitch from the low mel bins; set voice_mels to "
                f"{MIN_FUNCTIONALS_MELS} or more, best all of them"
            )
        if not 0.0 <= self.voice_dropout < 1.0:
            raise UserError(f"ProjectorConfig: voice_dropout is {self.voice_dropout}; at least 0 and below 1")

    @property
    def whole_vectors(self) -> int:
        """How many vectors of the whole utterance come before those of the speech."""
        return (self.voice_mels is not None) + self.pace


@dataclass(frozen=True)
class DecoderConfig:
    """One decoder for Qwen2, Qwen3, Llama and openPangu; the switches below are all in which they differ."""

    vocab_size: int = 152064
    width: int = 3584
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    head_width: int = 128
    ffn_width: int = 18944
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-6
    qkv_bias: bool = True  # Qwen2, openPangu
    out_bias: bool = False  # openPangu
    qk_norm: bool = False  # Qwen3
    tie_embeddings: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_parts(self, "num_heads", "num_kv_heads")
        _check_parts(self, "head_width", 2)  # rotary positions turn pairs


@dataclass(frozen=True)
class ModelConfig:
    """A whole speech language model.

    Attributes:
        family: ``zhiyin`` (own recipe), ``osum`` or ``osum-pangu``: which prompts and replies it speaks.
        ctc: whether a CTC head sits on the encoder.
        eos_id: token that ends a reply.
    """

    encoder: EncoderConfig = EncoderConfig()
    projector: ProjectorConfig = ProjectorConfig()
    decoder: DecoderConfig = DecoderConfig()
    family: str = "zhiyin"
    ctc: bool = False
    eos_id: int = 151643

    @property
    def frames_per_vector(self) -> int:
        """Mel frames (10 ms each) that become one speech vector."""
        stride = 1
        for step in (*self.encoder.conv_strides, *self.projector.conv_strides):
            stride *= step
        return stride

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "ModelConfig":
        """Read `to_dict`'s record.

        Raises:
            UserError: a field is unknown, named with the closest ones that exist.
        """
        return build(cls, record, "model config")
