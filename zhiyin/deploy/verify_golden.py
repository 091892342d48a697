"""Golden outputs: what the reference made of its inputs, written on one machine and checked on another.

A folder with `golden.npz` (arrays, no pickle) and `golden.json`: the model they are of, where they were computed, the
inputs, prompts, replies and texts. `verify --dump` writes it, `verify --against FOLDER` reads it.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.audio.features import Float32
from zhiyin.deploy.verify_inputs import Case, Question
from zhiyin.deploy.verify_observe import Seen
from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.load import Loaded

FORMAT = 1
RECORD, ARRAYS = "golden.json", "golden.npz"
_WEIGHTS = (".safetensors", ".onnx", ".om", ".weights", ".npy", ".data")
SAME_TABLE = 0.02  # largest relative difference of two token tables that are the same, rounded to another format


@dataclass(frozen=True)
class Identity:
    """Which model it is: two forms of one model have the same tokenizer, and the same form the same weights.

    Attributes:
        name: as its spec says.
        family: of its prompts.
        form: ``eager float32``, ``onnx int8``, ...: how its weights are stored.
        tokenizer_sha256: of `tokenizer.json`.
        weights_sha256: of the weight files with their names.
    """

    name: str
    family: str
    form: str
    tokenizer_sha256: str
    weights_sha256: str


@dataclass(frozen=True)
class Golden:
    """A reference that was written down."""

    identity: Identity
    reference: dict[str, Any]
    cases: tuple[Case, ...]
    seen: Seen


def identify(model: Loaded) -> Identity:
    """Hash the files of a model; gigabytes take a while."""
    folder, spec = Path(model.source), model.backend.spec
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name} {_sha256(path)}\n".encode())
    is_bundle = (folder / bundle.RECORD).is_file()
    form = f"bundle {spec.precision}" if is_bundle else "checkpoint"
    tokenizer = _sha256(folder / bundle.TOKENIZER)
    return Identity(spec.name, spec.family, form, tokenizer, total.hexdigest())


def check_same(expected: Identity, got: Identity, where: str) -> None:
    """Refuse to compare two models that cannot be the same.

    Raises:
        UserError: another tokenizer, or the same form and other weights.
    """
    if expected.tokenizer_sha256 != got.tokenizer_sha256:
        what = "another tokenizer"
    elif expected.form == got.form and expected.weights_sha256 != got.weights_sha256:
        what = f"other weights (SHA-256 {got.weights_sha256[:12]}, not {expected.weights_sha256[:12]})"
    else:
        return
    raise UserError(
        f"verify against {where}: it is of model '{expected.name}' ({expected.form}), and model '{got.name}' "
        f"({got.form}) has {what}; give the model that belongs to it, or dump again"
    )


def write(folder: Path, model: Loaded, cases: Sequence[Case], seen: Seen) -> None:
    """Write the golden outputs of a reference; an older dump in the folder is replaced.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"dump to {folder}: it is there and no dump; give a new folder or an older dump")
    arrays: dict[str, Any] = {}
    for case in cases:
        arrays |= {f"case/{case.name}/mel": case.mel_MF, f"case/{case.name}/vectors": case.vectors_SD}
        if case.samples_T is not None:
            arrays[f"case/{case.name}/samples"] = case.samples_T
    for row, values in seen.arrays.items():
        arrays |= {f"row/{row}/{name}": array for name, array in values.items()}
    record = {
        "format": FORMAT,
        "model": dataclasses.asdict(identify(model)),
        "reference": about(model),
        "cases": [_case_record(case) for case in cases],
        "rows": {row: list(values) for row, values in seen.arrays.items()},
        "tokens": seen.tokens,
        "texts": seen.texts,
        "hidden": seen.hidden,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            fresh = Path(scratch)
            np.savez(fresh / ARRAYS, **arrays)
            record["arrays_sha256"] = _sha256(fresh / ARRAYS)
            (fresh / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            for name in (ARRAYS, RECORD):  # a dump between the two is found by its hash
                os.replace(fresh / name, folder / name)
    except OSError as error:
        raise UserError(f"dump to {folder}: cannot be written ({error.strerror or error})") from error


def is_golden(folder: Path) -> bool:
    """Whether a folder holds golden outputs."""
    return (folder / RECORD).is_file()


def read(folder: Path) -> Golden:
    """Golden outputs of another machine.

    Raises:
        UserError: damaged, incomplete, or of another version.
    """
    where = f"golden {folder}"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record.get("format") != FORMAT:
            raise UserError(f"{where}: format {record.get('format')}, this zhiyin reads {FORMAT}; dump again")
        if _sha256(folder / ARRAYS) != record["arrays_sha256"]:
            raise UserError(f"{where}: {ARRAYS} is damaged (its SHA-256 differs); copy or dump it again")
        with np.load(folder / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        seen = Seen(hidden=record["hidden"], texts=record["texts"])
        for row, names in record["rows"].items():
            for name in names:
                seen.put(row, name, arrays[f"row/{row}/{name}"])
        seen.tokens = {row: {name: tuple(ids) for name, ids in some.items()} for row, some in record["tokens"].items()}
        cases = tuple(_case(entry, arrays) for entry in record["cases"])
        return Golden(Identity(**record["model"]), record["reference"], cases, seen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{where}: cannot be read ({error!r}); copy or dump it again") from error


def about(model: Loaded) -> dict[str, Any]:
    """Where and with what a model runs, for reports."""
    backend = model.backend
    return {
        "model": backend.spec.name,
        "folder": model.source,
        "backend": backend.name,
        "device": str(backend.device),
        "precision": backend.spec.precision,
        "zhiyin": _version(),
        "window_s": backend.spec.max_window_s,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _version() -> str:
    try:
        return importlib.metadata.version("zhiyin")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _case_record(case: Case) -> dict[str, Any]:
    questions = [dataclasses.asdict(question) for question in case.questions]
    return {"name": case.name, "kind": case.kind, "has_samples": case.samples_T is not None, "questions": questions}


def _case(entry: dict[str, Any], arrays: dict[str, Float32]) -> Case:
    name = entry["name"]
    samples_T = arrays[f"case/{name}/samples"] if entry["has_samples"] else None
    ids = ("before_ids", "after_ids", "reply_ids")
    questions = tuple(Question(**{**one, **{key: tuple(one[key]) for key in ids}}) for one in entry["questions"])
    return Case(name, entry["kind"], samples_T, arrays[f"case/{name}/mel"], arrays[f"case/{name}/vectors"], questions)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
