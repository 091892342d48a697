"""Device choice: a table of requests, and probes that survive a broken plug-in."""

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from zhiyin.errors import UserError
from zhiyin.runtime import device, eager
from zhiyin.runtime.base import Device
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


def test_devices_of_this_machine() -> None:
    """The CPU is always there and comes last; nothing is listed twice."""
    for found in (device.of_providers(onnxruntime.get_available_providers()), eager.devices()):
        assert found[-1] == "cpu" and len(set(found)) == len(found)
    assert device.of_providers(["CUDAExecutionProvider", "CPUExecutionProvider"]) == ("cuda", "cpu")
    assert device.provider(Device("cuda:3", "")) == ("CUDAExecutionProvider", {"device_id": "3"})
    assert device.provider(Device("cpu", "")) == ("CPUExecutionProvider", {})


def test_backends_say_where_they_run(small) -> None:
    assert small.eager.device == Device("cpu", "asked for")
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
    assert chosen == "cpu (auto: torch has no other device)"
    assert "libhccl.so" in refused and "set_env.sh" in refused
