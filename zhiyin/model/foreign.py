"""Weight files of others: tensors are read, memory-mapped, and nothing in a file is ever executed."""

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zhiyin.errors import UserError

_ZIP_MAGIC = b"PK\x03\x04"


def read_tensors(path: str | os.PathLike[str], *, inside: str | None = None) -> dict[str, Tensor]:
    """The tensors of a `.pt` / `.bin` / `.safetensors` file; tensors that share storage in the file share it here.

    Args:
        path: the file.
        inside: the table lies under this key of a larger one, e.g. ``module`` in DeepSpeed's files.

    Raises:
        UserError: missing or damaged, or it holds something else than a flat table of tensors.
    """
    path = Path(path)
    wanted = "a flat table of tensors is expected (a plain state dict)"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"weights {path}: cannot be read ({_line(error)}); copy it again") from error
    state = unpickle(path, f"weights {path}", wanted)
    if inside is not None:
        state = state.get(inside) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"weights {path}: {type(state).__name__} seen; {wanted}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"weights {path}: '{name}' is a {type(value).__name__}; {wanted}")
    return {name: tensor.detach() for name, tensor in state.items()}  # parameters too are plain tensors


def unpickle(path: Path, where: str, wanted: str) -> Any:
    """What `torch.save` wrote: plain values and tensors, which stay in the file until they are used.

    The format before torch 1.6 cannot be mapped; such a file is read into memory whole.

    Args:
        path: the file.
        where: begins the line of an error.
        wanted: ends it: what is expected in the file.

    Raises:
        UserError: missing or damaged, or it names code to be run.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == _ZIP_MAGIC
        if is_zip and not zipfile.is_zipfile(path):  # the list of what is inside stands at the end
            size = path.stat().st_size
            raise UserError(f"{where}: cannot be read, its end is missing ({size} bytes are there); copy it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints to callers of torch.load; what matters is an error anyhow
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        line = f"{where}: refused, it is no file of tensors alone and reading it could run code; {wanted}"
        raise UserError(line) from error
    except Exception as error:  # on damaged bytes torch's readers raise KeyError, AssertionError, struct.error, ...
        raise UserError(f"{where}: cannot be read ({_line(error)}); {wanted}") from error


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
