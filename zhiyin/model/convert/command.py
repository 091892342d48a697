"""From a file or folder of OSUM's or OSUM-Pangu's weights to a checkpoint, one tensor at a time."""

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.model import checkpoint, files
from zhiyin.model.config import ModelConfig
from zhiyin.model.convert import osum, source, vocabulary
from zhiyin.model.convert.osum import Facts, Plan

FAMILIES = {facts.family: facts for facts in (osum.OSUM, osum.OSUM_PANGU)}
AUTO = "auto"
KEEP = "keep"
DTYPES = {
    KEEP: None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

MAX_WINDOW_S = 30.0  # what both families were trained with at most (29 s), and their position tables allow
MAX_TOKENS = 1024  # 375 vectors of 30 s, a prompt, and a reply of up to 400 tokens; both trained on 1000 in all
TIME_STEP_S = 0.1  # of the time marks in their training data

_TASKS = ("asr", "srwt", "ved", "ser", "ssr", "sgc", "sap", "sttc")
_SPECS: dict[str, dict[str, Any]] = {
    "osum": {"licence": "Apache-2.0", "can_follow_instructions": False},
    "osum-pangu": {
        "licence": "openPangu licence (its decoder is openPangu-Embedded); read it before use",
        "can_follow_instructions": True,
    },
}
# What the decoder's own config.json says -> where our config has it.
_DECODER_SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_width",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True)
class Request:
    """What to convert, and what the weights do not say.

    Attributes:
        path: file or folder of weights, see `convert.source`.
        tokenizer: `tokenizer.json` or a folder that holds it. Where a decoder's `config.json` lies beside it, its
            number of heads and its constants are taken from there, and what it says of sizes must be true.
        family: ``osum``, ``osum-pangu``, or ``auto``, which looks for what only one of them has.
        lora_scale: alpha / rank; needed where LoRA is inside.
        dtype: ``keep`` stores the tensors as they are and merged ones in float32 (rounding them back to bfloat16 moves
            the logits by up to 0.26); else ``float32``, ``bfloat16`` or ``float16``.
        name: of the model, shown to users; by default the family's.
        facts: JSON file with fields of `osum.Facts`, for weights of another size than the published ones.
        hashes: whether `conversion.json` records the SHA-256 of the source.
    """

    path: Path
    tokenizer: Path
    family: str = AUTO
    lora_scale: float | None = None
    dtype: str = KEEP
    name: str = ""
    facts: Path | None = None
    hashes: bool = False


@dataclass(frozen=True)
class Converted:
    """What was done; `record` is the content of `conversion.json`."""

    folder: Path
    report: checkpoint.Report
    record: Mapping[str, Any]


def convert(request: Request, out: Path) -> Converted:
    """Write a checkpoint; nothing is left behind when anything is wrong.

    Raises:
        UserError: the weights, the tokenizer, the settings or `out` do not fit, named in one line.
    """
    if request.dtype not in DTYPES:
        raise UserError(f"dtype '{request.dtype}' is not known; known: {' '.join(DTYPES)}")
    if request.family not in (AUTO, *FAMILIES):
        raise UserError(f"family '{request.family}' is not known here; known: {AUTO} {' '.join(FAMILIES)}")
    if request.lora_scale is not None and not (math.isfinite(request.lora_scale) and request.lora_scale > 0):
        raise UserError(f"LoRA scale {request.lora_scale}: a number above zero is needed, alpha / rank of the training")
    files.check_replaceable(out.resolve())
    found = source.find(request.path)
    facts, why = osum.detect(found.tensors) if request.family == AUTO else (FAMILIES[request.family], "asked for")
    decoder = _decoder_record(request.tokenizer)
    facts = _with_file(_with_decoder(facts, decoder, request.tokenizer), request.facts)
    plan = osum.plan(found.tensors, facts, lora_scale=request.lora_scale)
    if request.facts is None:
        _check_published(plan.config, decoder is not None)
    _check_decoder(plan.config, decoder, request.tokenizer)
    tokenizer = _read_tokenizer(request.tokenizer, facts, plan.config.decoder.vocab_size)
    dtype = DTYPES[request.dtype]
    _check_disk(plan, dtype, out.resolve())
    record = _record(request, found, facts, why, plan)
    spec = _spec(plan.config, request)
    checkpoint.write(out, plan.config, spec, tokenizer, plan.tensors(dtype), origin=record)
    return Converted(out, plan.report, record)


def _read_tokenizer(path: Path, facts: Facts, num_rows: int) -> str:
    """The tokenizer as JSON text, once it is known to belong to the weights."""
    where = f"tokenizer {path}"
    if path.is_dir():
        text = vocabulary.read(path, num_rows, where)
    elif path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        raise UserError(f"{where}: nothing there; give the folder of the decoder, or its {files.TOKENIZER}")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises the bare class
        raise UserError(f"{where}: cannot be read ({error}); give the folder of the decoder") from error
    last = max(tokenizer.get_vocab().values(), default=0)
    if last >= num_rows:
        raise UserError(f"{where}: it has token {last}, the weights only {num_rows}; they do not belong together")
    token = tokenizer.id_to_token(facts.eos_id)
    if token is None or (facts.eos_token and token != facts.eos_token):
        wanted = f"{facts.eos_id} {facts.eos_token}".strip()
        seen = "no such id" if token is None else f"'{token}' there"
        raise UserError(f"{where}: {facts.family} ends replies with {wanted}, it has {seen}; give the decoder's own")
    return text


def _decoder_record(tokenizer: Path) -> dict[str, Any] | None:
    path = (tokenizer if tokenizer.is_dir() else tokenizer.parent) / files.CONFIG
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"decoder config {path}: cannot be read ({error}); copy it again") from error
    return record if isinstance(record, dict) and "num_attention_heads" in record else None


