"""The converter: nothing of a reference state dict passes unseen. What the numbers are is `test_golden`'s.

What happens to files is `test_source`'s and `tests/test_cli_convert.py`'s.
"""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from zhiyin.errors import UserError
from zhiyin.model.convert import osum as osum_module
from zhiyin.model.convert.osum import (
    OSUM,
    OSUM_LORA_SCALE,
    OSUM_PANGU,
    OSUM_PANGU_LORA_SCALE,
    convert,
    detect,
    plan,
)

LAYER = "llama_model.base_model.model.model.layers.1."


def run(golden, state, **changes):
    return convert(state, **{"facts": golden.facts, "lora_scale": golden.scale, **changes})


def test_every_key_is_accounted_for(golden):
    weights, _, report = run(golden, golden.state)
    assert sorted([*report.used, *report.merged, *(key for key in report.dropped if key in golden.state)]) == sorted(
        golden.state
    )
    unused = {"osum": "speaker_head", "pangu": "speech_head"}[golden.name]
    expected = {"ln_speech.weight", "ln_speech.bias", f"{unused}.weight", f"{unused}.bias", "embed_tokens.weight"}
    assert expected | {"lm_head.weight", "speech_token_emded.weight[:-2]"} <= report.dropped.keys()
    layers, targets = golden.spec["llm"]["layers"], golden.spec["lora"]["targets"]
    assert len(report.merged) == 2 * layers * len(targets)
    assert torch.equal(weights["markers"].float(), golden.arrays["segments/markers"])


def test_position_tables(golden):
    """OSUM's are the formula and need no place; OSUM-Pangu's were rounded by its engine and are kept as stored."""
    weights, config, report = run(golden, golden.state)
    stored = golden.name == "pangu"
    assert config.encoder.stored_positions == config.projector.stored_positions == stored
    assert ("encoder.positions" in weights) == ("projector.positions" in weights) == stored
    assert ("encoder.embed.pos_enc.pe" in report.dropped) == (not stored)
    assert config.encoder.max_positions == golden.spec["encoder"]["position_rows"]
    assert config.projector.max_positions == golden.spec["adapter"]["position_rows"]


def test_merging_is_float32_and_leaves_the_input_alone(golden):
    before = {key: tensor.clone() for key, tensor in golden.state.items()}
    weights, _, report = run(golden, golden.state)
    assert all(torch.equal(before[key], golden.state[key]) for key in before)
    stem = f"{LAYER}self_attn.q_proj"
    base, down, up = (golden.state[f"{stem}.{n}.weight"] for n in ("base_layer", "lora_A.default", "lora_B.default"))
    exact = base.double() + golden.scale * (up.double() @ down.double())
    merged = weights["decoder.layers.1.self_attn.q_proj.weight"]
    assert merged.dtype == torch.float32
    assert float((merged - exact).abs().max()) < 1e-6
    assert f"{stem}.lora_A.default.weight" in report.merged


def test_params_file_has_the_same_weights(golden, shared):
    """`params.safetensors` lacks the aliases and the tables only."""
    params = load_file(shared / "golden" / golden.name / "params.safetensors")
    expected, _, _ = run(golden, golden.state)
    weights, config, _ = run(golden, params)
    assert not config.encoder.stored_positions
    assert weights.keys() == {name for name in expected if not name.endswith("positions")}
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_layout_without_lora(golden):
    state = {}
    for key, tensor in golden.state.items():
        if ".lora_" not in key:
            state[key.replace("llama_model.base_model.model.", "llama_model.").replace(".base_layer.", ".")] = tensor
    names = set(golden.spec["layout_without_lora"]["keys"])
    assert {key for key in state if key.startswith(("llama_model.", "embed_tokens.", "lm_head."))} == names
    weights, _, report = run(golden, state, lora_scale=None)
    assert report.merged == []
    assert torch.equal(
        weights["decoder.layers.1.gate_proj.weight"], golden.state[f"{LAYER}mlp.gate_proj.base_layer.weight"]
    )


