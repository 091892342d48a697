"""What the machine is, read from its files: processor, memory, container, environment.

`root` stands before every path, so that tests can bring machines of their own.
"""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zhiyin.runtime.device import free_host_bytes, host_bytes

# Instruction sets that decide which kernels PyTorch and onnxruntime take, as /proc/cpuinfo names them.
_ISA = {
    "x86": ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    "arm": ("asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm"),
}
# Arm processors say numbers for a name (util-linux, sys-utils/lscpu-arm.c).
_ARM = {
    ("0x48", "0xd01"): "HiSilicon TaiShan-v110 (Kunpeng 920)",
    ("0x48", "0xd02"): "HiSilicon TaiShan-v120",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd49"): "Arm Neoverse-N2",
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
}
_VARIABLES = (
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "TASK_QUEUE_ENABLE",
    "CPU_AFFINITY_CONF",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "PYTORCH_NPU_ALLOC_CONF",
    "HCCL_CONNECT_TIMEOUT",
    "CUDA_VISIBLE_DEVICES",
)


@dataclass(frozen=True)
class NumaNode:
    """Cores that share a memory controller."""

    node: int
    cpus: str
    memory_bytes: int


@dataclass(frozen=True)
class Cpu:
    """The processor.

    Attributes:
        model: its name.
        arch: ``x86_64`` or ``aarch64``.
        logical: hardware threads of the machine.
        physical: cores of the machine; nothing where it does not say.
        usable: threads that this process may keep busy: its affinity, and the quota of its container.
        isa: instruction sets that matter here.
        numa_nodes: with more than one, memory of another node is slower.
    """

    model: str
    arch: str
    logical: int
    physical: int | None
    usable: int
    isa: tuple[str, ...]
    numa_nodes: tuple[NumaNode, ...]


@dataclass(frozen=True)
class Memory:
    """Of the machine, or of its container where that is less."""

    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Host:
    """Everything outside of Python."""

    system: str
    container: str
    cpu: Cpu
    memory: Memory
    environment: dict[str, str]


def read(root: Path, environment: Mapping[str, str], *, usable: int | None = None) -> Host:
    """Look at the machine.

    Args:
        root: before every path; ``/`` outside tests.
        environment: of the process.
        usable: cores of this process's affinity, if it is not to be asked.
    """
    known = {name: value for name, value in sorted(environment.items()) if _matters(name)}
    memory = Memory(host_bytes(root), free_host_bytes(root))
    return Host(_system(root), _container(root), _cpu(root, usable or _affinity()), memory, known)


def _matters(name: str) -> bool:
    return name in _VARIABLES or name.startswith("ASCEND_")


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _system(root: Path) -> str:
    release = root / "etc/os-release"
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', release.read_text(), re.MULTILINE) if release.is_file() else None
    return found[1] if found else platform.system()


def _container(root: Path) -> str:
    """Which kind of container this is, or nothing."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = root / "proc/1/cgroup"
    found = re.search(r"docker|kubepods|containerd|lxc", groups.read_text()) if groups.is_file() else None
    return found[0] if found else ""


def _cpu(root: Path, affinity: int) -> Cpu:
    path = root / "proc/cpuinfo"
    text = path.read_text() if path.is_file() else ""
    facts = dict(re.findall(r"^([\w ]+?)\s*:[ \t]*(.*)$", text, re.MULTILINE))
    is_arm = "CPU implementer" in facts
    words = facts.get("Features" if is_arm else "flags", "").split()
    numbers = (facts.get("CPU implementer", ""), facts.get("CPU part", ""))
    unnamed = f"Arm, implementer {numbers[0]}, part {numbers[1]}" if is_arm else platform.processor() or "not said"
    return Cpu(
        model=facts.get("model name") or _ARM.get(numbers, unnamed),
        arch="aarch64" if is_arm else "x86_64" if "flags" in facts else platform.machine(),
        logical=len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or os.cpu_count() or 1,
        physical=_physical(root),
        usable=min(affinity, _quota(root) or affinity),
        isa=tuple(name for name in _ISA["arm" if is_arm else "x86"] if name in words),
        numa_nodes=_numa(root),
    )


def _physical(root: Path) -> int | None:
    """Cores: hardware threads that name the same siblings are one."""
    lists = root.glob("sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
    return len({path.read_text().strip() for path in lists}) or None


def _quota(root: Path) -> int | None:
    """Whole cores that the container's share of time amounts to (cgroup v2, v1), at least one."""
    group = root / "sys/fs/cgroup"
    if (group / "cpu.max").is_file():
        share, period = (group / "cpu.max").read_text().split()
    elif (group / "cpu/cpu.cfs_quota_us").is_file():
        share, period = ((group / f"cpu/cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    else:
        return None
    return max(1, int(share) // int(period)) if share.isdigit() else None


def _numa(root: Path) -> tuple[NumaNode, ...]:
    nodes = []
    for folder in root.glob("sys/devices/system/node/node[0-9]*"):
        found = re.search(r"MemTotal:\s*(\d+) kB", (folder / "meminfo").read_text())
        cpus = (folder / "cpulist").read_text().strip()
        nodes.append(NumaNode(int(folder.name.removeprefix("node")), cpus, int(found[1]) * 1024 if found else 0))
    return tuple(sorted(nodes, key=lambda node: node.node))
