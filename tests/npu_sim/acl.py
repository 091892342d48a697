"""A strict double of Huawei's pyACL (`import acl`) for tests; what runs inside a "device" is onnxruntime.

Names, argument order, returned tuples and error codes are those of the public pyACL documentation. It refuses what CANN
refuses: calls before `init`, a thread without context, device pointers touched by the host, a copy in the wrong
direction or past a block, a buffer that is too small, a model of another chip, more memory than there is, a device that
is lost. What CANN does not check but calls wrong (a context alive at `reset_device`, say) is kept in `sim.violations`.
What is not documented is not there. It proves order, ownership and sizes; it proves nothing about real kernels.

Beside pyACL's names there is `sim`, the hand of the tests: how many devices, their memory, their chip, faults to come,
and what was seen (copies, calls, leaks). Variables for child processes: FAKEACL_DEVICES, FAKEACL_MEM_MB, FAKEACL_SOC.
"""

import ctypes
import functools
import itertools
import json
import os
import struct
import sys
import threading
import types
from typing import Any

import numpy as np

if os.environ.get("ASCEND_HOME_PATH") or os.path.exists("/usr/local/Ascend"):
    raise ImportError("double of acl: a real CANN is installed here; use its pyACL")

# acl/error_codes/*.h of CANN
INVALID_PARAM, UNINITIALIZE, REPEAT_INITIALIZE, REPEAT_FINALIZE = 100000, 100001, 100002, 100037
RT_PARAM_INVALID, INVALID_DEVICEID, CONTEXT_NULL, MODEL_CONTEXT = 107000, 107001, 107002, 107004
GE_PARAM_INVALID, GE_MODEL_PATH_INVALID, GE_MODEL_ID_INVALID = 145000, 145002, 145003
MEMORY_ALLOCATION, GE_FAILURE, AICORE_EXCEPTION, LOST, LOAD_MODEL = 207001, 500002, 507015, 507010, 545001

TYPES = {0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 9: "int64", 11: "float64", 12: "bool"}
CODES = {np.dtype(name): code for code, name in TYPES.items()}
MAGIC = b"FAKEOM1\0"
_H2D, _D2H = 1, 2
_SLACK_BYTES = 64  # aclmdlExecute takes a buffer that is this much too small
_BASE, _SPAN = 0x1200_0000_0000, 1 << 38  # addresses nothing is mapped to: touching one faults

_ids = itertools.count(0x1000)
_thread = threading.local()