def test_fused_query_key_value(osum):
    """One run had q, k and v as `w_pack`, with LoRA on the others only."""
    plain, fused = {}, {}
    for key, tensor in osum.state.items():
        match = re.search(r"\.([qkv])_proj\.(base_layer|lora_\w)\.", key)
        if not (match and match[2] != "base_layer"):
            plain[key.replace(".base_layer.", ".") if match else key] = tensor
    for key, tensor in plain.items():
        if ".q_proj." in key:
            parts = [plain[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            fused[key.replace(".q_proj.", ".w_pack.")] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", key):
            fused[key] = tensor
    expected, config, _ = run(osum, plain)
    weights, fused_config, report = run(osum, fused)
    assert fused_config == config
    assert any(".w_pack." in key for key in report.used)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    fused[f"{LAYER}self_attn.w_pack.weight"] = fused[f"{LAYER}self_attn.w_pack.weight"][:-1]
    with pytest.raises(UserError, match="w_pack"):
        run(osum, fused)


def test_lora_on_fused_query_key_value(osum):
    """A belongs to all three, the rows of B to each its own: as if the whole were merged and then cut."""
    generator = torch.Generator().manual_seed(1)
    state = {key: tensor for key, tensor in osum.state.items() if not re.search(r"\.[qkv]_proj\.lora_", key)}
    stem = f"{LAYER}self_attn"
    parts = [state.pop(f"{stem}.{letter}_proj.base_layer.weight") for letter in "qkv"]
    biases = [state.pop(f"{stem}.{letter}_proj.base_layer.bias") for letter in "qkv"]
    rows, width = sum(map(len, parts)), parts[0].shape[1]
    down, up = torch.randn(2, width, generator=generator), torch.randn(rows, 2, generator=generator)
    state |= {
        f"{stem}.w_pack.base_layer.weight": torch.cat(parts),
        f"{stem}.w_pack.base_layer.bias": torch.cat(biases),
        f"{stem}.w_pack.lora_A.default.weight": down,
        f"{stem}.w_pack.lora_B.default.weight": up,
    }
    state = {  # the other layers have no LoRA on q, k and v
        key.replace(".base_layer.", ".") if re.search(r"\.[qkv]_proj\.base", key) else key: tensor
        for key, tensor in state.items()
    }
    weights, _, report = run(osum, state)
    exact = torch.cat(parts).double() + osum.scale * (up.double() @ down.double())
    for letter, expected in zip("qkv", exact.split([len(part) for part in parts]), strict=True):
        merged = weights[f"decoder.layers.1.self_attn.{letter}_proj.weight"]
        assert float((merged - expected).abs().max()) < 1e-5
    assert report.merged.count(f"{stem}.w_pack.lora_A.default.weight") == 1
    assert sorted({*report.used, *report.merged, *(key for key in report.dropped if key in state)}) == sorted(state)


def test_tensors_are_made_one_at_a_time(golden):
    """The plan holds the file's own tensors only; all that is made is made in one place, as large as the largest."""
    made = plan(golden.state, golden.facts, lora_scale=golden.scale)
    places = {tensor.untyped_storage().data_ptr() for tensor in golden.state.values()}
    held = [*made.weights.values(), *(matrix for pair in made.lora.values() for matrix in pair)]
    assert {tensor.untyped_storage().data_ptr() for tensor in held} <= places
    largest = max(made.weights[name].numel() * 4 for name in made.lora)
    for name, tensor in made.tensors():
        if name in made.lora:
            assert tensor.untyped_storage().nbytes() <= largest
        else:
            assert tensor.untyped_storage().data_ptr() in places


def test_merging_in_blocks_of_rows_is_merging(golden, monkeypatch):
    expected, _, _ = run(golden, golden.state)
    monkeypatch.setattr(osum_module, "_BLOCK", 5)  # smaller than a row, so row by row
    weights, _, _ = run(golden, golden.state)
    for name, tensor in expected.items():
        assert torch.allclose(weights[name].float(), tensor.float(), rtol=0, atol=1e-6), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stored_in_another_format(golden, dtype):
    """LoRA is merged in float32 and rounded once; position tables keep what they are."""
    made = plan(golden.state, golden.facts, lora_scale=golden.scale)
    kept = {name: tensor.clone() for name, tensor in made.tensors()}
    changed = {name: tensor.clone() for name, tensor in made.tensors(dtype)}
    for name, tensor in changed.items():
        expected = kept[name] if name.endswith("positions") else kept[name].to(dtype)
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name


def test_the_family_is_told_by_what_only_one_has(golden):
    facts, why = detect(golden.state)
    assert facts.family == golden.facts.family
    assert ("a bias" in why and "speech_head" in why) == (golden.name == "pangu")
    without = [key for key in golden.state if not key.startswith(("speaker_head.", "speech_head."))]
    assert detect(without)[0].family == golden.facts.family


def test_an_unsure_family_is_refused(osum, pangu):
    heads = {"osum": "speech_head.weight", "pangu": "speaker_head.weight"}
    for golden in (osum, pangu):
        with pytest.raises(UserError, match=r"unsure of the family: .* but .*--from"):
            detect([*golden.state, heads[golden.name]])
    for keys in ([], ["model.encoder.conv1.weight"], [key for key in osum.state if "o_proj" not in key]):
        with pytest.raises(UserError, match="neither osum nor osum-pangu"):
            detect(keys)


def test_weights_of_the_other_family_are_refused(osum, pangu):
    for golden, facts in ((osum, pangu.facts), (pangu, osum.facts)):
        with pytest.raises(UserError, match=r"o_proj\.(base_layer\.)?bias"):
            run(golden, golden.state, facts=facts)


def test_marker_rows_are_counted(golden):
    """With a row too many or too few, the last two would be others than begin and end."""
    table = golden.state["speech_token_emded.weight"]
    for wrong in (table[:-1], torch.cat([table, table[:1]])):
        with pytest.raises(UserError, match="two more rows"):
            run(golden, {**golden.state, "speech_token_emded.weight": wrong})


CHANGES = {
    "flat": lambda t: t.reshape(-1),
    "swapped": lambda t: t.transpose(0, -1) if t.ndim > 1 else t[None],
    "cut": lambda t: t[:-1],
    "a number": lambda t: t.reshape(-1)[0],
}
ALIASED = ("embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize("change", CHANGES)
def test_no_other_shape_passes_for_any_key(golden, change):
    unused = ("ln_speech.", "speaker_head.", "speech_head.")
    keys = [key for key in golden.state if not key.startswith(unused) and not re.search(r"s\.[1-9]\.", key)]
    for key in keys:
        tensor = golden.state[key]
        changed = CHANGES[change](tensor)
        if changed.shape == tensor.shape:
            continue
        aliases = {alias: changed for alias in ALIASED if key.startswith("llama_model") and key.endswith(alias)}
        with pytest.raises(UserError) as error:
            run(golden, {**golden.state, key: changed, **aliases})
        assert "\n" not in str(error.value), key


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("encoder.encoders.1.norm1.bias", r"1 missing \(encoder\.blocks\.1\.norm1\.bias\)"),
        ("encoder.embed.conv.0.weight", "encoder.conv1.weight"),
        ("speech_transformer.encoders.3.self_attn.linear_k.bias", "projector.blocks.3.attn.key.bias"),
        ("speech_llama_proj.bias", "projector.out.bias"),
        ("speech_token_emded.weight", "speech_token_emded.weight"),
        (f"{LAYER}input_layernorm.weight", "decoder.layers.1.input_layernorm.weight"),
        (f"{LAYER}self_attn.q_proj.base_layer.weight", "decoder.layers.1.self_attn.q_proj.weight"),
        (f"{LAYER}self_attn.q_proj.base_layer.bias", "decoder.layers.1.self_attn.q_proj.bias"),
        (f"{LAYER}mlp.down_proj.lora_B.default.weight", "down_proj' is wrapped for LoRA"),
        ("llama_model.base_model.model.lm_head.weight", "decoder.lm_head.weight"),
    ],
)
def test_a_missing_key_is_named(golden, key, said):
    state = dict(golden.state)
    del state[key]
    with pytest.raises(UserError, match=said) as error:
        run(golden, state)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        "something.weight",
        "encoder.encoders.0.norm3.weight",
        "encoder.encoders.0.self_attn.linear_k.bias",
        f"{LAYER}mlp.up_proj.bias",
        f"{LAYER}self_attn.q_proj.lora_A.other.weight",
        "speech_llama_proj.weight_scale",
    ],
)
def test_an_unknown_key_is_named_as_the_file_calls_it(golden, key):
    with pytest.raises(UserError, match=re.escape(f"unexpected ({key})")):
        run(golden, {**golden.state, key: torch.zeros(3)})


