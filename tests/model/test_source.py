"""Weights of others on the disk: each layout gives the same tensors, and what is no whole set of weights is refused."""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.model.convert import source
from zhiyin.model.convert.source import DEEPSPEED

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.zeros(1)}


def deepspeed(weights: dict[str, Tensor]) -> dict[str, object]:
    """What DeepSpeed's engine puts around the module's weights (stage 0 to 2)."""
    return {
        "module": weights,
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [{name: tensor.shape for name, tensor in weights.items()}],
        "global_steps": 819499,
        "dp_world_size": 8,
        "mp_world_size": 1,
        "ds_config": {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}},
        "ds_version": "0.14.2",
    }


def write_shards(folder: Path) -> None:
    folder.mkdir()
    save_file({"a": WEIGHTS["a"], "b": WEIGHTS["b"]}, folder / "model-00001-of-00002.safetensors")
    save_file({"c": WEIGHTS["c"]}, folder / "model-00002-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}
    index = {"metadata": {}, "weight_map": {**places, "c": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def layouts(root: Path) -> dict[str, Path]:
    torch.save(WEIGHTS, root / "infer.pt")
    torch.save(WEIGHTS, root / "old.pt", _use_new_zipfile_serialization=False)
    save_file(WEIGHTS, root / "params.safetensors")
    write_shards(root / "sharded")
    for name in ("one", "single", "ds", "run"):
        (root / name).mkdir()
    shutil.copy(root / "infer.pt", root / "one" / "step_832499.pt")
    save_file(WEIGHTS, root / "single" / "model.safetensors")
    torch.save(deepspeed(WEIGHTS), root / "ds" / DEEPSPEED)
    (root / "run" / "step_100").mkdir()
    shutil.copy(root / "ds" / DEEPSPEED, root / "run" / "step_100" / DEEPSPEED)
    (root / "run" / "latest").write_text("step_100\n")
    return {
        "zip": root / "infer.pt",
        "legacy": root / "old.pt",
        "safetensors": root / "params.safetensors",
        "shards": root / "sharded",
        "a folder with one file": root / "one",
        "hub folder": root / "single",
        "DeepSpeed file": root / "ds" / DEEPSPEED,
        "DeepSpeed folder": root / "ds",
        "DeepSpeed run": root / "run",
    }


LAYOUTS = [
    "zip",
    "legacy",
    "safetensors",
    "shards",
    "a folder with one file",
    "hub folder",
    "DeepSpeed file",
    "DeepSpeed folder",
    "DeepSpeed run",
]


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_the_same_tensors(tmp_path, name):
    found = source.find(layouts(tmp_path)[name])
    assert found.tensors.keys() == WEIGHTS.keys()
    for key, tensor in WEIGHTS.items():
        assert torch.equal(found.tensors[key], tensor) and found.tensors[key].dtype == tensor.dtype
    for path in found.files:
        assert found.sha256()[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_zip_archives_are_mapped(tmp_path):
    """What the file says after it was opened is what the tensor says: it was not read into memory."""
    torch.save({"a": torch.full((1000,), 7.0)}, tmp_path / "w.pt")
    tensor = source.find(tmp_path / "w.pt").tensors["a"]
    data = (tmp_path / "w.pt").read_bytes()
    sevens, ones = torch.full((1000,), 7.0).numpy().tobytes(), torch.full((1000,), 1.0).numpy().tobytes()
    assert data.count(sevens) == 1
    with open(tmp_path / "w.pt", "r+b") as file:
        file.seek(data.index(sevens))
        file.write(ones)
    assert torch.equal(tensor, torch.ones(1000))


def test_shared_tensors_stay_shared_and_parameters_are_plain(tmp_path):
    table = torch.nn.Parameter(torch.randn(5, 2))
    torch.save({"embed": table, "alias": table}, tmp_path / "w.pt")
    tensors = source.find(tmp_path / "w.pt").tensors
    assert tensors["embed"].data_ptr() == tensors["alias"].data_ptr()
    assert not tensors["embed"].requires_grad


def say(path: Path) -> str:
    with pytest.raises(UserError) as error:
        source.find(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_folders_that_leave_a_question_open(tmp_path):
    assert "nothing there" in say(tmp_path / "none.pt")
    (tmp_path / "infer.pt.part").write_bytes(b"x")
    assert "its download is unfinished (infer.pt.part)" in say(tmp_path / "infer.pt")
    assert "a download is unfinished (infer.pt.part)" in say(tmp_path)
    (tmp_path / "infer.pt.part").unlink()
    (tmp_path / "readme.txt").write_text("x")
    assert "no weights but readme.txt" in say(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save(WEIGHTS, tmp_path / name)
    assert "2 files of weights (a.pt, b.pt)" in say(tmp_path)


def test_parts_of_weights_are_refused(tmp_path):
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"x")
    assert "ZeRO-3" in say(tmp_path / "zero")
    torch.save(deepspeed(WEIGHTS), tmp_path / DEEPSPEED)
    torch.save(deepspeed(WEIGHTS), tmp_path / "mp_rank_01_model_states.pt")
    assert "split over 2 devices (mp_rank_01_model_states.pt)" in say(tmp_path / DEEPSPEED)


def test_a_missing_shard(tmp_path):
    write_shards(tmp_path / "sharded")
    (tmp_path / "sharded" / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 shards missing (model-00002-of-00002.safetensors)" in say(tmp_path / "sharded")


def test_cut_short(tmp_path):
    torch.save(WEIGHTS, tmp_path / "w.pt")
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    for name, said in (("w.pt", "its end is missing"), ("w.safetensors", "cannot be read")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
        assert said in say(tmp_path / name)


def test_deepspeed_states_that_bring_code_are_refused(tmp_path):
    """Client state can be any object; a namespace of arguments is harmless, but it is not read either."""
    torch.save({**deepspeed(WEIGHTS), "args": argparse.Namespace(lr=1)}, tmp_path / DEEPSPEED)
    assert "could run code" in say(tmp_path / DEEPSPEED)
    torch.save({"module": None}, tmp_path / DEEPSPEED)
    assert "NoneType seen" in say(tmp_path / DEEPSPEED)
    torch.save({"weights": WEIGHTS}, tmp_path / DEEPSPEED)
    assert "NoneType seen" in say(tmp_path / DEEPSPEED)


def test_our_own_checkpoint_needs_no_conversion(tmp_path):
    (tmp_path / "config.json").write_text('{"format": 1, "spec": {}}')
    assert "is a checkpoint of zhiyin already" in say(tmp_path)


def test_a_tag_that_leads_elsewhere_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    torch.save(deepspeed(WEIGHTS), tmp_path / DEEPSPEED)
    (tmp_path / "run" / "latest").write_text("..")
    assert "no weights" in say(tmp_path / "run")
