"""The whole main job on OM graphs: the same words, times and labels as the packaged model on the CPU."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import zhiyin
from tests import sounds
from tests.npu_sim import om
from zhiyin.deploy import export
from zhiyin.runtime.ascend_acl import DeviceLost
from zhiyin.runtime.load import Loaded, load

BUCKETS = (500, 1000, 1500)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The packaged weights without the integer products of the packaged bundle, which ATC does not read."""
    out = tmp_path_factory.mktemp("pocket") / "bundle"
    export.export(repository / "zhiyin" / "pocket" / "checkpoint", out, export.Options(precision="int8"))
    return out


@pytest.fixture(scope="module")
def pocket_om(bundle: Path) -> Path:
    """The same in graphs of 5, 10 and 15 s."""
    return om.compiled(om.fixed(bundle, bundle.parent / "static", BUCKETS), bundle.parent / "om")


@pytest.fixture
def model(sim: Any, pocket_om: Path) -> Any:
    """Loaded by what the folder is."""
    loaded = load(pocket_om)
    yield zhiyin.Model(loaded)
    loaded.backend.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def on_cpu(bundle: Path) -> zhiyin.Model:
    """The same bundle on the CPU."""
    return zhiyin.load(str(bundle), threads=1)


def heard(result: Any) -> tuple[Any, ...]:
    words = [(word.text, word.start_s, word.end_s) for segment in result.segments for word in segment.words]
    return result.text, result.labels, words, result.unparsed


@pytest.mark.parametrize("name", ["digits-1", "digits-4", "words-2", "words-3"])
def test_recordings_are_understood_as_on_the_cpu(model: Any, on_cpu: zhiyin.Model, repository: Path, name: str) -> None:
    path = repository / "samples" / f"{name}.flac"
    tasks = ["asr", "srwt", "ved"]
    got, want = model.understand(path, tasks=tasks), on_cpu.understand(path, tasks=tasks)
    assert want.text and heard(got) == heard(want)
    assert got.backend == "om" and got.device == "npu:0 (auto: best of npu:0, npu:1; Ascend310P3, fp32)"


def test_sounds_give_no_words(model: Any) -> None:
    said = {name: model.understand(samples_T, "asr").text for name, samples_T in sounds.sounds()}
    assert {name: text for name, text in said.items() if text} == {}


def test_requests_in_plain_language(model: Any, on_cpu: zhiyin.Model, repository: Path) -> None:
    path = repository / "samples" / "words-1.flac"
    asked = "Write down what is said."
    got = model.understand(path, instruction=asked)
    want = on_cpu.understand(path, instruction=asked)
    assert heard(got) == heard(want) and got.tasks == want.tasks


def test_a_device_lost_in_the_middle_of_a_night(model: Any, sim: Any, on_cpu: zhiyin.Model, repository: Path) -> None:
    """The recording at hand is served again or reported; the others go on."""
    paths = sorted((repository / "samples").glob("digits-*.flac"))
    want = [on_cpu.understand(path, tasks=["asr", "ved"]).text for path in paths]
    sim.fail("mdl.execute", 507015, after=2)
    got = [model.understand(path, tasks=["asr", "ved"]) for path in paths]
    assert [result.text for result in got] == want
    assert sim.resets == 1 and "reset after acl code 507015" in got[-1].device
    sim.lose(0, comes_back=False)
    with pytest.raises(DeviceLost, match="zhiyin doctor"):
        model.understand(paths[0], tasks=["asr"])
    sim.lost.clear()
    assert model.understand(paths[1], tasks=["asr"]).text == want[1]


def test_loaded_says_where_it_came_from(sim: Any, pocket_om: Path) -> None:
    loaded: Loaded = load(pocket_om, device="npu:1", backend="om")
    assert loaded.backend.device.name == "npu:1" and loaded.source == str(pocket_om)
    loaded.backend.close()  # type: ignore[attr-defined]
