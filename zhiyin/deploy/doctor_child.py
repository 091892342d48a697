"""Looks at one library in a process of its own: importing it may fail, crash or hang. See `doctor_probe`.

It runs as a file, under any interpreter, so nothing of zhiyin is imported. What was found is written as it is found: a
line each, `MARK` and JSON, so that a crash half-way leaves what was known before it.
"""

import base64
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

MARK = "zhiyin-probe "
PACKAGES = ("torch", "torch-npu", "numpy", "transformers", "accelerate", "torchvision", "torchaudio")
RUNTIMES = "onnxruntime"  # all of them bring the module of this name
_HBM = 1  # ACL_HBM_MEM, attribute of acl.rt.get_mem_info
_DDR = 0
# The smallest graph: y = Identity(x), float32 [1], opset 13; made with onnx.helper, IR version 8.
TINY_GRAPH = base64.b64decode(
    "CAg6OgoQCgF4EgF5IghJZGVudGl0eRIEdGlueVoPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0="
)

Facts = dict[str, Any]


def packages() -> Iterator[Facts]:
    """Versions from the records of what is installed; nothing is imported."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in PACKAGES or name == RUNTIMES or name.startswith(RUNTIMES + "-"):
            found.setdefault(name, distribution.version)
    yield {"python": platform.python_version(), "versions": found}


def torch() -> Iterator[Facts]:
    """torch by itself: `doctor_probe` keeps its plug-ins out."""
    module: Any = importlib.import_module("torch")
    built = module.version.cuda or module.version.hip or ""
    yield {"version": module.__version__, "built_for": built, "threads": module.get_num_threads(), "devices": []}
    devices = []
    if module.cuda.is_available():
        devices = [_torch_device(module.cuda, "cuda", i) for i in range(module.cuda.device_count())]
    elif module.backends.mps.is_available():
        devices = [{"name": "mps:0", "title": "Metal"}]
    yield {"devices": devices}


def torch_npu() -> Iterator[Facts]:
    """torch_npu, imported after torch."""
    importlib.import_module("torch")
    module: Any = importlib.import_module("torch_npu")
    yield {"version": module.__version__, "devices": []}
    npu = module.npu
    yield {"devices": [_torch_device(npu, "npu", i) for i in range(npu.device_count())] if npu.is_available() else []}


def autoload() -> Iterator[Facts]:
    """`import torch` as anyone writes it: it loads torch_npu by itself."""
    yield {"version": importlib.import_module("torch").__version__}


def onnxruntime() -> Iterator[Facts]:
    """onnxruntime, and whether each of its accelerators opens: it lists those it cannot open as well."""
    module: Any = importlib.import_module("onnxruntime")
    listed = module.get_available_providers()
    yield {"version": module.__version__, "providers": listed, "opens": {}}
    opens = {}
    for name in listed:
        if name in ("CANNExecutionProvider", "CUDAExecutionProvider"):
            opens[name] = _opens(module, name)
            yield {"opens": opens}


def acl() -> Iterator[Facts]:
    """pyACL, and the NPUs it counts."""
    module: Any = importlib.import_module("acl")
    _check("acl.init", module.init())
    count, code = module.rt.get_device_count()
    _check("acl.rt.get_device_count", code)
    yield {"soc": module.get_soc_name() if hasattr(module, "get_soc_name") else "", "count": count, "devices": []}
    devices = []
    for number in range(count):
        _check("acl.rt.set_device", module.rt.set_device(number))
        figures = [module.rt.get_mem_info(kind) for kind in (_HBM, _DDR)]
        free, total = next(((free, total) for free, total, code in figures if code == 0 and total), (None, None))
        devices.append({"name": f"npu:{number}", "title": "", "free_bytes": free, "total_bytes": total})
        _check("acl.rt.reset_device", module.rt.reset_device(number))
    module.finalize()
    yield {"devices": devices}


def _torch_device(module: Any, kind: str, number: int) -> Facts:
    free, total = module.mem_get_info(number)
    return {
        "name": f"{kind}:{number}",
        "title": module.get_device_name(number),
        "free_bytes": int(free),
        "total_bytes": int(total),
        "bfloat16": bool(module.is_bf16_supported()),
    }


def _opens(module: Any, provider: str) -> str:
    """Why a provider does not open, or nothing."""
    options = module.SessionOptions()
    options.log_severity_level = 4
    try:
        session = module.InferenceSession(TINY_GRAPH, options, providers=[provider])
    except Exception as error:  # onnxruntime has no base class of its errors
        return str(error).strip().split("\n")[0]
    return "" if session.get_providers()[0] == provider else "onnxruntime went on with the CPU by itself"


def _check(what: str, code: int) -> None:
    if code:
        raise RuntimeError(f"{what} gave {code}")


def main(name: str) -> None:
    """Write what one probe finds; a module that is not there is no fault."""
    probes = {probe.__name__: probe for probe in (packages, torch, torch_npu, autoload, onnxruntime, acl)}
    needs = {"packages": "sys", "autoload": "torch_npu"}.get(name, name)
    if importlib.util.find_spec(needs) is None:
        _say({"installed": False})
        return
    _say({"installed": True})
    for facts in probes[name]():
        _say(facts)
    _say({"done": True})


def _say(facts: Facts) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(facts)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))  # its neighbours are no modules for others
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    main(sys.argv[1])
