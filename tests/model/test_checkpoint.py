"""Checkpoint folders: round trip, strictness, a save that dies at any place, and files that bring code."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.model.checkpoint import load, read_tensors, save
from zhiyin.model.speech_lm import SpeechLM

SPEC = {"name": "tiny", "tasks": ["asr"], "labels": {"sgc": ["female", "male"]}, "max_window_s": 15.0, "licence": "无"}
TOKENIZER = '{"version": "1.0", "model": {}}'


@pytest.fixture
def folder(tmp_path: Path, tiny: SpeechLM) -> Path:
    save(tmp_path / "tiny", tiny, SPEC, TOKENIZER)
    return tmp_path / "tiny"


def same(ours: SpeechLM, theirs: SpeechLM) -> bool:
    first, second = ours.state_dict(), theirs.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def say(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_round_trip(folder, tiny):
    model, spec = load(folder)
    assert same(model, tiny)
    assert spec == SPEC
    assert model.config == tiny.config
    assert not model.training
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "tokenizer.json").read_text() == TOKENIZER
    mel, frames = torch.randn(1, 8, 33), torch.tensor([33])
    assert torch.equal(model.listen(mel, frames).vectors_BSD, tiny.listen(mel, frames).vectors_BSD)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_and_loaded_in_other_precisions(tmp_path, tiny, dtype):
    save(tmp_path / "half", tiny, SPEC, TOKENIZER, dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {dtype}
    full, half = load(tmp_path / "half")[0], load(tmp_path / "half", dtype=dtype)[0]
    for name, parameter in tiny.named_parameters():
        assert torch.equal(full.get_parameter(name), parameter.to(dtype).float())
        assert torch.equal(half.get_parameter(name), parameter.to(dtype))
    assert half.encoder.positions.dtype == torch.float32


def test_computed_positions_need_no_place(folder, tiny):
    assert not any("positions" in name for name in load_file(folder / "model.safetensors"))
    assert torch.equal(load(folder)[0].encoder.positions, tiny.encoder.positions)


def test_stored_positions_come_back_as_they_were(tmp_path, pangu):
    save(tmp_path / "pangu", pangu.model, SPEC, TOKENIZER, dtype=torch.float16)
    model, _ = load(tmp_path / "pangu", dtype=torch.float16)
    table = pangu.state["encoder.embed.pos_enc.pe"][0].float()
    assert torch.equal(model.encoder.positions, table)
    assert torch.equal(model.projector.positions, pangu.state["speech_transformer.embed.pos_enc.pe"][0].float())


def test_tokenizer_from_a_file(tmp_path, tiny):
    (tmp_path / "mine.json").write_text(TOKENIZER)
    save(tmp_path / "tiny", tiny, SPEC, tmp_path / "mine.json")
    assert (tmp_path / "tiny" / "tokenizer.json").read_text() == TOKENIZER
    with pytest.raises(UserError, match=r"none\.json"):
        save(tmp_path / "other", tiny, SPEC, tmp_path / "none.json")
    assert not (tmp_path / "other").exists()


def test_replacing_keeps_files_of_others(folder, tiny):
    (folder / "README.md").write_text("model card")
    (folder / "state").mkdir()
    (folder / "state" / "optimizer").write_text("x")
    tiny.markers += 1
    save(folder, tiny, SPEC, TOKENIZER)
    assert same(load(folder)[0], tiny)
    assert (folder / "README.md").read_text() == "model card"
    assert (folder / "state" / "optimizer").read_text() == "x"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path, tiny):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(UserError, match=name):
            save(tmp_path / name, tiny, SPEC, TOKENIZER)
    assert (tmp_path / "photos" / "me.jpg").read_text() == (tmp_path / "file").read_text() == "x"


def test_through_a_link(folder, tiny):
    link = folder.with_name("latest")
    link.symlink_to(folder)
    tiny.markers += 1
    save(link, tiny, SPEC, TOKENIZER)
    assert link.is_symlink()
    assert same(load(folder)[0], tiny)
    assert same(load(link)[0], tiny)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is cleaned up."""


def steps_of_a_save(monkeypatch: pytest.MonkeyPatch, stop_at: int | None) -> list[str]:
    """Count what a save does to the disk; at step `stop_at` the process is gone."""
    steps: list[str] = []

    def watched(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def step(*args, **kwargs):
            if len(steps) == stop_at:
                raise Killed
            steps.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, step)

    for owner, name in [(os, "replace"), (os, "fsync"), (shutil, "rmtree"), (Path, "mkdir"), (Path, "write_text")]:
        watched(owner, name)
    watched(checkpoint, "save_file")
    return steps


def test_whatever_step_a_save_dies_at_the_old_or_the_new_one_is_whole(folder, tiny, monkeypatch):
    (folder / "README.md").write_text("model card")
    old, _ = load(folder)
    tiny.markers += 1
    with monkeypatch.context() as patch:
        steps = steps_of_a_save(patch, None)
        save(folder, tiny, SPEC, TOKENIZER)
    assert steps.count("replace") == 3  # old away, new in place, model card over
    assert len(steps) > 10
    seen = set()
    for stop_at in range(len(steps)):
        shutil.rmtree(folder)
        save(folder, old, SPEC, TOKENIZER)
        (folder / "README.md").write_text("model card")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            steps_of_a_save(patch, stop_at)
            save(folder, tiny, SPEC, TOKENIZER)
        found, spec = load(folder)
        assert spec == SPEC
        assert same(found, old) or same(found, tiny)
        seen.add(same(found, tiny))
        save(folder, tiny, SPEC, TOKENIZER)  # the next save goes through and leaves nothing behind
        assert same(load(folder)[0], tiny)
        assert (folder / "README.md").read_text() == "model card"
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert seen == {False, True}


