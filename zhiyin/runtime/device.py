"""Where a model runs, always with the reason. The only module outside `deploy/` that knows the names of devices."""

import difflib
import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence

from zhiyin.errors import UserError
from zhiyin.runtime.base import Device

KINDS = ("npu", "cuda", "mps", "cpu")  # in the order `auto` prefers them
KNOWN = "auto cpu cuda[:N] npu[:N] mps"
PROVIDERS = {"npu": "CANNExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}

_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_PLUGIN = "torch_npu"


def choose(asked: str, available: Sequence[str], *, engine: str, note: str = "") -> Device:
    """The device for a request.

    Args:
        asked: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``npu``, ``npu:0`` or ``mps``.
        available: what `engine` has, e.g. ``("cpu", "cuda:0", "cuda:1")``; a name without number stands for any number.
        engine: who runs the model, for the messages.
        note: what the probe saw that explains why something is not there.

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
    why = f"; {note}" if note else f", or install a build of {engine} for '{_kind(word)}'"
    raise UserError(f"device '{asked}': {engine} has only {', '.join(available)} here; use one of these{why}")


def of_providers(providers: Sequence[str]) -> tuple[str, ...]:
    """Devices behind the execution providers onnxruntime lists; how many of each it does not say."""
    return tuple(kind for kind in KINDS if PROVIDERS.get(kind) in providers)


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


def _kind(name: str) -> str:
    return name.partition(":")[0]
