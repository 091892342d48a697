"""Whisper encoders out of foreign files, against `transformers` on tiny random models."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.model.config import EncoderConfig
from zhiyin.model.convert.whisper import convert, read_encoder
from zhiyin.model.encoder import Encoder

pytest.importorskip("transformers")
from tests.model.foreign_models import dims, edit, openai, whisper

LIMIT = 2e-5  # float32 sums in another order; the frames are of the order of 1


def encoded(part, mel_BMF, device):
    """What our encoder makes of it on the device; on the CPU."""
    encoder = Encoder(part.config).eval()
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in part.tensors()}, strict=True)
    frames_B = torch.full((len(mel_BMF),), mel_BMF.shape[2], device=device)
    return encoder.to(device)(mel_BMF.to(device), frames_B)[0].cpu()


def theirs(model, mel_BMF):
    return model.get_encoder()(mel_BMF).last_hidden_state


def far(ours, expected):
    assert ours.shape == expected.shape
    return float((ours - expected).abs().max())


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("kind", ["WhisperForConditionalGeneration", "WhisperModel"])
def test_a_hugging_face_folder(device, tmp_path, mels, kind):
    model = whisper(tmp_path, kind=kind, num_mel_bins=mels)
    part = read_encoder(tmp_path)
    mel = torch.randn(2, mels, 100)
    assert far(encoded(part, mel, device), theirs(model, mel)) <= LIMIT
    assert part.config == EncoderConfig(mels, 24, 2, 4, 96, 50)
    text = {key for key in part.report.dropped if "decoder" in key}
    assert text and all("text decoder" in part.report.dropped[key] for key in text)
    positions = {key for key in part.report.dropped if "embed_positions" in key and "encoder" in key}
    assert {part.report.dropped[key] for key in positions} == {"equal to the formula"}
    found = {key for key, _ in part.table.items()}
    assert found == {*part.report.used, *part.report.dropped}


@pytest.mark.parametrize("layout", ["shards", "pickle"])
def test_other_files_of_hugging_face(device, tmp_path, layout):
    model = whisper(tmp_path / "whole")
    folder = tmp_path / layout
    if layout == "shards":
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    else:
        folder.mkdir()
        (folder / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
        torch.save(load_file(tmp_path / "whole" / "model.safetensors"), folder / "pytorch_model.bin")
    mel = torch.randn(1, 80, 100)
    assert far(encoded(read_encoder(folder), mel, device), theirs(model, mel)) <= LIMIT


@pytest.mark.parametrize("half", [False, True])
def test_an_openai_file(device, tmp_path, half):
    """OpenAI's files are float16, their position tables too: these are used as they are."""
    model = whisper(tmp_path / "hf")
    if half:
        model = model.half().float()
    state = {key: tensor.half() if half else tensor for key, tensor in model.state_dict().items()}
    torch.save(openai(state, dims()), tmp_path / "tiny.pt")
    part = read_encoder(tmp_path / "tiny.pt")
    mel = torch.randn(2, 80, 100)
    assert far(encoded(part, mel, device), theirs(model, mel)) <= LIMIT
    assert part.config.stored_positions == half
    kept = {name: tensor.dtype for name, tensor in part.tensors()}
    assert kept["encoder.conv1.weight"] == (torch.float16 if half else torch.float32)
    assert ("encoder.positions" in kept) == half
    assert {"decoder.token_embedding.weight", "decoder.blocks.0.cross_attn_ln.weight"} <= part.report.dropped.keys()
    assert "encoder.ln_post.weight" in part.report.used


@pytest.mark.parametrize("half", [False, True])
def test_convert_writes_a_folder_that_is_read_again(tmp_path, half):
    model = whisper(tmp_path / "hf")
    state = {key: tensor.half() if half else tensor for key, tensor in model.state_dict().items()}
    torch.save(openai(state, dims()), tmp_path / "tiny.pt")
    report = convert(tmp_path / "tiny.pt", tmp_path / "out")
    assert any("text decoder" in reason for reason in report.dropped.values())
    record = json.loads((tmp_path / "out" / "config.json").read_text())
    assert record["family"] == "whisper-encoder"
    assert build(EncoderConfig, record["encoder"], "x") == read_encoder(tmp_path / "tiny.pt").config
    again = read_encoder(tmp_path / "out")
    expected = dict(read_encoder(tmp_path / "tiny.pt").tensors())
    assert dict(again.tensors()).keys() == expected.keys()
    for name, tensor in again.tensors():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])
    convert(tmp_path / "out", tmp_path / "out", dtype=torch.bfloat16)  # also over itself
    stored = {name: tensor.dtype for name, tensor in read_encoder(tmp_path / "out").tensors()}
    assert stored.pop("encoder.positions", torch.float32) == torch.float32
    assert set(stored.values()) == {torch.bfloat16}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("what", ["file", "folder", "checkpoint-like"])
def test_convert_replaces_nothing_else(tmp_path, what):
    whisper(tmp_path / "hf")
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("config.json" if what == "checkpoint-like" else "mine.txt")).write_text('{"format": 1}')
    with pytest.raises(UserError, match="something else is there"):
        convert(tmp_path / "hf", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]
    assert out.is_file() or len(list(out.iterdir())) == 1


