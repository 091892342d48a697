"""What must hold on an `npu` device; `tests/test_npu_torch.py` runs it on the simulated one, in a process of its own.

On a machine with torch_npu and a card: ``pytest tests/npu_sim/torch_device/device_checks.py --device npu:0``; what only
the simulation can do (less memory, strictness) is skipped there.
"""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import zhiyin
from zhiyin.deploy import doctor_child
from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.runtime.eager import EagerBackend, devices
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.train import loop

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("train_tiny", HERE / "train_tiny.py")
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)
STAGE, batches, model = tiny.STAGE, tiny.batches, tiny.model

ROOT = HERE.parents[2]
POCKET = ROOT / "zhiyin" / "pocket" / "checkpoint"
SAMPLES = [str(ROOT / "samples" / name) for name in ("digits-1.flac", "words-3.flac")]
only_simulated = pytest.mark.skipif(not hasattr(torch.npu, "set_capacity"), reason="needs the simulated npu device")


@pytest.fixture(scope="module")
def pocket(device: str) -> tuple[EagerBackend, EagerBackend]:
    """The packaged model on the CPU and on the device."""
    return EagerBackend(POCKET, device="cpu"), EagerBackend(POCKET, device=device, dtype="float32")


def mels(*frames: int) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.standard_normal((80, count)).astype(np.float32) for count in frames]


