"""Checkpoint folders: weights in and out, strictly and without running what a file brings.

Which files a checkpoint has, `files` says. Sinusoid position tables are computed, not stored, unless the config says
``stored_positions``: then they are weights like others and are used as the file holds them.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zhiyin.errors import UserError
from zhiyin.model import files, shards
from zhiyin.model.config import ModelConfig
from zhiyin.model.files import CONFIG, CONVERSION, FORMAT, TOKENIZER, WEIGHTS, is_checkpoint
from zhiyin.model.foreign import read_tensors
from zhiyin.model.shards import MAX_SHARD_BYTES, is_finite
from zhiyin.model.speech_lm import SpeechLM

__all__ = [
    "CONFIG",
    "TOKENIZER",
    "WEIGHTS",
    "Report",
    "empty",
    "is_checkpoint",
    "is_finite",
    "load",
    "memory_bytes",
    "read_tensors",
    "save",
    "write",
]


@dataclass
class Report:
    """What became of every key of a weight file.

    Attributes:
        used: keys that went into the model.
        merged: LoRA keys that were added to a weight.
        dropped: key -> why it is rightly left out.
        missing: keys of the model that the file lacks.
        unexpected: keys of the file that nothing is known of.
        misshapen: keys with another shape than the model's, as ``name (8, 4) for (4, 4)``.
        not_finite: keys that hold NaN or infinite values.
    """

    used: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    def compare(self, shapes: Mapping[str, tuple[int, ...]], model: SpeechLM) -> None:
        """Note how the shapes found differ from those of a model (which may be on the meta device)."""
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.missing += [name for name in expected if name not in shapes]
        self.unexpected += [name for name in shapes if name not in expected]
        for name in expected.keys() & shapes.keys():
            if shapes[name] != expected[name]:
                self.misshapen.append(f"{name} {shapes[name]} for {expected[name]}")

    def check(self, where: str) -> None:
        """Raise a UserError that counts all faults and names the first few of each kind."""
        faults = []
        for kind in ("missing", "unexpected", "misshapen", "not_finite"):
            names = sorted(getattr(self, kind))
            if names:
                more = ", ..." if len(names) > 3 else ""
                faults.append(f"{len(names)} {kind.replace('_', ' ')} ({', '.join(names[:3])}{more})")
        if faults:
            raise UserError(f"{where}: weights do not fit the model: {'; '.join(faults)}")


def save(
    folder: str | os.PathLike[str],
    model: SpeechLM,
    spec: Mapping[str, Any],
    tokenizer: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model as a checkpoint; see `write`.

    Args:
        folder: where; an existing checkpoint is replaced, any other folder with content is refused.
        model: weights on any device.
        spec: JSON-serialisable facts about the model (ModelSpec's fields).
        tokenizer: path of a `tokenizer.json`, or its JSON text.
        dtype: weights are stored in it; by default as they are. Stored position tables keep theirs.

    Raises:
        UserError: the folder is something else or cannot be written, or a weight is not finite in `dtype`.
    """
    write(folder, model.config, spec, tokenizer, _weights_of(model, dtype))


