"""A simulated `npu` device for tests: compiles `npusim.cpp` once, and dresses it as `torch.npu`.

Nothing here is torch_npu or Ascend hardware; results that come from it are said to be of a *simulated npu device*.
`torch_npu/` beside this file is what our code imports; with this folder on PYTHONPATH, `--device npu:0` works.

Environment: NPUSIM_BUILD (folder of what is compiled; default: pytest's cache in the repository), NPUSIM_BF16=0 (a chip
without bfloat16), and those of `npusim.cpp`.
"""

import atexit
import fcntl
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("npusim.cpp")
NAME = "_npusim"
CHIP = "simulated npu device"
_MODULE = "npu"


def refusal() -> str:
    """Why the simulation must not be used here, or nothing."""
    try:
        importlib.metadata.distribution("torch_npu")
        return "a real torch_npu is installed; run the tests with --device npu:0 instead"
    except importlib.metadata.PackageNotFoundError:
        pass
    if os.environ.get("ASCEND_HOME_PATH") or Path("/usr/local/Ascend").exists():
        return "CANN is installed; install torch_npu and run the tests with --device npu:0 instead"
    if shutil.which(_compiler()) is None:
        return f"no C++ compiler ({_compiler()}); install g++"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "no headers of Python (Python.h); install python3-dev"
    return ""


def build() -> Path:
    """The compiled extension; made once for each text of the source, Python and torch."""
    import torch
    from torch.utils import cpp_extension

    key = hashlib.sha256(SOURCE.read_bytes() + f"{sys.version} {torch.__version__} {_compiler()}".encode()).hexdigest()
    default = SOURCE.parents[4] / ".pytest_cache" / "d" / "npusim"
    folder = Path(os.environ.get("NPUSIM_BUILD") or default)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{NAME}-{key[:12]}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that start together compile once
        if target.exists():
            return target
        includes = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
        libraries = cpp_extension.library_paths()
        part = target.with_suffix(".part")
        command = [
            _compiler(),
            *("-O0", "-std=c++20", "-fPIC", "-shared", "-w", str(SOURCE), "-o", str(part)),
            *(f"-I{path}" for path in includes),
            *("-DTORCH_API_INCLUDE_EXTENSION_H", f"-DTORCH_EXTENSION_NAME={NAME}", "-DUSE_C10D_GLOO"),
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
            *(f"-L{path}" for path in libraries),
            *("-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"npusim does not compile:\n{done.stderr[-3000:]}")
        part.replace(target)
    return target


def install() -> types.ModuleType:
    """Register the device with torch, once per process; what comes back is `torch.npu`."""
    import torch

    if _MODULE in sys.modules.get("torch", torch).__dict__:
        return torch.npu
    why = refusal()
    if why:
        raise RuntimeError(f"npusim: {why}")
    spec = importlib.util.spec_from_file_location(NAME, build())
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    torch.utils.rename_privateuse1_backend(_MODULE)
    torch._register_device_module(_MODULE, _module(native))
    sys.modules["torch.npu"] = torch.npu
    torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)
    if torch.distributed.is_available():
        torch.distributed.Backend.register_backend("hccl", _hccl(native), devices=[_MODULE])
    # A backward right before the end of Python leaves the device's autograd thread holding objects: let it finish.
    atexit.register(lambda: (gc.collect(), time.sleep(0.05)))
    return torch.npu


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


def _hccl(native: Any) -> Callable[..., Any]:
    def make(store: Any, rank: int, size: int, timeout: Any) -> Any:
        import torch.distributed

        return native.make_hccl(torch.distributed.ProcessGroupGloo(store, rank, size, timeout=timeout), rank, size)

    return make


def _module(native: Any) -> types.ModuleType:
    """`torch.npu` with the names of torch_npu 2.13 that torch and our code use."""
    import torch

    def number(device: Any = None) -> int:
        if device is None or device == _MODULE:
            return native.current_device()
        device = torch.device(device) if isinstance(device, str) else device
        if isinstance(device, torch.device):
            if device.type != _MODULE:
                raise ValueError(f"Expected a npu device, but got: {device}")
            return native.current_device() if device.index is None else device.index
        return int(device)

    def statistic(name: str) -> Callable[..., int]:
        return lambda device=None: native.memory_stats(number(device))[name]

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        known = native.memory_stats(number(device))
        return known["total"] - known["allocated"], known["total"]

    module = types.ModuleType("torch.npu")
    generators = tuple(native.default_generator(i) for i in range(native.device_count()))
    switches = {"conv": types.SimpleNamespace(allow_hf32=True), "matmul": types.SimpleNamespace(allow_hf32=True)}
    facts = {
        "is_available": lambda: native.device_count() > 0,
        "is_initialized": lambda: True,
        "_initialized": True,  # torch.utils.checkpoint asks it before it keeps the device's random state
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": native.device_count,
        "current_device": native.current_device,
        "set_device": lambda device: native.set_device(number(device)),
        "synchronize": lambda device=None: native.synchronize(number(device)),
        "get_device_name": lambda device=None: CHIP,
        "is_bf16_supported": lambda: os.environ.get("NPUSIM_BF16", "1") == "1",
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16, torch.float32],
        **switches,
        # memory
        "empty_cache": native.empty_cache,
        "memory_allocated": statistic("allocated"),
        "max_memory_allocated": statistic("peak"),
        "memory_reserved": statistic("reserved"),
        "reset_peak_memory_stats": lambda device=None: native.reset_peak(number(device)),
        "mem_get_info": mem_get_info,
        "set_capacity": lambda device, count: native.set_capacity(number(device), count),  # of the simulation only
        # random numbers
        "default_generators": generators,
        "manual_seed": lambda seed: generators[native.current_device()].manual_seed(int(seed)),
        "manual_seed_all": lambda seed: [generator.manual_seed(int(seed)) for generator in generators],
        "get_rng_state": lambda device=None: generators[number(device)].get_state(),
        "set_rng_state": lambda state, device=None: generators[number(device)].set_state(state),
        "utils": types.SimpleNamespace(
            _get_device_index=lambda device, optional=False, allow_cpu=False: number(device)
        ),
    }
    for name, value in facts.items():
        setattr(module, name, value)
    return module
