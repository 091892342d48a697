"""What is there of Ascend: CANN, driver and firmware, device files, and what npu-smi says.

Where things lie: CANN documentation, "File Paths" (instg_0044 of 8.0.0 and 8.5.0); which files a container needs:
vllm-ascend, installation. `root` stands before every path.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MANAGERS = ("davinci_manager", "devmm_svm", "hisi_hdc")  # device files that every process needs beside its NPU's
GROUP = "HwHiAiUser"
HOME_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
_CANN = ("cann", "ascend-toolkit/latest", "nnrt/latest", "nnae/latest")  # below /usr/local/Ascend or ~/Ascend
_VENDOR, _CLASS = "0x19e5", "0x1200"  # Huawei; processing accelerators (pci.ids)
_MIB = 2**20


@dataclass(frozen=True)
class Chip:
    """One NPU as npu-smi shows it.

    Attributes:
        index: its number for programs, counted from 0.
        npu: number of its card.
        name: e.g. ``910B3``, ``310P3``.
        health: ``OK`` or what is wrong.
        bus: PCI address.
        numa_node: the node it hangs on; nothing where the machine does not say.
        used_bytes: memory in use.
        total_bytes: memory.
    """

    index: int
    npu: int
    name: str
    health: str
    bus: str
    numa_node: int | None
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Smi:
    """The answer of `npu-smi info`."""

    version: str = ""
    chips: tuple[Chip, ...] = ()
    fault: str = ""  # why there is no answer


@dataclass(frozen=True)
class Ascend:
    """What is installed, whether it works or not.

    Attributes:
        cann_folder: of the toolkit or runtime, empty if there is none.
        cann_version: e.g. ``8.5.0``.
        set_env: the script that makes it usable.
        sourced: whether that script was run for this process.
        driver_version: of the kernel driver.
        firmware_version: of the cards.
        cards: NPUs on the PCI bus, driver or not.
        device_files: names below ``/dev``.
        not_allowed: those that this process may not open.
        smi: npu-smi's answer; nothing where the command is missing.
    """

    cann_folder: str = ""
    cann_version: str = ""
    set_env: str = ""
    sourced: bool = False
    driver_version: str = ""
    firmware_version: str = ""
    cards: int = 0
    device_files: tuple[str, ...] = ()
    not_allowed: tuple[str, ...] = ()
    smi: Smi | None = None

    @property
    def npu_files(self) -> tuple[str, ...]:
        """Device files of NPUs, without the managers."""
        return tuple(name for name in self.device_files if name not in MANAGERS)


def read(root: Path, environment: Mapping[str, str], smi: Smi | None) -> Ascend:
    """Look for everything that belongs to Ascend."""
    folder = next((path for path in _folders(root, environment) if path.is_dir()), None)
    scripts = (folder / "set_env.sh", folder.parent / "set_env.sh") if folder else ()
    set_env = next((path for path in scripts if path.is_file()), None)
    base = _base(root)
    files = [path for path in sorted((root / "dev").glob("davinci[0-9]*"), key=_number)]
    files += [path for name in MANAGERS if (path := root / "dev" / name).exists()]
    return Ascend(
        cann_folder=str(folder or ""),
        cann_version=_cann_version(folder) if folder else "",
        set_env=str(set_env or ""),
        sourced=any(environment.get(name) for name in HOME_VARIABLES),
        driver_version=_version(base / "driver/version.info"),
        firmware_version=_version(base / "firmware/version.info"),
        cards=sum(_is_card(path) for path in root.glob("sys/bus/pci/devices/*")),
        device_files=tuple(path.name for path in files),
        not_allowed=tuple(path.name for path in files if not os.access(path, os.R_OK | os.W_OK)),
        smi=smi,
    )


def ask_smi(root: Path, command: str = "npu-smi", limit_s: float = 20.0) -> Smi | None:
    """Run `npu-smi info`; nothing where there is no such command. A broken driver lets it hang."""
    try:
        done = subprocess.run([command, "info"], capture_output=True, text=True, timeout=limit_s, errors="replace")
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return Smi(fault=f"no answer in {limit_s:g} s")
    except OSError as error:
        return Smi(fault=(error.strerror or str(error)).lower())
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode:
        return Smi(fault=lines[-1].strip() if lines else f"exit code {done.returncode}")
    return parse_smi(done.stdout, root)


def parse_smi(text: str, root: Path) -> Smi:
    """Read the table of `npu-smi info`: two lines a chip, then a table of processes.

    The first line holds card, name and health; the second chip, address and memory, once (``MiB used / all``) or twice,
    where the larger one is that of the chip (HBM) and the other that of its control processor.
    """
    version = re.search(r"npu-smi\s+(\S+)", text)
    chips: list[Chip] = []
    rows = [[cell.strip() for cell in line.strip("| \t").split("|")] for line in text.splitlines() if "|" in line]
    previous: list[str] = []
    for row in rows:
        if "Process id" in " ".join(row):
            break
        is_second = len(row) == 3 and re.fullmatch(r"[0-9A-Fa-f]{4,}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d", row[1])
        if is_second and len(previous) == 3:
            npu, name = previous[0].split(maxsplit=1)
            memory = [(int(used), int(all_)) for used, all_ in re.findall(r"(\d+)\s*/\s*(\d+)", row[2])]
            used, total = max(memory, key=lambda pair: pair[1], default=(0, 0))
            place = (len(chips), int(npu), name, previous[1], row[1], _numa_node(root, row[1]))
            chips.append(Chip(*place, used * _MIB, total * _MIB))
        previous = row
    return Smi(version[1] if version else "", tuple(chips), "" if chips else "no chip in its answer")


def _folders(root: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    for name in HOME_VARIABLES:
        if environment.get(name):
            yield Path(environment[name])
    for base in (_base(root), root / environment.get("HOME", "/").lstrip("/") / "Ascend"):
        yield from (base / name for name in _CANN)


def _base(root: Path) -> Path:
    record = root / "etc/ascend_install.info"
    text = record.read_text() if record.is_file() else ""
    found = re.search(r"^Driver_Install_Path_Param=(\S+)", text, re.MULTILINE)
    return root / (found[1] if found else "/usr/local/Ascend").lstrip("/")


def _cann_version(folder: Path) -> str:
    for path in (*sorted(folder.glob("*-linux/ascend_*_install.info")), *sorted(folder.glob("ascend_*_install.info"))):
        if version := _version(path):
            return version
    record = folder / "version.cfg"  # a line is name=[build number:version]
    found = re.search(r"=\[[^:\]]*:([^\]]+)\]", record.read_text()) if record.is_file() else None
    return found[1] if found else ""


def _version(path: Path) -> str:
    found = re.search(r"^version=(\S+)", path.read_text(), re.MULTILINE | re.IGNORECASE) if path.is_file() else None
    return found[1] if found else ""


def _is_card(device: Path) -> bool:
    facts = [device / name for name in ("vendor", "class")]
    if not all(path.is_file() for path in facts):
        return False
    vendor, kind = (path.read_text().strip() for path in facts)
    return vendor == _VENDOR and kind.startswith(_CLASS)


def _numa_node(root: Path, bus: str) -> int | None:
    path = root / "sys/bus/pci/devices" / bus.lower() / "numa_node"
    node = int(path.read_text()) if path.is_file() else -1
    return node if node >= 0 else None


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.name))