def test_convert_writes_nothing_that_is_not_finite(tmp_path):
    whisper(tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    state["model.encoder.conv2.bias"][3] = float("nan")
    save_file(state, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"encoder\.conv2\.bias is not finite.*nothing was written"):
        convert(tmp_path / "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


FAULTS = {
    "unknown key": (
        lambda state: {**state, "model.encoder.layers.0.gate": torch.ones(2)},
        r"1 unexpected \(model\.encoder\.layers\.0\.gate\)",
    ),
    "unknown top": (lambda state: {**state, "classifier.weight": torch.ones(2)}, r"unexpected \(classifier\.weight\)"),
    "bias on the keys": (
        lambda state: {**state, "model.encoder.layers.1.self_attn.k_proj.bias": torch.ones(24)},
        r"unexpected \(model\.encoder\.layers\.1\.self_attn\.k_proj\.bias\)",
    ),
    "missing key": (
        lambda state: {k: v for k, v in state.items() if k != "model.encoder.conv2.bias"},
        r"1 missing \(encoder\.conv2\.bias\)",
    ),
    "wrong shape": (
        lambda state: {**state, "model.encoder.layer_norm.bias": torch.ones(23)},
        r"misshapen \(encoder\.norm\.bias \(23,\) for \(24,\)\)",
    ),
    "swapped shape": (
        lambda state: {**state, "model.encoder.layers.0.fc1.weight": torch.ones(24, 96)},
        r"misshapen \(encoder\.blocks\.0\.fc1\.weight \(24, 96\) for \(96, 24\)\)",
    ),
    "twice": (
        lambda state: {**state, "encoder.conv1.bias": torch.ones(24)},
        r"same weight twice",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_weights(tmp_path, name):
    whisper(tmp_path)
    spoil, said = FAULTS[name]
    save_file(spoil(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=said) as error:
        read_encoder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_mel_bins": 128}, r"encoder\.conv1\.weight \(24, 80, 3\) for \(24, 128, 3\)"),
        ({"encoder_layers": 3}, r"missing \(encoder\.blocks\.2\."),
        ({"encoder_layers": 1}, r"unexpected \(model\.encoder\.layers\.1\."),
        ({"encoder_ffn_dim": 90}, r"fc1\.bias \(96,\) for \(90,\)"),
        ({"max_source_positions": 60}, r"embed_positions\.weight' is \(50, 24\), its sizes say \(60, 24\)"),
        ({"encoder_attention_heads": 5}, r"width 24 is no multiple of num_heads 5"),
        ({"d_model": None}, r"'d_model' is missing"),
        ({"d_model": "24"}, r"'d_model' is '24'"),
        ({"activation_function": "relu"}, r"activation_function 'relu'"),
        ({"model_type": "wav2vec2"}, r"model_type 'wav2vec2' is no Whisper; allowed"),
        ({"model_type": None}, r"model_type None is no Whisper"),
    ],
)
def test_a_config_that_contradicts_the_weights(tmp_path, changed, said):
    whisper(tmp_path)
    edit(tmp_path / "config.json", **changed)
    with pytest.raises(UserError, match=said) as error:
        read_encoder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_mels": 128}, r"conv1\.weight"),
        ({"n_audio_ctx": 51}, r"positional_embedding' is \(50, 24\), its sizes say \(51, 24\)"),
        ({"n_audio_layer": 0}, r"'n_audio_layer' is 0"),
    ],
)
def test_an_openai_file_that_contradicts_itself(tmp_path, changed, said):
    model = whisper(tmp_path / "hf")
    torch.save(openai(model.state_dict(), dims(**changed)), tmp_path / "tiny.pt")
    with pytest.raises(UserError, match=said):
        read_encoder(tmp_path / "tiny.pt")


class Bomb:
    """Unpickled by force it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_with_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "tiny.pt"
    torch.save({"dims": dims(), "model_state_dict": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(UserError, match=r"tiny\.pt: refused.*could run code"):
        read_encoder(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "held", [torch.ones(3), {"model": {"a": torch.ones(2)}}, {"dims": dims(), "model_state_dict": {"a": 1}}]
)
def test_another_pt_file_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises(UserError, match="'dims' and 'model_state_dict'"):
        read_encoder(tmp_path / "x.pt")


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"nothing there; allowed"):
        read_encoder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json but an empty folder"):
        read_encoder(tmp_path / "empty")
    model = whisper(tmp_path / "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        read_encoder(tmp_path / "hf")
    weights.unlink()
    with pytest.raises(UserError, match=r"missing.*copy it again"):
        read_encoder(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_encoder(tmp_path / "hf")
    torch.save(openai(model.state_dict(), dims()), tmp_path / "tiny.pt")
    cut = tmp_path / "tiny.pt"
    cut.write_bytes(cut.read_bytes()[:-500])
    with pytest.raises(UserError, match=re.escape(str(cut))) as error:
        read_encoder(cut)
    assert "\n" not in str(error.value)
