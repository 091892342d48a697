"""From a name or a folder to a model that runs; which kind it is, its files say."""

import difflib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from zhiyin.errors import UserError
from zhiyin.model.files import BIGRAM, CONFIG, is_checkpoint, listing
from zhiyin.runtime import bundle, hf_spec, known, store
from zhiyin.runtime.ascend import AscendBackend
from zhiyin.runtime.base import Backend, ModelSpec
from zhiyin.runtime.device import before_torch, choose, fall_back
from zhiyin.runtime.onnx import OnnxBackend
from zhiyin.text.bigram import Bigram

BACKENDS = ("auto", "onnx", "om", "eager", "hf")
POCKET = "pocket"

_POCKET_FOLDER = Path(__file__).resolve().parent.parent / POCKET
_POCKET_PARTS = {"eager": "checkpoint"}
_NEEDS = {
    "onnx": f"{bundle.RECORD} of a bundle",
    "om": f"{bundle.RECORD} of a bundle that zhiyin atc wrote",
    "eager": f"{CONFIG} and weights of a checkpoint",
    "hf": f"{CONFIG} and weights of a model of the hub",
}


B = TypeVar("B", bound=Backend)


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, its tokenizer, the folder both came from, and what follows what, where that is known."""

    backend: Backend
    tokenizer: Tokenizer
    source: str
    bigram: Bigram | None = None


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    dtype: str = "auto",
    allow_download: bool = False,
    allow_fallback: bool = False,
) -> Loaded:
    """Load a model.

    Args:
        model: ``pocket`` or nothing for the built-in one; else a folder: a bundle (runs with onnxruntime, or with
            pyACL where its graphs are OM), a checkpoint (with torch, extra `train`) or a model of the hub (with
            transformers, extra `hf`); else a name of the store (`runtime.store`). Single files are refused unread.
        device: see `runtime.device.choose`.
        backend: ``auto`` takes what the folder is for; ``onnx``, ``om``, ``eager`` or ``hf`` insist on one.
        threads: CPU threads; by default a few.
        dtype: number format of the weights, see `runtime.device.choose_dtype`; a bundle has its own.
        allow_download: pull a model that is not here; without it nothing touches the network.
        allow_fallback: run where it can if the device asked for is not there or does not open; the backend's
            `device`, and with it every result, says so.

    Raises:
        UserError: no such model, foreign, damaged or too large, the device is not there, or an extra is not.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend '{backend}' is not known; known: {' '.join(BACKENDS)}")
    folder = _find(model, backend, allow_download)
    runner = _runner(folder, backend)
    if runner == "hf":
        return _hf(folder, device, dtype, threads, allow_fallback)
    if runner != "eager" and dtype != "auto":
        raise UserError(f"dtype '{dtype}': model {folder} is a bundle and runs as it was exported; leave it out")
    running: Backend
    if runner == "onnx":
        running = _or_cpu(lambda name: OnnxBackend(folder, device=name, threads=threads), device, allow_fallback)
    elif runner == "om":
        running = AscendBackend(folder, device=device, allow_fallback=allow_fallback)
    else:
        running = _eager(folder, device, dtype, threads, allow_fallback)
    tokenizer = _tokenizer(folder / bundle.TOKENIZER)
    return Loaded(running, tokenizer, str(folder), _bigram(folder, running.spec, tokenizer))


def is_to_pull(name: str) -> bool:
    """Whether it names a model of the hub that is not here."""
    if name == POCKET or Path(name).exists() or not known.is_name(name) or store.find(name) is not None:
        return False
    return name in known.known() or "/" in name


def _find(model: str | os.PathLike[str] | None, backend: str, allow_download: bool) -> Path:
    name = POCKET if model is None else os.fspath(model)
    if name == POCKET:
        return _POCKET_FOLDER / _POCKET_PARTS.get(backend, "bundle")
    folder = Path(name)
    if folder.is_dir():
        return folder
    wanted = f"known: {POCKET}, the names zhiyin models lists, or a folder with {', with '.join(_NEEDS.values())}"
    if folder.exists():
        raise UserError(
            f"model '{name}' is a single file and was not opened: such files can run code; {wanted}; "
            "weights of OSUM or Whisper are converted first (zhiyin convert)"
        )
    found = store.find(name)
    if found is not None:
        return found
    if allow_download and is_to_pull(name):
        return store.pull(name)
    near = difflib.get_close_matches(name, [POCKET], n=1)
    hint = f"did you mean '{near[0]}'?" if near else known.hint(name)
    raise UserError(f"model '{name}' is not there; {wanted}" + (f"; {hint}" if hint else ""))


