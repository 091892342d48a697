"""Looks into a model that runs with torch: what its blocks give, and every call of its parts.

Used by `verify` for rows of blocks and by `verify_hunt`. Call `runtime.device.before_torch` before it is imported.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.audio.features import Float32
from zhiyin.runtime.load import Loaded

METHODS = ("forward", "append", "project", "feed", "logits")  # by which parts of a model are called


@dataclass(frozen=True)
class Call:
    """One call of a part of a model.

    Attributes:
        path: of the part, e.g. ``encoder.blocks.2.attn``.
        method: one of `METHODS`.
        args: what it got, as it was before the call, and `kwargs`.
        result: the tensors it gave.
        after: `args` as they were after the call: a cache is written in place.
    """

    path: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: tuple[Tensor, ...]
    after: tuple[Any, ...]


def root(model: Loaded) -> nn.Module:
    """The torch module behind a backend."""
    found: Any = model.backend
    module: nn.Module = found.model
    return module


def blocks(model: Loaded, run: Callable[[], Any]) -> dict[str, Float32]:
    """What every block gives while `run` runs, by row; calls of the same block are joined, flattened."""
    module = root(model)
    found: dict[str, list[Float32]] = {}

    def keep(row: str, result: Any) -> None:
        tensor = next(iter(tensors(result)))
        found.setdefault(row, []).append(tensor.detach().float().cpu().numpy().ravel())

    with _wrapped(_points(module), lambda row, call: lambda *a, **k: _kept(keep, row, call(*a, **k))):
        run()
    return {row: np.concatenate(values) for row, values in found.items()}


@torch.inference_mode()
def calls(module: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """The outermost calls of parts of `module` while `run` runs, in order, with copies of what went in and out."""
    found: list[Call] = []
    depth = 0

    def watch(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        path, _, method = name.rpartition(":")

        def inner(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth:
                return call(*args, **kwargs)
            given, named = copied(args), copied(kwargs)
            depth += 1
            try:
                result = call(*args, **kwargs)
            finally:
                depth -= 1
            found.append(Call(path, method, given, named, copied(tuple(tensors(result))), copied(args)))
            return result

        return inner

    points = {
        f"{path}:{method}": (part, method)
        for path, part in module.named_modules()
        for method in METHODS
        if path and hasattr(type(part), method)
    }
    with _wrapped(points, watch):
        run()
    return found


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, dictionaries and dataclasses, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors(item)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from tensors(getattr(tree, field.name))


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(item, change) for item in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(mapped(item, change) for item in tree)
    if type(tree) is dict:
        return {name: mapped(item, change) for name, item in tree.items()}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, (type, dict)):
        fields = {field.name: mapped(getattr(tree, field.name), change) for field in dataclasses.fields(tree)}
        return dataclasses.replace(tree, **fields)
    return tree


def copied(tree: Any) -> Any:
    """The same with copies of all tensors."""
    return mapped(tree, lambda tensor: tensor.detach().clone())


def components(module: nn.Module) -> dict[str, str]:
    """Path of each component in the module -> encoder, projector, decoder or ctc; of ours and of transformers'."""
    inner: Any = getattr(module, "model", module)  # transformers puts a model into the one that has the head
    prefix = "model." if inner is not module else ""
    found = {}
    for name, _ in inner.named_children():
        if "project" in name:
            found[prefix + name] = "projector"
        elif name in ("decoder", "language_model"):
            found[prefix + name] = "decoder"
        elif name in ("encoder", "audio_tower"):
            found[prefix + name] = "encoder"
        elif name == "ctc":
            found[prefix + name] = "ctc"
    return found


def _points(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Row -> part and method: the outermost lists of blocks of each component, and the encoder itself."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for path, component in components(module).items():
        part = module.get_submodule(path)
        lists = [name for name, inner in part.named_modules() if isinstance(inner, nn.ModuleList)]
        outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
        for name in outermost:
            for i, block in enumerate(part.get_submodule(name).children()):
                found[f"{component} {name}.{i}"] = (block, "feed" if hasattr(block, "feed") else "forward")
        if component == "encoder":
            found["encoder"] = (part, "forward")
    return found


def _kept(keep: Callable[[str, Any], None], row: str, result: Any) -> Any:
    keep(row, result)
    return result


@contextmanager
def _wrapped(
    points: dict[str, tuple[nn.Module, str]], wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """While it lasts, calls of these parts go through `wrap`; what was set on a part before is put back."""
    before = {name: part.__dict__.get(method) for name, (part, method) in points.items()}
    try:
        for name, (part, method) in points.items():
            call = getattr(part, method)
            setattr(part, method, functools.wraps(call)(wrap(name, call)))
        yield
    finally:
        for name, (part, method) in points.items():
            part.__dict__.pop(method, None)
            if before[name] is not None:
                part.__dict__[method] = before[name]
