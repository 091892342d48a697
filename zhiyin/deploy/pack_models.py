"""Models that travel in a pack: found by name or folder, whole before they are copied, and copied file by file."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zhiyin.errors import UserError
from zhiyin.runtime import bundle, known, store

_BUILT_IN = "pocket"
_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Model:
    """A model to pack: the name by which it will be called, its folder, and how many bytes lie in it."""

    name: str
    folder: Path
    size_bytes: int


def choose(words: Sequence[str]) -> tuple[Model, ...]:
    """The models that are meant, each looked at.

    Args:
        words: names of `zhiyin models`, or folders.

    Raises:
        UserError: one is not here, in part or damaged; or two have one name.
    """
    chosen: dict[str, Model] = {}
    for word in words:
        folder = Path(word) if Path(word).is_dir() else _stored(word)
        name = folder.resolve().name
        if not known.is_name(name) or "/" in name:
            raise UserError(f"pack: '{name}' is no name for a model; rename its folder to letters, digits, - and .")
        if name in chosen:
            raise UserError(f"pack: two models are called '{name}'; rename one of the folders")
        _look(folder)
        chosen[name] = Model(name, folder, sum(path.stat().st_size for path in _files(folder)))
    return tuple(chosen.values())


def copy(model: Model, place: Path) -> None:
    """Copy a model; what an earlier, interrupted copy left whole is kept.

    Raises:
        UserError: the disk is full.
    """
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    names = [path.relative_to(model.folder) for path in _files(model.folder)]
    missing = [name for name in names if not _is_same(model.folder / name, place / name)]
    needed = sum((model.folder / name).stat().st_size for name in missing)
    if free < needed + _SPARE_BYTES:
        raise UserError(
            f"pack: model {model.name} needs {needed / 1e9:.1f} GB, free are {free / 1e9:.1f} GB; make room"
        )
    for name in missing:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        part = (place / name).with_name(f".{name.name}.part")
        shutil.copy2(model.folder / name, part)
        os.replace(part, place / name)
    for path in sorted(place.rglob("*")):
        if path.is_file() and path.relative_to(place) not in names:
            path.unlink()  # of a model that was here before


def _stored(name: str) -> Path:
    if name == _BUILT_IN:
        raise UserError("pack: pocket is inside zhiyin's own wheel; leave it out")
    folder = store.find(name)
    if folder is None:
        raise UserError(f"pack: no model '{name}' here; {known.hint(name) or 'zhiyin models lists what is'}")
    return folder


def _look(folder: Path) -> None:
    """A bundle by its record, what was pulled by its manifest, anything else by its configuration alone."""
    if (folder / bundle.RECORD).is_file():
        bundle.read(folder)
    elif not (folder / "config.json").is_file():
        raise UserError(f"pack: {folder} is no model (neither {bundle.RECORD} nor config.json is there)")
    damaged = store.check(folder)
    if damaged:
        raise UserError(f"pack: model {folder}: {damaged[0]}; pull or copy it again")


def _files(folder: Path) -> list[Path]:
    """Links are followed: what is packed are files."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_same(source: Path, target: Path) -> bool:
    if not target.is_file():
        return False
    old, new = source.stat(), target.stat()
    return (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns)
