"""Decoders and tokenizers out of Hugging Face folders, against `transformers` on tiny random models."""

import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from zhiyin.errors import UserError
from zhiyin.model.convert import sentencepiece
from zhiyin.model.convert.decoders import read_decoder
from zhiyin.model.decoder import Decoder

pytest.importorskip("transformers")
from tests.model.foreign_models import DECODERS, VOCABULARY, decoder, edit, tokenizer

LIMIT = 3e-5  # float32 sums in another order; the logits are of the order of 10
PIECES = Path(__file__).parent / "sentencepiece"
EXPECTED = json.loads((PIECES / "expected.json").read_text(encoding="utf-8"))


def ours(part):
    made = Decoder(part.config).eval()
    made.load_state_dict({name.removeprefix("decoder."): tensor for name, tensor in part.tensors()}, strict=True)
    return made


def logits(made, ids_BN, device):
    """What our decoder says on the device; on the CPU."""
    made.to(device)
    return made.logits(made(made.embed_tokens(ids_BN.to(device)))).cpu()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_logits(device, tmp_path, name, shard):
    model = decoder(tmp_path, name, shard=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    part, facts = read_decoder(tmp_path)
    ids = torch.randint(VOCABULARY, (2, 30))
    far = (logits(ours(part), ids, device) - model(ids).logits).abs().max()
    assert float(far) <= LIMIT
    assert {*part.report.used, *part.report.dropped} == set(part.table)
    assert facts.model_type == {"openpangu": "PanguEmbedded"}.get(name, name.split()[0])
    assert (facts.eos_ids, facts.max_positions) == ((2,), 200)
    assert Tokenizer.from_str(facts.tokenizer).encode("turn the light on").ids == [9, 5, 6, 7]


def test_what_the_config_says_arrives(tmp_path):
    """Epsilons and the rotary base move the logits too little to be proven by them alone."""
    for name, theta in [("qwen2", 1e6), ("llama", 5e5), ("openpangu", 16e6), ("llama old", 1e4)]:
        decoder(tmp_path / name, name)
        config = read_decoder(tmp_path / name)[0].config
        assert (config.rope_theta, config.norm_eps) == (theta, 3e-6)
        assert (config.qkv_bias, config.out_bias) == (name in ("qwen2", "openpangu"), name == "openpangu")


def test_the_older_way_to_write_the_rotary_base(tmp_path):
    decoder(tmp_path, "qwen2")
    edit(tmp_path / "config.json", rope_parameters=None, rope_theta=77777)
    assert read_decoder(tmp_path)[0].config.rope_theta == 77777
    edit(tmp_path / "config.json", rope_scaling={"type": "default"})
    assert read_decoder(tmp_path)[0].config.rope_theta == 77777


def test_half_precision_comes_as_it_is(tmp_path):
    decoder(tmp_path, "qwen2")
    state = {key: tensor.bfloat16() for key, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    part, _ = read_decoder(tmp_path)
    for name, tensor in part.tensors():
        key = next(key for key, own in part.names.items() if own == name)
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, state[key])
    assert {tensor.dtype for _, tensor in part.tensors(torch.float32)} == {torch.float32}


@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_one_tensor_at_a_time(tmp_path, shard):
    decoder(tmp_path, "llama", shard=shard)
    part, _ = read_decoder(tmp_path)
    alive: weakref.WeakSet = weakref.WeakSet()
    most, count = 0, 0
    for _, tensor in part.tensors(torch.bfloat16):
        alive.add(tensor)
        most, count = max(most, len(alive)), count + 1
        del tensor
    assert count == len(part.names) and most <= 2


def test_a_tied_head_that_is_stored_too(tmp_path):
    decoder(tmp_path, "qwen2 tied")
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, weights, {"format": "pt"})
    part, _ = read_decoder(tmp_path)
    assert "copy of the embeddings" in part.report.dropped["lm_head.weight"]
    state["lm_head.weight"][5, 5] += 0.1
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs.*tie_word_embeddings"):
        read_decoder(tmp_path)
    edit(tmp_path / "config.json", tie_word_embeddings=False)
    part, _ = read_decoder(tmp_path)
    assert not part.config.tie_embeddings and "lm_head.weight" in part.report.used


