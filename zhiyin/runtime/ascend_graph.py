"""One OM model on a card, with the memory of its ports; key/value caches that never leave the card.

Shapes: `B` batch, `V` vocabulary, `L` layers, `G` key/value heads, `C` places in the cache, `K` head width.
"""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.errors import UserError
from zhiyin.runtime.ascend_acl import Card, DeviceBusy
from zhiyin.runtime.base import Float32
from zhiyin.runtime.bundle import Graph, Port

CACHE_IN, CACHE_OUT = ("keys", "values"), ("new_keys", "new_values")
BUSY_WAIT_S = 1.0
# acl/acl_base.h, aclDataType
_TYPES = {0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 9: "int64", 12: "bool", 27: "bfloat16"}


def size_bytes(port: Port) -> int:
    """Memory of a port."""
    return math.prod(port.shape) * np.dtype(port.dtype).itemsize


class Cache:
    """Keys and values of `batch` rows, twice: what a call reads, and what it writes, which the next call reads.

    A call cannot write over what it reads, so two of each are kept and change places after every call.
    """

    def __init__(self, card: Card, keys: Port, undo: ExitStack):
        self.batch, self.bytes, self.card = keys.shape[1], size_bytes(keys), card
        self.sides = [[card.block(self.bytes, undo) for _ in CACHE_IN] for _ in range(2)]
        self.clear()

    def clear(self) -> None:
        """Forget everything: unwritten places are masked, but must be finite."""
        for address in self.sides[0]:
            self.card.zero(address, self.bytes)

    def swap(self) -> None:
        """What was written is read next."""
        self.sides.reverse()


class _Slot:
    """A port: its memory on the card, in pinned memory of the host, and the handle of the first."""

    def __init__(self, card: Card, port: Port, undo: ExitStack, *, cached: bool):
        self.port, self.bytes = port, size_bytes(port)
        self.address = 0 if cached else card.block(self.bytes, undo)  # a cache comes with each call
        self.buffer = card.acl.create_data_buffer(self.address, self.bytes)
        undo.callback(card.acl.destroy_data_buffer, self.buffer)
        if not cached:
            self.host_address, raw = card.pinned(self.bytes, undo)
            self.view = raw.view(port.dtype).reshape(port.shape)


