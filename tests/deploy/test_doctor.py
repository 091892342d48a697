"""`zhiyin doctor` on machines made of files, with programs that answer, fail, crash and hang; and on this one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from zhiyin import cli_doctor
from zhiyin.deploy import doctor_ascend, doctor_child, doctor_probe, doctor_versions
from zhiyin.deploy.doctor import Report, examine

_SPEC = importlib.util.spec_from_file_location("machines", Path(__file__).with_name("machines.py"))
machines = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(machines)

SOURCED = {"ASCEND_HOME_PATH": "", "PATH": os.environ["PATH"]}  # the path is filled in by `look`


@pytest.fixture
def look(tmp_path: Path):
    """Examine a machine of these files, with what its libraries and npu-smi say."""

    def run(files: dict[str, str], says: dict[str, Any], smi: str = "", **environment: str) -> Report:
        root = machines.write(tmp_path / "root", files)
        if "ASCEND_HOME_PATH" in environment:
            environment["ASCEND_HOME_PATH"] = str(root / "usr/local/Ascend/cann")
        command = machines.npu_smi(tmp_path, smi) if smi else str(tmp_path / "no-npu-smi")
        return examine(
            root,
            environment={"PATH": os.environ["PATH"], **environment},
            interpreter=machines.interpreter(tmp_path, says),
            smi=command,
            usable=4,
        )

    return run


def ids(report: Report, level: str = "problem") -> list[str]:
    return [problem.id for problem in report.problems if problem.level == level]


def fix(report: Report, wanted: str) -> str:
    return next(problem.fix for problem in report.problems if problem.id == wanted)


def test_a_plain_machine(look) -> None:
    report = look(machines.cpu(machines.EPYC, cores=4), machines.PLAIN)
    cpu = report.host.cpu
    assert (cpu.model, cpu.arch, cpu.logical, cpu.physical, cpu.usable) == ("AMD EPYC 9654", "x86_64", 4, 2, 4)
    assert cpu.isa == ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16") and cpu.numa_nodes == ()
    assert report.host.memory.total_bytes == 8_000_000 * 1024 and report.host.memory.free_bytes == 6_000_000 * 1024
    assert [device.name for device in report.devices] == ["cpu"] and report.is_fine and not report.problems
    assert [(c.backend, c.device) for c in report.choices] == [("onnx", "cpu"), ("eager", "cpu"), ("om", "")]
    assert report.choices[2].reason == "acl (pyACL of CANN) is not there"


def test_a_server_where_all_is_well(look) -> None:
    healthy = machines.SMI_910B3.replace("Warning", "OK     ").replace("64000/ 65536", "3300 / 65536")
    report = look(machines.server(), machines.npus(), healthy, ASCEND_HOME_PATH="x", OMP_NUM_THREADS="4")
    assert report.is_fine, report.problems
    cpu, ascend = report.host.cpu, report.ascend
    assert cpu.model == "HiSilicon TaiShan-v110 (Kunpeng 920)" and cpu.arch == "aarch64" and cpu.logical == 4
    assert cpu.isa == ("asimd", "asimdhp", "asimddp") and report.host.system == "openEuler 22.03 (LTS-SP4)"
    assert [(node.cpus, node.memory_bytes) for node in cpu.numa_nodes] == [("0-1", 4096000000), ("2-3", 4096000000)]
    assert (ascend.cann_version, ascend.driver_version, ascend.firmware_version) == ("8.5.0", "25.2.0", "7.7.0.6.236")
    assert ascend.cards == 2 and ascend.npu_files == ("davinci0", "davinci1") and ascend.sourced
    assert [(c.backend, c.device) for c in report.choices] == [("onnx", "cpu"), ("eager", "npu:0"), ("om", "npu:0")]
    first = report.devices[0]
    assert (first.name, first.title, first.health, first.numa_node) == ("npu:0", "Ascend910B3", "OK", 1)
    assert first.seen_by == ("npu-smi", "acl", "torch_npu") and first.bfloat16 and first.free_bytes == 60 * 2**30
    assert [match.fits for match in report.matches] == [True, True]
    assert ids(report, "note") == ["numa", "numa"]  # worth knowing, nothing to mend
    assert [note.what.split(";")[0] for note in report.problems] == ["npu:1 on NUMA node 0", "npu:0 on NUMA node 1"]
    assert "--cpunodebind=0 --membind=0" in fix(report, "numa")


WRONG = {  # what is broken on the server -> id of the problem, what its line and its remedy must say
    "not sourced": ({}, {}, {}, "cann-not-sourced", "ASCEND_HOME_PATH is not set", "cann/set_env.sh"),
    "torch_npu cannot load": (
        {},
        {"torch_npu": "ImportError: libhccl.so: cannot open", "autoload": "RuntimeError: Failed to load the backend"},
        {},
        "torch-npu-broken",
        "makes import torch fail: ImportError: libhccl.so",
        "source",
    ),
    "torch_npu is missing": (
        {},
        {"torch_npu": None, "autoload": None},
        {},
        "torch-without-npu",
        "",
        "torch-npu==2.9.0",
    ),
    "torch_npu sees nothing": (
        {},
        {"torch_npu": {"version": "2.9.0", "devices": []}},
        {},
        "torch-npu-blind",
        "has no device",
        "ASCEND_RT_VISIBLE_DEVICES",
    ),
    "plug-in kept out": (
        {},
        {},
        {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        "autoload-off",
        "keeps torch_npu out",
        "unset",
    ),
    "torch broken": ({}, {"torch": "ImportError: libtorch.so"}, {}, "torch-broken", "libtorch.so", "reinstall"),
    "acl broken": ({}, {"acl": "RuntimeError: acl.init gave 500000"}, {}, "acl-broken", "500000", "npu-smi info"),
    "in a container": (
        {"dev/davinci0": None, "dev/davinci1": None, ".dockerenv": ""},
        {},
        {},
        "npu-not-visible",
        "container (docker)",
        "--device /dev/davinci0 --device /dev/davinci_manager",
    ),
    "no driver": (
        {"dev/davinci0": None, "dev/davinci1": None},
        {},
        {},
        "npu-not-visible",
        "2 NPU on the PCI bus",
        "driver",
    ),
    "no manager": ({"dev/devmm_svm": None}, {}, {}, "npu-managers-missing", "/dev/devmm_svm missing", "/dev/devmm_svm"),
    "no CANN": ({"usr/local/Ascend/cann/": None}, {"acl": None}, {}, "cann-missing", "no CANN", "toolkit"),
    "two onnxruntimes": (
        {},
        {"packages": {"python": "3.11", "versions": {"onnxruntime": "1.22.0", "onnxruntime-gpu": "1.22.0"}}},
        {},
        "onnxruntime-twice",
        "onnxruntime and onnxruntime-gpu overwrite",
        "pip install onnxruntime-cann",
    ),
    "provider shut": (
        {},
        {
            "onnxruntime": {
                "providers": ["CANNExecutionProvider", "CPUExecutionProvider"],
                "opens": {"CANNExecutionProvider": "libascendcl.so"},
            }
        },
        {},
        "provider-does-not-open",
        "lists CANNExecutionProvider, but it does not open: libascendcl.so",
        "set_env",
    ),
    "threads": ({}, {}, {"OMP_NUM_THREADS": "64"}, "threads", "64, but 4 cores", "OMP_NUM_THREADS=4"),
    "threads by name": ({}, {}, {"OMP_NUM_THREADS": "all"}, "threads", "OMP_NUM_THREADS=all", ""),
    "visible": ({}, {}, {"ASCEND_RT_VISIBLE_DEVICES": "0,5"}, "visible", "there are 2 NPUs, counted from 0", "=0"),
    "visible word": ({}, {}, {"ASCEND_RT_VISIBLE_DEVICES": "npu0"}, "visible", "no list of numbers", "unset"),
    "memory": ({"proc/meminfo": "MemTotal: 800000 kB\nMemAvailable: 200000 kB\n"}, {}, {}, "memory", "195 MiB", ""),
    "health": ({}, {}, {}, "npu-unhealthy", "npu:1 (910B3, card 1): health Warning", "npu-smi info -t health -i 1"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_is_wrong_and_what_mends_it(look, case: str) -> None:
    files, says, environment, problem, what, how = WRONG[case]
    changed = {name: text for name, text in (machines.server() | files).items() if text is not None}
    removed = [name for name, text in files.items() if text is None and name.endswith("/")]
    changed = {name: text for name, text in changed.items() if not name.startswith(tuple(removed))}
    answers = {name: facts for name, facts in (machines.npus() | says).items() if facts is not None}
    sourced = {} if case in ("not sourced", "no CANN") else {"ASCEND_HOME_PATH": "x"}
    if case == "torch_npu cannot load":
        sourced = {}
    report = look(changed, answers, machines.SMI_910B3, **sourced, **environment)
    found = [(line.what, line.fix) for line in report.problems if line.id == problem and line.level == "problem"]
    assert found, [line.id for line in report.problems]
    assert what in found[0][0] and how in found[0][1] and not report.is_fine
    everything = {"npu-unhealthy", problem} | ({"cann-not-sourced"} if case == "torch_npu cannot load" else set())
    assert set(ids(report)) <= everything | {"torch-npu-blind"}, "one fault, one line"


def test_files_that_may_not_be_opened(look, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "davinci1")
    report = look(machines.server(), machines.npus(), machines.SMI_910B3, ASCEND_HOME_PATH="x")
    assert report.ascend.not_allowed == ("davinci1",)
    assert fix(report, "npu-not-allowed").startswith("sudo usermod -aG HwHiAiUser")


def test_a_gpu_beside_a_cpu_build(look) -> None:
    files = machines.cpu(machines.EPYC, cores=4) | {"proc/driver/nvidia/version": "NVRM version: 550"}
    report = look(files, machines.PLAIN)
    assert ids(report) == ["torch-without-gpu"] and "CPU build" in report.problems[0].what
    memory = {"free_bytes": 2**30, "total_bytes": 80 * 2**30}
    gpu = machines.PLAIN | {
        "torch": {
            "version": "2.9.0+cu128",
            "built_for": "12.8",
            "devices": [{"name": "cuda:0", "title": "NVIDIA H200", "bfloat16": True, **memory}],
        }
    }
    report = look(files, gpu)
    assert report.is_fine and report.choices[1].device == "cuda:0" and report.devices[0].title == "NVIDIA H200"
    assert ids(report, "note") == ["device-busy"] and "1.0 of 80.0 GiB free" in report.problems[0].what


def test_npu_smi_tables(tmp_path: Path) -> None:
    two = doctor_ascend.parse_smi(machines.SMI_910B3, tmp_path)
    assert two.version == "25.2.0" and not two.fault
    assert [(c.index, c.npu, c.name, c.health, c.bus) for c in two.chips] == [
        (0, 0, "910B3", "OK", "0000:C1:00.0"),
        (1, 1, "910B3", "Warning", "0000:01:00.0"),
    ]
    assert [c.used_bytes // 2**20 for c in two.chips] == [3344, 64000]
    duo = doctor_ascend.parse_smi(machines.SMI_310P3, tmp_path)
    assert [(c.index, c.npu, c.name, c.total_bytes) for c in duo.chips] == [
        (0, 6, "310P3", 21525 * 2**20),
        (1, 6, "310P3", 21525 * 2**20),
    ]
    assert doctor_ascend.parse_smi("something else entirely\n", tmp_path).fault == "no chip in its answer"


def test_npu_smi_that_fails_or_hangs(tmp_path: Path) -> None:
    assert doctor_ascend.ask_smi(tmp_path, str(tmp_path / "none")) is None
    failing = machines.program(tmp_path / "failing", "echo 'dcmi module initialize failed. ret is -8005' >&2; exit 1")
    assert doctor_ascend.ask_smi(tmp_path, failing).fault == "dcmi module initialize failed. ret is -8005"
    hanging = machines.program(tmp_path / "hanging", "exec sleep 60")
    assert doctor_ascend.ask_smi(tmp_path, hanging, limit_s=0.2).fault == "no answer in 0.2 s"


def test_where_cann_is_found(tmp_path: Path) -> None:
    """The default folder of 8.5, that of older ones, one's own home, and wherever the environment says."""
    old = machines.write(tmp_path / "old", {"usr/local/Ascend/ascend-toolkit/latest/version.cfg": ""})
    (old / "usr/local/Ascend/ascend-toolkit/set_env.sh").write_text("")
    (old / "usr/local/Ascend/ascend-toolkit/latest/version.cfg").write_text(
        "# version: 1.0\ntoolkit_running_version=[7.6.0.1.220:8.0.RC3]\n"
    )
    found = doctor_ascend.read(old, {}, None)
    assert found.cann_version == "8.0.RC3" and found.set_env.endswith("ascend-toolkit/set_env.sh") and not found.sourced
    info = "x86_64-linux/ascend_toolkit_install.info"
    home = machines.write(tmp_path / "home", {f"people/u/Ascend/cann/{info}": "version=9.0.0\n"})
    assert doctor_ascend.read(home, {"HOME": "/people/u"}, None).cann_version == "9.0.0"
    own = machines.write(tmp_path / "opt", {info: "version=9.1.0\n"})
    assert doctor_ascend.read(old, {"ASCEND_HOME_PATH": str(own)}, None).cann_version == "9.1.0"
    assert doctor_ascend.read(tmp_path / "empty", {}, None) == doctor_ascend.Ascend()