def test_rotary_tables_of_old_files_are_dropped(tmp_path):
    decoder(tmp_path, "llama")
    state = load_file(tmp_path / "model.safetensors")
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file({**state, key: torch.ones(4)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert read_decoder(tmp_path)[0].report.dropped == {key: "computed from rope_theta"}


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("qwen2", {"model_type": "gpt2"}, r"model_type 'gpt2' is not known; known: qwen2 qwen3 llama PanguEmbedded"),
        ("qwen2", {"model_type": None}, r"model_type None is not known"),
        ("qwen2", {"hidden_act": "gelu"}, r"hidden_act 'gelu' is not supported"),
        ("qwen2", {"use_sliding_window": True}, r"use_sliding_window True is not supported"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types sliding_attention"),
        ("qwen2", {"quantization_config": {"bits": 4}}, r"quantization_config"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, r"rope_scaling 'yarn' is not supported"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, r"'llama3' is not supported.*none"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, r"rope_parameters 'linear' is not supported"),
        ("llama", {"mlp_bias": True}, r"mlp_bias True is not supported"),
        ("llama", {"attention_bias": True}, r"missing \(decoder\.layers\.0\.self_attn\.\w_proj\.bias"),
        ("openpangu", {"bias": False}, r"unexpected \(model\.layers\.0\.self_attn\.\w_proj\.bias"),
        ("qwen3", {"model_type": "qwen2"}, r"unexpected \(model\.layers\.0\.self_attn\.k_norm"),
        ("qwen2", {"model_type": "llama"}, r"unexpected \(model\.layers\.0\.self_attn\.k_proj\.bias"),
        ("qwen2", {"tie_word_embeddings": True}, r"'lm_head\.weight' differs"),
        ("qwen2 tied", {"tie_word_embeddings": False}, r"missing \(decoder\.lm_head\.weight\)"),
        ("qwen2", {"num_hidden_layers": 4}, r"missing \(decoder\.layers\.3\."),
        ("qwen2", {"num_hidden_layers": 2}, r"unexpected \(model\.layers\.2\."),
        ("qwen2", {"num_key_value_heads": 4}, r"k_proj\.bias \(16,\) for \(32,\)"),
        ("qwen2", {"intermediate_size": 47}, r"down_proj\.weight \(32, 48\) for \(32, 47\)"),
        ("qwen2", {"vocab_size": 60}, r"embed_tokens\.weight \(61, 32\) for \(60, 32\)"),
        ("qwen2", {"num_attention_heads": 5}, r"has 32 rows, which do not divide into 5 heads"),
        ("qwen3", {"head_dim": 8}, r"misshapen"),
        ("qwen2", {"hidden_size": None}, r"'hidden_size' is missing"),
        ("qwen2", {"num_hidden_layers": 2.5}, r"'num_hidden_layers' is 2.5"),
        ("qwen2", {"eos_token_id": None}, r"eos_token_id is None; write the id"),
        ("qwen2", {"eos_token_id": "</s>"}, r"eos_token_id is '</s>'"),
        ("qwen2", {"eos_token_id": 40}, r"eos_token_id 40 is no token of its tokenizer"),
    ],
)
def test_a_config_that_cannot_be_followed(tmp_path, name, changed, said):
    decoder(tmp_path, name)
    (tmp_path / "generation_config.json").unlink()
    edit(tmp_path / "config.json", **changed)
    with pytest.raises(UserError, match=said) as error:
        read_decoder(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_end_tokens(tmp_path):
    """What generation uses goes before what the config says."""
    decoder(tmp_path, "qwen2")
    edit(tmp_path / "generation_config.json", eos_token_id=[4, 2])
    assert read_decoder(tmp_path)[1].eos_ids == (4, 2)
    (tmp_path / "generation_config.json").unlink()
    edit(tmp_path / "config.json", eos_token_id=[2, 4])
    assert read_decoder(tmp_path)[1].eos_ids == (2, 4)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"generation_config\.json holds a list"):
        read_decoder(tmp_path)


def test_faulty_shards(tmp_path):
    decoder(tmp_path, "qwen2", shard="20KB")
    names = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    second = tmp_path / names[1]
    whole = second.read_bytes()
    second.unlink()
    with pytest.raises(UserError, match=rf"1 of {len(names)} shards missing \({names[1]}"):
        read_decoder(tmp_path)
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{names[1]} is damaged"):
        read_decoder(tmp_path)
    second.write_bytes((tmp_path / names[0]).read_bytes())
    with pytest.raises(UserError, match=r"both in|disagree"):
        read_decoder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.layers.0.mlp.gate_proj.bias", torch.ones(48), r"unexpected \(model\.layers\.0\.mlp\.gate_proj\.bias\)"),
        ("visual.weight", torch.ones(2), r"unexpected \(visual\.weight\)"),
        ("model.norm.weight", torch.ones(31), r"misshapen \(decoder\.norm\.weight \(31,\) for \(32,\)\)"),
        ("model.layers.1.mlp.up_proj.weight", torch.ones(32, 48), r"up_proj\.weight \(32, 48\) for \(48, 32\)"),
    ],
)
def test_faulty_weights(tmp_path, key, value, said):
    decoder(tmp_path, "qwen2")
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, key: value}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=said):
        read_decoder(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"no folder there"):
        read_decoder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.json but an empty folder"):
        read_decoder(tmp_path)


