"""Device choice: a table of requests, and probes that survive a broken plug-in."""

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from zhiyin.errors import UserError
from zhiyin.runtime import device, eager
from zhiyin.runtime.base import Device
from zhiyin.runtime.eager import EagerBackend
from zhiyin.runtime.onnx import OnnxBackend

ALL = ("cuda:0", "cuda:1", "npu:0", "mps:0", "cpu")


@pytest.mark.parametrize(
    ("asked", "available", "name", "reason"),
    [
        ("auto", ("cpu",), "cpu", "auto: torch has no other device"),
        ("auto", ALL, "npu:0", "auto: best of cuda:0, cuda:1, npu:0, mps:0, cpu"),
        ("auto", ("cpu", "cuda:0"), "cuda:0", "auto: best of cpu, cuda:0"),
        ("cpu", ALL, "cpu", "asked for"),
        (" CPU ", ALL, "cpu", "asked for"),
        ("cuda", ALL, "cuda:0", "asked for"),
        ("cuda:1", ALL, "cuda:1", "asked for"),
        ("npu:0", ALL, "npu:0", "asked for"),
        ("mps", ALL, "mps:0", "asked for"),
        ("cuda:3", ("cuda", "cpu"), "cuda:3", "asked for"),
        ("cuda", ("cuda", "cpu"), "cuda", "asked for"),
    ],
)
def test_choice_and_reason(asked: str, available: tuple[str, ...], name: str, reason: str) -> None:
    assert device.choose(asked, available, engine="torch") == Device(name, reason)