@pytest.mark.parametrize(
    ("versions", "cann", "fits"),
    [
        ({"torch": "2.9.0+cpu", "torch-npu": "2.9.0.post1"}, "", [True]),
        ({"torch": "2.8.0", "torch-npu": "2.9.0"}, "8.5.1", [False, True]),
        ({"torch-npu": "2.8.0"}, "8.3.RC2", [True]),
        ({"torch-npu": "2.9.0.post6"}, "8.5.0", [False]),
        ({"torch-npu": "2.9.0"}, "9.1.0", [None]),  # newer than it was made for: nobody says
        ({"torch-npu": "2.14.0"}, "9.2.0", [None]),
        ({"onnxruntime-cann": "1.24.4", "numpy": "2.4.0"}, "8.5.0", [None, False]),
        ({"onnxruntime-cann": "1.22.1", "numpy": "1.26.4"}, "8.2.RC1", [True, True]),
        ({"torch": "2.13.0"}, "", []),
    ],
)
def test_versions_that_belong_together(versions: dict[str, str], cann: str, fits: list[bool | None]) -> None:
    matches = doctor_versions.compare(versions, cann)
    assert [match.fits for match in matches] == fits and all(match.source and match.wanted for match in matches)


def test_versions_that_do_not_are_a_problem(look) -> None:
    report = look(machines.server("8.1.RC1"), machines.npus(torch="2.8.0"), machines.SMI_310P3, ASCEND_HOME_PATH="x")
    said = [problem.what for problem in report.problems if problem.id == "versions"]
    assert said == [
        "torch 2.8.0 with torch_npu 2.9.0 do not belong together",
        "torch_npu 2.9.0 with CANN 8.1.RC1 do not belong together",
    ]


