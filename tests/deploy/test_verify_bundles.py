"""Bundles of fixed sizes, and OM graphs on a simulated Ascend device, against the checkpoint they were made from."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.deploy import tiny_model
from tests.npu_sim import om
from zhiyin import UserError
from zhiyin.cli import main
from zhiyin.deploy import bench, verify
from zhiyin.deploy.export import export
from zhiyin.deploy.export_plan import Options
from zhiyin.runtime import bundle
from zhiyin.runtime.ascend_acl import PROCESS
from zhiyin.runtime.load import Loaded, load


@dataclass(frozen=True)
class Made:
    """A checkpoint and the bundle of fixed sizes made from it."""

    checkpoint: Path
    static: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("bundles")
    checkpoint = tiny_model.write(folder / "checkpoint")
    return Made(checkpoint, export(checkpoint, folder / "static", Options(buckets_s=(1.5, 3.0))).folder)


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The double of pyACL; afterwards nothing may be left on the device."""
    double = importlib.import_module("tests.npu_sim.acl")
    monkeypatch.setitem(sys.modules, "acl", double)
    double.sim.reset(devices=1, memory_bytes=1 << 30, soc=om.SOC)
    yield double.sim
    PROCESS.end()
    assert not double.sim.leaks() and not double.sim.violations


def reference(made: Made) -> Loaded:
    return load(str(made.checkpoint), device="cpu", backend="eager", dtype="float32")


def test_a_bundle_of_fixed_sizes_computes_what_its_checkpoint_does(made: Made) -> None:
    report = verify.compare(load(str(made.static), device="cpu"), reference(made), inputs="random", runs=1)
    assert report.passed, [row for row in report.rows if row.wrong]
    assert {"projector", "ctc in a batch", "decoder", "decoder in a batch"} <= {row.name for row in report.rows}


def test_a_weight_that_was_changed_in_the_bundle_is_caught(made: Made, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made.static, tmp_path / "copy"))
    spec, weights = bundle.read(copy), copy / "encoder.weights"
    values = np.fromfile(weights, np.float32)
    values[len(values) // 2 :][:400] *= -1
    values.tofile(weights)
    bundle.seal(copy, spec, bundle.read_target(copy), bundle.read_graphs(copy))
    report = verify.compare(load(str(copy), device="cpu"), reference(made), inputs="random", runs=1)
    wrong = {row.name for row in report.rows if row.wrong}
    assert wrong and wrong <= {"projector", "ctc", "projector in a batch", "ctc in a batch"}


def test_om_graphs_on_a_simulated_device(
    made: Made, sim: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = om.compiled(made.static, tmp_path / "om")
    with pytest.raises(UserError, match=r"run on Ascend310P3 alone; give --against the ONNX bundle or the checkpoint"):
        verify.reference_of(str(compiled), verify.CPU_FP32, 1)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(compiled), "--device", "npu:0", "--against", str(made.checkpoint), "--runs", "1", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert left.value.code == 0, [row for row in report["rows"] if row["wrong"]]
    assert report["subject"]["backend"] == "om" and report["subject"]["device"].startswith("npu:0")
    assert sim.inits


def test_bench_takes_both_in_turns(made: Made) -> None:
    subjects = [
        bench.Subject("checkpoint", reference(made), 0.0, None),
        bench.Subject("static", load(str(made.static), device="cpu"), 0.0, None),
    ]
    report = bench.measure(subjects, bench.Plan(warmup=0, runs=1, lengths_s=(1.0, 2.5), tokens=2))
    assert len(report.rows) == 2 * 2 * len(bench.COMPONENTS)
