"""Decoders out of Hugging Face folders: Qwen2, Qwen2.5, Qwen3, Llama, openPangu-Embedded. No code of theirs is run.

Sources of the config fields and their defaults: transformers `configuration_{qwen2,qwen3,llama}.py`; openPangu's
`config.json`, which describes a Llama with biases on q, k, v and o.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zhiyin.errors import UserError
from zhiyin.model import files
from zhiyin.model.checkpoint import Report
from zhiyin.model.config import DecoderConfig
from zhiyin.model.convert import parts, vocabulary
from zhiyin.model.convert.parts import Part, Table, whole_number
from zhiyin.model.decoder import Decoder


@dataclass(frozen=True)
class _Kind:
    """What a model type means where its config is silent.

    Attributes:
        biases: field that says whether q, k, v and o have biases; without it q, k and v have them and o has not.
        biased: value of that field where it is missing.
        qk_norm: queries and keys are normalised.
        rope_theta: where it is missing.
        licence: what is to be said before the weights are passed on.
    """

    biases: str = ""
    biased: bool = False
    qk_norm: bool = False
    rope_theta: float = 10_000.0
    licence: str = ""


KINDS = {
    "qwen2": _Kind(),
    "qwen3": _Kind("attention_bias", qk_norm=True),
    "llama": _Kind("attention_bias"),
    "PanguEmbedded": _Kind(
        "bias", biased=True, rope_theta=16_000_000.0, licence="openPangu Model License (restrictions: read it)"
    ),
}

# Settings under which these models compute something else than our decoder: field -> values that change nothing.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
}
_NOT_WEIGHTS = {".rotary_emb.inv_freq": "computed from rope_theta"}
_PREFIXES = (("model.", "decoder."), ("lm_head.", "decoder.lm_head."))
_INFIXES = ((".mlp.", "."),)
_HEAD, _TABLE = "decoder.lm_head.weight", "decoder.embed_tokens.weight"


@dataclass(frozen=True)
class Facts:
    """What a decoder folder says besides its sizes.

    Attributes:
        model_type: as its config has it.
        tokenizer: JSON text of its tokenizer.
        eos_ids: tokens that may end a reply, the usual one first.
        max_positions: longest sequence it was trained for, in tokens.
        licence: of the weights, where something is to be minded.
    """

    model_type: str
    tokenizer: str
    eos_ids: tuple[int, ...]
    max_positions: int
    licence: str


def read_decoder(folder: str | os.PathLike[str]) -> tuple[Part[DecoderConfig], Facts]:
    """Open a decoder and settle every key of it; its tensors are read when asked for.

    Args:
        folder: `config.json`, weights (safetensors, one file or shards) and a tokenizer.

    Raises:
        UserError: another model type, a setting our decoder cannot follow, weights that are not what the config says,
            a key that is unknown, no tokenizer, or no end token.
    """
    folder = Path(folder)
    where = f"decoder {folder}"
    if not folder.is_dir():
        raise UserError(f"{where}: no folder there; a Hugging Face model folder is expected, types: {' '.join(KINDS)}")
    record = parts.read_json(folder / files.CONFIG, where)
    kind = KINDS.get(str(record.get("model_type")))
    if kind is None:
        raise UserError(f"{where}: model_type {record.get('model_type')!r} is not known; known: {' '.join(KINDS)}")
    _check_harmless(record, where)
    table = parts.open_folder(folder, where)
    report = Report()
    for key in table:
        reason = next((why for suffix, why in _NOT_WEIGHTS.items() if key.endswith(suffix)), None)
        if reason:
            report.dropped[key] = reason
    named = parts.rename(table, _PREFIXES, _INFIXES, report, where)
    config = _config(record, kind, table, named, where)
    if config.tie_embeddings:
        _drop_tied_head(table, named, report, where)
    with torch.device("meta"):
        expected = nn.ModuleDict({"decoder": Decoder(config)})
    parts.check(table, named, expected, report, where)
    tokenizer = vocabulary.read(folder, config.vocab_size, where)
    facts = Facts(
        str(record["model_type"]),
        tokenizer,
        vocabulary.end_tokens(folder, record, tokenizer, where),
        whole_number(record, "max_position_embeddings", where),
        kind.licence,
    )
    return Part(config, table, {key: name for name, key in named.items()}, report), facts


def _check_harmless(record: Mapping[str, Any], where: str) -> None:
    for name, allowed in _HARMLESS.items():
        if name in record and record[name] not in allowed:
            raise UserError(f"{where}: {name} {record[name]!r} is not supported; supported: {allowed[0]!r}")
    layers = set(record.get("layer_types") or ()) - {"full_attention"}
    if layers:
        raise UserError(f"{where}: layer_types {', '.join(sorted(layers))} not supported; supported: full_attention")
    for field in ("rope_scaling", "rope_parameters"):
        scaling = record.get(field) or {}
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in ("default", None):
            raise UserError(f"{where}: {field} '{kind}' is not supported; supported: none, default")


def _config(
    record: Mapping[str, Any], kind: _Kind, table: Table, named: Mapping[str, str], where: str
) -> DecoderConfig:
    heads = whole_number(record, "num_attention_heads", where)
    biased = bool(record.get(kind.biases, kind.biased)) if kind.biases else True
    rope = record.get("rope_parameters") or {}
    return DecoderConfig(
        vocab_size=whole_number(record, "vocab_size", where),
        width=whole_number(record, "hidden_size", where),
        num_layers=whole_number(record, "num_hidden_layers", where),
        num_heads=heads,
        num_kv_heads=whole_number({"num_key_value_heads": heads, **record}, "num_key_value_heads", where),
        head_width=_head_width(record, heads, table, named, where),
        ffn_width=whole_number(record, "intermediate_size", where),
        rope_theta=float(rope.get("rope_theta", record.get("rope_theta", kind.rope_theta))),
        norm_eps=float(record.get("rms_norm_eps", 1e-6)),
        qkv_bias=biased,
        out_bias=biased and bool(kind.biases),
        qk_norm=kind.qk_norm,
        tie_embeddings=bool(record.get("tie_word_embeddings", False)),
    )


def _head_width(record: Mapping[str, Any], heads: int, table: Table, named: Mapping[str, str], where: str) -> int:
    """From the config, or where it is silent (Qwen2, older Llama) from the rows of the first query projection."""
    if record.get("head_dim") is not None:
        return whole_number(record, "head_dim", where)
    first = "decoder.layers.0.self_attn.q_proj.weight"
    if first not in named:
        raise UserError(f"{where}: no weight for {first} inside; is this a whole model?")
    rows = table[named[first]].shape[0]
    if rows % heads:
        raise UserError(f"{where}: {named[first]} has {rows} rows, which do not divide into {heads} heads")
    return rows // heads


def _drop_tied_head(table: Table, named: dict[str, str], report: Report, where: str) -> None:
    if _HEAD not in named or _TABLE not in named:
        return
    head, embeddings = (parts.tensor(table, named[name]) for name in (_HEAD, _TABLE))
    if not torch.equal(head, embeddings):
        raise UserError(
            f"{where}: the config ties the output layer to the embeddings, but '{named[_HEAD]}' differs from them;"
            f" set tie_word_embeddings to false if it is meant"
        )
    report.dropped[named.pop(_HEAD)] = "copy of the embeddings, to which the config ties it"
