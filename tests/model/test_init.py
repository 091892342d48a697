"""New models from an encoder, a decoder and a fresh projector: what they compute, that they run, that they learn."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from zhiyin.cli import main
from zhiyin.data.loader import Batch
from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.model.config import ProjectorConfig
from zhiyin.model.convert import whisper as whispers
from zhiyin.model.init import Settings, create
from zhiyin.runtime.eager import EagerBackend
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.train import loop
from zhiyin.train.stages import OptimizerSection

pytest.importorskip("transformers")
from tests.model.foreign_models import DECODERS, VOCABULARY, decoder, dims, edit, openai, whisper

LIMIT = 3e-5
SMALL = ProjectorConfig(width=12, num_layers=1, num_heads=2, ffn_width=20)


def sources(folder, name="qwen2"):
    """An encoder and a decoder, and the models that are in them."""
    return whisper(folder / "whisper"), decoder(folder / "llm", name)


def made(folder, **changed):
    return create(folder / "out", folder / "whisper", folder / "llm", Settings(**{"projector": SMALL, **changed}))


@pytest.mark.parametrize("name", DECODERS)
def test_it_computes_what_its_parts_compute(device, tmp_path, name):
    listening, speaking = sources(tmp_path, name)
    made(tmp_path)
    model, spec = checkpoint.load(tmp_path / "out", device=device)
    mel = torch.randn(2, 80, 100)
    encoded, _ = model.encoder(mel.to(device), torch.tensor([100, 100], device=device))
    assert float((encoded.cpu() - listening.get_encoder()(mel).last_hidden_state).abs().max()) <= LIMIT
    ids = torch.randint(VOCABULARY, (2, 20))
    logits = model.decoder.logits(model.decoder(model.decoder.embed_tokens(ids.to(device))))
    assert float((logits.cpu() - speaking(ids).logits).abs().max()) <= LIMIT
    assert model.config.frames_per_vector == 8
    assert (spec["tasks"], spec["max_window_s"], spec["max_tokens"]) == ([], 1.0, 200)
    assert spec["name"] == "out" and "not trained" in spec["extra"]["state"]
    origin = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (origin["encoder"], origin["decoder"], origin["seed"]) == ("whisper", "llm", 1)


@pytest.mark.parametrize("kind", ["openai", "own folder"])
def test_other_encoders(tmp_path, kind):
    listening, _ = sources(tmp_path)
    if kind == "openai":
        path = tmp_path / "tiny.pt"
        torch.save(openai(listening.state_dict(), dims()), path)
    else:
        path = tmp_path / "encoder"
        whispers.convert(tmp_path / "whisper", path)
    create(tmp_path / "out", path, tmp_path / "llm", Settings(SMALL))
    create(tmp_path / "same", tmp_path / "whisper", tmp_path / "llm", Settings(SMALL))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "same"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_fresh_weights_follow_the_seed(tmp_path):
    sources(tmp_path)
    torch.manual_seed(77)
    first = torch.rand(3)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(77)
        made(tmp_path, seed=seed, ctc=True)
        assert torch.equal(torch.rand(3), first)  # the state of whoever calls is as before
        states.append(load_file(tmp_path / "out" / "model.safetensors"))
    new = {name for name in states[0] if not name.startswith(("encoder.", "decoder."))}
    assert {"markers", "ctc.weight", "ctc.bias", "projector.convs.0.weight", "projector.out.bias"} <= new
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name])
        fixed = name not in new or "norm" in name  # norms begin as ones and zeros
        assert torch.equal(states[0][name], states[2][name]) == fixed, name
    assert 0.05 < float(states[0]["markers"].std()) < 0.5


def test_sizes_and_number_formats(tmp_path):
    sources(tmp_path)
    state = load_file(tmp_path / "llm" / "model.safetensors")
    save_file({k: v.bfloat16() for k, v in state.items()}, tmp_path / "llm" / "model.safetensors", {"format": "pt"})
    assert made(tmp_path, projector=ProjectorConfig(width=16, num_layers=2)).config.projector.width == 16
    kept = {
        name: tensor.dtype
        for path in (tmp_path / "out").glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    assert {d for n, d in kept.items() if n.startswith("decoder.")} == {torch.bfloat16}
    assert {d for n, d in kept.items() if not n.startswith("decoder.")} == {torch.float32}
    for dtype in ("bfloat16", "float32"):
        made(tmp_path, dtype=dtype)
        assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    ("family", "ids", "chosen", "said"),
    [
        ("zhiyin", 2, 2, "replies end with token 2 </s>"),
        ("zhiyin", [4, 2], 4, "replies end with token 4 <stop>, of 4, 2"),
        ("osum", [4, 2], 4, "released osum models end with 151643"),
    ],
)
def test_the_end_token(tmp_path, family, ids, chosen, said):
    sources(tmp_path)
    edit(tmp_path / "llm" / "generation_config.json", eos_token_id=ids)
    done = made(tmp_path, family=family)
    assert (done.config.eos_id, done.config.family) == (chosen, family)
    assert any(said in note for note in done.notes)


def test_the_family_chooses_among_several_end_tokens(tmp_path):
    whisper(tmp_path / "whisper")
    decoder(tmp_path / "llm", "openpangu", vocab_size=45_900)
    path = tmp_path / "llm" / "tokenizer.json"
    record = json.loads(path.read_text())
    record["model"]["vocab"]["[unused10]"] = 45_892
    path.write_text(json.dumps(record))
    edit(tmp_path / "llm" / "generation_config.json", eos_token_id=[2, 45_892])
    done = made(tmp_path, family="osum-pangu")
    assert done.config.eos_id == 45_892
    assert any("45892 [unused10], of 2, 45892" in note for note in done.notes)
    assert any("openPangu" in note for note in done.notes)


def test_it_says_what_is_left_out_and_what_the_blank_is(tmp_path):
    sources(tmp_path)
    notes = made(tmp_path, ctc=True).notes
    assert any(note.startswith("left out:") and "text decoder" in note for note in notes)
    assert any("blank is token 0 (<pad>)" in note for note in notes)


def test_it_runs(device, tmp_path):
    sources(tmp_path, "qwen3")
    made(tmp_path)
    backend = EagerBackend(tmp_path / "out", device=device)
    assert backend.spec.family == "zhiyin" and backend.spec.num_mels == 80
    vectors = backend.encode([np.random.default_rng(0).standard_normal((80, 99)).astype(np.float32)])[0].vectors_SD
    assert vectors.shape == (13, 32)
    replies = decode(backend, [Prompt((9, 5), vectors, ()), Prompt((6,))], max_new_tokens=5)
    assert all(1 <= len(reply.ids) <= 5 or reply.ended for reply in replies)


def test_it_learns(device, tmp_path):
    """A few steps with the loss of `zhiyin train`: every component gets gradients, the loss falls."""
    sources(tmp_path, "llama")
    made(tmp_path, ctc=True)
    model = checkpoint.load(tmp_path / "out", device=device)[0].train()
    batch = Batch(
        np.random.default_rng(0).standard_normal((2, 80, 100)).astype(np.float32),
        np.array([100, 60]),
        ((9,), (9, 5)),
        ((5, 6, 2), (7, 2)),
        ((5, 6), None),
        ("a", "b"),
        np.zeros(2, bool),
    )
    settings = OptimizerSection(steps=8, bf16=False, label_smoothing=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    with torch.enable_grad():
        for _ in range(8):
            result = loop.losses(model, batch, settings, device)
            optimizer.zero_grad()
            result.total.backward()
            optimizer.step()
            seen.append(float(result.total.detach()))
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.endswith("attn.key.bias") for name in idle), idle  # which softmax does not see
    assert seen[-1] < 0.7 * seen[0]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_something_else_is_not_replaced(tmp_path, what):
    sources(tmp_path)
    if what == "file":
        (tmp_path / "out").write_text("mine")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError):
        made(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llm", "out", "whisper"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"family": "osumm"}, r"'osumm' is not known; known: zhiyin osum osum-pangu"),
        ({"dtype": "int4"}, r"dtype 'int4' is not known; known: keep float32 bfloat16"),
    ],
)
def test_settings_that_do_not_exist(tmp_path, changed, said):
    sources(tmp_path)
    with pytest.raises(UserError, match=said):
        made(tmp_path, **changed)
    assert not (tmp_path / "out").exists()


def test_broken_weights_leave_nothing_behind(tmp_path):
    sources(tmp_path)
    path = tmp_path / "llm" / "model.safetensors"
    state = load_file(path)
    state["model.layers.2.mlp.up_proj.weight"][3, 3] = float("inf")
    save_file(state, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"decoder\.layers\.2\.up_proj\.weight is not finite"):
        made(tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["llm", "whisper"]


def command(folder, *more):
    with pytest.raises(SystemExit) as left:
        main(
            ["init", str(folder / "out"), "--encoder", str(folder / "whisper"), "--decoder", str(folder / "llm"), *more]
        )
    return left.value.code


def test_the_command(tmp_path, capsys):
    sources(tmp_path)
    sizes = ("--projector-layers", "1", "--projector-width", "12", "--projector-heads", "2", "--projector-ffn", "20")
    assert command(tmp_path, *sizes, "--ctc", "--family", "osum", "--dtype", "bfloat16", "--seed", "5") == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and "projector 1 x 12, new" in out
    assert "replies end with token 2" in err and "blank is token 0" in err
    model, spec = checkpoint.load(tmp_path / "out")
    assert model.config.projector == SMALL and model.config.ctc and spec["family"] == "osum"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--projector-width", "10"), "width 10 is no multiple of num_heads 4"),
        (("--dtype", "int8"), "dtype 'int8' is not known"),
        (("--encoder", "nowhere"), "encoder nowhere: nothing there"),
        (("--decoder", "nowhere"), "decoder nowhere: no folder there"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, capsys, more, said):
    sources(tmp_path)
    assert command(tmp_path, *more) == 2
    _, err = capsys.readouterr()
    assert said in err.splitlines()[-1] and "Traceback" not in err
    assert not (tmp_path / "out").exists()