def modules(folder: Path, **texts: str) -> dict[str, str]:
    """An environment in which these modules come first."""
    for name, text in texts.items():
        machines.write(folder, {f"{name}.py": text})
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_libraries_that_fail_crash_and_hang(tmp_path: Path) -> None:
    environment = modules(
        tmp_path,
        torch="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        torch_npu="raise ImportError('libhccl.so: cannot open shared object file')",
        onnxruntime="raise SystemError('numpy 2')",
        acl="def init():\n    return 100001\n",
    )
    probes = doctor_probe.ask(sys.executable, environment)
    assert probes["torch"].fault == "ended by signal 11 (SIGSEGV)" and probes["torch"].installed
    assert probes["torch_npu"].fault == "ended by signal 11 (SIGSEGV)"  # it imports torch first
    assert probes["onnxruntime"].fault == "SystemError: numpy 2"
    assert probes["acl"].fault == "RuntimeError: acl.init gave 100001"
    assert probes["packages"].works and probes["packages"].facts["versions"]["torch"] == torch.__version__
    hanging = modules(tmp_path, torch="import time; time.sleep(60)", onnxruntime="", acl="")
    slow = doctor_probe.ask(sys.executable, hanging, limit_s=1)["torch"]
    assert slow.installed and slow.fault == "no answer in 1 s"
    gone = doctor_probe.ask(str(tmp_path / "no-python"), {})
    assert all("does not run (no such file" in probe.fault for probe in gone.values())