def test_a_wrong_shape_is_named(golden):
    key = "encoder.encoders.1.norm1.weight"
    with pytest.raises(UserError, match=r"1 misshapen \(encoder\.blocks\.1\.norm1\.weight \(11,\) for \(12,\)\)"):
        run(golden, {**golden.state, key: golden.state[key][:-1]})
    key = f"{LAYER}self_attn.o_proj.lora_A.default.weight"
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.o_proj.*does not fit"):
        run(golden, {**golden.state, key: golden.state[key][:, :-1]})


@pytest.mark.parametrize("alias", ["embed_tokens.weight", "lm_head.weight"])
def test_an_alias_that_differs_is_refused(golden, alias):
    with pytest.raises(UserError, match=f"'{alias}' differs"):
        run(golden, {**golden.state, alias: golden.state[alias] + 1})


def test_the_same_weight_twice_is_refused(golden):
    key = f"{LAYER}self_attn.q_proj.base_layer.weight"
    with pytest.raises(UserError, match="same weight twice"):
        run(golden, {**golden.state, key.replace(".base_layer", ""): golden.state[key]})


def test_lora_needs_its_scale(golden):
    with pytest.raises(UserError, match=rf"--lora-scale \({golden.facts.family} was published with"):
        run(golden, golden.state, lora_scale=None)


