"""OSUM and OSUM-Pangu weights to ours.

The reference state dict (wenet names, a Hugging Face decoder wrapped by PEFT) becomes one of `SpeechLM`. Every key
is used, merged, dropped by a rule that is reported, or an error: the references load non-strictly and leave random
layers behind where a name does not fit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.model.checkpoint import Report
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.encoder import sinusoids
from zhiyin.model.projector import interleaved_sinusoids
from zhiyin.model.speech_lm import SpeechLM


@dataclass(frozen=True)
class Facts:
    """What the weights do not tell.

    Attributes:
        family: prompt and reply dialect.
        encoder_heads: attention heads of the speech encoder.
        projector_heads: of the adapter's transformer.
        decoder_heads: query heads; the key/value heads follow from the shapes.
        rope_theta: rotary base.
        norm_eps: of the decoder's norms.
        out_bias: whether the attention output has a bias (openPangu).
        eos_id: token that ends a reply.
    """

    family: str
    encoder_heads: int
    projector_heads: int
    decoder_heads: int
    rope_theta: float
    norm_eps: float
    out_bias: bool
    eos_id: int


# Sources: Qwen2-7B and openPangu-Embedded-7B-V1.1 `config.json`, training YAML and code of OSUM and OSUM-Pangu.
OSUM = Facts("osum", 16, 4, 28, rope_theta=1_000_000.0, norm_eps=1e-6, out_bias=False, eos_id=151643)
OSUM_PANGU = Facts("osum-pangu", 16, 4, 32, rope_theta=16_000_000.0, norm_eps=1e-5, out_bias=True, eos_id=45892)
OSUM_LORA_SCALE = 32 / 8  # alpha / rank
OSUM_PANGU_LORA_SCALE = 32 / 64

_UNUSED = {
    "ln_speech.": "the reference never uses this norm",
    "speaker_head.": "speech tokens out, not text",
    "speech_head.": "speech tokens out, not text",
}
_ALIASES = {
    "embed_tokens.weight": "decoder.embed_tokens.weight",
    "lm_head.weight": "decoder.lm_head.weight",
}
_MARKERS = "speech_token_emded.weight"  # spelt so in the reference
_PREFIXES = (
    ("encoder.embed.conv.0.", "encoder.conv1."),
    ("encoder.embed.conv.2.", "encoder.conv2."),
    ("encoder.embed.pos_enc.pe", "encoder.positions"),
    ("encoder.encoders.", "encoder.blocks."),
    ("encoder.after_norm.", "encoder.norm."),
    ("down_sample_2.conv.1.", "projector.convs.0."),
    ("down_sample_2.conv.4.", "projector.convs.1."),
    ("down_sample_2.conv.7.", "projector.convs.2."),
    ("speech_transformer.embed.out.0.", "projector.input."),
    ("speech_transformer.embed.out.1.", "projector.input_norm."),
    ("speech_transformer.embed.pos_enc.pe", "projector.positions"),
    ("speech_transformer.encoders.", "projector.blocks."),
    ("speech_transformer.after_norm.", "projector.norm."),
    ("speech_llama_proj.", "projector.out."),
    ("llama_model.base_model.model.lm_head.", "decoder.lm_head."),
    ("llama_model.base_model.model.model.", "decoder."),
    ("llama_model.lm_head.", "decoder.lm_head."),
    ("llama_model.model.", "decoder."),
)
_PARTS = (
    (".self_attn.linear_q.", ".attn.query."),
    (".self_attn.linear_k.", ".attn.key."),
    (".self_attn.linear_v.", ".attn.value."),
    (".self_attn.linear_out.", ".attn.out."),
    (".feed_forward.w_1.", ".fc1."),
    (".feed_forward.w_2.", ".fc2."),
    (".mlp.", "."),
)


def convert(
    state: Mapping[str, Tensor], facts: Facts, *, lora_scale: float | None
) -> tuple[dict[str, Tensor], ModelConfig, Report]:
    """Rename, merge LoRA and read the sizes off the shapes.

    Args:
        state: reference state dict, with LoRA, without, or with LoRA on some projections only; q, k and v may be
            one fused `w_pack`.
        facts: `OSUM`, `OSUM_PANGU`, or those of another size of the same family.
        lora_scale: alpha / rank, which is not in the file; None refuses a file that holds LoRA.

    Returns:
        The state dict of `SpeechLM(config)`; merged weights are float32 (rounding them back moves the logits by up
        to 0.26), the others are the tensors that were given. The config. What became of every key of `state`.

    Raises:
        UserError: keys are missing, unknown or of the wrong shape; an alias differs from its original; LoRA without
            a scale.
    """
    report = Report()
    where = f"{facts.family} weights"
    named = _named(state, report, where)
    ours = {name: state[key] for name, key in named.items()}
    ours["markers"] = _required(state, _MARKERS, where)[-2:]
    report.dropped[f"{_MARKERS}[:-2]"] = "speech tokens; only the last two rows, begin and end of speech, are used"
    _merge_lora(ours, named, lora_scale, report, where)
    _split_fused(ours, where)
    _drop_aliases(state, ours, report, where)
    rows = _position_rows(ours, named, report)
    config = _config(ours, rows, facts, where)
    with torch.device("meta"):
        model = SpeechLM(config)
    report.compare({name: tuple(tensor.shape) for name, tensor in ours.items()}, model)
    report.unexpected = [named.get(name, name) for name in report.unexpected]  # as the file calls them
    report.check(where)
    report.used = [key for key in state if key not in report.merged and key not in report.dropped]
    return ours, config, report


def _named(state: Mapping[str, Tensor], report: Report, where: str) -> dict[str, str]:
    """Our name -> the file's, for every key but the markers, the aliases and the unused."""
    named: dict[str, str] = {}
    for key in state:
        reason = next((why for prefix, why in _UNUSED.items() if key.startswith(prefix)), None)
        if reason:
            report.dropped[key] = reason
            continue
        if key in _ALIASES or key == _MARKERS:
            continue
        name = key.replace(".base_layer.", ".")
        for theirs, ours in _PREFIXES:
            if name.startswith(theirs):
                name = ours + name[len(theirs) :]
                break
        for theirs, ours in _PARTS:
            name = name.replace(theirs, ours)
        if name in named:
            raise UserError(f"{where}: '{key}' and '{named[name]}' are the same weight twice")
        named[name] = key
    return named


