"""deploy/start.sh on machines made of files: reports of the real `examine`, and a zhiyin and a numactl that only write
down how they were called."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from zhiyin.cli import app
from zhiyin.deploy.doctor import examine

_SPEC = importlib.util.spec_from_file_location("machines", Path(__file__).with_name("machines.py"))
machines = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(machines)

ZHIYIN = """
    if [ "$1" = doctor ]; then
        [ -z "$ASCEND_HOME_PATH" ] && name=unsourced || name=sourced
        echo "doctor" >> "$STATE/calls"
        cat "$STATE/$name.json"; exit "$(cat "$STATE/doctor-code")"
    fi
    echo "zhiyin $*; OMP=$OMP_NUM_THREADS; home=$ASCEND_HOME_PATH"; exit "${ZHIYIN_EXIT:-0}"
"""
# Refuses what a file says it may not do; else runs the command, as numactl does.
NUMACTL = """
    while read -r word; do
        case "$*" in *"$word"*) echo "set_mempolicy: Operation not permitted" >&2; exit 1;; esac
    done < "$STATE/forbidden"
    while [ "${1#--}" != "$1" ]; do echo "numactl $1" >> "$STATE/bound"; shift; done
    exec "$@"
"""


class Machine:
    """A folder of files and programs; `start` runs start.sh on it."""

    def __init__(self, folder: Path, script: Path):
        self.folder, self.script, self.root, self.bin = folder, script, folder / "root", folder / "bin"
        self.root.mkdir()
        machines.program(self.bin / "zhiyin", ZHIYIN)
        self.write("doctor-code", "0")
        self.write("forbidden", "")
        for name in ("bash", "env", "cat", "true", "dirname", "readlink", "sh"):
            found = next(Path(place) / name for place in ("/usr/bin", "/bin") if (Path(place) / name).exists())
            (self.bin / name).symlink_to(found)
        (self.bin / "python3").symlink_to(sys.executable)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def examine(self, files: dict[str, str], says: dict[str, Any], smi: str = "", *, usable: int = 4) -> None:
        """What `zhiyin doctor --json` says of these files, without and with CANN's variables."""
        root = machines.write(self.root, files)
        home = {"ASCEND_HOME_PATH": str(root / "usr/local/Ascend/cann")}
        command = machines.npu_smi(self.folder / "smi", smi) if smi else str(self.folder / "no-npu-smi")
        for name, environment, answers in (("unsourced", {}, without_acl(says)), ("sourced", home, says)):
            python = machines.interpreter(self.folder / name, answers)
            own = {"PATH": os.environ["PATH"], **environment}
            report = examine(root, environment=own, interpreter=python, smi=command, usable=usable)
            self.write(f"{name}.json", json.dumps(report.to_record()))

    def numactl(self, forbidden: str = "") -> None:
        machines.program(self.bin / "numactl", NUMACTL)
        self.write("forbidden", f"{forbidden}\n" if forbidden else "")

    def start(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": str(self.bin), "STATE": str(self.folder), "ZHIYIN_ROOT": str(self.root), **environment}
        return subprocess.run([str(self.script), *words], capture_output=True, text=True, env=own)

    def calls(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


def without_acl(says: dict[str, Any]) -> dict[str, Any]:
    """Where set_env.sh was not sourced, neither acl nor torch_npu is found or loads."""
    broken = {"torch_npu": "ImportError: libhccl.so: cannot open", "autoload": "RuntimeError: Failed to load"}
    kept = {name: facts for name, facts in says.items() if name != "acl"}
    return kept | {name: error for name, error in broken.items() if name in says}


@pytest.fixture
def machine(tmp_path: Path, repository: Path) -> Machine:
    return Machine(tmp_path, repository / "deploy" / "start.sh")


@pytest.fixture
def server(machine: Machine) -> Machine:
    """Two NPUs: npu:0 on node 1 (cores 2-3), npu:1 on node 0 (cores 0-1); CANN is there, its script not sourced."""
    home = machine.root / "usr/local/Ascend/cann"
    script = f'echo noise; [ "$NOT_SET" ]; false; export ASCEND_HOME_PATH={home}\n'  # breaks under `set -eu`
    machine.examine(
        {**machines.server(), "usr/local/Ascend/cann/set_env.sh": script}, machines.npus(), machines.SMI_910B3
    )
    return machine


@pytest.fixture
def plain(machine: Machine) -> Machine:
    """Four cores and nothing else."""
    machine.examine(machines.cpu(machines.EPYC, cores=4), machines.PLAIN)
    return machine


def test_a_server_with_npus(server: Machine) -> None:
    server.numactl()
    done = server.start("understand", "a b.wav", "--format", "json")
    home = server.root / "usr/local/Ascend/cann"
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"zhiyin understand a b.wav --format json --device npu:0; OMP=2; home={home}\n"
    assert server.calls("calls") == ["doctor", "doctor"]  # again after sourcing
    assert server.calls("bound")[-2:] == ["numactl --cpunodebind=1", "numactl --membind=1"]
    said = done.stderr
    assert f"start.sh: CANN: sourcing {home}/set_env.sh\n" in said and "noise" in said
    assert "start.sh: device: npu:0 (backend om, auto: " in said
    assert "start.sh: NUMA: node 1 of npu:0, cores 2-3 (--cpunodebind=1 --membind=1)\n" in said
    assert "start.sh: OMP_NUM_THREADS=2\n" in said
    assert "start.sh: problem: npu:1 (910B3, card 1): health Warning; mend: npu-smi info" in said


def test_the_service_is_started_like_any_command(server: Machine) -> None:
    """One device: chosen and bound. Several: each has its own node, so nothing is bound and nothing added."""
    server.numactl()
    one = server.start("serve", "--host", "0.0.0.0")
    assert one.stdout.startswith("zhiyin serve --host 0.0.0.0 --device npu:0; OMP=2;")
    assert server.calls("bound")[-2:] == ["numactl --cpunodebind=1", "numactl --membind=1"]
    two = server.start("serve", "--device", "npu:0", "--device=npu:1")
    assert two.stdout.startswith("zhiyin serve --device npu:0 --device=npu:1; OMP=;")
    assert "devices: several, as the command says; NUMA: not bound" in two.stderr
    token = server.start("token", "list")
    assert token.stdout.startswith("zhiyin token list;") and "device" not in token.stderr


def test_sourced_already_is_probed_once(server: Machine) -> None:
    done = server.start("understand", "x", ASCEND_HOME_PATH="/somewhere")
    assert done.returncode == 0 and server.calls("calls") == ["doctor"] and "sourcing" not in done.stderr
    assert "NUMA: not bound to node 1 of npu:0, numactl is not installed; times may wander" in done.stderr
    assert "; OMP=4; home=/somewhere" in done.stdout


def test_the_device_of_the_command_is_taken(server: Machine) -> None:
    server.numactl()
    for words in (["--device", "npu:1"], ["--device=npu:1"], ["--device", "npu:0", "--device", "npu:1"]):
        done = server.start("bench", *words)
        assert done.stdout.startswith(f"zhiyin bench {' '.join(words)}; OMP=2"), done.stderr
        assert "device: npu:1, as the command says" in done.stderr and "node 0 of npu:1, cores 0-1" in done.stderr
    refused = server.start("bench", "--device", "npu:7")
    assert refused.returncode == 2 and refused.stdout == ""
    assert "npu:7 cannot be used here (om: auto" in refused.stderr and "npu:1" in refused.stderr.split("devices: ")[1]
    said = server.start("bench", "--device", "cpu")  # said aloud, so not in silence
    assert said.returncode == 0 and "device: cpu, as the command says" in said.stderr


def test_the_backend_of_the_command_decides(server: Machine) -> None:
    eager = server.start("info", "--backend", "eager", ASCEND_HOME_PATH="x")
    assert "device: npu:0 (backend eager, " in eager.stderr and "--backend eager --device npu:0;" in eager.stdout
    onnx = server.start("info", "--backend", "onnx", ASCEND_HOME_PATH="x")
    assert onnx.returncode == 2 and "no accelerator can be used (onnx: auto: " in onnx.stderr
    auto = server.start("info", "--device", "auto", ASCEND_HOME_PATH="x")
    assert auto.stdout.startswith("zhiyin info --device auto --device npu:0;")  # the last one counts


def test_the_cpu_is_not_taken_in_silence(plain: Machine) -> None:
    refused = plain.start("understand", "x")
    assert refused.returncode == 2 and refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("start.sh: no accelerator can be used (om: acl (pyACL of CANN) is not there; eager: ")
    assert line.endswith("the CPU must be allowed: --allow-cpu or ZHIYIN_ALLOW_CPU=1")
    assert plain.start("understand", "x", ZHIYIN_ALLOW_CPU="0").returncode == 2
    for done in (plain.start("--allow-cpu", "understand", "x"), plain.start("understand", "x", ZHIYIN_ALLOW_CPU="1")):
        assert done.returncode == 0 and done.stdout == "zhiyin understand x --device cpu; OMP=4; home=\n"
        assert "device: cpu, which is allowed; no accelerator can be used (om: " in done.stderr


def test_an_npu_that_only_npu_smi_sees_is_no_device(machine: Machine) -> None:
    files = {name: text for name, text in machines.server().items() if "Ascend/cann" not in name}
    says = {name: facts for name, facts in machines.npus().items() if name not in ("acl", "torch_npu", "autoload")}
    machine.examine(files, says, machines.SMI_910B3)
    for words in (["understand", "x"], ["understand", "x", "--device", "npu:0"]):
        refused = machine.start(*words)
        assert refused.returncode == 2 and "cpu" not in refused.stdout
        assert "problem: an NPU is here, but no CANN" in refused.stderr


def test_memory_that_may_not_be_bound(server: Machine) -> None:
    """A container without SYS_NICE: cores alone; one whose cores are elsewhere: nothing."""
    server.numactl("--membind")
    cores = server.start("understand", "x")
    assert "NUMA: node 1 of npu:0, cores 2-3 (--cpunodebind=1)\n" in cores.stderr and "OMP=2" in cores.stdout
    server.numactl("--cpunodebind")
    nothing = server.start("understand", "x")
    assert "NUMA: not bound to node 1 of npu:0, numactl may not do it here" in nothing.stderr
    assert nothing.returncode == 0 and "OMP=4" in nothing.stdout


@pytest.mark.parametrize(
    ("nodes", "words"), [((1, 1), "node 1 of npu:0"), ((0, 1), "no node is known"), ((-1, -1), "no node is known")]
)
def test_without_npu_smi_the_bus_says_the_node(machine: Machine, nodes: tuple[int, int], words: str) -> None:
    cards = {
        f"sys/bus/pci/devices/0000:{bus}:00.0/numa_node": f"{node}\n"
        for bus, node in zip(("c1", "01"), nodes, strict=True)
    }
    other = {
        f"sys/bus/pci/devices/0000:02:00.0/{name}": text
        for name, text in (("vendor", "0x8086"), ("class", "0x0200"), ("numa_node", "0"))
    }
    machine.examine({**machines.server(), **cards, **other}, machines.npus())
    machine.numactl()
    done = machine.start("understand", "x", ASCEND_HOME_PATH="x")
    assert done.returncode == 0 and words in done.stderr


def test_threads(server: Machine) -> None:
    server.numactl()
    own = server.start("understand", "x", OMP_NUM_THREADS="3")
    assert "OMP=3;" in own.stdout and "OMP_NUM_THREADS=3, as it was" in own.stderr
    nodes = {f"sys/devices/system/node/node1/{name}": text for name, text in (("cpulist", "0-2,8,10-11\n"),)}
    server.examine({**machines.server(), **nodes}, machines.npus(), machines.SMI_910B3, usable=64)
    assert "OMP=6;" in server.start("understand", "x", ASCEND_HOME_PATH="x").stdout


def test_commands_that_run_no_model_are_not_looked_at(plain: Machine) -> None:
    done = plain.start("models", "--json")
    assert done.returncode == 0 and done.stdout.startswith("zhiyin models --json;") and not plain.calls("calls")


def test_it_knows_which_commands_take_a_device(repository: Path) -> None:
    line = re.search(r"^(\w+(?: \| \w+)+)\) ;;$", (repository / "deploy" / "start.sh").read_text(), re.MULTILINE)
    commands = typer.main.get_command(app).commands
    takes = {name for name, command in commands.items() if any("--device" in p.opts for p in command.params)}
    assert line and set(line[1].split(" | ")) == takes


def test_the_exit_code_is_the_command_s(plain: Machine) -> None:
    assert plain.start("--allow-cpu", "understand", "x", ZHIYIN_EXIT="130").returncode == 130
    dry = plain.start("--dry-run", "--allow-cpu", "understand", "x")
    assert dry.returncode == 0 and dry.stdout == "" and dry.stderr.endswith("runs: zhiyin understand x --device cpu\n")


def test_what_stops_it(plain: Machine) -> None:
    plain.write("doctor-code", "1")  # something to mend, as in a report with problems
    assert plain.start("--allow-cpu", "understand", "x").returncode == 0
    plain.write("doctor-code", "3")
    for text in ("{}", "no report"):
        plain.write("unsourced.json", text)
        broken = plain.start("--allow-cpu", "understand", "x")
        assert broken.returncode == 2 and broken.stdout == ""
        assert broken.stderr == "start.sh: zhiyin doctor --json gives no report; is zhiyin installed, and on PATH?\n"
        plain.write("doctor-code", "0")
    for words in ([], ["--allow-cpu"], ["--wrong", "understand"]):
        assert plain.start(*words).returncode == 2 and "usage: start.sh" in plain.start(*words).stderr
    (plain.bin / "python3").unlink()
    assert "no python3 on PATH" in plain.start("understand", "x").stderr
    (plain.bin / "zhiyin").unlink()
    assert plain.start("models").returncode == 2 and "no zhiyin on PATH" in plain.start("models").stderr
