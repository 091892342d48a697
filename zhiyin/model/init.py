"""A new model for training: somebody's Whisper encoder, somebody's decoder, and a fresh projector between them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from zhiyin.audio.features import HOP_SAMPLES, SAMPLE_RATE_HZ
from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.convert.decoders import Facts, read_decoder
from zhiyin.model.convert.osum import OSUM, OSUM_PANGU
from zhiyin.model.convert.parts import Part
from zhiyin.model.convert.whisper import read_encoder
from zhiyin.model.projector import Projector
from zhiyin.tasks import dialect

MAX_WINDOW_S = 30.0  # what Whisper's encoder was trained on
MAX_TOKENS = 1024  # 30 s are 375 vectors; prompt and reply have the rest
DTYPES = {"keep": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
_FAMILY_ENDS = {facts.family: facts.eos_id for facts in (OSUM, OSUM_PANGU)}


@dataclass(frozen=True)
class Settings:
    """What the two folders do not say.

    Attributes:
        projector: its sizes; OSUM's by default.
        family: prompts and replies the model shall learn, see `tasks.dialect`.
        ctc: give the encoder a CTC head.
        dtype: what weights are stored in, a name in `DTYPES`; ``keep`` is as they are found, fresh ones float32.
        seed: of the fresh weights.
    """

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    family: str = "zhiyin"
    ctc: bool = False
    dtype: str = "keep"
    seed: int = 1


@dataclass(frozen=True)
class Made:
    """What was written: the sizes, and what the user should know of it, line by line."""

    config: ModelConfig
    notes: tuple[str, ...]


def create(
    out: str | os.PathLike[str], encoder: str | os.PathLike[str], decoder: str | os.PathLike[str], settings: Settings
) -> Made:
    """Write a checkpoint with the weights of an encoder and a decoder and a projector that knows nothing yet.

    No more than one tensor of the decoder is in memory at a time.

    Args:
        out: see `checkpoint.write`.
        encoder: see `convert.whisper.read_encoder`.
        decoder: see `convert.decoders.read_decoder`.
        settings: the rest.

    Raises:
        UserError: a folder is not what is expected, its weights do not fit its config, or `out` is something else.
    """
    dialect.named(settings.family)
    if settings.dtype not in DTYPES:
        raise UserError(f"dtype '{settings.dtype}' is not known; known: {' '.join(DTYPES)}")
    listening = read_encoder(encoder)
    speaking, facts = read_decoder(decoder)
    eos_id, about_eos = _end(settings.family, facts)
    config = ModelConfig(
        listening.config, settings.projector, speaking.config, family=settings.family, ctc=settings.ctc, eos_id=eos_id
    )
    spec = _spec(Path(out).resolve().name, config, facts)
    weights = _weights(listening, speaking, config, settings)
    checkpoint.write(out, config, spec, facts.tokenizer, weights, origin=_origin(encoder, decoder, facts, settings))
    notes = (*_dropped(listening, speaking), about_eos, *_blank(config, facts), *_licence(facts))
    return Made(config, notes)


def fresh(config: ModelConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Projector, markers and CTC head with new weights, the same for the same seed; torch's own state is kept.

    Layers are initialised as PyTorch does; the markers are as long as a row of a freshly initialised embedding table.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = Projector(config.projector, config.encoder.width, config.decoder.width)
        markers = torch.randn(2, config.decoder.width) * config.decoder.width**-0.5
        ctc = nn.Linear(config.encoder.width, config.decoder.vocab_size) if config.ctc else nn.Identity()
    yield "markers", markers
    for name, module in (("projector", projector), ("ctc", ctc)):
        for key, tensor in module.state_dict().items():
            yield f"{name}.{key}", tensor


def _weights(
    listening: Part[EncoderConfig], speaking: Part[DecoderConfig], config: ModelConfig, settings: Settings
) -> Iterator[tuple[str, Tensor]]:
    dtype = DTYPES[settings.dtype]
    yield from listening.tensors(dtype)
    for name, tensor in fresh(config, settings.seed):
        yield name, tensor.to(dtype)
    yield from speaking.tensors(dtype)


def _end(family: str, facts: Facts) -> tuple[int, str]:
    """The end token: the family's own where the decoder knows it as one, else the decoder's first."""
    usual = _FAMILY_ENDS.get(family)
    eos_id = usual if usual in facts.eos_ids else facts.eos_ids[0]
    assert eos_id is not None
    text = Tokenizer.from_str(facts.tokenizer).id_to_token(eos_id)
    choice = f", of {', '.join(map(str, facts.eos_ids))}" if len(facts.eos_ids) > 1 else ""
    other = f"; released {family} models end with {usual}" if usual not in (None, eos_id) else ""
    return eos_id, f"replies end with token {eos_id} {text}{choice}{other}"


def _spec(name: str, config: ModelConfig, facts: Facts) -> dict[str, Any]:
    stride = config.frames_per_vector
    encoder_stride = config.encoder.conv_strides[0] * config.encoder.conv_strides[1]
    most = min(config.encoder.max_positions * encoder_stride, config.projector.max_positions * stride)
    return {
        "name": name,
        "family": config.family,
        "tasks": [],
        "max_window_s": min(MAX_WINDOW_S, most * HOP_SAMPLES / SAMPLE_RATE_HZ),
        "max_tokens": min(MAX_TOKENS, facts.max_positions),
        "licence": facts.licence,
        "extra": {"state": "not trained: its projector is random, so it can do no task yet"},
    }


def _origin(
    encoder: str | os.PathLike[str], decoder: str | os.PathLike[str], facts: Facts, settings: Settings
) -> dict[str, Any]:
    names = {"encoder": Path(encoder).resolve().name, "decoder": Path(decoder).resolve().name}
    return {"made_by": "zhiyin init", **names, "decoder_type": facts.model_type, "seed": settings.seed}


def _dropped(*found: Part[Any]) -> list[str]:
    counts: dict[str, list[str]] = {}
    for part in found:
        for key, reason in part.report.dropped.items():
            counts.setdefault(reason, []).append(key)
    return [
        f"left out: {len(keys)} weights ({keys[0]}{', ...' if keys[1:] else ''}): {why}" for why, keys in counts.items()
    ]


def _blank(config: ModelConfig, facts: Facts) -> list[str]:
    if not config.ctc:
        return []
    token = Tokenizer.from_str(facts.tokenizer).id_to_token(0)
    return [f"the CTC head's blank is token 0 ({token}), which its transcripts therefore never contain"]


def _licence(facts: Facts) -> list[str]:
    return [f"licence of the decoder: {facts.licence}"] if facts.licence else []
