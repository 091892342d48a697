"""`zhiyin convert`: a user's way from published files to a checkpoint that runs, and each way in which it must fail."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor

import zhiyin
from zhiyin import cli
from zhiyin.model import checkpoint
from zhiyin.model.config import ModelConfig
from zhiyin.model.convert import command, osum, whisper

FAMILIES = {"osum": "osum", "pangu": "osum-pangu"}
END = {"osum": "<|endoftext|>", "pangu": "[unused10]"}


class Given:
    """What a user has: weights of one tiny reference model, the folder of its decoder, facts of its other size."""

    def __init__(self, name: str, shared: Path, root: Path):
        self.name, self.root = name, root
        self.weights = shared / "golden" / name / "checkpoint.pt"
        self.spec = json.loads((shared / "golden" / name / "spec.json").read_text())
        self.tokenizer, self.out = root / "decoder", root / "out"
        self.tokenizer.mkdir()
        llm = self.spec["llm"]
        self.write_tokenizer(llm["vocab"])
        self.config = {
            "hidden_size": llm["hidden"],
            "num_hidden_layers": llm["layers"],
            "intermediate_size": llm["intermediate"],
            "num_attention_heads": llm["heads"],
            "num_key_value_heads": llm["kv_heads"],
            "vocab_size": llm["vocab"],
            "rope_theta": llm["rope_theta"],
            "rms_norm_eps": llm["rms_norm_eps"],
        }
        (self.tokenizer / "config.json").write_text(json.dumps(self.config))
        self.facts = {
            "encoder_heads": self.spec["encoder"]["heads"],
            "projector_heads": self.spec["adapter"]["heads"],
            "eos_id": llm["vocab"] - 1,
        }

    def write_tokenizer(self, rows: int, end: str | None = None) -> None:
        words = {f"t{i}": i for i in range(rows - 1)} | {end or END[self.name]: rows - 1}
        Tokenizer(models.WordLevel(words, unk_token="t0")).save(str(self.tokenizer / "tokenizer.json"))

    def state(self) -> dict[str, Tensor]:
        return torch.load(self.weights, weights_only=True)

    def save(self, state: dict[str, Tensor]) -> None:
        self.weights = self.root / "step_1.pt"
        torch.save(state, self.weights)

    def arguments(self, *more: str, leave_out: str = "") -> list[str]:
        (self.root / "facts.json").write_text(json.dumps(self.facts))
        options = {
            "--tokenizer": str(self.tokenizer),
            "--facts": str(self.root / "facts.json"),
            "--lora-scale": str(self.spec["lora"]["scale"]),
        }
        given = [word for name, value in options.items() if name != leave_out for word in (name, value)]
        return ["convert", str(self.weights), str(self.out), *given, *more]


@pytest.fixture(params=list(FAMILIES))
def given(shared: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Given:
    return Given(request.param, shared, tmp_path)


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Run:
    """Run the command; returns what it printed on standard output."""

    def call(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        printed = capsys.readouterr()
        assert stop.value.code in (0, None), printed.err
        return printed.out

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Run:
    """Run the command, which must end with 2 and one line, and leave nothing; returns the line."""

    def call(given: Given, *more: str, leave_out: str = "") -> str:
        arguments = given.arguments(*more, leave_out=leave_out)
        before = {path: path.stat().st_mtime_ns for path in given.root.rglob("*")}
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        printed = capsys.readouterr()
        assert stop.value.code == 2 and printed.out == "", printed
        assert printed.err.startswith("zhiyin: ") and printed.err.count("\n") == 1
        assert {path: path.stat().st_mtime_ns for path in given.root.rglob("*")} == before, "something was left behind"
        return printed.err

    return call


def test_from_files_to_a_running_model(given, run):
    said = run(given.arguments())
    family, keys = FAMILIES[given.name], len(given.state())
    assert f"{given.out}: {family}: its attention output has {'a' if given.name == 'pangu' else 'no'} bias" in said
    assert f"{keys} keys of checkpoint.pt (state dict)" in said
    assert f"merged (LoRA, scale {given.spec['lora']['scale']:g})" in said
    assert "dropped: embed_tokens.weight, lm_head.weight (copy of the decoder's own)" in said
    record = json.loads((given.out / "conversion.json").read_text())
    counted = record["keys"]
    assert counted["in_source"] == keys == counted["used"] + counted["merged"] + counted["dropped"]
    assert record["lora_scale"] == given.spec["lora"]["scale"]
    assert record["files"] == {"checkpoint.pt": {"bytes": given.weights.stat().st_size}}
    assert str(given.root) not in json.dumps(record)
    assert zhiyin.load(given.out, device="cpu").loaded.backend.spec.family == family


def test_heads_come_from_the_decoders_config(given, run):
    run(given.arguments())
    decoder = checkpoint.load(given.out)[0].config.decoder
    assert (decoder.num_heads, decoder.norm_eps) == (given.config["num_attention_heads"], given.config["rms_norm_eps"])
    del given.config["rope_theta"]  # transformers 5 writes it so
    given.config["rope_parameters"] = {"rope_theta": 500.0, "rope_type": "default"}
    (given.tokenizer / "config.json").write_text(json.dumps(given.config))
    run(given.arguments())
    assert checkpoint.load(given.out)[0].config.decoder.rope_theta == 500.0


def test_asked_for_family_name_dtype_and_hash(given, run):
    run(given.arguments("--from", FAMILIES[given.name], "--name", "mine", "--dtype", "bfloat16", "--sha256"))
    config = json.loads((given.out / "config.json").read_text())
    assert config["spec"]["name"] == "mine" and config["spec"]["precision"] == "bfloat16"
    record = json.loads((given.out / "conversion.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{64}", record["files"]["checkpoint.pt"]["sha256"])
    stored = {p.dtype for n, p in checkpoint.load(given.out, dtype=torch.bfloat16)[0].named_parameters()}
    assert stored == {torch.bfloat16} and (given.out / "model.safetensors").exists()


def test_a_folder_that_brings_its_tokenizer(given, run):
    shutil.copy(given.weights, given.tokenizer / "infer.pt")
    given.weights = given.tokenizer
    assert "keys of infer.pt (state dict)" in run(given.arguments(leave_out="--tokenizer"))


def test_the_published_sizes_need_no_facts(given, run, refused, monkeypatch):
    """The sizes of the tiny model stand in for the real ones."""
    family, llm, encoder = FAMILIES[given.name], given.spec["llm"], given.spec["encoder"]
    constant = {"osum": "OSUM", "osum-pangu": "OSUM_PANGU"}[family]
    tiny = dataclasses.replace(getattr(osum, constant), decoder_heads=llm["heads"], **given.facts)
    monkeypatch.setattr(osum, constant, tiny)
    monkeypatch.setitem(command.FAMILIES, family, tiny)
    assert "published were 24 x 1024, 4 x 1024" in refused(given, leave_out="--facts")
    adapter = (given.spec["adapter"]["blocks"], encoder["d_model"])
    sizes = ((encoder["blocks"], encoder["d_model"]), adapter, (llm["layers"], llm["hidden"]))
    monkeypatch.setitem(osum.PUBLISHED_SIZES, family, sizes)
    run(given.arguments(leave_out="--facts"))
    run(given.arguments("--from", family, leave_out="--facts"))


# What must be refused.


def test_without_facts_another_size_is_refused(given, refused):
    assert "give --facts" in refused(given, leave_out="--facts")


def test_lora_without_its_scale(given, refused):
    published = {"osum": "osum was published with 4", "pangu": "osum-pangu was published with 0.5"}[given.name]
    assert f"give --lora-scale ({published})" in refused(given, leave_out="--lora-scale")
    for wrong in ("nan", "0", "-1", "inf"):
        assert "above zero" in refused(given, "--lora-scale", wrong, leave_out="--lora-scale")


def test_a_missing_an_unknown_and_a_swapped_key(given, refused):
    whole = given.state()
    key = "encoder.encoders.0.feed_forward.w_1.weight"
    given.save({name: tensor for name, tensor in whole.items() if name != "encoder.encoders.0.norm1.weight"})
    assert "1 missing (encoder.blocks.0.norm1.weight)" in refused(given)
    given.save({**whole, "vocoder.weight": torch.zeros(2)})
    assert "1 unexpected (vocoder.weight)" in refused(given)
    given.save({**whole, key: whole[key].T.contiguous()})
    assert "misshapen" in refused(given)


def test_weights_that_are_not_finite(given, refused):
    state = given.state()
    state["encoder.encoders.0.norm1.weight"][0] = float("nan")
    given.save(state)
    assert "encoder.blocks.0.norm1.weight is not finite" in refused(given)


def test_too_big_for_float16(given, refused):
    state = given.state()
    state["speech_llama_proj.bias"] = torch.full_like(state["speech_llama_proj.bias"], 1e5, dtype=torch.float32)
    given.save(state)
    assert "projector.out.bias is not finite in torch.float16" in refused(given, "--dtype", "float16")


def test_a_file_cut_short_and_one_that_is_not_there(given, refused):
    data = given.weights.read_bytes()
    given.weights = given.root / "infer.pt"
    given.weights.write_bytes(data[: len(data) // 2])
    assert "its end is missing" in refused(given)
    given.weights.rename(given.root / "infer.pt.part")
    assert "its download is unfinished (infer.pt.part)" in refused(given)


class Bomb:
    """Unpickled by a careless reader, it writes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.write_text, (self.mark, "executed"))