def write(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    spec: Mapping[str, Any],
    tokenizer: str | os.PathLike[str],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint from tensors that come one at a time; no more than one of them is in memory.

    Whatever happens meanwhile, `load` finds the old checkpoint or the new one, whole. Files in the folder that are not
    the checkpoint's own (a model card, an optimizer state) are kept.

    Args:
        folder: where; an existing checkpoint is replaced, any other folder with content is refused.
        config: sizes of the model, which the tensors must fit.
        spec: JSON-serialisable facts about the model (ModelSpec's fields).
        tokenizer: path of a `tokenizer.json`, or its JSON text.
        tensors: name and tensor of every key of ``SpeechLM(config).state_dict()``, each once, in any order.
        max_shard_bytes: weights beyond it go into a further file; so does each number format.
        origin: where converted weights come from; kept as `conversion.json`.

    Raises:
        UserError: the folder is something else or cannot be written, or a weight is missing, unknown, there twice,
            misshapen or not finite.
    """
    folder = Path(folder).resolve()
    fresh, _ = files.beside(folder)
    text = os.fspath(tokenizer)
    try:
        vocabulary = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
        files.finish(folder)
        files.check_replaceable(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _write_weights(fresh, config, tensors, max_shard_bytes, f"checkpoint {folder}")
        _write_json(fresh / CONFIG, {"format": FORMAT, **config.to_dict(), "spec": dict(spec)})
        if origin is not None:
            _write_json(fresh / CONVERSION, dict(origin))
        (fresh / TOKENIZER).write_text(vocabulary, encoding="utf-8")
        files.put_in_place(fresh, folder)
    except OSError as error:
        _clean_up(folder)
        raise UserError(f"checkpoint {folder}: cannot be written ({error}); what was there is kept") from error
    except (Exception, KeyboardInterrupt):
        _clean_up(folder)
        raise


def load(
    folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> tuple[SpeechLM, dict[str, Any]]:
    """Read a checkpoint; each weight must be there, fit and be finite, and nothing else may be there.

    Weights stored in `dtype` stay memory-mapped on the CPU; others are read one at a time, so that the peak is the
    model in `dtype` and little more.

    Args:
        folder: written by `save` or `write`.
        dtype: of the weights in memory; position tables keep float32.
        device: where the weights go.

    Returns:
        The model in eval mode, and the spec.

    Raises:
        UserError: not a checkpoint, damaged, or its weights do not fit its config.
    """
    folder = _whole(Path(folder).resolve())
    config, spec = files.read_config(folder)
    where = f"checkpoint {folder}"
    found = shards.entries(*files.shards(folder, where), where)
    model = empty(config)
    report = Report()
    report.compare({name: entry.shape for name, entry in found.items()}, model)
    report.check(where)
    state: dict[str, Tensor] = {}
    try:
        for name, tensor in shards.tensors(found):
            kept = torch.float32 if name.endswith("positions") else dtype
            state[name] = tensor.to(device=device, dtype=kept)
            if not is_finite(state[name]):
                report.not_finite.append(name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{where}: its weights cannot be read ({error}); copy it again") from error
    report.check(where)
    model.load_state_dict(state, strict=True, assign=True)
    return model.to(device).eval(), spec


def empty(config: ModelConfig) -> SpeechLM:
    """A model without weights, on the meta device: names and shapes, and the position tables that are computed."""
    with torch.device("meta"), _NoRandom():
        return SpeechLM(config)


def memory_bytes(folder: str | os.PathLike[str], *, dtype: torch.dtype) -> int:
    """Bytes that a checkpoint's weights take in `dtype`; read from the headers of its files.

    Raises:
        UserError: not a checkpoint, or a file is missing or damaged.
    """
    folder = _whole(Path(folder).resolve())
    files.read_config(folder)
    where = f"checkpoint {folder}"
    found = shards.entries(*files.shards(folder, where), where)
    return sum(entry.count for entry in found.values()) * dtype.itemsize


class _NoRandom(TorchFunctionMode):
    """Leaves out the first random numbers of embeddings: on the meta device torch imports its compiler for them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return None if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def _weights_of(model: SpeechLM, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    trained = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        yield name, tensor.detach().to(dtype=tensor.dtype if dtype is None or name not in trained else dtype)


def _write_weights(
    folder: Path, config: ModelConfig, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int, where: str
) -> None:
    model = empty(config)
    expected = model.state_dict().keys()
    shapes: dict[str, tuple[int, ...]] = {}
    report = Report()
    writer = shards.Writer(folder, expected, max_shard_bytes, where=where)
    try:
        for name, tensor in tensors:
            if name in shapes:
                raise UserError(f"{where}: weight {name} came twice; nothing was written")
            shapes[name] = tuple(tensor.shape)
            if name in expected:
                writer.add(name, tensor)
            del tensor  # else it stays while the next one is made
        report.compare(shapes, model)
        report.check(where)
        writer.close()
    finally:
        writer.abandon()


def _whole(folder: Path) -> Path:
    """The folder, or what stands in for it when a write was killed between its two renames."""
    _, old = files.beside(folder)
    return old if not folder.exists() and old.exists() else folder


def _clean_up(folder: Path) -> None:
    """Leave nothing half-written; the old checkpoint is back in its place."""
    fresh, _ = files.beside(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    if folder.parent.exists():
        files.finish(folder)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
