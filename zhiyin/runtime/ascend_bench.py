"""An OM model through `ais_bench` instead of pyACL: the same results, but the cache crosses to the host at every call.

For machines where ais_bench is installed and the pyACL path is in doubt. Source of the interface: the README of
ais_bench (`InferSession(device_id, model_path)`, `get_inputs`, `get_outputs`, `infer`, `free_resource`).
"""

import importlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.errors import UserError
from zhiyin.runtime.ascend_acl import Card
from zhiyin.runtime.ascend_graph import CACHE_IN, CACHE_OUT, compare, finite
from zhiyin.runtime.base import Float32
from zhiyin.runtime.bundle import Graph, Port


class HostCache:
    """Keys and values of `batch` rows in the memory of the host."""

    def __init__(self, keys: Port):
        self.batch = keys.shape[1]
        self.now = [np.zeros(keys.shape, keys.dtype) for _ in CACHE_IN]

    def clear(self) -> None:
        """Forget everything."""
        self.now = [np.zeros_like(array) for array in self.now]


class BenchGraph:
    """One model behind an InferSession; same face as `ascend_graph.OmGraph`."""

    def __init__(self, card: Card, path: Path, graph: Graph):
        """Load it.

        Raises:
            UserError: ais_bench is not there, it does not load, or its ports are not those of `graph`.
        """
        self.graph, self.what = graph, f"{path.name} on device {card.number}"
        try:
            interface: Any = importlib.import_module("ais_bench.infer.interface")
            self.session = interface.InferSession(card.number, str(path))
        except ImportError as error:
            raise UserError(f"{self.what}: ais_bench does not load ({error}); install it, or use pyACL") from error
        except RuntimeError as error:
            raise UserError(f"{self.what}: ais_bench does not load it ({error})") from error
        try:
            for side, ports, seen in (
                ("input", graph.inputs, self.session.get_inputs()),
                ("output", graph.outputs, self.session.get_outputs()),
            ):
                compare(path.name, side, ports, [_port(item) for item in seen])
        except UserError:
            self.close()
            raise
        self.feeds = {port.name: np.zeros(port.shape, port.dtype) for port in graph.inputs}
        self.results: dict[str, np.ndarray] = {}

    def close(self) -> None:
        """Give everything back."""
        self.session.free_resource()

    def view(self, name: str) -> np.ndarray:
        """The array of an input."""
        return self.feeds[name]

    def run(self, cache: HostCache | None = None) -> None:
        """One call; a cache goes in and comes out."""
        if cache is not None:
            self.feeds.update(zip(CACHE_IN, cache.now, strict=True))
        try:
            outputs = self.session.infer([self.feeds[port.name] for port in self.graph.inputs], mode="static")
        except RuntimeError as error:
            raise UserError(f"{self.what}: {error}; see the newest file under ~/ascend/log") from error
        self.results = {port.name: array for port, array in zip(self.graph.outputs, outputs, strict=True)}
        if cache is not None:
            cache.now = [self.results[name] for name in CACHE_OUT]

    def read(self, name: str, row: int = 0, count: int | None = None) -> np.ndarray:
        """An output, or the first `count` of one of its rows."""
        return self.results[name] if count is None else self.results[name][row, :count]

    def read_finite(self, name: str, row: int = 0, count: int | None = None) -> Float32:
        """As `read`, as float32 of its own; see `ascend_graph.finite`."""
        return finite(self.read(name, row, count), f"{self.what}: its {name}")

    def new_cache(self, undo: ExitStack) -> HostCache:
        """A cache that fits this decoder graph, empty; there is nothing to undo."""
        return HostCache(next(port for port in self.graph.inputs if port.name == CACHE_IN[0]))


def _port(item: Any) -> Port:
    return Port(item.name, np.dtype(item.datatype).name, tuple(item.shape))
