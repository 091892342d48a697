"""safetensors files, read and written one tensor at a time, so that a model never has to fit into memory.

Source: the format as https://github.com/huggingface/safetensors describes it: eight bytes that say how long the
header is, the header as JSON (which may end with spaces), then the tensors without gaps.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.model.files import INDEX, shard_name

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
MAX_SHARD_BYTES = 4 * 2**30
CHUNK_BYTES = 256 * 2**10  # written at once: for larger ones Linux looks for larger pages, and takes five times as long
REOPEN_BYTES = 256 * 2**20  # a mapping is let go after as much was read from it: its pages count as ours till then

_ENTRY_BYTES = 160  # more than a name's entry in the header takes besides the name: eight axes and two offsets fit
_BYTES = {name: dtype.itemsize for dtype, name in DTYPES.items()}


@dataclass
class _Shard:
    path: Path
    file: BinaryIO
    entries: dict[str, dict[str, object]] = field(default_factory=dict)
    num_bytes: int = 0


class Writer:
    """Writes tensors as they come into shards of a folder.

    A shard holds one number format only: so every tensor lies at a multiple of its item size, whatever order they
    come in. The header is written last, into room left for it.
    """

    def __init__(
        self, folder: Path, names: Iterable[str], max_shard_bytes: int = MAX_SHARD_BYTES, *, where: str = "weights"
    ):
        """Begin.

        Args:
            folder: there, and empty of weights.
            names: of all tensors that can come; says how much room a header may need.
            max_shard_bytes: a new shard begins where one would get bigger; a bigger tensor has one for itself.
            where: begins the line of an error.
        """
        self._where = where
        self._folder = folder
        self._room = 64 + sum(len(json.dumps(name)) + _ENTRY_BYTES for name in names)
        self._room += -self._room % 8
        self._max_bytes = max_shard_bytes
        self._open: dict[torch.dtype, _Shard] = {}
        self._shards: list[_Shard] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, from any device.

        Raises:
            UserError: a value is NaN or infinite, or the number format is none that weights are kept in.
            OSError: the disk is full.
        """
        if tensor.dtype not in DTYPES:
            kept = ", ".join(map(str, DTYPES))
            raise UserError(f"{self._where}: weight {name} is {tensor.dtype}; kept are {kept}; nothing was written")
        flat = tensor.detach().cpu().contiguous().view(-1)
        shard = self._open.get(tensor.dtype)
        if shard is None or shard.num_bytes + flat.nbytes > self._max_bytes:
            shard = self._begin(tensor.dtype)
        end = shard.num_bytes + flat.nbytes
        shard.entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [shard.num_bytes, end],
        }
        for part in flat.split(CHUNK_BYTES // flat.itemsize):
            if not is_finite(part):
                fault = f"weight {name} is not finite in {tensor.dtype}"
                raise UserError(f"{self._where}: {fault}; nothing was written")
            shard.file.write(part.view(torch.uint8).numpy().data)
        shard.num_bytes = end

    def close(self) -> None:
        """Write the headers, name the files and, where there is more than one, write the index."""
        places: dict[str, str] = {}
        for number, shard in enumerate(self._shards, 1):
            header = json.dumps({"__metadata__": {"format": "pt"}, **shard.entries}, separators=(",", ":")).encode()
            shard.file.seek(0)
            shard.file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
            shard.file.close()
            name = shard_name(number, len(self._shards))
            shard.path.rename(self._folder / name)
            places.update(dict.fromkeys(shard.entries, name))
        if len(self._shards) > 1:
            total = sum(shard.num_bytes for shard in self._shards)
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
            (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def abandon(self) -> None:
        """Let go of the files; the folder is the caller's to remove."""
        for shard in self._shards:
            shard.file.close()

    def _begin(self, dtype: torch.dtype) -> _Shard:
        path = self._folder / f"shard-{len(self._shards)}"
        shard = _Shard(path, open(path, "wb"))  # noqa: SIM115  # closed by `close` or `abandon`
        shard.file.seek(8 + self._room)
        self._open[dtype] = shard
        self._shards.append(shard)
        return shard


@dataclass(frozen=True)
class Entry:
    """A tensor of a safetensors file, not read yet."""

    path: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it, e.g. ``BF16``

    @property
    def count(self) -> int:
        """Its numbers."""
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        """Its size in the file; formats that weights are not kept in are counted as four bytes a number."""
        return self.count * _BYTES.get(self.dtype, 4)


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; fifty times as fast as ``isfinite().all()``, both ends tell of NaN too."""
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def entries(paths: Iterable[Path], index: dict[str, str] | None, where: str) -> dict[str, Entry]:
    """What safetensors files hold, from their headers.

    Args:
        paths: the files.
        index: name -> file name, which must be true where it is given.
        where: begins the line of an error.

    Raises:
        UserError: a file is missing or damaged (its size is checked), a name is in two files or the index is wrong.
    """
    found: dict[str, Entry] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name in found:
                        raise UserError(f"{where}: '{name}' is both in {found[name].path.name} and in {path.name}")
                    part = file.get_slice(name)
                    found[name] = Entry(path, tuple(part.get_shape()), part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{where}: {path.name} is damaged or missing ({error}); copy it again") from error
    if index is not None:
        wrong = sorted(
            name
            for name in index.keys() | found.keys()
            if name not in found or index.get(name) != found[name].path.name
        )
        if wrong:
            raise UserError(
                f"{where}: {INDEX} and the shards disagree, first about '{wrong[0]}'; copy all of them again"
            )
    return found


def tensors(found: dict[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """The tensors one after the other, memory-mapped; what is copied and let go does not stay in memory."""
    by_file: dict[Path, list[str]] = {}
    for name, entry in found.items():
        by_file.setdefault(entry.path, []).append(name)
    for path, names in by_file.items():
        rest = list(reversed(names))
        while rest:
            read = 0
            with safe_open(path, framework="pt") as file:
                while rest and read < REOPEN_BYTES:
                    name = rest.pop()
                    read += found[name].num_bytes
                    yield name, file.get_tensor(name)
