"""Where a model runs, always with the reason. The only module outside `deploy/` that knows the names of devices."""

import difflib
import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.runtime.base import Device

KINDS = ("npu", "cuda", "mps", "cpu")  # in the order `auto` prefers them
KNOWN = "auto cpu cuda[:N] npu[:N] mps"
PROVIDERS = {"npu": "CANNExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}

DTYPES = ("float32", "bfloat16", "float16")
_HALVES = {"npu": "bfloat16", "cuda": "bfloat16"}  # devices whose matrix units run it; elsewhere `auto` is float32
# Beside its weights a model needs room for activations and the key/value cache; a fifth is what 30 s windows of the
# families here take at most.
ROOM = 1.2

_ROOT = Path("/")
_GROUP = Path("sys/fs/cgroup")
_GROUPS = (  # limit, use, and files that are only cached: version 2, version 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_PLUGIN = "torch_npu"


def choose(
    asked: str, available: Sequence[str], *, engine: str, note: str = "", allow_fallback: bool = False
) -> Device:
    """The device for a request.

    Args:
        asked: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``npu``, ``npu:0`` or ``mps``.
        available: what `engine` has, e.g. ``("cpu", "cuda:0", "cuda:1")``; a name without number stands for any number.
        engine: who runs the model, for the messages.
        note: what the probe saw that explains why something is not there.
        allow_fallback: take the CPU where the device is not there, see `fall_back`; a word that is not known stays an
            error.

    Raises:
        UserError: the word is not known, or the device is not there.
    """
    word = asked.strip().lower()
    if word == "auto":
        best = min(available, key=lambda name: KINDS.index(_kind(name)))
        return Device(
            best, "auto: " + (f"{engine} has no other device" if best == "cpu" else f"best of {', '.join(available)}")
        )
    if not re.fullmatch(r"cpu|mps|(cuda|npu)(:\d+)?", word):
        near = difflib.get_close_matches(word, KINDS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"device '{asked}' is not known; known: {KNOWN}{hint}")
    found = [name for name in available if word == name or word == _kind(name)]
    if found:
        return Device(found[0], "asked for")
    if _kind(word) in available:
        return Device(word, "asked for")
    if allow_fallback:
        return fall_back(word, f"{engine} has only {', '.join(available)} here" + (f", {note}" if note else ""))
    is_number_wrong = any(_kind(name) == _kind(word) for name in available)
    instead = "" if is_number_wrong else f", or install a build of {engine} for '{_kind(word)}'"
    why = f"; {note}" if note else instead
    raise UserError(f"device '{asked}': {engine} has only {', '.join(available)} here; use one of these{why}")


def fall_back(asked: str, why: str) -> Device:
    """The CPU instead of a device that is not there or does not open; only where the user allowed it.

    Its text, e.g. ``cpu (npu:0 was asked for: torch has only cpu here; fallback allowed)``, stands in every result.
    """
    return Device("cpu", f"{asked} was asked for: {why}; fallback allowed")


def of_providers(providers: Sequence[str]) -> tuple[str, ...]:
    """Devices behind the execution providers onnxruntime lists; how many of each it does not say."""
    return tuple(kind for kind in KINDS if PROVIDERS.get(kind) in providers)


def ascend_devices(count: int) -> tuple[str, ...]:
    """Names of the devices pyACL counts."""
    return tuple(f"npu:{number}" for number in range(count))


def provider(device: Device) -> tuple[str, dict[str, str]]:
    """Execution provider of a device and its options."""
    kind, _, number = device.name.partition(":")
    return PROVIDERS[kind], {"device_id": number or "0"} if kind != "cpu" else {}


@functools.cache
def before_torch() -> str:
    """Call before the first `import torch`: keeps an Ascend plug-in that cannot load from breaking it.

    torch loads an installed torch_npu by itself, and where CANN is missing `import torch` then fails. Here torch is
    imported without it first, and the plug-in after it.

    Returns:
        Why the plug-in is not used, or nothing.
    """
    if "torch" in sys.modules or importlib.util.find_spec(_PLUGIN) is None:
        return ""
    if os.environ.get(_AUTOLOAD) == "0":
        return f"{_AUTOLOAD}=0 keeps {_PLUGIN} out"
    os.environ[_AUTOLOAD] = "0"
    importlib.import_module("torch")
    try:
        importlib.import_module(_PLUGIN)
    except (ImportError, OSError, RuntimeError) as error:
        line = str(error).strip().split("\n")[0]
        return f"{_PLUGIN} is installed but does not load ({line}): is CANN there and its set_env.sh sourced?"
    del os.environ[_AUTOLOAD]
    return ""


def choose_dtype(asked: str, device: Device) -> tuple[str, str]:
    """The number format of the weights on a device, and why.

    Raises:
        UserError: the word is not known, or the chip has no such numbers.
    """
    word = asked.strip().lower()
    if word == "auto":
        kind = _kind(device.name)
        if kind not in _HALVES:
            return "float32", "auto: exact"
        if _HALVES[kind] == "bfloat16" and not has_bfloat16(device.name):
            return "float16", f"auto: half the memory on {kind}, and {_called(device.name)} has no bfloat16"
        return _HALVES[kind], f"auto: half the memory on {kind}"
    if word not in DTYPES:
        near = difflib.get_close_matches(word, DTYPES, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"dtype '{asked}' is not known; known: auto {' '.join(DTYPES)}{hint}")
    if word == "bfloat16" and not has_bfloat16(device.name):
        raise UserError(f"dtype 'bfloat16': {_called(device.name)} has no such numbers; use float16 or float32")
    return word, "asked for"


def torch_module(device: str) -> Any:
    """What torch has for a kind of device (``torch.npu``), or nothing: for the CPU, or where it is not there."""
    kind = _kind(device)
    module: Any = None if kind == "cpu" else getattr(importlib.import_module("torch"), kind, None)
    return module if module is not None and module.is_available() else None


def has_bfloat16(device: str) -> bool:
    """Whether a chip computes bfloat16 itself: Ascend 310P and CUDA chips before 8.0 do not."""
    module = torch_module(device)
    if _kind(device) == "cuda" and module is not None:
        return bool(module.get_device_capability(_number(device))[0] >= 8)
    return not hasattr(module, "is_bf16_supported") or bool(module.is_bf16_supported())


def chip(device: str) -> str:
    """What a device calls itself, e.g. ``Ascend910B3``; nothing where it has no name."""
    module = torch_module(device)
    return str(module.get_device_name(_number(device))) if hasattr(module, "get_device_name") else ""


def free_bytes(device: str) -> int | None:
    """Memory that a device can still give, in bytes; nothing where it does not say."""
    if _kind(device) == "cpu":
        return free_host_bytes()
    module = torch_module(device)
    if hasattr(module, "mem_get_info"):
        return int(module.mem_get_info(_number(device))[0])
    if hasattr(module, "recommended_max_memory"):
        return int(module.recommended_max_memory()) - int(module.current_allocated_memory())
    return None


def host_bytes(root: Path = _ROOT) -> int | None:
    """Memory of the machine, or of its container where that is less."""
    limits = (root / _GROUP / limit for limit, _, _ in _GROUPS)
    known = [int(text) for path in limits if path.is_file() and (text := path.read_text().strip()).isdigit()]
    memory = root / "proc/meminfo"
    if memory.is_file():
        known.append(_table(memory).get("MemTotal:", 0) * 1024)
    return min((count for count in known if count), default=None)


def free_host_bytes(root: Path = _ROOT) -> int | None:
    """What the machine and its container (cgroup v2, v1) still give: the smaller of both."""
    known = [_free_in_group(root / _GROUP, *names) for names in _GROUPS]
    memory = root / "proc/meminfo"
    if memory.is_file():
        known.append(_table(memory).get("MemAvailable:", 0) * 1024 or None)
    return min((count for count in known if count is not None), default=None)


def check_memory(needed_bytes: int, device: str, what: str) -> None:
    """Refuse, before anything is read, what cannot fit.

    Args:
        needed_bytes: of the weights in the format they will have.
        device: where they go; on the way there they pass the memory of the CPU.
        what: begins the message, e.g. ``model /models/granite: float32``.

    Raises:
        UserError: the weights and `ROOM` beside them do not fit.
    """
    for place in dict.fromkeys(("cpu", device)):
        free = free_bytes(place)
        wanted = needed_bytes if place != device else int(needed_bytes * ROOM)
        if free is not None and wanted > free:
            raise UserError(
                f"{what} needs {_gigabytes(wanted)} on {place}, where {_gigabytes(free)} are free; "
                "use dtype bfloat16, a smaller model or another device"
            )


def _free_in_group(group: Path, limit: str, used: str, cached: str) -> int | None:
    """Of a control group; files that are only cached count as used there, but can be given up."""
    try:
        most, now = ((group / name).read_text().strip() for name in (limit, used))
        kept = _table((group / used).with_name("memory.stat"))
    except OSError:
        return None
    return int(most) - int(now) + kept.get(cached, 0) if most.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _number(name: str) -> int:
    return int(name.partition(":")[2] or 0)


def _called(name: str) -> str:
    known = chip(name)
    return f"{name} ({known})" if known else name