def test_code_in_the_file_is_refused_and_never_run(given, refused):
    given.save({**given.state(), "bomb": Bomb(given.root / "mark")})
    assert "could run code" in refused(given)
    assert not (given.root / "mark").exists()
    torch.load(given.weights, weights_only=False)
    assert (given.root / "mark").exists(), "the bomb is live, else this proves nothing"


def test_a_tokenizer_that_is_not_the_decoders(given, refused):
    rows = given.spec["llm"]["vocab"]
    given.write_tokenizer(rows, end="</s>")
    assert f"ends replies with {rows - 1} {END[given.name]}, it has '</s>' there" in refused(given)
    given.write_tokenizer(rows - 5)
    assert f"ends replies with {rows - 1} {END[given.name]}, it has no such id" in refused(given)
    given.write_tokenizer(rows + 1)
    assert f"token {rows}, " in refused(given) and not given.out.exists()
    (given.tokenizer / "tokenizer.json").write_text("{")
    assert "tokenizer" in refused(given)
    (given.tokenizer / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(given)


def test_no_tokenizer_at_all(given, refused):
    assert "the weights bring no tokenizer; give --tokenizer" in refused(given, leave_out="--tokenizer")


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "intermediate_size", "num_key_value_heads"])
def test_a_decoder_config_that_contradicts_the_weights(given, refused, field):
    given.config[field] += 1
    (given.tokenizer / "config.json").write_text(json.dumps(given.config))
    assert f"{field} is {given.config[field]}, the weights have {given.config[field] - 1}" in refused(given)


