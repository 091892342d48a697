"""Checkpoint folders: round trip, strictness, a save that dies at any place, and files that bring code."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zhiyin.errors import UserError
from zhiyin.model.checkpoint import is_checkpoint, is_finite, load, memory_bytes, read_tensors, save, write
from zhiyin.model.shards import Writer
from zhiyin.model.speech_lm import SpeechLM

SPEC = {"name": "tiny", "tasks": ["asr"], "labels": {"sgc": ["female", "male"]}, "max_window_s": 15.0, "licence": "无"}
TOKENIZER = '{"version": "1.0", "model": {}}'


@pytest.fixture
def folder(tmp_path: Path, tiny: SpeechLM) -> Path:
    save(tmp_path / "tiny", tiny, SPEC, TOKENIZER)
    return tmp_path / "tiny"


def same(ours: SpeechLM, theirs: SpeechLM) -> bool:
    first, second = ours.state_dict(), theirs.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name].cpu(), second[name].cpu()) for name in first)


def say(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_round_trip(device, folder, tiny):
    model, spec = load(folder, device=device)
    assert same(model, tiny)
    assert spec == SPEC
    assert model.config == tiny.config
    assert not model.training
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "tokenizer.json").read_text() == TOKENIZER
    mel, frames = torch.randn(1, 8, 33).to(device), torch.tensor([33], device=device)
    assert torch.equal(model.listen(mel, frames).vectors_BSD, tiny.listen(mel, frames).vectors_BSD)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_and_loaded_in_other_precisions(tmp_path, tiny, dtype):
    save(tmp_path / "half", tiny, SPEC, TOKENIZER, dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {dtype}
    full, half = load(tmp_path / "half")[0], load(tmp_path / "half", dtype=dtype)[0]
    for name, parameter in tiny.named_parameters():
        assert torch.equal(full.get_parameter(name), parameter.cpu().to(dtype).float())
        assert torch.equal(half.get_parameter(name), parameter.cpu().to(dtype))
    assert half.encoder.positions.dtype == torch.float32


def test_computed_positions_need_no_place(folder, tiny):
    assert not any("positions" in name for name in load_file(folder / "model.safetensors"))
    assert torch.equal(load(folder)[0].encoder.positions, tiny.encoder.positions.cpu())


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
    watched(Writer, "close")
    watched(Path, "rename")
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

    monkeypatch.setattr(Writer, "add", full)
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


def sharded(folder: Path, tiny: SpeechLM, most: int = 2000, **changes) -> list[str]:
    """Write the tiny model in shards of at most `most` bytes; returns their names."""
    given = {"config": tiny.config, "spec": SPEC, "tokenizer": TOKENIZER, "tensors": tiny.state_dict().items()}
    write(folder, **{**given, **changes}, max_shard_bytes=most)
    return sorted(path.name for path in folder.glob("model-*.safetensors"))


def test_shards_are_what_the_hub_expects(tmp_path, tiny):
    """Each is read by the library alone; the index says what transformers reads."""
    names = sharded(tmp_path / "tiny", tiny)
    assert len(names) > 5
    assert names == [f"model-{i:05d}-of-{len(names):05d}.safetensors" for i in range(1, len(names) + 1)]
    index = json.loads((tmp_path / "tiny" / "model.safetensors.index.json").read_text())
    found = {}
    for name in names:
        tensors = load_file(tmp_path / "tiny" / name)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 2000 or len(tensors) == 1
        assert all(index["weight_map"][key] == name for key in tensors)
        found.update(tensors)
    expected = tiny.cpu().state_dict()
    assert index["weight_map"].keys() == found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    assert same(load(tmp_path / "tiny")[0], tiny)
    assert is_checkpoint(tmp_path / "tiny")


def test_each_number_format_has_its_own_shard_and_every_tensor_lies_aligned(tmp_path, tiny):
    """A tensor of 2-byte numbers, odd in count, before one of 4: in one file the second could not be mapped."""
    formats = [torch.float32, torch.bfloat16, torch.float16]
    tensors = [(name, t.to(formats[i % 3])) for i, (name, t) in enumerate(tiny.state_dict().items())]
    names = sharded(tmp_path / "tiny", tiny, 2**20, tensors=tensors)
    assert len(names) == 3
    found = {}
    for name in names:
        found.update(load_file(tmp_path / "tiny" / name))
        header = int.from_bytes((tmp_path / "tiny" / name).read_bytes()[:8], "little")
        record = json.loads((tmp_path / "tiny" / name).read_bytes()[8 : 8 + header])
        del record["__metadata__"]
        assert len({entry["dtype"] for entry in record.values()}) == 1 and header % 8 == 0
    assert all(torch.equal(found[name], tensor.cpu()) and found[name].dtype == tensor.dtype for name, tensor in tensors)


def test_one_tensor_at_a_time(tmp_path, tiny):
    """When the next is asked for, the one before is let go."""
    alive: list[weakref.ref] = []

    def stream():
        for name, tensor in tiny.state_dict().items():
            fresh = tensor.clone()
            alive[:] = [ref for ref in alive if ref() is not None]
            assert not alive
            alive.append(weakref.ref(fresh))
            yield name, fresh
            del fresh

    sharded(tmp_path / "tiny", tiny, tensors=stream())
    assert same(load(tmp_path / "tiny")[0], tiny)


def test_another_number_of_shards_leaves_none_of_the_old(tmp_path, tiny):
    folder = tmp_path / "tiny"
    sharded(folder, tiny)
    (folder / "README.md").write_text("model card")
    (folder / "conversion.json").write_text("{}")
    save(folder, tiny, SPEC, TOKENIZER)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    sharded(folder, tiny, 10_000)
    assert not (folder / "model.safetensors").exists() and same(load(folder)[0], tiny)


def test_where_weights_come_from_is_kept(tmp_path, tiny):
    sharded(tmp_path / "tiny", tiny, origin={"source": "infer.pt", "family": "osum"})
    assert json.loads((tmp_path / "tiny" / "conversion.json").read_text()) == {"source": "infer.pt", "family": "osum"}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t.pop("markers"), r"1 missing \(markers\)"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda t: t.update(markers=torch.zeros(16, 2)), r"1 misshapen \(markers \(16, 2\) for \(2, 16\)\)"),
        (lambda t: t.update(markers=torch.full((2, 16), float("nan"))), "markers is not finite"),
        (lambda t: t.update(markers=torch.zeros(2, 16, dtype=torch.int8)), "kept are"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, tiny, edit, said):
    tensors = dict(tiny.state_dict())
    edit(tensors)
    with pytest.raises(UserError, match=said) as error:
        sharded(tmp_path / "tiny", tiny, tensors=tensors.items())
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    old = sharded(tmp_path / "tiny", tiny)
    with pytest.raises(UserError, match=said):
        sharded(tmp_path / "tiny", tiny, tensors=tensors.items())
    assert sorted(path.name for path in (tmp_path / "tiny").glob("model-*")) == old
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_weight_that_comes_twice_is_refused(tmp_path, tiny):
    tensors = [*tiny.state_dict().items(), ("markers", tiny.markers)]
    with pytest.raises(UserError, match="markers came twice"):
        sharded(tmp_path / "tiny", tiny, tensors=tensors)
    assert list(tmp_path.iterdir()) == []


def test_stopped_by_ctrl_c_nothing_stays(tmp_path, tiny):
    def stream():
        yield from list(tiny.state_dict().items())[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sharded(tmp_path / "tiny", tiny, tensors=stream())
    assert list(tmp_path.iterdir()) == []


def test_faults_of_shards(tmp_path, tiny):
    folder = tmp_path / "tiny"
    names = sharded(folder, tiny)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def restore() -> None:
        for path in folder.iterdir():
            path.unlink()
        for name, data in whole.items():
            (folder / name).write_bytes(data)

    (folder / names[1]).unlink()
    assert f"1 of {len(names)} shards missing ({names[1]}); copy again" in say(folder)
    (folder / f"{names[1]}.incomplete").write_bytes(b"x")
    assert f"shards missing ({names[1]}), and a download is unfinished ({names[1]}.incomplete)" in say(folder)
    restore()
    for cut in (0, 4, 100, len(whole[names[2]]) - 1):
        (folder / names[2]).write_bytes(whole[names[2]][:cut])
        assert f"{names[2]} is damaged or missing" in say(folder)
    restore()
    (folder / names[2]).write_bytes(whole[names[3]])
    assert "is both in" in say(folder)
    restore()
    index = json.loads(whole["model.safetensors.index.json"])
    for wrong in (
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../other"}}',
        '{"weight_map": {"a": 1}}',
    ):
        (folder / "model.safetensors.index.json").write_text(wrong)
        assert "model.safetensors.index.json is damaged" in say(folder)
    index["weight_map"]["markers"] = next(name for name in names if name != index["weight_map"]["markers"])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "disagree, first about 'markers'" in say(folder)
    restore()
    shutil.copy(folder / names[0], folder / "model.safetensors")
    assert "both model.safetensors and model.safetensors.index.json are there" in say(folder)


def test_an_unfinished_download_of_a_single_file(folder):
    (folder / "model.safetensors").rename(folder / "model.safetensors.part")
    assert "a download is unfinished (model.safetensors.part)" in say(folder)


def test_a_config_that_contradicts_the_weights(folder):
    record = json.loads((folder / "config.json").read_text())
    record["decoder"]["width"] = 20
    (folder / "config.json").write_text(json.dumps(record))
    assert "misshapen (decoder.embed_tokens.weight (40, 16) for (40, 20)" in say(folder)
    record["decoder"]["width"] = 16
    record["encoder"]["num_layers"] = 3
    (folder / "config.json").write_text(json.dumps(record))
    assert "15 missing (encoder.blocks.2." in say(folder)


def test_what_is_a_checkpoint(folder, tmp_path):
    assert is_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    assert is_checkpoint(folder), "that it is not whole, load says"
    for config in ("{", "[]", '{"model_type": "qwen2"}', '{"format": 1}'):
        (folder / "config.json").write_text(config)
        assert not is_checkpoint(folder)
    assert not is_checkpoint(tmp_path / "none")


def test_asking_what_a_folder_is_needs_no_torch(folder):
    code = "import sys; sys.modules['torch'] = None; from zhiyin.model import files"
    code += "; print(files.is_checkpoint(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_counted_before_loading(tmp_path, tiny, dtype):
    sharded(tmp_path / "tiny", tiny)
    assert (
        memory_bytes(tmp_path / "tiny", dtype=dtype)
        == sum(t.numel() for t in tiny.state_dict().values()) * dtype.itemsize
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_not_finite_is_seen_anywhere(bad, dtype):
    for count in (1, 7, 33, 4099):
        for place in {0, count // 2, count - 1}:
            values = torch.ones(count, dtype=dtype)
            assert is_finite(values)
            values[place] = bad
            assert not is_finite(values)
    assert is_finite(torch.zeros(0, dtype=dtype))


def test_a_model_without_weights_is_made_quickly():
    """Its first random numbers would have torch import its compiler, a second or two each time a program starts."""
    code = "import sys; from zhiyin.model import checkpoint; from zhiyin.model.config import ModelConfig\n"
    code += "model = checkpoint.empty(ModelConfig())\n"
    code += "assert {p.device.type for p in model.parameters()} == {'meta'}, 'weights'\n"
    code += "assert model.encoder.positions.device.type == 'cpu' and model.encoder.positions.any(), 'positions'\n"
    code += "assert 'torch._dynamo' not in sys.modules, 'the compiler'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
