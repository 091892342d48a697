"""What a device is told beside the model: seeds, exact arithmetic, waiting; and what it says of its memory.

The names of devices stay in `runtime.device`; torch is imported when a function needs it.
"""

import contextlib
import gc
import importlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.runtime.device import free_bytes, host_bytes, torch_module

_STATUS = Path("/proc/self/status")
# cuBLAS gives the same sums each time only with a workspace of fixed size; it is read when cuBLAS starts
# (torch.use_deterministic_algorithms, notes).
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@dataclass(frozen=True)
class Memory:
    """Bytes of a device; nothing where it does not say.

    Attributes:
        free_bytes: what can still be had.
        total_bytes: all of it; on the CPU no more than a container may use.
        used_bytes: by this process.
        peak_bytes: most that this process used, since it began or since `reset`.
    """

    free_bytes: int | None
    total_bytes: int | None
    used_bytes: int | None
    peak_bytes: int | None


def memory(device: str) -> Memory:
    """Memory figures of a device, by its name; those of the CPU count the whole process, not tensors alone."""
    module = torch_module(device)
    if module is None:
        own = _own_bytes()
        return Memory(free_bytes(device), host_bytes(), own.get("VmRSS:"), own.get("VmHWM:"))
    total = int(module.mem_get_info(device)[1]) if hasattr(module, "mem_get_info") else None
    if not hasattr(module, "max_memory_allocated"):
        return Memory(free_bytes(device), total, int(module.current_allocated_memory()), None)
    used, peak = int(module.memory_allocated(device)), int(module.max_memory_allocated(device))
    return Memory(free_bytes(device), total, used, peak)


def release(device: str) -> None:
    """Give back what is cached; tensors that are held stay."""
    gc.collect()
    module = torch_module(device)
    if module is not None:
        synchronize(device)
        module.empty_cache()


def reset(device: str) -> None:
    """`release`, and begin counting the peak anew."""
    release(device)
    module = torch_module(device)
    if hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats(device)


def synchronize(device: str) -> None:
    """Wait until everything asked of a device is done; timings without it measure the asking."""
    module = torch_module(device)
    if module is not None:
        importlib.import_module("torch").accelerator.synchronize(device)


def seed(number: int) -> None:
    """Seed Python's generator, torch's and those of all its devices."""
    random.seed(number)
    importlib.import_module("torch").manual_seed(number)


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[tuple[str, ...]]:
    """Equal sums each time and float32 that is float32, for proofs; afterwards all is as before.

    Units for matrices round float32 to fewer bits (HF32 on Ascend, TF32 on CUDA) unless they are told not to.

    Yields:
        What was set, for reports.

    Raises:
        RuntimeError: inside, from torch: an operator has no deterministic form on the device.
    """
    torch = importlib.import_module("torch")
    module = torch_module(device)
    os.environ.setdefault(*_WORKSPACE)
    was, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    switches: list[tuple[Any, str, str]] = [(cudnn, "allow_tf32", "cudnn.allow_tf32"), (cudnn, "benchmark", "")]
    for part in ("conv", "matmul"):
        owner = getattr(module, part, None)
        if hasattr(owner, "allow_hf32"):
            switches.append((owner, "allow_hf32", f"{part}.allow_hf32"))
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("highest")
        for owner, name, _ in switches:
            setattr(owner, name, False)
        said = [f"{title} off" for _, _, title in switches if title]
        yield ("deterministic algorithms", "float32 matmul highest", *said)
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
        torch.set_float32_matmul_precision(precision)
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _own_bytes() -> dict[str, int]:
    if not _STATUS.is_file():
        return {}
    rows = (line.split() for line in _STATUS.read_text().splitlines())
    return {row[0]: int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}
