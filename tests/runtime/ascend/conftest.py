"""A simulated machine with Ascend devices, and an OM bundle of a tiny random model."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.npu_sim import om
from tests.runtime.conftest import Make
from zhiyin.deploy.export import export
from zhiyin.deploy.export_plan import Options
from zhiyin.runtime.ascend import AscendBackend
from zhiyin.runtime.ascend_acl import PROCESS

BUCKETS_S = (1.0, 2.0, 3.0)


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The hand of the tests on the double of pyACL; afterwards nothing may be left and no rule may be broken."""
    try:
        double = importlib.import_module("tests.npu_sim.acl")
    except ImportError as error:
        pytest.skip(f"{error}; run the tests on the device")
    monkeypatch.setitem(sys.modules, "acl", double)
    double.sim.reset(devices=2, memory_bytes=1 << 30, soc=om.SOC)
    yield double.sim
    PROCESS.end()
    assert not double.sim.leaks()
    assert not double.sim.violations
    assert double.sim.finalizes == bool(double.sim.inits)


@pytest.fixture(scope="session")
def static(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static ONNX bundle: three buckets, decoders of one and of two rows."""
    options = Options(buckets_s=BUCKETS_S, batches=(1, 2))
    return export(make("qwen2").checkpoint, tmp_path_factory.mktemp("static") / "bundle", options).folder


@pytest.fixture(scope="session")
def om_bundle(static: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as OM, in float32."""
    return om.compiled(static, tmp_path_factory.mktemp("om") / "bundle")


Open = Callable[..., AscendBackend]


@pytest.fixture
def opened(sim: Any, om_bundle: Path) -> Iterator[Open]:
    """Opens backends that are closed after the test."""
    backends: list[AscendBackend] = []

    def open_one(folder: Path = om_bundle, **options: Any) -> AscendBackend:
        backends.append(AscendBackend(folder, **options))
        return backends[-1]

    yield open_one
    for backend in backends:
        backend.close()