def _with_decoder(facts: Facts, record: Mapping[str, Any] | None, where: Path) -> Facts:
    if record is None:
        return facts
    rope = record.get("rope_parameters") or {}
    found = {
        "decoder_heads": record["num_attention_heads"],
        "rope_theta": record.get("rope_theta", rope.get("rope_theta", facts.rope_theta)),
        "norm_eps": record.get("rms_norm_eps", facts.norm_eps),
    }
    return build(Facts, {**dataclasses.asdict(facts), **found}, f"decoder config in {where}")


def _with_file(facts: Facts, path: Path | None) -> Facts:
    if path is None:
        return facts
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"facts {path}: cannot be read ({error}); a JSON table is expected") from error
    if not isinstance(record, dict):
        raise UserError(f"facts {path}: a JSON table is expected, got a {type(record).__name__}")
    return build(Facts, {**dataclasses.asdict(facts), **record}, f"facts {path}")


def _check_decoder(config: ModelConfig, record: Mapping[str, Any] | None, where: Path) -> None:
    for theirs, ours in _DECODER_SIZES.items():
        said, seen = (record or {}).get(theirs), getattr(config.decoder, ours)
        if said is not None and said != seen:
            raise UserError(
                f"decoder config in {where}: {theirs} is {said}, the weights have {seen}; "
                "give the folder of the decoder that was trained"
            )


def _check_published(config: ModelConfig, decoder_known: bool) -> None:
    """Heads are not in the weights: another width means other heads; and a layer that lacks whole leaves no gap."""
    parts = (config.encoder, config.projector, config.decoder)
    seen = tuple((part.num_layers, part.width) for part in parts)
    published = osum.PUBLISHED_SIZES[config.family]
    last = 2 if decoder_known else 3
    if seen[:last] != published[:last]:
        found, known = (", ".join(f"{layers} x {width}" for layers, width in sizes) for sizes in (seen, published))
        raise UserError(
            f"{config.family} weights: layers and width of encoder, projector and decoder are {found}; published were "
            f"{known}; if they are of another size, say how many heads they have: give --facts FILE.json"
        )


def _check_disk(plan: Plan, dtype: torch.dtype | None, out: Path) -> None:
    place = next(folder for folder in out.parents if folder.exists())
    needed = sum(count for _, count in _sizes(plan, dtype))
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"convert to {out}: needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free; make room"
        )


def _sizes(plan: Plan, dtype: torch.dtype | None) -> Iterator[tuple[str, int]]:
    for name, tensor in plan.weights.items():
        kept = torch.float32 if name in plan.lora else tensor.dtype
        yield name, tensor.numel() * (kept if dtype is None else dtype).itemsize


def _spec(config: ModelConfig, request: Request) -> dict[str, Any]:
    """What runtime's ModelSpec says of the model."""
    stride = math.prod(config.encoder.conv_strides)
    positions = (config.encoder.max_positions * stride, config.projector.max_positions * config.frames_per_vector)
    precision = "float32" if request.dtype == KEEP else request.dtype
    return {
        "name": request.name or config.family,
        "tasks": list(_TASKS),
        "languages": ["zh", "en"],
        "max_window_s": min(MAX_WINDOW_S, min(positions) / 100),  # frames of 10 ms
        "max_tokens": MAX_TOKENS,
        "time_step_s": TIME_STEP_S,
        "precision": precision,
        **_SPECS[config.family],
    }


def _record(request: Request, found: source.Source, facts: Facts, why: str, plan: Plan) -> dict[str, Any]:
    """What is kept of where the weights come from; names only, no paths."""
    hashes = found.sha256() if request.hashes else {}
    sizes = {path.name: path.stat().st_size for path in found.files}
    reasons: dict[str, list[str]] = {}
    for key, reason in plan.report.dropped.items():
        reasons.setdefault(reason, []).append(key)
    return {
        "source": found.path.name,
        "layout": found.layout,
        "files": {
            name: {"bytes": size, **({"sha256": hashes[name]} if hashes else {})} for name, size in sizes.items()
        },
        "family": facts.family,
        "family_because": why,
        "facts": dataclasses.asdict(facts),
        "lora_scale": plan.lora_scale if plan.lora else None,
        "dtype": request.dtype,
        "keys": {
            "in_source": len(found.tensors),
            "used": len(plan.report.used),
            "merged": len(plan.report.merged),
            "dropped": sum(key in found.tensors for key in plan.report.dropped),
        },
        "dropped": reasons,
        "licence": _SPECS[facts.family]["licence"],
    }
