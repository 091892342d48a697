"""Machines made of files, for the tests of `zhiyin doctor`: paths below a root, programs that answer for real ones."""

import json
import textwrap
from pathlib import Path
from typing import Any

from zhiyin.deploy.doctor_child import MARK

KUNPENG = (
    "\n\n".join(
        f"processor\t: {i}\nBogoMIPS\t: 200.00\n"
        "Features\t: fp asimd evtstrm aes pmull sha2 crc32 atomics fphp asimdhp cpuid jscvt fcma dcpop asimddp\n"
        "CPU implementer\t: 0x48\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd01\nCPU revision\t: 0"
        for i in range(4)
    )
    + "\n"
)
EPYC = "".join(
    f"processor\t: {i}\nmodel name\t: AMD EPYC 9654\nphysical id\t: 0\ncore id\t\t: {i // 2}\n"
    "flags\t\t: fpu sse2 ssse3 fma avx avx2 bmi2 avx512f avx512bw avx512_bf16 avx512_vnni\npower management:\n\n"
    for i in range(4)
)
SMI_910B3 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.2.0                   Version: 25.2.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 93.5        47                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3344 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | Warning       | 91.0        46                0    / 0             |
| 0                         | 0000:01:00.0  | 97          0    / 0          64000/ 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 1       0                 | 4711          | python                   | 60000                   |
+===========================+===============+====================================================+
"""
SMI_310P3 = """\
+--------------------------------------------------------------------------------------------------------+
| npu-smi 24.1.0                                   Version: 24.1.0                                       |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 6       310P3                 | OK              | NA           50                0     / 0             |
| 0       0                     | 0000:84:00.0    | 0            1839 / 21525                            |
+-------------------------------+-----------------+------------------------------------------------------+
| 6       310P3                 | OK              | NA           48                0     / 0             |
| 1       1                     | 0000:84:00.0    | 0            1403 / 21525                            |
+===============================+=================+======================================================+
| No running processes found in NPU 6                                                                    |
+===============================+=================+======================================================+
"""
PLAIN: dict[str, Any] = {  # what the probes of a machine with torch and onnxruntime for the CPU say
    "packages": {"python": "3.11.7", "versions": {"torch": "2.9.0+cpu", "onnxruntime": "1.22.0", "numpy": "2.2.0"}},
    "onnxruntime": {"version": "1.22.0", "providers": ["CPUExecutionProvider"], "opens": {}},
    "torch": {"version": "2.9.0+cpu", "built_for": "", "threads": 4, "devices": []},
}


def write(root: Path, files: dict[str, str]) -> Path:
    """Files below a root; a name that ends in / is a folder."""
    for name, text in files.items():
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(text, encoding="utf-8")
    return root


def cpu(text: str, *, cores: int) -> dict[str, str]:
    """The files of a processor with two threads a core."""
    siblings = {
        f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i // 2 * 2}-{i // 2 * 2 + 1}\n"
        for i in range(cores)
    }
    return {"proc/cpuinfo": text, "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n", **siblings}


def server(cann: str = "8.5.0") -> dict[str, str]:
    """A Kunpeng server with two Ascend 910B3, driver and CANN installed."""
    ascend = "usr/local/Ascend"
    buses = {"0000:c1:00.0": 1, "0000:01:00.0": 0}
    cards = {
        f"sys/bus/pci/devices/{bus}/{name}": f"{text}\n"
        for bus, node in buses.items()
        for name, text in (("vendor", "0x19e5"), ("class", "0x120000"), ("numa_node", str(node)))
    }
    nodes = {
        f"sys/devices/system/node/node{i}/{name}": text
        for i in range(2)
        for name, text in (("cpulist", f"{2 * i}-{2 * i + 1}\n"), ("meminfo", f"Node {i} MemTotal: 4000000 kB\n"))
    }
    files = {
        **cpu(KUNPENG, cores=4),
        **cards,
        **nodes,
        "etc/os-release": 'NAME="openEuler"\nPRETTY_NAME="openEuler 22.03 (LTS-SP4)"\n',
        "etc/ascend_install.info": "UserName=HwHiAiUser\nDriver_Install_Path_Param=/usr/local/Ascend\n",
        f"{ascend}/driver/version.info": "Version=25.2.0\nascendhal_version=7.35.23\n",
        f"{ascend}/firmware/version.info": "Version=7.7.0.6.236\n",
        f"{ascend}/cann/aarch64-linux/ascend_toolkit_install.info": f"package_name=toolkit\nversion={cann}\n",
        f"{ascend}/cann/set_env.sh": "",
    }
    return files | {f"dev/{name}": "" for name in ("davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc")}


def npus(plug_in: str = "2.9.0", torch: str = "2.9.0+cpu") -> dict[str, Any]:
    """What the probes say there when all is well."""
    memory = {"free_bytes": 60 * 2**30, "total_bytes": 64 * 2**30}
    seen = [{"name": f"npu:{i}", "title": "Ascend910B3", "bfloat16": True, **memory} for i in range(2)]
    versions = {"torch": torch, "torch-npu": plug_in, "onnxruntime": "1.22.0", "numpy": "1.26.4"}
    return PLAIN | {
        "packages": {"python": "3.11.7", "versions": versions},
        "torch": PLAIN["torch"] | {"version": torch},
        "torch_npu": {"version": plug_in, "devices": seen},
        "autoload": {"version": torch},
        "acl": {"soc": "Ascend910B3", "count": 2, "devices": [{"name": f"npu:{i}", **memory} for i in range(2)]},
    }


def interpreter(folder: Path, says: dict[str, Any]) -> str:
    """A Python that answers probes: facts, a text that is an error on the way, or nothing for what is not installed."""
    cases = []
    for name, facts in says.items():
        if isinstance(facts, str):
            cases.append(f'{name}) echo \'{MARK}{{"installed": true}}\'; echo "{facts}" >&2; exit 1;;')
        else:
            lines = [{"installed": True}, facts, {"done": True}]
            cases.append(f"{name}) cat <<'END'\n" + "\n".join(MARK + json.dumps(line) for line in lines) + "\nEND\n;;")
    cases.append(f"*) echo '{MARK}{{\"installed\": false}}';;")
    return program(folder / "python", 'case "$2" in\n' + "\n".join(cases) + "\nesac")


def npu_smi(folder: Path, text: str) -> str:
    """An npu-smi that prints a text."""
    return program(folder / "npu-smi", f"cat <<'END'\n{text}END")


def program(path: Path, script: str) -> str:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + textwrap.dedent(script) + "\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)