def test_a_foreign_state_dict_is_refused(golden):
    with pytest.raises(UserError, match="state dict of that family"):
        run(golden, {"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)})


@pytest.mark.parametrize("lora", ["with_lora", "without_lora"])
@pytest.mark.parametrize(
    ("name", "facts", "scale"), [("osum", OSUM, OSUM_LORA_SCALE), ("pangu", OSUM_PANGU, OSUM_PANGU_LORA_SCALE)]
)
def test_the_full_size_layouts_convert(shared, name, facts, scale, lora):
    """Keys and shapes of the real models, on the meta device; their sizes come out as published."""
    patterns = json.loads((shared / "golden" / "keys_fullsize.json").read_text())[name][lora]["patterns"]
    state = {}
    with torch.device("meta"):
        for pattern, entry in patterns.items():
            first, last = entry.get("n", [0, 0])
            for number in range(first, last + 1):
                state[pattern.replace("{n}", str(number))] = torch.empty(entry["shape"])
    state = {key: tensor for key, tensor in state.items() if key not in ("embed_tokens.weight", "lm_head.weight")}
    state = {key: tensor for key, tensor in state.items() if not key.endswith("pos_enc.pe")}  # meta has no values
    made = plan(state, facts, lora_scale=scale)
    config, report = made.config, made.report
    decoder = config.decoder
    sizes = (decoder.num_layers, decoder.width, decoder.num_heads, decoder.num_kv_heads, decoder.head_width)
    assert sizes == {"osum": (28, 3584, 28, 4, 128), "pangu": (34, 4096, 32, 8, 128)}[name]
    assert (config.encoder.num_layers, config.encoder.width, config.encoder.num_heads) == (24, 1024, 16)
    assert config.frames_per_vector == 8
    assert bool(report.merged) == (lora == "with_lora")
