"""`zhiyin doctor`: everything about this machine's devices in one look, what is wrong, and what mends it.

Needs the base install only; libraries that may be missing or broken are asked in processes of their own.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.deploy import doctor_ascend, doctor_host, doctor_probe, doctor_versions
from zhiyin.deploy.doctor_ascend import Ascend
from zhiyin.deploy.doctor_host import Host
from zhiyin.deploy.doctor_probe import Probe
from zhiyin.deploy.doctor_rules import Facts, Problem, find
from zhiyin.deploy.doctor_versions import Match
from zhiyin.runtime.device import choose, of_providers

FORMAT = 1  # of the JSON; new fields may come without a new number, none change or go
_PROVIDERS = {"npu": "CANNExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Found:
    """A device, whoever sees it.

    Attributes:
        name: ``cpu``, ``npu:0``, ``cuda:1``.
        title: what it calls itself.
        seen_by: ``npu-smi``, ``torch``, ``torch_npu``, ``acl``; the CPU is seen by ``zhiyin``.
        free_bytes: memory; nothing where it is not said.
        total_bytes: likewise.
        bfloat16: whether it computes that; nothing where it is not said.
        numa_node: where its bus hangs.
        health: as npu-smi says.
    """

    name: str
    title: str
    seen_by: tuple[str, ...]
    free_bytes: int | None = None
    total_bytes: int | None = None
    bfloat16: bool | None = None
    numa_node: int | None = None
    health: str = ""


@dataclass(frozen=True)
class Choice:
    """Where a backend would run with `--device auto`; without a device it cannot run, and the reason says why."""

    backend: str
    device: str
    reason: str


@dataclass(frozen=True)
class Report:
    """All that was found."""

    host: Host
    ascend: Ascend
    probes: dict[str, Probe]
    versions: dict[str, str]
    matches: tuple[Match, ...]
    devices: tuple[Found, ...]
    choices: tuple[Choice, ...]
    problems: tuple[Problem, ...]

    @property
    def is_fine(self) -> bool:
        """Whether nothing has to be mended; notes do not count."""
        return not any(problem.level == "problem" for problem in self.problems)

    def to_record(self) -> dict[str, Any]:
        """The JSON of `zhiyin doctor --json`, without our version; docs/devices.md says what is in it."""
        return {
            "format": FORMAT,
            "fine": self.is_fine,
            **{name: value for name, value in dataclasses.asdict(self).items() if name != "probes"},
            "libraries": {name: dataclasses.asdict(probe) for name, probe in self.probes.items()},
        }


def examine(
    root: Path = Path("/"),
    *,
    environment: Mapping[str, str] | None = None,
    interpreter: str = sys.executable,
    smi: str = "npu-smi",
    usable: int | None = None,
    limit_s: float = doctor_probe.LIMIT_S,
) -> Report:
    """Look at everything.

    Args:
        root: before every path that is read; ``/`` outside tests.
        environment: of the programs that would run; by default this process's.
        interpreter: the Python whose libraries are asked.
        smi: the command that lists NPUs.
        usable: cores, if the process is not to be asked.
        limit_s: time for each library.
    """
    environment = os.environ if environment is None else environment
    host = doctor_host.read(root, environment, usable=usable)
    probes = doctor_probe.ask(interpreter, environment, limit_s=limit_s)
    ascend = doctor_ascend.read(root, environment, doctor_ascend.ask_smi(root, smi))
    facts: dict[str, Any] = probes["packages"].facts
    versions = {"python": facts.get("python", ""), **facts.get("versions", {})}
    matches = doctor_versions.compare(versions, ascend.cann_version)
    has_gpu = (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidiactl").exists()
    devices = _devices(host, ascend, probes)
    known = Facts(host, ascend, probes, versions, matches, has_gpu, _memory(devices))
    return Report(host, ascend, probes, versions, matches, devices, _choices(probes), find(known))


def _devices(host: Host, ascend: Ascend, probes: Mapping[str, Probe]) -> tuple[Found, ...]:
    """One row per device, however many see it; what a library says of it goes before what npu-smi says."""
    found: dict[str, Found] = {}
    for chip in ascend.smi.chips if ascend.smi else ():
        name, free = f"npu:{chip.index}", chip.total_bytes - chip.used_bytes
        memory = (free, chip.total_bytes, None, chip.numa_node, chip.health)
        found[name] = Found(name, chip.name, ("npu-smi",), *memory)
    for library in ("acl", "torch_npu", "torch"):
        for said in probes[library].facts.get("devices", ()):
            old = found.get(said["name"], Found(said["name"], "", ()))
            new = {key: value for key, value in said.items() if value not in (None, "")}
            found[old.name] = dataclasses.replace(old, **new, seen_by=(*old.seen_by, library))
    cpu = host.memory
    found["cpu"] = Found("cpu", host.cpu.model, ("zhiyin",), cpu.free_bytes, cpu.total_bytes)
    return tuple(found.values())


def _memory(devices: tuple[Found, ...]) -> dict[str, tuple[int, int]]:
    return {d.name: (d.free_bytes, d.total_bytes) for d in devices if d.free_bytes is not None and d.total_bytes}


def _choices(probes: Mapping[str, Probe]) -> tuple[Choice, ...]:
    """What `--device auto` would come to, by the same rule that the backends use."""
    return (_onnx(probes["onnxruntime"]), _eager(probes), _om(probes["acl"]))


def _onnx(probe: Probe) -> Choice:
    if not probe.facts.get("providers"):
        return Choice("onnx", "", probe.fault or "onnxruntime is not installed")
    opens = probe.facts.get("opens", {})
    here = [name for name in probe.facts["providers"] if name not in _PROVIDERS.values() or opens.get(name) == ""]
    chosen = choose("auto", of_providers(here), engine="onnxruntime")
    shut = "; ".join(f"{name} does not open: {why}" for name, why in opens.items() if why)
    return Choice("onnx", chosen.name, chosen.reason + (f"; {shut}" if shut else ""))


def _eager(probes: Mapping[str, Probe]) -> Choice:
    torch, plug_in = probes["torch"], probes["torch_npu"]
    if not torch.works:
        return Choice("eager", "", torch.fault or "torch is not installed: pip install 'zhiyin[train]'")
    there = [device["name"] for probe in (plug_in, torch) for device in probe.facts.get("devices", ())]
    chosen = choose("auto", [*there, "cpu"], engine="torch")
    broken = f"; torch_npu is installed but does not load ({plug_in.fault})" if plug_in.fault else ""
    return Choice("eager", chosen.name, chosen.reason + broken)


def _om(probe: Probe) -> Choice:
    if not probe.works:
        missing = f"acl does not work ({probe.fault})" if probe.fault else "acl (pyACL of CANN) is not there"
        return Choice("om", "", missing)
    names = [device["name"] for device in probe.facts.get("devices", ())]
    if not names:
        return Choice("om", "", "acl counts no NPU")
    chosen = choose("auto", names, engine="acl")
    return Choice("om", chosen.name, chosen.reason)