def test_a_provider_that_is_listed_but_does_not_open(tmp_path: Path) -> None:
    """As onnxruntime-cann without CANN: it lists its provider and goes on with the CPU."""
    text = """
        __version__ = "1.24.4"
        def get_available_providers(): return ["CANNExecutionProvider", "CPUExecutionProvider"]
        class SessionOptions: pass
        class InferenceSession:
            def __init__(self, model, options, providers): assert isinstance(model, bytes)
            def get_providers(self): return ["CPUExecutionProvider"]
    """.replace("\n        ", "\n")
    probe = doctor_probe.ask(sys.executable, modules(tmp_path, onnxruntime=text, torch="x = 1", acl="x = 1"))[
        "onnxruntime"
    ]
    assert probe.works and probe.facts["opens"] == {
        "CANNExecutionProvider": "onnxruntime went on with the CPU by itself"
    }
    graph = onnx.load_from_string(doctor_child.TINY_GRAPH)
    onnx.checker.check_model(graph, full_check=True)
    assert onnxruntime.InferenceSession(doctor_child.TINY_GRAPH).run(None, {"x": [2.5]})[0].tolist() == [2.5]


def test_acl_is_asked_and_left_clean(tmp_path: Path) -> None:
    text = """
        calls = []
        class rt:
            get_device_count = staticmethod(lambda: (2, 0))
            set_device = staticmethod(lambda d: calls.append(("set", d)) or 0)
            reset_device = staticmethod(lambda d: calls.append(("reset", d)) or 0)
            get_mem_info = staticmethod(lambda kind: (5, 9, 0) if kind == 0 else (0, 0, 107000))
        init = lambda: 0
        get_soc_name = lambda: "Ascend310P3"
        def finalize():
            assert calls == [("set", 0), ("reset", 0), ("set", 1), ("reset", 1)], calls
    """.replace("\n        ", "\n")
    probe = doctor_probe.ask(sys.executable, modules(tmp_path, acl=text, torch="x = 1", onnxruntime="x = 1"))["acl"]
    assert probe.works and probe.facts["soc"] == "Ascend310P3"
    assert [(d["name"], d["free_bytes"], d["total_bytes"]) for d in probe.facts["devices"]] == [
        ("npu:0", 5, 9),
        ("npu:1", 5, 9),
    ]