class Sim:
    """The state of all devices, and what tests may do to it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.reset()

    def reset(self, *, devices: int | None = None, memory_bytes: int | None = None, soc: str | None = None) -> None:
        """A machine that was just switched on; what is not given comes from the environment."""
        self.devices = devices or int(os.environ.get("FAKEACL_DEVICES", "1"))
        self.memory_bytes = memory_bytes or int(os.environ.get("FAKEACL_MEM_MB", "8192")) << 20
        self.soc = soc or os.environ.get("FAKEACL_SOC", "Ascend310P3")
        self.inits = self.finalizes = self.resets = 0
        self.ready = False
        self.users: dict[int, int] = {}  # device -> set_device not yet undone
        self.contexts: dict[int, int] = {}  # explicit context -> device
        self.blocks: dict[int, dict[str, Any]] = {}
        self.pinned: dict[int, Any] = {}
        self.models: dict[int, dict[str, Any]] = {}
        self.descs: dict[int, dict[str, Any] | None] = {}
        self.datasets: dict[int, list[int]] = {}
        self.buffers: dict[int, tuple[int, int]] = {}
        self.next_address: dict[int, int] = {}
        self.lost: dict[int, bool] = {}  # device -> whether a reset brings it back
        self.faults: list[list[Any]] = []  # name of a call, calls until then, code, how many times
        self.copies: list[tuple[int, int, bool]] = []  # direction, bytes, whether the host's side is pinned
        self.calls: list[str] = []
        self.executed: list[str] = []
        self.violations: list[str] = []
        self.message = ""

    def fail(self, call: str, code: int, *, after: int = 0, times: int = 1) -> None:
        """Let a call fail, e.g. ``fail("mdl.execute", 507015, after=3)``: three more succeed, then one fails."""
        self.faults.append([call, after, code, times])

    def lose(self, device: int, *, comes_back: bool = True) -> None:
        """Every call to a device fails from now on; until it is reset, or for good."""
        self.lost[device] = comes_back

    def leaks(self) -> dict[str, int]:
        """What was made and not destroyed."""
        kept = {
            "device blocks": self.blocks,
            "pinned blocks": self.pinned,
            "data buffers": self.buffers,
            "datasets": self.datasets,
            "descriptions": self.descs,
            "models": self.models,
            "contexts": self.contexts,
            "set_device": {device: count for device, count in self.users.items() if count},
        }
        return {name: len(items) for name, items in kept.items() if items}

    def used_bytes(self, device: int) -> int:
        """Memory taken on a device, by blocks and by models."""
        kept = [*self.blocks.values(), *self.models.values()]
        return sum(one["bytes"] for one in kept if one["device"] == device)


sim = Sim()
rt, mdl, util = (types.ModuleType(f"acl.{name}") for name in ("rt", "mdl", "util"))
sys.modules.update({module.__name__: module for module in (rt, mdl, util)})


def _fail(code: int, message: str) -> int:
    sim.message = f"E{code}: {message}"
    return code


def _int(*values: object) -> None:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"acl takes int here, got {type(value).__name__}")


def _begin(call: str) -> int:
    """Note a call; the code it must fail with, or 0."""
    sim.calls.append(call)
    for fault in sim.faults:
        if fault[0] == call:
            fault[1] -= 1
            if fault[1] < 0 <= fault[1] + fault[3]:
                return _fail(fault[2], f"injected into {call}")
    return 0


def _device() -> int | None:
    context = getattr(_thread, "context", None)
    if isinstance(context, tuple):  # the default context of set_device
        return context[1] if sim.users.get(context[1]) else None
    return sim.contexts.get(context) if context is not None else None


def _on_device(call: str) -> tuple[int, int]:
    """The device of this thread and 0, or a code."""
    code = _begin(call)
    if code:
        return 0, code
    device = _device()
    if device is None:
        return 0, _fail(CONTEXT_NULL, f"{call}: no context in this thread, call acl.rt.set_context")
    if device in sim.lost:
        return device, _fail(LOST, f"{call}: device {device} does not answer")
    return device, 0


# ------------------------------------------------------------------------------------------------------- the process
def init(config_path: str | None = None) -> int:
    """Once per process."""
    if code := _begin("init"):
        return code
    sim.inits += 1
    if sim.ready:
        return _fail(REPEAT_INITIALIZE, "repeated acl.init")
    sim.ready = True
    return 0


def finalize() -> int:
    """The end; everything else must be gone."""
    _begin("finalize")
    if not sim.ready:
        return _fail(REPEAT_FINALIZE, "acl.finalize without acl.init")
    if sim.leaks():
        sim.violations.append(f"finalize with {sim.leaks()}")
    sim.ready = False
    sim.finalizes += 1
    return 0


def get_soc_name() -> str:
    """The chip; nothing before init."""
    return sim.soc if sim.ready else ""


def get_recent_err_msg() -> str:
    """The last message, once."""
    message, sim.message = sim.message, ""
    return message


def _in(module: types.ModuleType) -> Any:
    def put(function: Any) -> Any:
        setattr(module, function.__name__, function)
        return function

    return put


# ----------------------------------------------------------------------------------------------- devices and contexts
@_in(rt)
def get_device_count() -> tuple[int, int]:
    return (sim.devices, 0) if sim.ready else (0, _fail(UNINITIALIZE, "get_device_count before acl.init"))


@_in(rt)
def set_device(device: int) -> int:
    _int(device)
    if code := _begin("rt.set_device"):
        return code
    if not sim.ready:
        return _fail(UNINITIALIZE, "acl.rt.set_device before acl.init")
    if not 0 <= device < sim.devices:
        return _fail(INVALID_DEVICEID, f"set_device({device})")
    if sim.lost.get(device) is False:
        return _fail(LOST, f"set_device({device}): no answer")
    sim.users[device] = sim.users.get(device, 0) + 1
    _thread.context = ("default", device)
    return 0


@_in(rt)
def reset_device(device: int) -> int:
    """Counted: only the last one releases what the process has on the device."""
    _int(device)
    if code := _begin("rt.reset_device"):
        return code
    with sim.lock:
        if not sim.users.get(device):
            return _fail(INVALID_DEVICEID, f"reset_device({device}) without set_device")
        sim.users[device] -= 1
        if sim.users[device]:
            return 0
        sim.resets += 1
        alive = [context for context, on in sim.contexts.items() if on == device]
        if alive:
            sim.violations.append(f"reset_device({device}) with {len(alive)} contexts alive")
        for context in alive:
            del sim.contexts[context]
        for kept in (sim.blocks, sim.models):
            for key in [key for key, one in kept.items() if one["device"] == device]:
                del kept[key]
        if sim.lost.get(device):
            del sim.lost[device]
    return 0


@_in(rt)
def create_context(device: int) -> tuple[int, int]:
    _int(device)
    if code := _begin("rt.create_context"):
        return 0, code
    if not sim.users.get(device):
        return 0, _fail(INVALID_DEVICEID, f"create_context({device}) before set_device")
    context = next(_ids)
    sim.contexts[context] = device
    _thread.context = context
    return context, 0


@_in(rt)
def destroy_context(context: int) -> int:
    _begin("rt.destroy_context")
    if sim.contexts.pop(context, None) is None:
        return _fail(RT_PARAM_INVALID, "destroy_context: not a context")
    return 0


@_in(rt)
def set_context(context: int) -> int:
    _int(context)
    _begin("rt.set_context")
    if context not in sim.contexts:
        return _fail(RT_PARAM_INVALID, "set_context: not a context")
    _thread.context = context
    return 0


# -------------------------------------------------------------------------------------------------------------- memory
@_in(rt)
def malloc(size: int, policy: int) -> tuple[int, int]:
    _int(size, policy)
    device, code = _on_device("rt.malloc")
    if code:
        return 0, code
    if size <= 0 or policy not in range(8):
        return 0, _fail(INVALID_PARAM, f"malloc({size}, {policy})")
    with sim.lock:
        if sim.used_bytes(device) + size > sim.memory_bytes:
            return 0, _fail(MEMORY_ALLOCATION, f"device memory exhausted ({size} bytes asked)")
        address = sim.next_address.get(device, _BASE + device * _SPAN)
        sim.next_address[device] = address + (size + 511) // 512 * 512 + 4096
        sim.blocks[address] = {"device": device, "bytes": size, "data": bytearray(b"\xff" * size)}
    return address, 0


@_in(rt)
def free(address: int) -> int:
    _int(address)
    device, code = _on_device("rt.free")
    if code:
        return code
    if sim.blocks.get(address, {}).get("device") != device:
        return _fail(INVALID_PARAM, "free: not a live block of this device")
    del sim.blocks[address]
    return 0


@_in(rt)
def malloc_host(size: int) -> tuple[int, int]:
    _int(size)
    _, code = _on_device("rt.malloc_host")
    if code:
        return 0, code
    block = ctypes.create_string_buffer(b"\xff" * size, size)
    sim.pinned[ctypes.addressof(block)] = block
    return ctypes.addressof(block), 0


@_in(rt)
def free_host(address: int) -> int:
    if _begin("rt.free_host") or _device() is None:  # memory of the host: a lost device does not matter
        return _fail(CONTEXT_NULL, "free_host: no context in this thread")
    return 0 if sim.pinned.pop(address, None) is not None else _fail(INVALID_PARAM, "free_host: not a live block")


@_in(rt)
def get_mem_info(kind: int) -> tuple[int, int, int]:
    """HBM is 1; this chip has it."""
    device, code = _on_device("rt.get_mem_info")
    if code or kind != 1:
        return 0, 0, code
    return sim.memory_bytes - sim.used_bytes(device), sim.memory_bytes, 0


@_in(rt)
def memset(address: int, most: int, value: int, count: int) -> int:
    _int(address, most, value, count)
    device, code = _on_device("rt.memset")
    if code or count > most:
        return code or _fail(INVALID_PARAM, "memset: count > maxCount")
    part = _part(address, count, device)
    if part is None:
        return _fail(AICORE_EXCEPTION, "memset outside a live block of this device")
    part[:] = bytes([value & 255]) * count
    return 0


@_in(rt)
def memcpy(target: int, most: int, source: int, count: int, direction: int) -> int:
    _int(target, most, source, count, direction)
    device, code = _on_device("rt.memcpy")
    if code or count > most:
        return code or _fail(INVALID_PARAM, f"memcpy: count {count} > destMax {most}")
    seen = _H2D * _on_card(target) + _D2H * _on_card(source)
    if direction != seen:
        return _fail(INVALID_PARAM, f"memcpy: direction {direction}, but the pointers say {seen}")
    ends = [_part(end, count, device) for end in (target, source)]
    if None in ends:
        return _fail(AICORE_EXCEPTION, "memcpy outside a live block of this device")
    sim.copies.append((direction, count, any(_pinned(end) is not None for end in (target, source))))
    ends[0][:] = ends[1]
    return 0


def _on_card(address: int) -> bool:
    return _BASE <= address < _BASE + 16 * _SPAN


def _part(address: int, count: int, device: int) -> Any:
    """The bytes behind a pointer, if they lie in one live block of this device, or on the host."""
    if _on_card(address):
        for base, block in sim.blocks.items():
            if base <= address and address + count <= base + block["bytes"] and block["device"] == device:
                return memoryview(block["data"])[address - base : address - base + count]
        return None
    block = _pinned(address)
    if block is not None and address + count > ctypes.addressof(block) + len(block):
        return None
    return memoryview((ctypes.c_char * count).from_address(address)).cast("B")


def _pinned(address: int) -> Any:
    for base, block in sim.pinned.items():
        if base <= address < base + len(block):
            return block
    return None


@_in(util)
def numpy_to_ptr(array: np.ndarray) -> int:
    if not array.flags["C_CONTIGUOUS"]:
        raise ValueError("numpy_to_ptr needs a C-contiguous array")
    return array.__array_interface__["data"][0]


# ---------------------------------------------------------------------------------------------- data buffers, datasets
def create_data_buffer(address: int, size: int) -> int:
    """A handle of a part of memory."""
    _int(address, size)
    handle = next(_ids)
    sim.buffers[handle] = (address, size)
    return handle


def update_data_buffer(buffer: int, address: int, size: int) -> int:
    """Point it elsewhere."""
    _int(address, size)
    if buffer not in sim.buffers:
        return _fail(INVALID_PARAM, "update_data_buffer: not a live buffer")
    sim.buffers[buffer] = (address, size)
    return 0


def destroy_data_buffer(buffer: int) -> int:
    """The memory behind it stays."""
    return 0 if sim.buffers.pop(buffer, None) is not None else _fail(INVALID_PARAM, "destroy_data_buffer: not live")


@_in(mdl)
def create_dataset() -> int:
    handle = next(_ids)
    sim.datasets[handle] = []
    return handle


@_in(mdl)
def add_dataset_buffer(dataset: int, buffer: int) -> tuple[int, int]:
    if dataset not in sim.datasets or buffer not in sim.buffers:
        return dataset, _fail(INVALID_PARAM, "add_dataset_buffer: not live")
    sim.datasets[dataset].append(buffer)
    return dataset, 0


@_in(mdl)
def destroy_dataset(dataset: int) -> int:
    return 0 if sim.datasets.pop(dataset, None) is not None else _fail(INVALID_PARAM, "destroy_dataset: not live")


# -------------------------------------------------------------------------------------------------------------- models
@_in(mdl)
def query_size(path: str) -> tuple[int, int, int]:
    """Working and weight memory of a model file, bytes."""
    if not os.path.isfile(path):
        return 0, 0, _fail(GE_MODEL_PATH_INVALID, path)
    return 4096, os.path.getsize(path), 0


@_in(mdl)
def load_from_file(path: str) -> tuple[int, int]:
    device, code = _on_device("mdl.load_from_file")
    if code:
        return 0, code
    if not os.path.isfile(path):
        return 0, _fail(GE_MODEL_PATH_INVALID, f"no model {path}")
    with open(path, "rb") as file:
        raw = file.read()
    if not raw.startswith(MAGIC):
        return 0, _fail(LOAD_MODEL, f"{path} is no model")
    size = struct.unpack_from("<Q", raw, len(MAGIC))[0]
    begin = len(MAGIC) + 8
    meta, graph = json.loads(raw[begin : begin + size]), raw[begin + size :]
    if meta["soc_version"] != sim.soc:
        return 0, _fail(LOAD_MODEL, f"{path} is for {meta['soc_version']}, this device is {sim.soc}")
    taken = sum(query_size(path)[:2])
    if sim.used_bytes(device) + taken > sim.memory_bytes:
        return 0, _fail(245002, f"{taken} bytes for {path}")
    handle = next(_ids)
    sim.models[handle] = {"device": device, "bytes": taken, "path": path, **meta, "session": _session(graph)}
    return handle, 0


@functools.lru_cache(maxsize=32)  # loaded again and again in tests; sessions of onnxruntime may be shared
def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@_in(mdl)
def unload(model: int) -> int:
    device, code = _on_device("mdl.unload")
    if code:
        return code
    if sim.models.get(model, {}).get("device") != device:
        return _fail(GE_MODEL_ID_INVALID, f"unload({model})")
    del sim.models[model]
    return 0


@_in(mdl)
def create_desc() -> int:
    handle = next(_ids)
    sim.descs[handle] = None
    return handle


@_in(mdl)
def get_desc(desc: int, model: int) -> int:
    if desc not in sim.descs or model not in sim.models:
        return _fail(GE_MODEL_ID_INVALID, f"get_desc of model {model}")
    sim.descs[desc] = sim.models[model]
    return 0


@_in(mdl)
def destroy_desc(desc: int) -> int:
    if desc not in sim.descs:
        return _fail(INVALID_PARAM, "destroy_desc: not live")
    del sim.descs[desc]
    return 0


def _ports(desc: int, side: str) -> list[dict[str, Any]]:
    if sim.descs.get(desc) is None:
        raise RuntimeError("acl.mdl: the description is empty, call acl.mdl.get_desc first")
    return sim.descs[desc][side]  # type: ignore[index]


def _bytes(port: dict[str, Any]) -> int:
    return int(np.dtype(port["dtype"]).itemsize * np.prod(port["shape"], dtype=np.int64))


def _add_readers(side: str) -> None:
    one = side[:-1]

    def name(desc: int, index: int) -> str:
        # an output of an ONNX model is called node : edge : output (documentation of aclmdlGetOutputNameByIndex)
        plain = _ports(desc, side)[index]["name"]
        return plain if side == "inputs" else f"PartitionedCall_{index}:0:{plain}"

    def dims(desc: int, index: int) -> tuple[dict[str, Any], int]:
        shape = _ports(desc, side)[index]["shape"]
        return {"name": name(desc, index), "dimCount": len(shape), "dims": list(shape)}, 0

    setattr(mdl, f"get_num_{side}", lambda desc: len(_ports(desc, side)))
    setattr(mdl, f"get_{one}_name_by_index", name)
    setattr(mdl, f"get_{one}_dims", dims)
    setattr(mdl, f"get_{one}_size_by_index", lambda desc, index: _bytes(_ports(desc, side)[index]))
    setattr(mdl, f"get_{one}_data_type", lambda desc, index: CODES[np.dtype(_ports(desc, side)[index]["dtype"])])


_add_readers("inputs")
_add_readers("outputs")


@_in(mdl)
def execute(model: int, inputs: int, outputs: int) -> int:
    """Blocking; one buffer per port, in the model's order."""
    device, code = _on_device("mdl.execute")
    if code:
        return code
    meta = sim.models.get(model)
    if meta is None:
        return _fail(GE_MODEL_ID_INVALID, f"execute: model {model} is not loaded (was the device reset?)")
    if meta["device"] != device:
        return _fail(MODEL_CONTEXT, f"execute: the model is on device {meta['device']}, the context on {device}")
    given = [sim.datasets.get(dataset, []) for dataset in (inputs, outputs)]
    if [len(one) for one in given] != [len(meta["inputs"]), len(meta["outputs"])]:
        return _fail(GE_PARAM_INVALID, f"E13025: {[len(one) for one in given]} buffers, the model has other counts")
    feeds = {}
    for port, buffer in zip(meta["inputs"], given[0], strict=True):
        part, code = _buffer(port, buffer, device)
        if code:
            return code
        feeds[port["name"]] = np.frombuffer(bytes(part), port["dtype"]).reshape(port["shape"])
    targets = [_buffer(port, buffer, device) for port, buffer in zip(meta["outputs"], given[1], strict=True)]
    if any(code for _, code in targets):
        return max(code for _, code in targets)
    places = [{sim.buffers[buffer][0] for buffer in side} for side in given]
    if places[0] & places[1] or len(places[1]) < len(given[1]):
        sim.violations.append(f"{meta['path']}: an output lies on an input or on another output")
    results = meta["session"].run([port["name"] for port in meta["outputs"]], feeds)
    for (part, _), port, result in zip(targets, meta["outputs"], results, strict=True):
        part[:] = np.ascontiguousarray(result, port["dtype"]).tobytes()
    sim.executed.append(os.path.basename(meta["path"]))
    return 0


def _buffer(port: dict[str, Any], buffer: int, device: int) -> tuple[Any, int]:
    """The memory of one port, or a code."""
    if buffer not in sim.buffers:
        return None, _fail(INVALID_PARAM, f"{port['name']}: its data buffer was destroyed")
    address, size = sim.buffers[buffer]
    needed = _bytes(port)
    if not _on_card(address):
        return None, _fail(AICORE_EXCEPTION, f"{port['name']}: a host address was given to the device")
    if size + _SLACK_BYTES < needed:
        return None, _fail(GE_FAILURE, f"E13025: {port['name']}: {size} bytes given, {needed} needed")
    if size != needed:
        sim.violations.append(f"{port['name']}: {size} bytes given, the model has {needed}")
    part = _part(address, needed, device)
    return part, 0 if part is not None else _fail(AICORE_EXCEPTION, f"{port['name']}: outside any live block")