def test_a_full_disk_is_one_line_and_the_old_one_stays(folder, tiny, monkeypatch):
    old, _ = load(folder)
    tiny.markers += 1

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(folder, tiny, SPEC, TOKENIZER)
    assert same(load(folder)[0], old)


def test_weights_that_are_not_finite_are_not_saved(folder, tiny):
    tiny.markers[0, 0] = 1e6  # finite in float32, infinite in float16
    save(folder, tiny, SPEC, TOKENIZER)
    with pytest.raises(UserError, match=r"markers is not finite in torch\.float16"):
        save(folder, tiny, SPEC, TOKENIZER, dtype=torch.float16)


def change(folder: Path, edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.pop("markers"), "1 missing (markers)"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 unexpected (extra)"),
        (lambda w: w.update(markers=torch.zeros(2, 5)), "1 misshapen (markers (2, 5) for (2, 16))"),
        (lambda w: w["markers"].fill_(float("nan")), "1 not finite (markers)"),
        (lambda w: w["markers"].view(-1)[3:4].fill_(float("inf")), "1 not finite (markers)"),
    ],
)
def test_each_fault_of_the_weights_is_named(folder, edit, said):
    change(folder, edit)
    assert said in say(folder)


def test_all_faults_are_counted_and_the_first_named(folder):
    def edit(weights):
        for name in [name for name in weights if name.startswith("encoder.blocks.0.")]:
            weights[f"old.{name}"] = weights.pop(name)

    change(folder, edit)
    first = "encoder.blocks.0.attn.key.weight, encoder.blocks.0.attn.out.bias, encoder.blocks.0.attn.out.weight"
    assert f"15 missing ({first}, ...); 15 unexpected (old.encoder" in say(folder)


def test_damaged_files(folder):
    for cut in (0, 4, 100, 5000):
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:cut])
        assert "model.safetensors is damaged or missing" in say(folder)
        (folder / "model.safetensors").write_bytes(whole)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is damaged or missing" in say(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json is damaged"),
        ("[]", "no 'format'"),
        ('{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}', "no 'format'"),
        ('{"format": 1, "encoder": {}}', "no 'spec' table"),
    ],
)
def test_a_foreign_or_damaged_config(folder, config, said):
    (folder / "config.json").write_text(config)
    message = say(folder)
    assert said in message
    assert "expected a folder with model.safetensors, config.json, tokenizer.json" in message


def test_an_unknown_setting_is_named(folder):
    record = json.loads((folder / "config.json").read_text())
    record["encoder"]["num_head"] = 3
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"num_head.*num_heads"):
        load(folder)


def test_what_is_no_checkpoint_folder(tmp_path):
    assert "nothing there" in say(tmp_path / "none")
    (tmp_path / "model.pt").write_bytes(b"x")
    assert "a single file, which has to be converted first" in say(tmp_path / "model.pt")
    assert "no config.json but model.pt" in say(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "an empty folder" in say(tmp_path / "empty")


class Bomb:
    """Unpickled by a careless reader, it writes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.write_text, (self.mark, "executed"))


def bomb_files(tmp_path: Path) -> dict[str, Path]:
    bomb = {"weight": torch.zeros(2), "bomb": Bomb(tmp_path / "mark")}
    torch.save(bomb, tmp_path / "zip.pt")
    torch.save(bomb, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(bomb))
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(bomb["bomb"]))
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:  # claims to be TorchScript
        archive.writestr("script/data.pkl", pickle.dumps(bomb["bomb"], protocol=2))
        archive.writestr("script/constants.pkl", pickle.dumps(bomb["bomb"], protocol=2))
        archive.writestr("script/version", "3")
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "plain.pt", "weights.bin", "script.pt"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, name):
    path = bomb_files(tmp_path)[name]
    with pytest.raises(UserError, match=name) as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mark").exists()


def test_the_bombs_are_live(tmp_path):
    """Otherwise the test above would prove nothing."""
    files = bomb_files(tmp_path)
    torch.load(files["zip.pt"], weights_only=False)
    assert (tmp_path / "mark").read_text() == "executed"


def test_a_folder_with_a_pickle_instead_of_weights_is_refused(folder, tmp_path):
    bomb = bomb_files(tmp_path)["zip.pt"]
    (folder / "model.safetensors").unlink()
    shutil.copy(bomb, folder / "pytorch_model.bin")
    assert "model.safetensors" in say(folder)
    shutil.copy(bomb, folder / "model.safetensors")
    assert "model.safetensors is damaged" in say(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_read_tensors(tmp_path, zipped):
    weights = {"a": torch.randn(3), "b": torch.arange(4)}
    torch.save(weights, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    save_file(weights, tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        found = read_tensors(tmp_path / name)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], weights[key]) for key in weights)


@pytest.mark.parametrize("value", [{"module": {"a": torch.zeros(1)}}, torch.zeros(2), {}, {"a": 1}])
def test_read_tensors_wants_a_flat_table(tmp_path, value):
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(UserError, match="flat table of tensors is expected"):
        read_tensors(tmp_path / "w.pt")


def test_read_tensors_of_damaged_files(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    for cut in (0, 10, 1000, len(whole) - 10):
        (tmp_path / "w.pt").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"w\.pt"):
            read_tensors(tmp_path / "w.pt")
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(UserError, match="none"):
            read_tensors(tmp_path / name)