def test_tokenizers_that_do_not_fit(tmp_path):
    decoder(tmp_path, "qwen2")
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        read_decoder(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json and no tokenizer\.model; copy them too"):
        read_decoder(tmp_path)
    big = tokenizer()
    big.add_tokens([f"w{i}" for i in range(60)])
    big.save(str(path))
    with pytest.raises(UserError, match=r"tokenizer has token 69, the model 61 rows"):
        read_decoder(tmp_path)


# SentencePiece


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_sentencepiece_gives_the_same_ids(name):
    made = sentencepiece.convert(PIECES / f"{name}.model", "test")
    for row in EXPECTED[name]:
        ids = made.encode(row["text"], add_special_tokens=False).ids
        assert ids == row["ids"], row["text"]
        if 0 not in ids:  # SentencePiece shows the unknown as ⁇
            assert made.decode(ids, skip_special_tokens=False) == row["decoded"]


def test_sentencepiece_of_a_decoder(tmp_path):
    """openPangu's folder: pieces only, special tokens declared beside them, code that is not run."""
    decoder(tmp_path, "openpangu", vocab_size=470, eos_token_id=4)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes((PIECES / "bpe.model").read_bytes())
    declared = {"4": {"content": "[unused10]", "special": True}, "460": {"content": "<more>", "special": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    facts = read_decoder(tmp_path)[1]
    made = Tokenizer.from_str(facts.tokenizer)
    assert facts.eos_ids == (4,)
    assert made.encode("[unused10]", add_special_tokens=False).tokens == ["[unused10]"]
    assert made.decode([3, 4]) == "[unused9]"  # the special one is skipped
    assert made.token_to_id("<more>") == 460 and made.encode("<more>").ids == [460]
    declared["4"]["content"] = "[unused9]"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    with pytest.raises(UserError, match=r"'\[unused9\]' is token 4, tokenizer\.model says otherwise"):
        read_decoder(tmp_path)


@pytest.mark.parametrize("spoil", [lambda b: b[:-7], lambda b: b"", lambda b: b"\x00\xff" * 50, lambda b: b[:3000]])
def test_damaged_pieces(tmp_path, spoil):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(spoil((PIECES / "bpe.model").read_bytes()))
    with pytest.raises(UserError, match=r"tokenizer\.model") as error:
        sentencepiece.convert(path, "test")
    assert "\n" not in str(error.value)