@only_simulated
def test_the_simulation_is_strict(device: str) -> None:
    """Else nothing below would prove anything."""
    x = torch.ones(3, 4, device=device)
    for wrong in (
        lambda: x + torch.ones(3, 4),
        lambda: x + torch.ones(3, 4, device="npu:1"),
        lambda: x.double() @ x.double().T,
        lambda: torch.ones(1, device="npu:7"),
        lambda: x.numpy(),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            wrong()
    assert torch.empty(64, device=device).isnan().all().item()
    rows = (line.split(maxsplit=2) for line in Path("/proc/self/maps").read_text().splitlines())
    spans = {tuple(int(end, 16) for end in row[0].split("-")): row[1] for row in rows}
    may = next(rights for (start, end), rights in spans.items() if start <= x.data_ptr() < end)
    assert may == "---p", "a pointer of the device can be read on the host"


def test_the_device_is_found_and_named(device: str, pocket) -> None:
    assert device in devices() and devices()[-1] == "cpu"
    assert pocket[1].device.name == device and torch.npu.get_device_name(0) in pocket[1].device.reason


def test_encoder_and_projector_are_those_of_the_cpu(pocket) -> None:
    for exact, ours in zip(*(backend.encode(mels(150, 61)) for backend in pocket), strict=True):
        assert np.abs(exact.vectors_SD - ours.vectors_SD).max() < 1e-4 * np.abs(exact.vectors_SD).max()
        assert np.abs(exact.ctc_TV - ours.ctc_TV).max() < 1e-4 * np.abs(exact.ctc_TV).max()


def test_generation_says_what_the_cpu_says(pocket) -> None:
    """Several prompts of different lengths in one batch, rows leaving it at different times, penalty and all."""
    said = []
    for backend in pocket:
        heard = backend.encode(mels(150, 61, 90))
        prompts = [Prompt((7, 8), item.vectors_SD, (9,) * n) for n, item in enumerate(heard)]
        said.append(decode(backend, prompts, max_new_tokens=24, repetition_penalty=1.2))
    for exact, ours in zip(*said, strict=True):
        assert ours.ids == exact.ids and ours.ended == exact.ended
        assert ours.mean_logprob == pytest.approx(exact.mean_logprob, abs=1e-4)


@pytest.mark.parametrize("tasks", ["asr", "ved"])  # from the CTC head, and from the decoder
def test_recordings_give_the_same_text(device: str, tasks: str) -> None:
    theirs, ours = (zhiyin.load(backend="eager", device=name, dtype="float32") for name in ("cpu", device))
    for sample in SAMPLES:
        exact, result = theirs.understand(sample, tasks), ours.understand(sample, tasks)
        assert (result.text or result.labels) and (result.text, result.labels) == (exact.text, exact.labels)
        assert result.device.startswith(f"{device} (asked for; ") and exact.device.startswith("cpu (")


def test_the_command_names_the_device(device: str) -> None:
    done = subprocess.run(
        [*ZHIYIN, "understand", SAMPLES[0], "--backend", "eager", "--device", device, "--format", "json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["text"] == "four one seven two nine" and result["precision"] == "bfloat16"
    chip = torch.npu.get_device_name(0)
    assert result["device"] == f"{device} (asked for; {chip}; bfloat16: auto: half the memory on npu)"


ZHIYIN = [sys.executable, "-m", "zhiyin"]


def test_the_doctor_sees_it(device: str) -> None:
    """What its probe of torch_npu finds; here in this process, for its own would import torch again."""
    facts = {key: value for part in doctor_child.torch_npu() for key, value in part.items()}
    found = {row["name"]: row for row in facts["devices"]}
    assert len(found) == torch.npu.device_count() and found[device]["title"] == torch.npu.get_device_name(0)
    assert 0 < found[device]["free_bytes"] <= found[device]["total_bytes"] and found[device]["bfloat16"] is True


def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UserError, match=r"device 'npu:63': torch has only npu:0"):
        EagerBackend(POCKET, device="npu:63")
    fallen = EagerBackend(POCKET, device="npu:63", allow_fallback=True)
    assert fallen.device.name == "cpu" and "npu:63 was asked for" in fallen.device.reason


@pytest.mark.skipif(torch.npu.device_count() < 2, reason="needs two devices")
def test_a_model_stays_where_it_was_put(pocket) -> None:
    """Also while another device is the current one."""
    second = EagerBackend(POCKET, device="npu:1", dtype="float32")
    torch.npu.set_device(0)
    assert {p.device for p in second.model.parameters()} == {torch.device("npu:1")}
    session = second.start(2)
    session.extend([second.embed([5, 6, 7]), second.embed([8])])
    session.keep([1])
    assert session.keys_LBGCK.device == session.values_LBGCK.device == torch.device("npu:1")
    exact, ours = (backend.encode(mels(70))[0].vectors_SD for backend in (pocket[0], second))
    assert np.abs(exact - ours).max() < 1e-4 * np.abs(exact).max()


@only_simulated
def test_a_chip_without_bfloat16_gets_float16(device: str, pocket, monkeypatch) -> None:
    monkeypatch.setenv("NPUSIM_BF16", "0")
    half = EagerBackend(POCKET, device=device)
    assert half.spec.precision == "float16" and "has no bfloat16" in half.device.reason
    exact, ours = (backend.encode(mels(120))[0].vectors_SD for backend in (pocket[0], half))
    assert np.abs(exact - ours).max() < 0.02 * np.abs(exact).max()
    with pytest.raises(UserError, match="has no such numbers; use float16"):
        EagerBackend(POCKET, device=device, dtype="bfloat16")


@contextlib.contextmanager
def capacity(device: str, spare_bytes: int) -> Iterator[None]:
    """Only so much more memory on the device."""
    total = torch.npu.mem_get_info(device)[1]
    torch.npu.set_capacity(device, torch.npu.memory_allocated(device) + spare_bytes)
    try:
        yield
    finally:
        torch.npu.set_capacity(device, total)


@only_simulated
def test_out_of_memory_is_one_line_and_halves_are_tried(device: str, pocket) -> None:
    ours = pocket[1]
    several = mels(300, 300, 280, 290)
    exact = pocket[0].encode(several)
    torch.npu.reset_peak_memory_stats(device)
    before = torch.npu.memory_allocated(device)
    ours.encode(several)
    needed = torch.npu.max_memory_allocated(device) - before
    with capacity(device, int(0.6 * needed)):
        for a, b in zip(exact, ours.encode(several), strict=True):
            assert np.abs(a.vectors_SD - b.vectors_SD).max() < 1e-4 * np.abs(a.vectors_SD).max()
    with capacity(device, needed // 50), pytest.raises(UserError) as error:
        ours.encode(several)
    line = str(error.value)
    assert line.startswith(f"{device}: encoding 3.0 s do not fit into its memory (NPU out of memory. Tried to")
    assert "shorter windows" in line and "\n" not in line
    with capacity(device, 4096), pytest.raises(UserError, match=r"a cache for 64 replies of up to .* fewer at once"):
        ours.start(64)
    assert len(ours.encode(several)) == 4  # it goes on as if nothing had been


def test_training_steps_are_those_of_the_cpu(device: str, tmp_path: Path) -> None:
    """The whole loop: losses, clipping, AdamW, saving, averaging; dropout off, for its numbers differ by device."""
    losses, weights = [], []
    for name in ("cpu", device):
        folder = tmp_path / name.replace(":", "-")
        folder.mkdir()
        trained = loop.train(model(), batches(), STAGE, folder, device=name, report=lambda line: None)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([(row["loss"], row["norm"]) for row in rows if "loss" in row])
        weights.append({key: value.detach().cpu() for key, value in trained.state_dict().items()})
    assert np.allclose(*losses, rtol=1e-3) and losses[0][-1][0] < losses[0][0][0]
    for key, exact in weights[0].items():
        torch.testing.assert_close(weights[1][key], exact, rtol=1e-3, atol=1e-4)


def test_a_run_cut_in_two_is_the_same_run(device: str, tmp_path: Path) -> None:
    """Model, optimizer and place come back from the disk onto the device; dropout on, so its seeds count as well."""
    states = []
    for name, cuts in (("whole", (6,)), ("cut", (3, 6))):
        folder = tmp_path / name
        folder.mkdir()
        for steps in cuts:
            stage = replace(STAGE, optimizer=replace(STAGE.optimizer, steps=steps, warmup_steps=0, final_share=1.0))
            loop.train(model(dropout=0.1), batches(), stage, folder, device=device, report=lambda line: None)
        states.append(torch.load(folder / "state.pt", weights_only=True, map_location="cpu")["model"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
def test_autocast(device: str, dtype: torch.dtype, near: float) -> None:
    """Forward and backward in half precision, weights in float32: near the exact loss, all gradients finite."""
    made, [(batch, _)] = model(), batches().take(1)
    exact = loop.losses(made, batch, STAGE.optimizer, "cpu").total.item()
    made = made.to(device)
    with torch.autocast("npu", dtype):
        assert (torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).dtype == dtype
        half = loop.losses(made, batch, replace(STAGE.optimizer, bf16=dtype == torch.bfloat16), device).total
    half.backward()
    assert half.item() == pytest.approx(exact, rel=near)
    assert all(p.grad is not None and p.grad.isfinite().all().item() for p in made.parameters())
    assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_checkpoints_come_from_and_go_to_the_device(device: str, tmp_path: Path) -> None:
    there = model().to(device)
    checkpoint.save(tmp_path / "saved", there, {"name": "x", "tasks": ["asr"]}, '{"version":"1.0"}')
    for place in ("cpu", device):
        loaded, _ = checkpoint.load(tmp_path / "saved", device=place)
        for key, value in loaded.state_dict().items():
            assert str(value.device) == place and torch.equal(value.cpu(), there.state_dict()[key].cpu()), key


def test_two_processes_step_as_one(device: str, tmp_path: Path) -> None:
    """Each takes half of the batch and, over hccl, both end with the weights of one process with all of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = str(HERE / "train_tiny.py")
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, worker, str(tmp_path)],
            env={**common, "RANK": str(rank), "PYTHONPATH": os.pathsep.join([str(ROOT), common.get("PYTHONPATH", "")])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=300)
        assert rank.returncode == 0, said[-2000:]
    alone = tiny.Step(model())
    tiny.step(alone, batches().take(1)[0][0], "cpu")
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, exact in alone.model.state_dict().items():
            torch.testing.assert_close(state[key], exact, rtol=1e-3, atol=1e-5)