def _runner(folder: Path, backend: str) -> str:
    is_hub = hf_spec.is_hf(folder)
    has_record = (folder / bundle.RECORD).is_file()
    target = bundle.read_target(folder) if has_record else None
    kind = "om" if target is not None and target.kind == "om" else "onnx"
    fits = {  # who asks for the other kind of bundle is told by the backend what to do
        "onnx": has_record and "onnx" in (kind, backend),
        "om": has_record and "om" in (kind, backend),
        "eager": is_checkpoint(folder) or ((folder / CONFIG).is_file() and not is_hub),
        "hf": is_hub,
    }
    found = [runner for runner, fit in fits.items() if fit and backend in ("auto", runner)]
    if found:
        return found[0]
    wanted = _NEEDS if backend == "auto" else {backend: _NEEDS[backend]}
    needs = " or ".join(f"{files} (backend {runner})" for runner, files in wanted.items())
    seen = listing(folder) if folder.is_dir() else "nothing"
    raise UserError(f"model folder {folder}: needs {needs}; found {seen}")


def _eager(folder: Path, device: str, dtype: str, threads: int | None, allow_fallback: bool) -> Backend:
    _check_extra(folder, "is a checkpoint", ("torch", "safetensors"), "train", ", or use a bundle")
    note = before_torch()
    from zhiyin.runtime.eager import EagerBackend

    return EagerBackend(folder, device=device, dtype=dtype, threads=threads, note=note, allow_fallback=allow_fallback)


def _hf(folder: Path, device: str, dtype: str, threads: int | None, allow_fallback: bool) -> Loaded:
    _, spec, config = hf_spec.read(folder)
    tokenizer = _tokenizer(folder / bundle.TOKENIZER)
    _check_extra(folder, f"runs through transformers ({spec.family})", ("torch", "transformers"), "hf", "")
    note = before_torch()
    from zhiyin.runtime import hf, hf_template

    template, said = hf_template.check(folder, spec.family, tokenizer, hf_spec.vocabulary(config))

    def open_on(name: str) -> hf.HfBackend:
        return hf.HfBackend(folder, device=name, dtype=dtype, threads=threads, note=note)

    running = _or_cpu(open_on, device, allow_fallback)
    found = {"chat_template": said, **({"template": template} if template else {})}
    running.spec = replace(running.spec, extra={**running.spec.extra, **found})
    return Loaded(running, tokenizer, str(folder))


def _or_cpu(open_on: Callable[[str], B], device: str, allow_fallback: bool) -> B:
    """A backend on a device or, where that is allowed and it does not open there, on the CPU, which its device says."""
    try:
        return open_on(device)
    except UserError as error:
        if not allow_fallback or device in ("auto", "cpu"):
            raise
        # a word nobody knows stays an error; so does a model that does not open on the CPU either
        instead = choose(device, ("cpu",), engine="", allow_fallback=True)
        running = open_on(instead.name)
        why = str(error).removeprefix(f"device '{device}': ").partition(";")[0]
        running.device = fall_back(device, why)
        return running


def _check_extra(folder: Path, what: str, modules: tuple[str, ...], extra: str, otherwise: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        needs = f"needs {' and '.join(missing)}: pip install 'zhiyin[{extra}]'{otherwise}"
        raise UserError(f"model {folder} {what} and {needs}")


def _bigram(folder: Path, spec: ModelSpec, tokenizer: Tokenizer) -> Bigram | None:
    path = folder / BIGRAM
    if not spec.ctc_transcript or not path.is_file():
        return None
    found, wanted = Bigram.load(path), tokenizer.get_vocab_size()
    if found.vocabulary != wanted:
        raise UserError(
            f"bigram {path}: of {found.vocabulary} tokens, the tokenizer has {wanted}; copy the model again"
        )
    return found


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises the bare class
        raise UserError(f"tokenizer {path}: cannot be read ({error}); copy the model again") from error