def test_a_damaged_decoder_config_and_damaged_facts(given, refused):
    (given.tokenizer / "config.json").write_text("{")
    assert "cannot be read" in refused(given)
    (given.tokenizer / "config.json").write_text('{"num_attention_heads": "four"}')
    assert "int was expected" in refused(given)
    (given.tokenizer / "config.json").write_text(json.dumps(given.config))
    given.facts["encoder_head"] = 3
    assert "did you mean 'encoder_heads'?" in refused(given)


def test_an_out_that_is_something_else(given, refused):
    given.out.mkdir()
    (given.out / "photo.jpg").write_text("x")
    assert "no config.json but photo.jpg" in refused(given)


def test_an_older_checkpoint_is_replaced_only_by_a_whole_one(given, run, refused):
    run(given.arguments("--name", "first"))
    state = given.state()
    state["speech_llama_proj.bias"][0] = float("inf")
    given.save(state)
    assert "not finite" in refused(given, "--name", "second")
    assert checkpoint.load(given.out)[1]["name"] == "first"


def test_words_that_are_not_known(given, refused):
    assert "--from 'llama' is not known; known: auto osum osum-pangu whisper" in refused(given, "--from", "llama")
    assert "dtype 'int8' is not known; known: keep float32" in refused(given, "--dtype", "int8")


def test_the_wrong_family_asked_for(given, refused):
    other = {"osum": "osum-pangu", "pangu": "osum"}[given.name]
    assert "o_proj" in refused(given, "--from", other)


def test_no_room_on_the_disk(given, refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    line = refused(given)
    assert "GB of disk, 0.0 GB are free" in line


def test_what_is_missing_is_named(given, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "pip install 'zhiyin[train]'" in refused(given)


def test_a_window_is_no_longer_than_the_positions(given, run):
    """A checkpoint with shorter tables says so of itself, instead of failing on long recordings."""
    state = given.state()
    for key in ("encoder.embed.pos_enc.pe", "speech_transformer.embed.pos_enc.pe"):
        state[key] = state[key][:, :400]
    given.save(state)
    run(given.arguments())
    model, spec = checkpoint.load(given.out)
    config: ModelConfig = model.config
    assert config.encoder.max_positions == 400 and spec["max_window_s"] == 8.0


def test_whisper_goes_to_its_own_converter(monkeypatch, run, tmp_path, capsys):
    asked = []

    def convert(source: Path, out: Path, *, dtype: torch.dtype | None) -> checkpoint.Report:
        asked.append((source, out, dtype))
        return checkpoint.Report(used=["a", "b"], dropped={"decoder.x": "its decoder"})

    monkeypatch.setattr(whisper, "convert", convert)
    base = ["convert", str(tmp_path / "tiny.pt"), str(tmp_path / "out"), "--from", "whisper"]
    said = run([*base, "--dtype", "float16"])
    assert asked == [(tmp_path / "tiny.pt", tmp_path / "out", torch.float16)]
    assert "a Whisper encoder, 2 keys used" in said and "dropped: decoder.x (its decoder)" in said
    for more, fault in ((["--lora-scale", "4"], "only --dtype"), (["--dtype", "int4"], "dtype 'int4' is not known")):
        with pytest.raises(SystemExit):
            cli.main([*base, *more])
        assert fault in capsys.readouterr().err
