"""From names and folders to models; everything foreign is refused with one clear line; bundles need no torch."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zhiyin.errors import UserError
from zhiyin.runtime import bundle, onnx
from zhiyin.runtime import load as loading
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.load import load

Break = Callable[[Path], object]


def test_folders_run_with_what_they_are_for(small) -> None:
    for folder, name in ((small.bundle, "onnx"), (small.checkpoint, "eager")):
        for backend in ("auto", name):
            loaded = load(folder, backend=backend, threads=1)
            assert (loaded.backend.name, loaded.source) == (name, str(folder))
            assert loaded.tokenizer.token_to_id("t42") == 42
            spec = loaded.backend.spec
            assert (spec.name, spec.eos_id, spec.labels) == ("tiny", 5, {"sgc": ("female", "male")})
            assert (spec.num_mels, spec.frames_per_vector, spec.extra["revision"]) == (80, 8, "test")


def test_the_built_in_model_has_both_forms(small, tmp_path, monkeypatch) -> None:
    (tmp_path / "pocket").mkdir()
    shutil.copytree(small.bundle, tmp_path / "pocket" / "bundle")
    shutil.copytree(small.checkpoint, tmp_path / "pocket" / "checkpoint")
    monkeypatch.setattr(loading, "_POCKET_FOLDER", tmp_path / "pocket")
    assert load(threads=1).source == load("pocket", threads=1).source == str(tmp_path / "pocket" / "bundle")
    assert load("pocket", backend="eager").backend.name == "eager"


def test_wrong_requests(small, tmp_path) -> None:
    for arguments, message in (
        ({"model": "pockett"}, r"model 'pockett' is not there; known: pocket, the names .*did you mean 'pocket'\?"),
        ({"model": tmp_path / "nothing"}, "is not there; known: pocket"),
        ({"model": small.bundle, "backend": "trt"}, "backend 'trt' is not known; known: auto onnx om eager hf"),
        (
            {"model": small.bundle, "backend": "eager"},
            r"needs config.json and weights of a checkpoint \(backend eager\); found",
        ),
        ({"model": small.checkpoint, "backend": "onnx"}, r"needs bundle.json of a bundle \(backend onnx\); found conf"),
        (
            {"model": small.checkpoint, "backend": "hf"},
            r"needs config.json and weights of a model of the hub \(backend",
        ),
        ({"model": tmp_path}, "needs bundle.json .* or config.json and .* or config.json .*; found an empty folder"),
        ({"model": small.bundle, "dtype": "bfloat16"}, "is a bundle and runs as it was exported; leave it out"),
        ({"model": small.checkpoint, "dtype": "int7"}, "dtype 'int7' is not known"),
        ({"model": small.bundle, "device": "abacus"}, "device 'abacus' is not known"),
        (
            {"model": small.bundle, "device": "abacus", "allow_fallback": True},
            "device 'abacus' is not known",
        ),
        ({"model": small.bundle, "backend": "om"}, "its graphs are ONNX; run zhiyin atc"),
    ):
        with pytest.raises(UserError, match=message):
            load(**arguments)


@pytest.fixture
def lists_a_device(monkeypatch) -> None:
    """onnxruntime lists Ascend devices, as builds for them do everywhere, and takes the CPU when asked for one."""
    listed = ["CANNExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnx.onnxruntime, "get_available_providers", lambda: listed)


def test_another_device_only_where_it_is_allowed(small, lists_a_device, tmp_path) -> None:
    """A provider that falls back by itself is an error; with leave to fall back, the device says what happened."""
    with pytest.raises(UserError, match=r"device 'npu'.* lists it but cannot open it"):
        load(small.bundle, device="npu", threads=1)
    device = load(small.bundle, device="npu", threads=1, allow_fallback=True).backend.device
    assert (
        device.name == "cpu" and device.reason.startswith("npu was asked for: ") and "cannot open it" in device.reason
    )
    assert device.reason.endswith("; fallback allowed")
    assert load(small.bundle, device="cpu", threads=1, allow_fallback=True).backend.device.reason == "asked for"
    folder = shutil.copytree(small.bundle, tmp_path / "bundle")
    _flip("encoder.onnx")(folder)
    with pytest.raises(UserError, match=r"encoder.onnx is damaged"):
        load(folder, device="npu", allow_fallback=True)


def test_fallback_of_a_checkpoint(small) -> None:
    with pytest.raises(UserError, match="device 'cuda:5': torch has only"):
        load(small.checkpoint, device="cuda:5")
    device = load(small.checkpoint, device="cuda:5", allow_fallback=True).backend.device
    assert device.name == "cpu" and "cuda:5 was asked for" in device.reason and "fallback allowed" in device.reason


def _as_stored(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    monkeypatch.setenv("ZHIYIN_HOME", str(home))
    return shutil.copytree(folder, home / "models" / name)


def test_models_of_the_store_are_found_by_name(small, tmp_path, monkeypatch) -> None:
    stored = _as_stored(small.bundle, "my-model", monkeypatch, tmp_path)
    assert load("my-model", threads=1).source == str(stored)
    monkeypatch.chdir(stored.parent)
    assert load("my-model", threads=1).source == "my-model", "a folder comes before a name"


def test_nothing_is_pulled_unasked(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ZHIYIN_HOME", str(tmp_path))
    pulled: list[str] = []

    def pull(name: str) -> Path:
        pulled.append(name)
        return small.bundle

    monkeypatch.setattr(loading.store, "pull", pull)
    name = "granite-speech-4.1-2b"
    with pytest.raises(UserError, match=rf"model '{name}' is not there; .* zhiyin pull {name} downloads it"):
        load(name)
    assert not pulled
    assert load(name, allow_download=True, threads=1).source == str(small.bundle)
    assert load("someone/some-model", allow_download=True, threads=1).source == str(small.bundle)
    assert pulled == [name, "someone/some-model"]
    for wrong in ("granite-speach-4.1-2b", "../models", "nothing"):
        with pytest.raises(UserError, match="is not there"):
            load(wrong, allow_download=True)
    assert len(pulled) == 2


def test_a_checkpoint_in_half_the_memory(small) -> None:
    backend = load(small.checkpoint, device="cpu", dtype="bfloat16").backend
    assert backend.spec.precision == "bfloat16" and "bfloat16: asked for" in str(backend.device)


def test_features_are_named_and_known(small, tmp_path) -> None:
    """A bundle says which features its encoder wants; one that this version does not make is refused."""
    folder = tmp_path / "bundle"
    shutil.copytree(small.bundle, folder)
    assert (bundle.read(folder).front_end, bundle.read(folder).frames_per_s) == ("whisper", 100.0)
    _edit(front_end="granite", num_mels=160, max_window_s=30.0)(folder)
    assert (bundle.read(folder).frames_per_s, bundle.read(folder).max_frames) == (50.0, 1500)
    _edit(front_end="ears")(folder)
    with pytest.raises(UserError, match=r"bundle.json: features 'ears' are not known to this version; known: whisper"):
        bundle.read(folder)


def test_pickled_files_are_refused_unread(tmp_path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("model.pt", "model.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(
            UserError, match=r"single file and was not opened: such files can run code; .*zhiyin convert"
        ):
            load(tmp_path / name)
    with pytest.raises(UserError, match=r"found model.bin, model.pt"):
        load(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_without_torch_says_what_to_install(small, monkeypatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"is a checkpoint and needs torch and safetensors: pip install 'zhiyin\[train\]'"
    ):
        load(small.checkpoint)


def _edit(**fields: object) -> Break:
    def change(folder: Path) -> None:
        record = json.loads((folder / bundle.RECORD).read_text())
        (folder / bundle.RECORD).write_text(json.dumps({**record, **fields}))

    return change


def _flip(name: str) -> Break:
    def change(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (folder / name).write_bytes(raw)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip("decoder.weights"), r"decoder.weights is damaged \(its SHA-256 differs\)"),
        (_flip("encoder.onnx"), "encoder.onnx is damaged"),
        (_flip("tokenizer.json"), "tokenizer.json is damaged"),
        (
            lambda folder: (folder / "encoder.weights").write_bytes(b"12"),
            r"encoder.weights is damaged \(2 bytes instead",
        ),
        (lambda folder: (folder / "encoder.weights").unlink(), "encoder.weights is missing; export or copy"),
        (lambda folder: (folder / "markers.npy").unlink(), "markers.npy is missing"),
        (lambda folder: (folder / "bundle.json").write_text("{"), "bundle.json is damaged"),
        (lambda folder: (folder / "bundle.json").write_bytes(b"\xff\xfe\x00"), "bundle.json is damaged"),
        (
            lambda folder: (folder / "bundle.json").write_text("[]"),
            "bundle.json is not zhiyin's; a bundle is a folder with",
        ),
        (_edit(format=2), "format 2, this zhiyin reads 1"),
        (_edit(files=3), "no table 'files'"),
        (_edit(files={}), "does not list encoder.onnx"),
        (_edit(files={"../checkpoint/config.json": {}}), "does not list encoder.onnx"),
        (_edit(tricks=["asr"]), "no setting 'tricks'"),
        (_edit(eos_id="end"), "eos_id: int was expected"),
        (_edit(extra=3), "extra: a table was expected"),
    ],
)
def test_damaged_bundles_are_refused(small, tmp_path, damage: Break, message: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(small.bundle, folder)
    assert bundle.read(folder).name == "tiny"
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_listed_file_outside_the_bundle_is_refused(small, tmp_path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(small.bundle, folder)
    (tmp_path / "outside").write_text("x")
    files = json.loads((folder / bundle.RECORD).read_text())["files"]
    _edit(files={**files, "../outside": files[bundle.MARKERS]})(folder)
    with pytest.raises(UserError, match=r"\.\./outside is missing"):
        bundle.read(folder)


def test_a_graph_that_is_none_is_refused(small, tmp_path) -> None:
    """Whole by its record, but not a graph: another program wrote it."""
    folder = tmp_path / "bundle"
    shutil.copytree(small.bundle, folder)
    (folder / bundle.STEP).write_bytes(b"no graph")
    bundle.seal(folder, bundle.read(small.bundle))
    with pytest.raises(UserError, match=r"decoder_step.onnx does not open on cpu"):
        load(folder)


PLAIN = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "safetensors", "transformers", "accelerate"):
            raise ImportError(f"{name} is not in the base install")

sys.meta_path.insert(0, Blocker())
import numpy as np
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.load import load
loaded = load(sys.argv[1], threads=1)
[heard] = loaded.backend.encode([np.load(sys.argv[2])])
print(*decode(loaded.backend, [Prompt((1,), heard.vectors_SD, (2,))], max_new_tokens=9)[0].ids)
"""


def test_bundles_run_without_torch(small, tmp_path, repository) -> None:
    [mel] = small.mels(120)
    np.save(tmp_path / "mel.npy", mel)
    command = [sys.executable, "-c", PLAIN, str(small.bundle), str(tmp_path / "mel.npy")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [heard] = small.eager.encode([mel])
    [reply] = decode(small.eager, [Prompt((1,), heard.vectors_SD, (2,))], max_new_tokens=9)
    assert done.stdout.split() == [str(token) for token in reply.ids] and len(reply.ids) > 1
