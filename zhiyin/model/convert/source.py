"""Foreign weights on the disk, in whatever layout, as one table of memory-mapped tensors. Nothing in them is executed.

Known are plain state dicts (`.pt`, `.pth`, `.bin`; zip archives, and the older format that has to be read whole),
`.safetensors`, folders of the Hugging Face hub with or without shards, and DeepSpeed's `mp_rank_00_model_states.pt`,
alone, in its folder, or in the folder above with its file `latest`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.model import files, shards
from zhiyin.model.foreign import read_tensors

DEEPSPEED = "mp_rank_00_model_states.pt"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Source:
    """Weights as they were found.

    Attributes:
        path: what was given.
        layout: in a few words.
        files: the files the tensors lie in.
        tensors: name -> tensor, memory-mapped; what shares storage in the file does here too.
    """

    path: Path
    layout: str
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]

    def sha256(self) -> dict[str, str]:
        """Hash of each file, by name."""
        hashes = {}
        for path in self.files:
            with open(path, "rb") as file:
                digest = hashlib.sha256()
                while block := file.read(2**20):
                    digest.update(block)
                hashes[path.name] = digest.hexdigest()
        return hashes


def find(path: Path) -> Source:
    """Open weights.

    Args:
        path: a file, or a folder that holds weights in one of the known layouts.

    Raises:
        UserError: nothing there, an unfinished download, several weights to choose from, a damaged file, or one that
            holds something else than tensors.
    """
    if path.is_file():
        return _file(path)
    if not path.exists():
        near = files.unfinished(path.parent, path.name) if path.parent.is_dir() else ""
        why = f"its download is unfinished ({near})" if near else "nothing there"
        raise UserError(f"weights {path}: {why}; give a file or folder of weights")
    if files.is_checkpoint(path):
        raise UserError(f"weights {path}: is a checkpoint of zhiyin already; it needs no conversion")
    if (path / files.INDEX).exists() or (path / files.WEIGHTS).exists():
        return _hub_folder(path)
    return _file(_only_file(path))


def _file(path: Path) -> Source:
    if path.name != DEEPSPEED:
        layout = "safetensors" if path.suffix == ".safetensors" else "state dict"
        return Source(path, layout, (path,), read_tensors(path))
    others = sorted(item.name for item in path.parent.glob("mp_rank_*_model_states.pt") if item.name != path.name)
    if others:
        raise UserError(f"weights {path}: split over {1 + len(others)} devices ({others[0]}); join them first")
    return Source(path, "DeepSpeed", (path,), read_tensors(path, inside="module"))


def _hub_folder(folder: Path) -> Source:
    where = f"weights {folder}"
    paths, index = files.shards(folder, where)
    found = shards.entries(paths, index, where)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= read_tensors(path)
    layout = f"{len(paths)} safetensors shards" if index is not None else "safetensors"
    return Source(folder, layout, tuple(paths), {name: tensors[name] for name in found})


def _only_file(folder: Path) -> Path:
    """The one file of weights in a folder."""
    latest = folder / "latest"
    if latest.is_file() and latest.stat().st_size < 256:
        tag = latest.read_text(encoding="utf-8", errors="replace").strip()
        if files.is_plain(tag) and (folder / tag / DEEPSPEED).is_file():
            return folder / tag / DEEPSPEED
    if (folder / DEEPSPEED).is_file():
        return folder / DEEPSPEED
    if any(re.match(r"zero_pp_rank_\d+_mp_rank_\d+_model_states", item.name) for item in folder.iterdir()):
        raise UserError(f"weights {folder}: split by DeepSpeed ZeRO-3; join them with its zero_to_fp32.py first")
    found = sorted(item for item in folder.iterdir() if item.suffix in (*PICKLES, ".safetensors") and item.is_file())
    if len(found) == 1:
        return found[0]
    near = files.unfinished(folder)
    if near:
        raise UserError(f"weights {folder}: a download is unfinished ({near}); finish it first")
    if found:
        names = ", ".join(item.name for item in found[:4])
        raise UserError(f"weights {folder}: {len(found)} files of weights ({names}); give the one that is meant")
    known = f"{files.WEIGHTS}, {files.INDEX}, {DEEPSPEED}, or one file {' '.join(PICKLES)}"
    raise UserError(f"weights {folder}: no weights but {files.listing(folder)}; known: {known}")