class OmGraph:
    """A model, loaded once; its buffers are made once. Callers hold the card's turn."""

    def __init__(self, card: Card, path: Path, graph: Graph):
        """Load it.

        Raises:
            UserError: it does not load, or its ports are not those of `graph`.
        """
        self.card, self.graph, self.file = card, graph, path.name
        with ExitStack() as undo:
            self.model, code = card.acl.mdl.load_from_file(str(path))
            card.check(code, f"load {self.file}")
            undo.callback(card.acl.mdl.unload, self.model)
            self._compare(undo)
            self.inputs, self.feeds = self._dataset(graph.inputs, CACHE_IN, undo)
            self.outputs, self.results = self._dataset(graph.outputs, CACHE_OUT, undo)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Give everything back; what `view` returned is not valid any more."""
        self.feeds, self.results = {}, {}
        self._undo.close()

    def view(self, name: str) -> np.ndarray:
        """The array of an input; what is written there goes to the card with the next `run`."""
        return self.feeds[name].view

    def run(self, cache: Cache | None = None) -> None:
        """Inputs to the card, and one call; a cache is read and written where it lies."""
        for slot in self.feeds.values():
            if slot.address:
                self.card.to_device(slot.address, slot.host_address, slot.bytes)
        if cache is not None:
            for names, slots, side in ((CACHE_IN, self.feeds, 0), (CACHE_OUT, self.results, 1)):
                for name, address in zip(names, cache.sides[side], strict=True):
                    code = self.card.acl.update_data_buffer(slots[name].buffer, address, cache.bytes)
                    self.card.check(code, f"{self.file}: use the cache")
        try:
            self._execute()
        except DeviceBusy:
            time.sleep(BUSY_WAIT_S)
            self._execute()
        if cache is not None:
            cache.swap()

    def read(self, name: str, row: int = 0, count: int | None = None) -> np.ndarray:
        """An output, or the first `count` of one of its rows; only these bytes are copied from the card."""
        slot = self.results[name]
        begin, size, view = 0, slot.bytes, slot.view
        if count is not None:
            size = slot.bytes // math.prod(slot.port.shape[:2]) * count
            begin, view = slot.bytes // slot.port.shape[0] * row, slot.view[row, :count]
        if size:
            self.card.to_host(slot.host_address + begin, slot.address + begin, size)
        return view

    def read_finite(self, name: str, row: int = 0, count: int | None = None) -> Float32:
        """As `read`, as float32 of its own; see `finite`."""
        return finite(self.read(name, row, count), f"{self.file} on device {self.card.number}: its {name}")

    def new_cache(self, undo: ExitStack) -> Cache:
        """A cache that fits this decoder graph, empty."""
        return Cache(self.card, next(port for port in self.graph.inputs if port.name == CACHE_IN[0]), undo)

    def _execute(self) -> None:
        code = self.card.acl.mdl.execute(self.model, self.inputs, self.outputs)
        self.card.check(code, f"run {self.file}")

    def _dataset(self, ports: Sequence[Port], cached: Sequence[str], undo: ExitStack) -> tuple[int, dict[str, _Slot]]:
        mdl = self.card.acl.mdl
        dataset = mdl.create_dataset()
        undo.callback(mdl.destroy_dataset, dataset)
        slots = {port.name: _Slot(self.card, port, undo, cached=port.name in cached) for port in ports}
        for slot in slots.values():
            _, code = mdl.add_dataset_buffer(dataset, slot.buffer)
            self.card.check(code, f"{self.file}: its buffers")
        return dataset, slots

    def _compare(self, undo: ExitStack) -> None:
        mdl = self.card.acl.mdl
        desc = mdl.create_desc()
        undo.callback(mdl.destroy_desc, desc)
        self.card.check(mdl.get_desc(desc, self.model), f"describe {self.file}")
        for side, ports in (("input", self.graph.inputs), ("output", self.graph.outputs)):
            compare(self.file, side, ports, _described(mdl, desc, side))
            for i, port in enumerate(ports):
                seen = getattr(mdl, f"get_{side}_size_by_index")(desc, i)
                if seen != size_bytes(port):
                    raise _differs(self.file, f"{side} {port.name}", f"{seen} bytes", f"{size_bytes(port)} bytes")


def finite(array: np.ndarray, what: str) -> Float32:
    """A float32 copy.

    Raises:
        UserError: an infinity or no number is among the values.
    """
    out: Float32 = array.astype(np.float32)
    if not np.isfinite(out).all():
        raise UserError(
            f"{what} are not finite: half precision overflows here; build the bundle again with --precision mixed or "
            "fp32; zhiyin verify --hunt shows where it begins"
        )
    return out


def compare(file: str, side: str, ports: Sequence[Port], seen: Sequence[Port]) -> None:
    """Refuse a model whose ports are not those of the bundle's record.

    An output of an OM model is called ``node:edge:output``, where ATC kept the name (aclmdlGetOutputNameByIndex), so an
    output's name counts only if it is one of the record's.

    Raises:
        UserError: the first difference.
    """
    if len(seen) != len(ports):
        raise _differs(file, f"{side}s", str(len(seen)), str(len(ports)))
    known = {port.name for port in ports}
    for i, (port, found) in enumerate(zip(ports, seen, strict=True)):
        name = found.name if side == "input" else found.name.rpartition(":")[2]
        if name != port.name and (side == "input" or name in known):
            raise _differs(file, f"{side} {i}", f"'{found.name}'", f"'{port.name}'")
        if (found.dtype, found.shape) != (port.dtype, port.shape):
            raise _differs(file, f"{side} {port.name}", f"{found.dtype} {list(found.shape)}", _said(port))


def _differs(file: str, what: str, seen: str, said: str) -> UserError:
    return UserError(
        f"{file}: {what}: the model has {seen}, bundle.json says {said}; they are of two exports: run zhiyin atc again"
    )


def _said(port: Port) -> str:
    return f"{port.dtype} {list(port.shape)}"


def _described(mdl: Any, desc: int, side: str) -> list[Port]:
    def port(index: int) -> Port:
        dims, _ = getattr(mdl, f"get_{side}_dims")(desc, index)
        code = getattr(mdl, f"get_{side}_data_type")(desc, index)
        name = getattr(mdl, f"get_{side}_name_by_index")(desc, index)
        return Port(name, _TYPES.get(code, f"type {code}"), tuple(dims["dims"]))

    return [port(index) for index in range(getattr(mdl, f"get_num_{side}s")(desc))]