@pytest.mark.parametrize(
    ("asked", "available", "message"),
    [
        ("gpu", ALL, r"device 'gpu' is not known; known: auto cpu cuda\[:N\] npu\[:N\] mps"),
        ("nqu", ALL, r"did you mean 'npu'\?"),
        ("cpu:0", ALL, "not known"),
        ("cuda:x", ALL, "not known"),
        ("", ALL, "not known"),
        ("cuda:2", ALL, r"device 'cuda:2': torch has only cuda:0, cuda:1, npu:0, mps:0, cpu here; use one of these"),
        (
            "npu",
            ("cpu",),
            "device 'npu': torch has only cpu here; use one of these, or install a build of torch for 'npu'",
        ),
    ],
)
def test_impossible_requests_say_what_is_there(asked: str, available: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        device.choose(asked, available, engine="torch")


def test_the_note_of_the_probe_is_shown() -> None:
    with pytest.raises(UserError, match="use one of these; torch_npu does not load"):
        device.choose("npu", ("cpu",), engine="torch", note="torch_npu does not load")


def test_a_fallback_only_where_it_is_allowed_and_never_in_silence() -> None:
    fallen = device.choose("npu:0", ("cpu",), engine="torch", note="no CANN", allow_fallback=True)
    assert str(fallen) == "cpu (npu:0 was asked for: torch has only cpu here, no CANN; fallback allowed)"
    assert device.choose("cuda:1", ALL, engine="torch", allow_fallback=True) == Device("cuda:1", "asked for")
    with pytest.raises(UserError, match="did you mean 'npu'"):  # a slip of the finger is no device that is missing
        device.choose("nqu", ("cpu",), engine="torch", allow_fallback=True)


@pytest.mark.parametrize(
    ("asked", "name", "dtype", "reason"),
    [
        ("auto", "cpu", "float32", "auto: exact"),
        ("auto", "mps:0", "float32", "auto: exact"),
        ("auto", "npu:1", "bfloat16", "auto: half the memory on npu"),
        ("auto", "cuda:0", "bfloat16", "auto: half the memory on cuda"),
        ("float32", "cuda:0", "float32", "asked for"),
        (" BFloat16 ", "cpu", "bfloat16", "asked for"),
    ],
)
def test_number_formats(asked: str, name: str, dtype: str, reason: str) -> None:
    assert device.choose_dtype(asked, Device(name, "")) == (dtype, reason)


class Chip:
    """`torch.npu` of a card without bfloat16, as torch_npu answers on an Ascend310P3."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_bf16_supported() -> bool:
        return False

    @staticmethod
    def get_device_name(number: int) -> str:
        return f"Ascend310P{number}"


def test_a_chip_without_bfloat16(monkeypatch) -> None:
    monkeypatch.setattr(torch, "npu", Chip, raising=False)
    npu = Device("npu:3", "")
    assert device.choose_dtype("auto", npu) == (
        "float16",
        "auto: half the memory on npu, and npu:3 (Ascend310P3) has no bfloat16",
    )
    assert device.choose_dtype("float16", npu) == ("float16", "asked for")
    with pytest.raises(UserError, match=r"dtype 'bfloat16': npu:3 \(Ascend310P3\) has no such numbers; use float16 or"):
        device.choose_dtype("bfloat16", npu)


def test_a_number_format_that_is_none() -> None:
    with pytest.raises(UserError, match=r"dtype 'fp16' is not known; known: auto float32 bfloat16 float16"):
        device.choose_dtype("fp16", Device("cpu", ""))


def test_free_memory_is_what_the_system_says(tmp_path: Path) -> None:
    """The smaller of what the machine and its container leave; cached files of a container can be given up."""
    free = device.free_bytes("cpu")
    assert free is not None and 2**20 < free < 2**50 and free == pytest.approx(device.free_host_bytes(), rel=0.2)
    assert device.free_host_bytes(tmp_path) is None and device.host_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable: 8000 kB\n")
    assert device.free_host_bytes(tmp_path) == 8000 * 1024 and device.host_bytes(tmp_path) == 9000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory").mkdir(parents=True)
    (group / "memory.max").write_text("9000000\n")
    (group / "memory.current").write_text("5000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 1500000\n")
    assert device.free_host_bytes(tmp_path) == 5_500_000 and device.host_bytes(tmp_path) == 9_000_000
    (group / "memory.max").write_text("max\n")
    assert device.free_host_bytes(tmp_path) == 8000 * 1024 and device.host_bytes(tmp_path) == 9000 * 1024
    (group / "memory/memory.limit_in_bytes").write_text("800\n")
    (group / "memory/memory.usage_in_bytes").write_text("300\n")
    (group / "memory/memory.stat").write_text("total_inactive_file 100\n")
    assert device.free_host_bytes(tmp_path) == 600 and device.host_bytes(tmp_path) == 800


def test_what_cannot_fit_is_refused_with_figures(monkeypatch) -> None:
    room = {"cpu": 3_000_000_000, "cuda:0": 1_500_000_000, "mps:0": None}
    monkeypatch.setattr(device, "free_bytes", room.__getitem__)
    device.check_memory(2_400_000_000, "cpu", "model x: float32")
    device.check_memory(1_200_000_000, "cuda:0", "model x: float32")
    device.check_memory(2_900_000_000, "mps:0", "model x: float32")  # it does not say what it has
    for needed, name, message in (
        (2_600_000_000, "cpu", "model x: float32 needs 3.1 GB on cpu, where 3.0 GB are free; use dtype bfloat16, a"),
        (1_300_000_000, "cuda:0", "needs 1.6 GB on cuda:0, where 1.5 GB are free"),
        (3_100_000_000, "mps:0", "needs 3.1 GB on cpu, where 3.0 GB are free"),
    ):
        with pytest.raises(UserError, match=message):
            device.check_memory(needed, name, "model x: float32")


def test_devices_of_this_machine() -> None:
    """The CPU is always there and comes last; nothing is listed twice."""
    for found in (device.of_providers(onnxruntime.get_available_providers()), eager.devices()):
        assert found[-1] == "cpu" and len(set(found)) == len(found)
    assert device.of_providers(["CUDAExecutionProvider", "CPUExecutionProvider"]) == ("cuda", "cpu")
    assert device.provider(Device("cuda:3", "")) == ("CUDAExecutionProvider", {"device_id": "3"})
    assert device.provider(Device("cpu", "")) == ("CPUExecutionProvider", {})


def test_backends_say_where_they_run(small) -> None:
    assert EagerBackend(small.checkpoint, device="cpu").device == Device("cpu", "asked for; float32: auto: exact")
    assert small.onnx.device == Device("cpu", "auto: onnxruntime has no other device")


def test_a_listed_device_that_does_not_open(small, monkeypatch) -> None:
    """onnxruntime would go on with the CPU in silence: asked for, it is refused; with auto, the reason says it."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(UserError, match="device 'cuda': onnxruntime lists it but cannot open it"):
        OnnxBackend(small.bundle, device="cuda")
    fallen = OnnxBackend(small.bundle, device="auto")
    assert fallen.device.name == "cpu" and fallen.device.reason.startswith("auto: device 'cuda': onnxruntime lists it")


def test_a_listed_device_that_torch_cannot_open(small, monkeypatch) -> None:
    """Busy, lost, or its driver gone: the first number does not get there."""
    monkeypatch.setattr(eager, "devices", lambda: ("meta", "cpu"))  # numbers go there and none comes back
    monkeypatch.setattr(eager, "choose", lambda *_, **__: Device("meta", "asked for"))
    with pytest.raises(UserError, match=r"device 'npu:0': it does not open \(.*\); see `zhiyin doctor`"):
        eager.open_device("npu:0")
    fallen = EagerBackend(small.checkpoint, device="npu:0", allow_fallback=True)
    assert fallen.device.name == "cpu" and fallen.encode(small.mels(80))
    assert fallen.device.reason.startswith("meta was asked for: it does not open (")
    assert fallen.device.reason.endswith("; fallback allowed; float32: auto: exact")
    assert eager.open_device("auto").reason.startswith("auto: meta is there, but it does not open")


PROBE = """
from zhiyin.errors import UserError
from zhiyin.runtime.load import load
import sys
loaded = load(sys.argv[1], backend="eager")
print(loaded.backend.device)
try:
    load(sys.argv[1], backend="eager", device="npu")
except UserError as error:
    print(error)
"""


def test_a_plugin_without_its_libraries_does_not_break_torch(small, tmp_path: Path) -> None:
    """torch_npu registers itself to be loaded by `import torch`, which fails where CANN is missing."""
    package, facts = tmp_path / "torch_npu", tmp_path / "torch_npu-1.0.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libhccl.so: cannot open shared object file')")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(device.__file__).parents[2])])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120
        )

    assert "Failed to load the backend extension" in run("-c", "import torch").stderr, "the trap is as real ones are"
    done = run("-c", PROBE, str(small.checkpoint))
    assert done.returncode == 0, done.stderr
    chosen, refused = done.stdout.splitlines()
    assert chosen == "cpu (auto: torch has no other device; float32: auto: exact)"
    assert "libhccl.so" in refused and "set_env.sh" in refused
