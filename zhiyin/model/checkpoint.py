"""Checkpoint folders: weights in and out, strictly and without running what a file brings.

A checkpoint is a folder of three files: `model.safetensors` (the weights), `config.json` (``{"format": 1,
<fields of ModelConfig>, "spec": {...}}``; the spec is what runtime's ModelSpec says of the model, carried through
as it is) and `tokenizer.json`. Sinusoid position tables are computed, not stored, unless the config says
``stored_positions``: then they are weights like others and are used as the file holds them.
"""

import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.model.config import ModelConfig
from zhiyin.model.speech_lm import SpeechLM

FORMAT = 1
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
_FILES = (WEIGHTS, CONFIG, TOKENIZER)


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
    """Write a checkpoint; whatever happens meanwhile, `load` finds the old one or the new one, whole.

    Files in the folder that are not the checkpoint's own (a model card, an optimizer state) are kept.

    Args:
        folder: where; an existing checkpoint is replaced, any other folder with content is refused.
        model: weights on any device.
        spec: JSON-serialisable facts about the model (ModelSpec's fields).
        tokenizer: path of a `tokenizer.json`, or its JSON text.
        dtype: weights are stored in it; by default as they are. Stored position tables keep theirs.

    Raises:
        UserError: the folder is something else or cannot be written, or a weight is not finite in `dtype`.
    """
    folder = Path(folder).resolve()
    fresh, old = _beside(folder)
    weights = _plain_weights(model, dtype)
    config = {"format": FORMAT, **model.config.to_dict(), "spec": dict(spec)}
    text = os.fspath(tokenizer)
    try:
        vocabulary = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
        _finish(folder)
        if folder.is_file() or (folder.exists() and any(folder.iterdir())):
            _read_config(folder)  # refuses what is not ours to replace
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(weights, fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        (fresh / TOKENIZER).write_text(vocabulary, encoding="utf-8")
        for name in (*_FILES, "."):
            _sync(fresh / name)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        _finish(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {folder}: cannot be written ({error}); what was there is kept") from error


def load(
    folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> tuple[SpeechLM, dict[str, Any]]:
    """Read a checkpoint; each weight must be there, fit and be finite, and nothing else may be there.

    Args:
        folder: written by `save`.
        dtype: of the weights in memory; position tables keep float32.
        device: where the weights go.

    Returns:
        The model in eval mode, and the spec.

    Raises:
        UserError: not a checkpoint, damaged, or its weights do not fit its config.
    """
    folder = Path(folder).resolve()
    _, old = _beside(folder)
    if not folder.exists() and old.exists():  # a save was killed between its two renames
        folder = old
    config, spec = _read_config(folder)
    with torch.device("meta"):
        model = SpeechLM(config)
    state: dict[str, Tensor] = {}
    report = Report()
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            report.compare({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, model)  # noqa: SIM118
            report.check(f"checkpoint {folder}")
            for name in file.keys():  # noqa: SIM118
                kept = torch.float32 if name.endswith("positions") else dtype
                state[name] = file.get_tensor(name).to(device=device, dtype=kept)
                if not state[name].isfinite().all():
                    report.not_finite.append(name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {folder}: {WEIGHTS} is damaged or missing ({error}); copy it again") from error
    report.check(f"checkpoint {folder}")
    model.load_state_dict(state, strict=True, assign=True)
    return model.to(device).eval(), spec


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a foreign `.pt` / `.bin` / `.safetensors` file, memory-mapped; nothing in it is ever executed.

    Raises:
        UserError: missing or damaged, or it holds something else than a flat table of tensors.
    """
    path = Path(path)
    wanted = "a flat table of tensors is expected (a plain state dict)"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints to callers of torch.load; what matters is an error anyhow
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights {path}: refused, it is no file of tensors alone and reading it could run code; {wanted}"
        ) from error
    except Exception as error:  # on damaged bytes torch's readers raise KeyError, AssertionError, struct.error, ...
        raise UserError(f"weights {path}: cannot be read ({_line(error)}); {wanted}") from error
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"weights {path}: {type(state).__name__} seen; {wanted}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"weights {path}: '{name}' is a {type(value).__name__}; {wanted}")
    return dict(state)


def _plain_weights(model: SpeechLM, dtype: torch.dtype | None) -> dict[str, Tensor]:
    trained = {name for name, _ in model.named_parameters()}
    weights = {}
    for name, tensor in model.state_dict().items():
        kept = tensor.dtype if dtype is None or name not in trained else dtype
        weights[name] = tensor.detach().to(device="cpu", dtype=kept).contiguous()
        if not weights[name].isfinite().all():
            raise UserError(f"checkpoint: weight {name} is not finite in {kept}; nothing was saved")
    return weights


def _read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    expected = f"expected a folder with {', '.join(_FILES)} written by zhiyin"
    if not folder.is_dir():
        seen = "a single file, which has to be converted first" if folder.exists() else "nothing there"
        raise UserError(f"checkpoint {folder}: {seen}; {expected}")
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {folder}: no {CONFIG} but {_listing(folder)}; {expected}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {folder}: {CONFIG} is damaged ({error}); {expected}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"checkpoint {folder}: {CONFIG} has no 'format': {FORMAT}; {expected}")
    del record["format"]
    spec = record.pop("spec", None)
    if not isinstance(spec, dict):
        raise UserError(f"checkpoint {folder}: {CONFIG} has no 'spec' table; {expected}")
    return ModelConfig.from_dict(record), spec


def _listing(folder: Path) -> str:
    names = sorted(item.name for item in folder.iterdir())
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "an empty folder"


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _finish(folder: Path) -> None:
    """Complete a replacement: bring foreign files over from the old folder, then remove it."""
    _, old = _beside(folder)
    if not old.exists():
        return
    if not folder.exists():
        os.replace(old, folder)
        return
    for item in old.iterdir():
        if item.name not in _FILES and not (folder / item.name).exists():
            os.replace(item, folder / item.name)
    shutil.rmtree(old)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
