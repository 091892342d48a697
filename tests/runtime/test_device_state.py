"""Seeds, exact arithmetic and memory figures, on the device given with `--device`."""

import random

import numpy as np
import pytest
import torch

from zhiyin.runtime import device_state


def test_seeds_give_the_same_numbers_again(device: str) -> None:
    def draw() -> tuple[float, list[float], list[float]]:
        return random.random(), torch.rand(3).tolist(), torch.rand(3, device=device).tolist()

    device_state.seed(5)
    first = draw()
    assert draw() != first
    device_state.seed(5)
    assert draw() == first


def test_memory_is_counted(device: str) -> None:
    device_state.reset(device)
    before = device_state.memory(device)
    assert 0 < before.free_bytes <= before.total_bytes and 0 <= before.used_bytes <= before.peak_bytes
    size = 64 * 2**20
    held = torch.ones(size // 4, device=device)
    device_state.synchronize(device)
    with_it = device_state.memory(device)
    assert with_it.used_bytes - before.used_bytes > 0.9 * size and with_it.peak_bytes >= with_it.used_bytes
    assert held.sum().item() == size // 4
    del held
    device_state.release(device)
    assert device_state.memory(device).used_bytes - before.used_bytes < 0.1 * size
    if device != "cpu":
        assert device_state.memory(device).peak_bytes - before.used_bytes > 0.9 * size
        device_state.reset(device)
        assert device_state.memory(device).peak_bytes - before.used_bytes < 0.1 * size


def test_exact_arithmetic_comes_and_goes(device: str) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with device_state.deterministic(device) as said:
            assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
            assert said[:2] == ("deterministic algorithms", "float32 matmul highest")
            left = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
            product = (torch.from_numpy(left).to(device) @ torch.from_numpy(left).to(device)).cpu().numpy()
            assert np.abs(product - left.astype(np.float64) @ left).max() < 1e-4
        assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(KeyError), device_state.deterministic(device):
            raise KeyError
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_float32_matmul_precision("highest")


class Switch:
    allow_hf32 = True


class Npu:
    """`torch.npu` as far as its switches go; torch_npu begins with HF32 on."""

    conv, matmul = Switch(), Switch()

    @staticmethod
    def is_available() -> bool:
        return True


def test_hf32_is_off_for_proofs(monkeypatch) -> None:
    monkeypatch.setattr(torch, "npu", Npu, raising=False)
    with device_state.deterministic("npu:0") as said:
        assert Npu.conv.allow_hf32 is False and Npu.matmul.allow_hf32 is False
        assert {"conv.allow_hf32 off", "matmul.allow_hf32 off"} <= set(said)
    assert Npu.conv.allow_hf32 is True and Npu.matmul.allow_hf32 is True
