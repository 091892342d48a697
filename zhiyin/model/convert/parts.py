"""Foreign weights of one component: all keys are settled before a tensor is read, tensors then come one at a time."""

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from zhiyin.errors import UserError
from zhiyin.model import files, shards
from zhiyin.model.checkpoint import Report
from zhiyin.model.foreign import read_tensors

PICKLED = "pytorch_model.bin"

Table = dict[str, shards.Entry | Tensor]  # both know their shape; an entry's numbers are still in the file
Config = TypeVar("Config")


@dataclass(frozen=True)
class Part(Generic[Config]):
    """A component that was found complete.

    Attributes:
        config: its sizes.
        table: what the source holds.
        names: key of the source -> our name, e.g. ``encoder.conv1.weight``, of every key that is used.
        report: what became of every key.
    """

    config: Config
    table: Table
    names: Mapping[str, str]
    report: Report

    def tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """The weights under our names, one after the other; position tables keep float32.

        Args:
            dtype: to be stored in; by default as the source has them.
        """
        for key, tensor in tensors(self.table, self.names):
            name = self.names[key]
            kept = torch.float32 if name.endswith("positions") else dtype
            yield name, tensor if kept is None else tensor.to(kept)


def open_folder(folder: Path, where: str) -> Table:
    """The weights of a Hugging Face folder: safetensors, one file or shards, else `pytorch_model.bin`.

    Raises:
        UserError: no weights, or files are missing, damaged or hold anything but tensors.
    """
    safe = (folder / files.WEIGHTS).exists() or (folder / files.INDEX).exists()
    if not safe and (folder / PICKLED).is_file():
        return dict(read_tensors(folder / PICKLED))
    return dict(shards.entries(*files.shards(folder, where), where))


def tensors(table: Table, names: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """Those of these names, under the names the source gives them."""
    yield from shards.tensors({k: v for k, v in table.items() if k in names and isinstance(v, shards.Entry)})
    for key, value in table.items():
        if key in names and isinstance(value, Tensor):
            yield key, value


def tensor(table: Table, name: str) -> Tensor:
    """One of them."""
    return next(tensors(table, (name,)))[1]


def rename(
    table: Table, prefixes: Sequence[tuple[str, str]], infixes: Sequence[tuple[str, str]], report: Report, where: str
) -> dict[str, str]:
    """Our name -> the source's, of every key that `report` does not say was dropped.

    Args:
        table: the source.
        prefixes: how names begin there and here; the first that fits is taken, a name that none fits stays.
        infixes: what is replaced in the rest of a name.
        report: knows what was dropped.
        where: begins the line of an error.

    Raises:
        UserError: two keys get the same name.
    """
    named: dict[str, str] = {}
    for key in table:
        if key in report.dropped:
            continue
        theirs, ours = next((pair for pair in prefixes if key.startswith(pair[0])), ("", ""))
        rest = key[len(theirs) :]
        for old, new in infixes:
            rest = rest.replace(old, new)
        if ours + rest in named:
            raise UserError(f"{where}: '{key}' and '{named[ours + rest]}' are the same weight twice")
        named[ours + rest] = key
    return named


def check(table: Table, named: Mapping[str, str], expected: nn.Module, report: Report, where: str) -> None:
    """Compare what was found with what its config promises.

    Args:
        table: the source.
        named: what `rename` made.
        expected: the component on the meta device, its names beginning as in the whole model, e.g. ``encoder.``.
        report: is completed.
        where: begins the line of an error.

    Raises:
        UserError: weights are missing, unknown or of another shape.
    """
    shapes = {name: tuple(table[key].shape) for name, key in named.items()}
    report.compare(shapes, expected)  # type: ignore[arg-type]  # of a model it asks only for the state dict
    report.unexpected = [named[name] for name in report.unexpected]  # as the source calls them
    report.check(where)
    report.used = list(named.values())


def read_json(path: Path, where: str) -> dict[str, Any]:
    """A JSON object of a folder.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        seen = files.listing(path.parent) if path.parent.is_dir() else "nothing"
        raise UserError(f"{where}: no {path.name} but {seen}; give a whole model folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path.name} is damaged ({error}); copy it again") from error
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: {path.name} holds a {type(record).__name__} where a table was expected; copy it again"
        )
    return record


def whole_number(record: Mapping[str, Any], name: str, where: str) -> int:
    """A size from a config.

    Raises:
        UserError: it is not there, or is no whole number above zero.
    """
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        seen = repr(value) if name in record else "missing"
        raise UserError(f"{where}: '{name}' is {seen}; a whole number above zero is needed")
    return value