def _merge_lora(
    ours: dict[str, Tensor], named: Mapping[str, str], scale: float | None, report: Report, where: str
) -> None:
    wrapped = {name.removesuffix(".weight") for name, key in named.items() if key.endswith(".base_layer.weight")}
    adapted = {name.split(".lora_")[0] for name in ours if ".lora_" in name}
    for stem in sorted(wrapped | adapted):
        if scale is None:
            raise UserError(f"{where}: LoRA is inside but its scale (alpha / rank) is not; give lora_scale")
        weight = _required(ours, f"{stem}.weight", where).float()
        down, up = (ours.pop(name, None) for name in (f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight"))
        if down is None or up is None:
            raise UserError(f"{where}: '{stem}' is wrapped for LoRA, but not both of its LoRA matrices are inside")
        if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            shapes = " x ".join(str(tuple(matrix.shape)) for matrix in (up, down))
            raise UserError(f"{where}: LoRA of '{stem}' is {shapes}, which does not fit {tuple(weight.shape)}")
        ours[f"{stem}.weight"] = weight + scale * (up.float() @ down.float())
        report.merged += [named[f"{stem}.lora_A.default.weight"], named[f"{stem}.lora_B.default.weight"]]


def _split_fused(ours: dict[str, Tensor], where: str) -> None:
    """One OSUM run fused q, k and v into `w_pack`, rows in this order."""
    for name in [name for name in ours if ".w_pack." in name]:
        stem, kind = name.split(".w_pack.")
        q_rows = _required(ours, f"{stem}.o_proj.weight", where).shape[1]
        fused = ours.pop(name)
        rest = len(fused) - q_rows
        if rest <= 0 or rest % 2:
            raise UserError(
                f"{where}: '{name}' has {len(fused)} rows, which is not {q_rows} for q and as many for k as v"
            )
        for part, rows in zip("qkv", fused.split([q_rows, rest // 2, rest // 2]), strict=True):
            ours[f"{stem}.{part}_proj.{kind}"] = rows


def _drop_aliases(state: Mapping[str, Tensor], ours: Mapping[str, Tensor], report: Report, where: str) -> None:
    for alias, original in _ALIASES.items():
        if alias not in state:
            continue
        if not torch.equal(state[alias], _required(ours, original, where)):
            raise UserError(f"{where}: '{alias}' differs from the decoder's own, of which it must be a copy")
        report.dropped[alias] = "copy of the decoder's own"


def _position_rows(ours: dict[str, Tensor], named: Mapping[str, str], report: Report) -> dict[str, int]:
    """Sizes of the position tables; a table that is just the formula is dropped, a rounded one is kept as stored."""
    rows = {}
    for name, formula in (("encoder.positions", sinusoids), ("projector.positions", interleaved_sinusoids)):
        if name not in ours:
            continue
        ours[name] = ours[name][0]
        rows[name] = len(ours[name])
        if torch.allclose(ours[name].float(), formula(*ours[name].shape), rtol=0, atol=1e-6):
            del ours[name]
            report.dropped[named[name]] = "equal to the formula"
    return rows


def _config(ours: Mapping[str, Tensor], rows: Mapping[str, int], facts: Facts, where: str) -> ModelConfig:
    def size(name: str, axis: int = 0) -> int:
        return _required(ours, name, where).shape[axis]

    def layers(prefix: str) -> int:
        numbers = re.findall(rf"^{prefix}\.(\d+)\.", "\n".join(ours), flags=re.MULTILINE)
        return 1 + max(map(int, numbers), default=0)

    first = "decoder.layers.0.self_attn"
    head_width = size(f"{first}.q_proj.weight") // facts.decoder_heads
    return ModelConfig(
        EncoderConfig(
            num_mels=size("encoder.conv1.weight", 1),
            width=size("encoder.conv1.weight"),
            num_layers=layers("encoder.blocks"),
            num_heads=facts.encoder_heads,
            ffn_width=size("encoder.blocks.0.fc1.weight"),
            max_positions=rows.get("encoder.positions", EncoderConfig.max_positions),
            stored_positions="encoder.positions" in ours,
        ),
        ProjectorConfig(
            width=size("projector.input.weight"),
            num_layers=layers("projector.blocks"),
            num_heads=facts.projector_heads,
            ffn_width=size("projector.blocks.0.fc1.weight"),
            max_positions=rows.get("projector.positions", ProjectorConfig.max_positions),
            stored_positions="projector.positions" in ours,
        ),
        DecoderConfig(
            vocab_size=size("decoder.embed_tokens.weight"),
            width=size("decoder.embed_tokens.weight", 1),
            num_layers=layers("decoder.layers"),
            num_heads=facts.decoder_heads,
            num_kv_heads=size(f"{first}.k_proj.weight") // max(1, head_width),
            head_width=head_width,
            ffn_width=size("decoder.layers.0.gate_proj.weight"),
            rope_theta=facts.rope_theta,
            norm_eps=facts.norm_eps,
            out_bias=facts.out_bias,
        ),
        family=facts.family,
        eos_id=facts.eos_id,
    )


def _required(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors:
        raise UserError(f"{where}: no '{name}' inside; is this a state dict of that family?")
    return tensors[name]
