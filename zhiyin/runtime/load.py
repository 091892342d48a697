"""From a name or a folder to a model that runs."""

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.base import Backend
from zhiyin.runtime.device import before_torch
from zhiyin.runtime.onnx import OnnxBackend

BACKENDS = ("auto", "onnx", "eager")
POCKET = "pocket"
CHECKPOINT_FILES = ("config.json", "model.safetensors")

_POCKET_FOLDER = Path(__file__).resolve().parent.parent / POCKET
_POCKET_PARTS = {"auto": "bundle", "onnx": "bundle", "eager": "checkpoint"}


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, its tokenizer, and the folder both came from."""

    backend: Backend
    tokenizer: Tokenizer
    source: str


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
) -> Loaded:
    """Load a model.

    Args:
        model: ``pocket`` or nothing for the built-in one, else a folder: a bundle (runs with onnxruntime) or a
            checkpoint (runs with torch, extra `train`). Single files are refused unread.
        device: see `runtime.device.choose`.
        backend: ``auto`` takes what the folder is for; ``onnx`` or ``eager`` insist on one.
        threads: CPU threads; by default a few.

    Raises:
        UserError: no such model, foreign or damaged, the device is not there, or torch is not.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend '{backend}' is not known; known: {' '.join(BACKENDS)}")
    folder = _find(model, backend)
    runner = _runner(folder, backend)
    if runner == "onnx":
        running: Backend = OnnxBackend(folder, device=device, threads=threads)
    else:
        running = _eager(folder, device, threads)
    return Loaded(running, _tokenizer(folder / bundle.TOKENIZER), str(folder))


def _find(model: str | os.PathLike[str] | None, backend: str) -> Path:
    name = POCKET if model is None else os.fspath(model)
    if name == POCKET:
        return _POCKET_FOLDER / _POCKET_PARTS[backend]
    folder = Path(name)
    if folder.is_dir():
        return folder
    wanted = f"known: {POCKET}, or a folder with {bundle.RECORD} or with {' and '.join(CHECKPOINT_FILES)}"
    if folder.exists():
        raise UserError(f"model '{name}' is a single file and was not opened: such files can run code; {wanted}")
    near = difflib.get_close_matches(name, [POCKET], n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise UserError(f"model '{name}' is not there; {wanted}{hint}")


def _runner(folder: Path, backend: str) -> str:
    parts = {"onnx": (bundle.RECORD,), "eager": CHECKPOINT_FILES}
    fits = [runner for runner, names in parts.items() if all((folder / name).is_file() for name in names)]
    if backend in fits or (backend == "auto" and fits):
        return fits[0] if backend == "auto" else backend
    wanted = parts if backend == "auto" else {backend: parts[backend]}
    needs = " or ".join(f"{' and '.join(names)} (backend {runner})" for runner, names in wanted.items())
    seen = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else []
    raise UserError(f"model folder {folder}: needs {needs}; found {', '.join(seen) or 'nothing'}")


def _eager(folder: Path, device: str, threads: int | None) -> Backend:
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        needs = f"needs {' and '.join(missing)}: pip install 'zhiyin[train]', or use a bundle"
        raise UserError(f"model {folder} is a checkpoint and {needs}")
    note = before_torch()
    from zhiyin.runtime.eager import EagerBackend

    return EagerBackend(folder, device=device, threads=threads, note=note)


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises the bare class
        raise UserError(f"tokenizer {path}: cannot be read ({error}); copy the model again") from error
