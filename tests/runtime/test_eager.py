"""Checkpoints in other number formats, and those that do not fit into memory."""

import numpy as np
import pytest
import torch

from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.runtime import device as devices
from zhiyin.runtime.eager import EagerBackend
from zhiyin.runtime.generate import Prompt, decode


def test_float32_is_the_default_on_the_cpu_and_gives_the_same_bits(small):
    default, asked = (EagerBackend(small.checkpoint, device="cpu", dtype=dtype) for dtype in ("auto", "float32"))
    assert default.spec.precision == asked.spec.precision == "float32"
    assert {parameter.dtype for parameter in default.model.parameters()} == {torch.float32}
    mel = small.mels(120)
    [expected], [heard] = default.encode(mel), asked.encode(mel)
    assert np.array_equal(expected.vectors_SD, heard.vectors_SD) and np.array_equal(expected.ctc_TV, heard.ctc_TV)


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision(tiny, device, dtype, near):
    """All that goes in and out stays float32; the numbers are those of float32 as far as the format goes."""
    backend = EagerBackend(tiny.checkpoint, device=device, dtype=dtype)
    assert backend.spec.precision == dtype and f"{dtype}: asked for" in backend.device.reason
    kept = {parameter.dtype for parameter in backend.model.parameters()}
    assert kept == {getattr(torch, dtype)} and backend.model.encoder.positions.dtype == torch.float32
    mels = tiny.mels(120, 300)
    for ours, exact in zip(backend.encode(mels), tiny.eager.encode(mels), strict=True):
        assert ours.vectors_SD.dtype == np.float32 and backend.markers.dtype == np.float32
        assert relative(ours.vectors_SD, exact.vectors_SD) < near
        assert (ours.ctc_TV is None) == (exact.ctc_TV is None)
    rows = [tiny.eager.embed(range(3, 30)), tiny.eager.embed([7, 8])]
    sessions = [runner.start(2) for runner in (backend, tiny.eager)]
    first, second = (session.extend(rows) for session in sessions)
    assert first.dtype == np.float32 and relative(first, second) < near
    replies = decode(backend, [Prompt(before_ids=range(10, 90)), Prompt(before_ids=[11])], max_new_tokens=8)
    assert all(np.isfinite(reply.mean_logprob) and len(reply.ids) <= 8 for reply in replies)


def relative(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(ours - exact).max() / np.abs(exact).max())


def test_an_unknown_dtype(small):
    with pytest.raises(UserError, match=r"dtype 'bfloat' is not known.*did you mean 'bfloat16'"):
        EagerBackend(small.checkpoint, dtype="bfloat")


def test_a_model_too_large_for_memory_is_refused_unread(small, monkeypatch):
    """The line says how much is needed and how much is there; no weight has been touched."""

    def never(*_: object, **__: object) -> None:
        pytest.fail("the weights were read")

    needed = checkpoint.memory_bytes(small.checkpoint, dtype=torch.float32)
    monkeypatch.setattr(devices, "free_bytes", lambda _: needed // 2)
    monkeypatch.setattr(checkpoint, "load", never)
    with pytest.raises(UserError) as error:
        EagerBackend(small.checkpoint, device="cpu")
    line = str(error.value)
    assert "\n" not in line and str(small.checkpoint) in line
    assert "float32 needs" in line and "GB" in line and "free" in line


def test_half_precision_needs_half_the_memory(small, monkeypatch):
    needed = checkpoint.memory_bytes(small.checkpoint, dtype=torch.float32)
    monkeypatch.setattr(devices, "free_bytes", lambda _: int(0.7 * needed))
    with pytest.raises(UserError, match="use dtype bfloat16"):
        EagerBackend(small.checkpoint, device="cpu")
    EagerBackend(small.checkpoint, device="cpu", dtype="bfloat16")
