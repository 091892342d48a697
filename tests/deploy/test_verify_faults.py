"""Faults as ports have had them are caught by a gate and located by the hunt; a whole model passes."""

import shutil
from pathlib import Path

import pytest

from tests.deploy import tiny_model
from tests.deploy.faults import FAULTS, Fault, put
from zhiyin.deploy import verify
from zhiyin.runtime.load import Loaded, load


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tiny_model.write(tmp_path_factory.mktemp("tiny") / "model")
    return load(str(folder), device="cpu", backend="eager", dtype="float32")


@pytest.fixture(scope="module")
def copy(reference: Loaded) -> Path:
    return Path(shutil.copytree(reference.source, Path(reference.source).parent / "copy"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_whole_model_passes(reference: Loaded, copy: Path, dtype: str) -> None:
    subject = load(str(copy), device="cpu", backend="eager", dtype=dtype)
    report = verify.compare(subject, reference, inputs="random", hunt=True)
    assert report.passed, [row for row in report.rows if row.wrong]
    assert report.gates == dtype and len(report.hunt) == 2
    assert all("every part gives what the reference gives" in line for line in report.hunt)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.put.__name__.strip("_"))
def test_faults_are_caught_and_located(reference: Loaded, copy: Path, fault: Fault) -> None:
    report = verify.compare(put(fault, copy), reference, inputs="random", runs=1, hunt=True)
    wrong = [row.name for row in report.rows if row.wrong]
    assert wrong, f"{fault.title}: no row failed"
    found = [line for line in report.hunt if "every part" not in line]
    assert len(found) == 1 and fault.place in found[0], report.hunt
    side = "encoder side" if found[0].startswith("encoder") else "decoder side"
    rows = ("decoder", "layers, d") if side == "decoder side" else ("encoder", "projector", "ctc", "layers, e")
    assert all(name.startswith(rows) for name in wrong), "the rows of the other side get the reference's input"


def test_the_first_row_that_fails_is_the_faulty_block(reference: Loaded, copy: Path) -> None:
    by_name = {fault.put.__name__: fault for fault in FAULTS}
    for name, row in (
        ("_encoder_heads", "encoder blocks.2"),
        ("_bias", "encoder blocks.4"),
        ("_theta", "decoder layers.0"),
    ):
        report = verify.compare(put(by_name[name], copy), reference, inputs="random", runs=1)
        assert next(one.name for one in report.rows if one.wrong) == row


def test_a_dropped_mask_shows_in_batches_alone(reference: Loaded, copy: Path) -> None:
    """Why there are rows for batches: one utterance alone has nothing to be masked."""
    fault = next(fault for fault in FAULTS if fault.put.__name__ == "_encoder_mask")
    report = verify.compare(put(fault, copy), reference, inputs="random", runs=1)
    assert {row.name for row in report.rows if row.wrong} == {"projector in a batch", "ctc in a batch"}


def test_two_runs_agree_with_each_other_in_the_same_mistake(reference: Loaded, copy: Path) -> None:
    """Why a device is never compared with itself: run to run is perfect, and the model is wrong."""
    fault = next(fault for fault in FAULTS if fault.put.__name__ == "_transposed")
    report = verify.compare(put(fault, copy), reference, inputs="random", runs=2)
    [repeat] = [row for row in report.rows if row.name == verify.REPEAT]
    assert repeat.wrong == "" and repeat.measures.max_abs == 0.0
    assert not report.passed
