"""Whisper's encoder out of a Hugging Face folder or an OpenAI file; its text decoder stays behind.

`read_encoder` also reads the folder that `convert` writes: `config.json` (``{"family": "whisper-encoder", "encoder":
{fields of EncoderConfig}}``) and `model.safetensors` (or shards) under our names.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.model import files, foreign, shards
from zhiyin.model.checkpoint import Report, is_finite
from zhiyin.model.config import EncoderConfig
from zhiyin.model.convert import parts
from zhiyin.model.convert.parts import Part, Table, whole_number
from zhiyin.model.encoder import Encoder, sinusoids

FAMILY = "whisper-encoder"
_ALLOWED = f"allowed: a Hugging Face Whisper folder, an OpenAI Whisper .pt file, a folder of family {FAMILY}"
_TEXT = "Whisper's own text decoder; another decoder takes its place"
_POSITIONS = "encoder.positions"

# Sources: Hugging Face `modeling_whisper.py` (WhisperEncoder) and OpenAI whisper `model.py` (AudioEncoder). Fine-tuned
# folders may lack the leading "model.".
_PREFIXES = (
    ("model.encoder.", "encoder."),
    ("encoder.", "encoder."),
)
_INFIXES = (
    ("embed_positions.weight", "positions"),
    ("positional_embedding", "positions"),
    ("layers.", "blocks."),
    (".self_attn.q_proj.", ".attn.query."),
    (".self_attn.k_proj.", ".attn.key."),
    (".self_attn.v_proj.", ".attn.value."),
    (".self_attn.out_proj.", ".attn.out."),
    (".self_attn_layer_norm.", ".norm1."),
    (".attn_ln.", ".norm1."),
    (".final_layer_norm.", ".norm2."),
    (".mlp_ln.", ".norm2."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
    ("layer_norm.", "norm."),
    ("ln_post.", "norm."),
)
_DROPPED = {"model.decoder.": _TEXT, "decoder.": _TEXT, "proj_out.": _TEXT}


def read_encoder(path: str | os.PathLike[str]) -> Part[EncoderConfig]:
    """Open an encoder and settle every key of it; its tensors are read when asked for.

    Args:
        path: a Hugging Face folder of a Whisper model (safetensors, one file or shards, or `pytorch_model.bin`), an
            OpenAI `.pt` file, or a folder written by `convert`.

    Raises:
        UserError: something else, damaged, or its weights are not what its sizes say; a key is unknown.
    """
    path = Path(path)
    where = f"encoder {path}"
    if path.is_file():
        dims, state = _openai(path, where)
        return _settled(dict(state), _openai_config(dims, where), where)
    if not path.is_dir():
        raise UserError(f"{where}: nothing there; {_ALLOWED}")
    record = parts.read_json(path / files.CONFIG, where)
    if record.get("family") == FAMILY:
        return _own(path, record, where)
    if record.get("model_type") != "whisper":
        raise UserError(f"{where}: model_type {record.get('model_type')!r} is no Whisper; {_ALLOWED}")
    config = _huggingface_config(record, where)
    return _settled(parts.open_folder(path, where), config, where)


def convert(source: str | os.PathLike[str], out: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Report:
    """Write an encoder by itself, as a folder that `read_encoder` reads; atomically.

    Args:
        source: what `read_encoder` takes.
        out: a new or empty folder, or one written before, which is replaced.
        dtype: weights are stored in it; by default as they are. A stored position table keeps float32.

    Returns:
        What became of every key of `source`.

    Raises:
        UserError: the source does not fit, a weight is not finite, or `out` is something else or cannot be written.
    """
    part = read_encoder(source)
    out = Path(out).resolve()
    where = f"encoder folder {out}"
    fresh, _ = files.beside(out)
    try:
        files.finish(out)
        _check_replaceable(out, where)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _write_weights(fresh, part, dtype, where)
        record = {"family": FAMILY, "encoder": asdict(part.config)}
        (fresh / files.CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        files.put_in_place(fresh, out)
    except OSError as error:
        raise UserError(f"{where}: cannot be written ({error}); what was there is kept") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return part.report


def _write_weights(folder: Path, part: Part[EncoderConfig], dtype: torch.dtype | None, where: str) -> None:
    writer = shards.Writer(folder, part.names.values())
    try:
        for name, tensor in part.tensors(dtype):
            if not is_finite(tensor):
                raise UserError(f"{where}: weight {name} is not finite in {tensor.dtype}; nothing was written")
            writer.add(name, tensor)
        writer.close()
    finally:
        writer.abandon()


def _check_replaceable(out: Path, where: str) -> None:
    if out.is_file() or (out.exists() and any(out.iterdir())):
        known = out.is_dir() and (out / files.CONFIG).is_file()
        if not known or parts.read_json(out / files.CONFIG, where).get("family") != FAMILY:
            raise UserError(f"{where}: something else is there; give a new or empty folder")


def _own(path: Path, record: Mapping[str, Any], where: str) -> Part[EncoderConfig]:
    config = build(EncoderConfig, record.get("encoder"), f"{where}: {files.CONFIG}")
    table = parts.open_folder(path, where)
    report = Report()
    named = {key: key for key in table}
    parts.check(table, named, _empty(config), report, where)
    return Part(config, table, named, report)


def _settled(table: Table, config: EncoderConfig, where: str) -> Part[EncoderConfig]:
    report = Report()
    for key in table:
        reason = next((why for prefix, why in _DROPPED.items() if key.startswith(prefix)), None)
        if reason:
            report.dropped[key] = reason
    named = parts.rename(table, _PREFIXES, _INFIXES, report, where)
    config = _with_positions(table, named, config, report, where)
    parts.check(table, named, _empty(config), report, where)
    return Part(config, table, {key: name for name, key in named.items()}, report)


def _with_positions(
    table: Table, named: dict[str, str], config: EncoderConfig, report: Report, where: str
) -> EncoderConfig:
    """A table that is just the formula is dropped; a rounded one (OpenAI's files are float16) is used as stored."""
    key = named.get(_POSITIONS)
    if key is None:
        return config
    shape, wanted = tuple(table[key].shape), (config.max_positions, config.width)
    if shape != wanted:
        raise UserError(f"{where}: '{key}' is {shape}, its sizes say {wanted}; config and weights disagree")
    if not torch.allclose(parts.tensor(table, key).float(), sinusoids(*wanted), rtol=0, atol=1e-6):
        return EncoderConfig(**{**asdict(config), "stored_positions": True})
    report.dropped[key] = "equal to the formula"
    del named[_POSITIONS]
    return config


def _huggingface_config(record: Mapping[str, Any], where: str) -> EncoderConfig:
    activation = record.get("activation_function", "gelu")
    if activation != "gelu":
        raise UserError(f"{where}: activation_function '{activation}'; this encoder has gelu")
    return EncoderConfig(
        num_mels=whole_number(record, "num_mel_bins", where),
        width=whole_number(record, "d_model", where),
        num_layers=whole_number(record, "encoder_layers", where),
        num_heads=whole_number(record, "encoder_attention_heads", where),
        ffn_width=whole_number(record, "encoder_ffn_dim", where),
        max_positions=whole_number(record, "max_source_positions", where),
    )


def _openai_config(dims: Mapping[str, Any], where: str) -> EncoderConfig:
    width = whole_number(dims, "n_audio_state", where)
    return EncoderConfig(
        num_mels=whole_number(dims, "n_mels", where),
        width=width,
        num_layers=whole_number(dims, "n_audio_layer", where),
        num_heads=whole_number(dims, "n_audio_head", where),
        ffn_width=4 * width,  # not among its sizes: OpenAI whisper `model.py`, ResidualAttentionBlock
        max_positions=whole_number(dims, "n_audio_ctx", where),
    )


def _openai(path: Path, where: str) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    wanted = f"a dictionary of 'dims' and 'model_state_dict' is expected; {_ALLOWED}"
    record = foreign.unpickle(path, where, wanted)
    dims, state = (record.get(name) if isinstance(record, dict) else None for name in ("dims", "model_state_dict"))
    if not isinstance(dims, Mapping) or not isinstance(state, Mapping):
        seen = ", ".join(map(str, list(record)[:4])) if isinstance(record, dict) else type(record).__name__
        raise UserError(f"{where}: {seen} seen; {wanted}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{where}: '{name}' is a {type(value).__name__}, no tensor; {wanted}")
    return dims, state


def _empty(config: EncoderConfig) -> nn.Module:
    with torch.device("meta"):
        return nn.ModuleDict({"encoder": Encoder(config)})
