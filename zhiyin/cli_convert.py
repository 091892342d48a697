"""`zhiyin convert`: published weights into a checkpoint of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError

WHISPER = "whisper"


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line; see `model.convert.command.Request`."""

    family: str
    tokenizer: Path | None
    lora_scale: float | None
    dtype: str
    name: str
    facts: Path | None
    hashes: bool


def run(source: Path, out: Path, options: Options) -> str:
    """Convert; returns the report as text.

    Raises:
        UserError: an extra is missing, or the source, an option or `out` does not fit.
    """
    import importlib.util

    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this command needs {', '.join(missing)}: pip install 'zhiyin[train]'")
    from zhiyin.runtime.device import before_torch

    before_torch()
    from zhiyin.model.convert import command

    if options.family == WHISPER:
        return _whisper(source, out, options)
    if options.family not in (command.AUTO, *command.FAMILIES):
        known = f"{command.AUTO} {' '.join(command.FAMILIES)} {WHISPER}"
        raise UserError(f"--from '{options.family}' is not known; known: {known}")
    request = command.Request(
        source,
        options.tokenizer or _beside(source),
        options.family,
        options.lora_scale,
        options.dtype,
        options.name,
        options.facts,
        options.hashes,
    )
    return _report(out, command.convert(request, out).record)


def _beside(source: Path) -> Path:
    """A tokenizer that lies with the weights."""
    if source.is_dir() and any((source / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return source
    raise UserError(f"convert {source}: the weights bring no tokenizer; give --tokenizer FOLDER of the decoder")


def _whisper(source: Path, out: Path, options: Options) -> str:
    from zhiyin.model.convert import command, whisper

    dtype = options.dtype
    if dtype not in command.DTYPES:
        raise UserError(f"dtype '{dtype}' is not known; known: {' '.join(command.DTYPES)}")
    if options != Options(WHISPER, None, None, dtype, "", None, False):
        raise UserError(f"convert --from {WHISPER}: of the other options only --dtype means anything for an encoder")
    report = whisper.convert(source, out, dtype=command.DTYPES[dtype])
    reasons: dict[str, list[str]] = {}
    for key, reason in report.dropped.items():
        reasons.setdefault(reason, []).append(key)
    return "\n".join([f"{out}: a Whisper encoder, {len(report.used)} keys used", *_dropped(reasons)])


def _report(out: Path, record: Mapping[str, Any]) -> str:
    keys, scale = record["keys"], record["lora_scale"]
    merged = f"{keys['merged']} merged (LoRA, scale {scale:g})" if scale is not None else "no LoRA"
    return "\n".join(
        [
            f"{out}: {record['family']}: {record['family_because']}",
            f"{keys['in_source']} keys of {record['source']} ({record['layout']}): {keys['used']} used, {merged}, "
            f"{keys['dropped']} dropped; stored: {record['dtype']}",
            *_dropped(record["dropped"]),
            *([f"licence of the weights: {record['licence']}"] if record["licence"] else []),
        ]
    )


def _dropped(reasons: Mapping[str, list[str]]) -> list[str]:
    return [
        f"dropped: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''} ({reason})"
        for reason, keys in reasons.items()
    ]