def test_quota_and_container(look) -> None:
    files = machines.cpu(machines.EPYC, cores=4) | {
        "sys/fs/cgroup/cpu.max": "250000 100000\n",
        "sys/fs/cgroup/memory.max": "2000000000\n",
        "sys/fs/cgroup/memory.current": "500000000\n",
        "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
        "proc/1/cgroup": "0::/kubepods/besteffort/pod1\n",
    }
    report = look(files, machines.PLAIN)
    assert report.host.cpu.usable == 2 and report.host.container == "kubepods"
    assert report.host.memory.total_bytes == 2_000_000_000 and report.host.memory.free_bytes == 1_500_000_000


def test_this_machine_as_json_and_as_text(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zhiyin", "doctor", "--json"], cwd=repository, capture_output=True, text=True
    )
    record = json.loads(done.stdout)
    assert done.returncode == (0 if record["fine"] else 1), done.stderr
    assert record["format"] == 1 and record["versions"]["torch"] == torch.__version__
    assert record["libraries"]["onnxruntime"]["facts"]["version"] == onnxruntime.__version__
    assert 0 < record["host"]["cpu"]["usable"] <= record["host"]["cpu"]["logical"] == os.cpu_count()
    assert record["devices"][-1]["name"] == "cpu" and record["devices"][-1]["free_bytes"] > 2**20
    assert {choice["backend"] for choice in record["choices"]} == {"onnx", "eager", "om"}


def test_the_report_for_people(look) -> None:
    report = look(machines.server("8.1.RC1"), machines.npus(), machines.SMI_910B3, OMP_NUM_THREADS="64")
    plain, coloured = cli_doctor.plain(report), cli_doctor.tables(report, 100)
    for word in (
        "openEuler",
        "TaiShan-v110",
        "910B3",
        "8.1.RC1",
        "npu:1",
        "OMP_NUM_THREADS",
        "set_env.sh",
        "does not fit",
    ):
        assert word in plain and word in coloured
    assert "\x1b[" in coloured and "\x1b[" not in plain
    assert "problem  CANN 8.1.RC1 in " in plain and "\n    mend: source " in plain


def test_the_base_install_is_enough(repository: Path) -> None:
    code = (
        "import sys\n"
        "for extra in ('torch', 'transformers', 'onnx', 'safetensors', 'onnxruntime'): sys.modules[extra] = None\n"
        "from zhiyin import cli_doctor\n"
        "from zhiyin.deploy.doctor import examine\n"
        "print(cli_doctor.plain(examine(interpreter='no-python')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0 and "no-python does not run" in done.stdout, done.stderr
