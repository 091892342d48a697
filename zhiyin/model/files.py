"""The files of a checkpoint folder, and how one is put in place of another. No torch: asking what a folder is is cheap.

A checkpoint holds `config.json` (``{"format": 1, <fields of ModelConfig>, "spec": {...}}``; the spec is what runtime's
ModelSpec says of the model, carried through as it is), `tokenizer.json`, and the weights: `model.safetensors`, or
shards `model-00001-of-0000N.safetensors` with `model.safetensors.index.json`, named and indexed as on the Hugging Face
hub. A converted one also says in `conversion.json` where it comes from.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.model.config import ModelConfig

FORMAT = 1
WEIGHTS, INDEX, CONFIG, TOKENIZER = "model.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json"
BIGRAM = "bigram.npz"  # of models whose transcript comes from a CTC head, where it was counted
CONVERSION = "conversion.json"

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_UNFINISHED = (".part", ".incomplete", ".tmp", ".crdownload", ".aria2")  # what downloaders call a file under way


def shard_name(number: int, count: int) -> str:
    """Name of the `number`-th of `count` weight files, counted from 1."""
    return WEIGHTS if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of our checkpoints, by its `config.json`; whether it is whole, `checkpoint.load` says."""
    try:
        record = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("format") == FORMAT and "spec" in record


def read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Sizes and spec of a checkpoint.

    Raises:
        UserError: not a checkpoint, or its `config.json` is damaged or holds unknown settings.
    """
    expected = f"expected a folder with {WEIGHTS}, {CONFIG}, {TOKENIZER} written by zhiyin"
    if not folder.is_dir():
        seen = "a single file, which has to be converted first" if folder.exists() else "nothing there"
        raise UserError(f"checkpoint {folder}: {seen}; {expected}")
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {folder}: no {CONFIG} but {listing(folder)}; {expected}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {folder}: {CONFIG} is damaged ({error}); {expected}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"checkpoint {folder}: {CONFIG} has no 'format': {FORMAT}; {expected}")
    del record["format"]
    spec = record.pop("spec", None)
    if not isinstance(spec, dict):
        raise UserError(f"checkpoint {folder}: {CONFIG} has no 'spec' table; {expected}")
    return ModelConfig.from_dict(record), spec


def shards(folder: Path, where: str) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files of a folder in the layout of the Hugging Face hub.

    Returns:
        The files, each of them there, and the index (tensor name -> file name) where the folder has one.

    Raises:
        UserError: no weights, files are missing or unfinished, or the index is damaged; `where` begins the line.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    if index.is_file() and whole.is_file():
        raise UserError(f"{where}: both {WEIGHTS} and {INDEX} are there; remove the one that does not belong")
    if not index.is_file():
        if not whole.is_file():
            raise UserError(f"{where}: {WEIGHTS} is damaged or missing{_under_way(folder)}; copy it again")
        return [whole], None
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        if not names or any(not isinstance(name, str) or not is_plain(name) for name in names):
            raise ValueError("it must map weights to files beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {INDEX} is damaged ({error!r}); copy it again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{where}: {len(missing)} of {len(names)} shards missing ({some}){_under_way(folder)}; copy again"
        )
    return [folder / name for name in names], places


def unfinished(folder: Path, begins: str = "") -> str:
    """Name of a file in a folder that a download has not finished, or nothing."""
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(_UNFINISHED))
    return next((name for name in names if name.lstrip(".").startswith(begins)), "")


def _under_way(folder: Path) -> str:
    name = unfinished(folder)
    return f", and a download is unfinished ({name})" if name else ""


def is_plain(name: str) -> bool:
    """Whether a name that a file gives leads to a file beside it and nowhere else."""
    return Path(name).name == name and name not in ("", ".", "..")


def listing(folder: Path) -> str:
    """A few names of what is inside, for messages."""
    names = sorted(item.name for item in folder.iterdir())
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "an empty folder"


def beside(folder: Path) -> tuple[Path, Path]:
    """Where a new checkpoint is written, and where the old one waits until the new one is in place."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def check_replaceable(folder: Path) -> None:
    """Refuse a folder with content that is no checkpoint, and a file.

    Raises:
        UserError: saying what is there.
    """
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        read_config(folder)


def put_in_place(fresh: Path, folder: Path) -> None:
    """Replace a checkpoint by the one written beside it; killed at any place, the old or the new one is whole."""
    _, old = beside(folder)
    for item in (*fresh.iterdir(), fresh):
        sync(item)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    finish(folder)
    sync(folder.parent)


def finish(folder: Path) -> None:
    """Complete a replacement: bring foreign files over from the old folder, then remove it."""
    _, old = beside(folder)
    if not old.exists():
        return
    if not folder.exists():
        os.replace(old, folder)
        return
    for item in old.iterdir():
        if not _is_ours(item.name) and not (folder / item.name).exists():
            os.replace(item, folder / item.name)
    shutil.rmtree(old)


def sync(path: Path) -> None:
    """Have the operating system write a file or folder to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_ours(name: str) -> bool:
    return name in (WEIGHTS, INDEX, CONFIG, TOKENIZER, BIGRAM, CONVERSION) or _SHARD.fullmatch(name) is not None
