"""OSUM and OSUM-Pangu weights to ours.

The reference state dict (wenet names, a Hugging Face decoder wrapped by PEFT) becomes one of `SpeechLM`. Every key
is used, merged, dropped by a rule that is reported, or an error: the references load non-strictly and leave random
layers behind where a name does not fit.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.model.checkpoint import Report, empty
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.encoder import sinusoids
from zhiyin.model.projector import interleaved_sinusoids


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
        eos_token: what the tokenizer calls it; empty where that does not matter.
    """

    family: str
    encoder_heads: int
    projector_heads: int
    decoder_heads: int
    rope_theta: float
    norm_eps: float
    out_bias: bool
    eos_id: int
    eos_token: str = ""


# Sources: Qwen2-7B and openPangu-Embedded-7B-V1.1 `config.json`, training YAML and code of OSUM and OSUM-Pangu.
OSUM = Facts(
    "osum", 16, 4, 28, rope_theta=1_000_000.0, norm_eps=1e-6, out_bias=False, eos_id=151643, eos_token="<|endoftext|>"
)
OSUM_PANGU = Facts(
    "osum-pangu", 16, 4, 32, rope_theta=16_000_000.0, norm_eps=1e-5, out_bias=True, eos_id=45892, eos_token="[unused10]"
)
# Layers and width of encoder, projector and decoder whose heads those are.
PUBLISHED_SIZES = {
    OSUM.family: ((24, 1024), (4, 1024), (28, 3584)),
    OSUM_PANGU.family: ((24, 1024), (4, 1024), (34, 4096)),
}
OSUM_LORA_SCALE = 32 / 8  # alpha / rank
OSUM_PANGU_LORA_SCALE = 32 / 64
PUBLISHED_LORA_SCALES = {OSUM.family: OSUM_LORA_SCALE, OSUM_PANGU.family: OSUM_PANGU_LORA_SCALE}

_BLOCK = 2**19  # numbers of a weight that are merged at once

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


def detect(keys: Collection[str]) -> tuple[Facts, str]:
    """The family of a reference state dict, and what shows it.

    Raises:
        UserError: it is neither, or the signs contradict each other.
    """
    outputs = [key for key in keys if re.search(r"\.o_proj\.(base_layer\.)?(weight|bias)$", key)]
    if _MARKERS not in keys or not outputs:
        lacks = f"'{_MARKERS}'" if _MARKERS not in keys else "a decoder's 'o_proj'"
        raise UserError(
            f"weights: no {lacks} inside, so neither osum nor osum-pangu; say --from if it is another family"
        )
    signs = []
    if any(key.endswith(".bias") for key in outputs):
        signs.append((OSUM_PANGU, "its attention output has a bias"))
    else:
        signs.append((OSUM, "its attention output has no bias"))
    for head, facts in (("speaker_head", OSUM), ("speech_head", OSUM_PANGU)):
        if any(key.startswith(f"{head}.") for key in keys):
            signs.append((facts, f"it has a {head}"))
    if len({facts.family for facts, _ in signs}) > 1:
        seen = ", but ".join(f"{why} ({facts.family})" for facts, why in signs)
        raise UserError(f"weights: unsure of the family: {seen}; say --from osum or --from osum-pangu")
    return signs[0][0], " and ".join(why for _, why in signs)


@dataclass(frozen=True)
class Plan:
    """A conversion in which every key is settled; the numbers are made one tensor at a time.

    Attributes:
        config: sizes of the model.
        report: what becomes of every key.
        weights: our name -> tensor of the file (or rows of one), without its LoRA.
        lora: our name -> the two LoRA matrices, A [rank, in] and B [out, rank], that belong to it.
        lora_scale: what their product is multiplied with.
    """

    config: ModelConfig
    report: Report
    weights: Mapping[str, Tensor]
    lora: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lora_scale: float = 0.0

    def tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """The state dict of ``SpeechLM(config)``; a tensor is good until the next one is asked for.

        What has to be made is made in the same place again and again: fresh memory costs more than the arithmetic.

        Args:
            dtype: of the weights; position tables keep theirs. By default the tensors are those of the file, and
                merged ones float32: rounding them back to bfloat16 moves the logits by up to 0.26.
        """
        place = torch.empty(0, dtype=torch.uint8)
        for name, tensor in self.weights.items():
            kept = torch.float32 if name in self.lora else tensor.dtype
            if dtype is not None and not name.endswith("positions"):
                kept = dtype
            if name not in self.lora and kept == tensor.dtype:
                yield name, tensor
                continue
            num_bytes = tensor.numel() * kept.itemsize
            if len(place) < num_bytes:
                place = torch.empty(num_bytes, dtype=torch.uint8)
            made = place[:num_bytes].view(kept).view(tensor.shape)
            self._make(name, made)
            yield name, made

    def _make(self, name: str, out: Tensor) -> None:
        """Merge and round a weight into `out`, some rows at a time, so that what is at work fits into the caches."""
        tensor = self.weights[name]
        if name not in self.lora:
            out.copy_(tensor)
            return
        down, up = (matrix.float() for matrix in self.lora[name])
        rows = max(1, _BLOCK // tensor.shape[1])
        for base, part, place in zip(tensor.split(rows), up.split(rows), out.split(rows), strict=True):
            place.copy_(torch.addmm(base.float(), part, down, alpha=self.lora_scale))


def plan(state: Mapping[str, Tensor], facts: Facts, *, lora_scale: float | None) -> Plan:
    """Rename, pair the LoRA matrices with their weights and read the sizes off the shapes.

    Args:
        state: reference state dict, with LoRA, without, or with LoRA on some projections only; q, k and v may be
            one fused `w_pack`.
        facts: `OSUM`, `OSUM_PANGU`, or those of another size of the same family.
        lora_scale: alpha / rank, which is not in the file; None refuses a file that holds LoRA.

    Raises:
        UserError: keys are missing, unknown or of the wrong shape; an alias differs from its original; LoRA without
            a scale.
    """
    report = Report()
    where = f"{facts.family} weights"
    named = _named(state, report, where)
    ours = {name: state[key] for name, key in named.items()}
    ours["markers"] = _marker_rows(state, where)
    report.dropped[f"{_MARKERS}[:-2]"] = "speech tokens; only the last two rows, begin and end of speech, are used"
    _split_fused(ours, named, where)
    lora = _pair_lora(ours, named, lora_scale, report, facts)
    _drop_aliases(state, ours, report, where)
    rows = _position_rows(ours, named, report, where)
    config = _config(ours, rows, facts, where)
    report.compare({name: tuple(tensor.shape) for name, tensor in ours.items()}, empty(config))
    report.unexpected = [named.get(name, name) for name in report.unexpected]  # as the file calls them
    report.check(where)
    report.used = [key for key in state if key not in report.merged and key not in report.dropped]
    return Plan(config, report, ours, lora, lora_scale or 0.0)


def convert(
    state: Mapping[str, Tensor], facts: Facts, *, lora_scale: float | None
) -> tuple[dict[str, Tensor], ModelConfig, Report]:
    """The whole of `plan` at once: state dict, config and report."""
    made = plan(state, facts, lora_scale=lora_scale)
    weights = {name: tensor.clone() if name in made.lora else tensor for name, tensor in made.tensors()}
    return weights, made.config, made.report


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


def _pair_lora(
    ours: dict[str, Tensor], named: Mapping[str, str], scale: float | None, report: Report, facts: Facts
) -> dict[str, tuple[Tensor, Tensor]]:
    where = f"{facts.family} weights"
    wrapped = {name.removesuffix(".weight") for name, key in named.items() if key.endswith(".base_layer.weight")}
    adapted = {name.split(".lora_")[0] for name in ours if ".lora_" in name}
    pairs = {}
    for stem in sorted(wrapped | adapted):
        if scale is None:
            hint = f"{facts.family} was published with {PUBLISHED_LORA_SCALES[facts.family]:g}"
            raise UserError(f"{where}: LoRA is inside but its scale (alpha / rank) is not; give --lora-scale ({hint})")
        weight = _required(ours, f"{stem}.weight", where)
        names = (f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight")
        down, up = (ours.pop(name, None) for name in names)
        if down is None or up is None:
            raise UserError(f"{where}: '{stem}' is wrapped for LoRA, but not both of its LoRA matrices are inside")
        fits = up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0]
        if not fits or (up.shape[0], down.shape[1]) != tuple(weight.shape):
            shapes = " x ".join(str(tuple(matrix.shape)) for matrix in (up, down))
            raise UserError(f"{where}: LoRA of '{stem}' is {shapes}, which does not fit {tuple(weight.shape)}")
        pairs[f"{stem}.weight"] = (down, up)
        report.merged += [named[name] for name in names if named[name] not in report.merged]
    return pairs


def _split_fused(ours: dict[str, Tensor], named: dict[str, str], where: str) -> None:
    """One OSUM run fused q, k and v into `w_pack`, rows in this order; LoRA on it shares A and splits B."""
    for name in [name for name in ours if ".w_pack." in name]:
        stem, kind = name.split(".w_pack.")
        q_rows = _required(ours, f"{stem}.o_proj.weight", where, 2).shape[1]
        fused, key = _required(ours, name, where), named.pop(name)
        del ours[name]
        rest = len(fused) - q_rows
        if kind == "lora_A.default.weight":
            parts = [fused] * 3
        elif rest <= 0 or rest % 2:
            raise UserError(
                f"{where}: '{name}' has {len(fused)} rows, which is not {q_rows} for q and as many for k as v"
            )
        else:
            parts = list(fused.split([q_rows, rest // 2, rest // 2]))
        for letter, rows in zip("qkv", parts, strict=True):
            ours[f"{stem}.{letter}_proj.{kind}"] = rows
            named[f"{stem}.{letter}_proj.{kind}"] = key


def _drop_aliases(state: Mapping[str, Tensor], ours: Mapping[str, Tensor], report: Report, where: str) -> None:
    for alias, original in _ALIASES.items():
        if alias not in state:
            continue
        own = _required(ours, original, where)
        shared = state[alias].data_ptr() == own.data_ptr() and state[alias].shape == own.shape  # as torch.save keeps it
        if not shared and not torch.equal(state[alias], own):
            raise UserError(f"{where}: '{alias}' differs from the decoder's own, of which it must be a copy")
        report.dropped[alias] = "copy of the decoder's own"


def _marker_rows(state: Mapping[str, Tensor], where: str) -> Tensor:
    """The last two rows of a table that has a row for each speech token before them."""
    table = _required(state, _MARKERS, where, 2)
    for head in ("speaker_head", "speech_head"):
        tokens = state.get(f"{head}.bias")
        if tokens is not None and len(table) != tokens.numel() + 2:
            raise UserError(
                f"{where}: '{_MARKERS}' has {len(table)} rows, '{head}' knows {tokens.numel()} speech tokens; two more "
                "rows than that, begin and end of speech, were expected"
            )
    return table[-2:]


def _position_rows(ours: dict[str, Tensor], named: Mapping[str, str], report: Report, where: str) -> dict[str, int]:
    """Sizes of the position tables; a table that is just the formula is dropped, a rounded one is kept as stored."""
    rows = {}
    tables = (
        ("encoder.positions", sinusoids, "encoder.conv1.weight"),
        ("projector.positions", interleaved_sinusoids, "projector.input.weight"),
    )
    for name, formula, first in tables:
        if name not in ours:
            continue
        table, width = ours[name], len(_required(ours, first, where, 1))
        if table.ndim != 3 or table.shape[::2] != (1, width) or table.shape[1] == 0:
            raise UserError(f"{where}: '{named[name]}' is {tuple(table.shape)}, (1, rows, {width}) was expected")
        ours[name] = table[0]
        rows[name] = len(ours[name])
        if torch.allclose(ours[name].float(), formula(*ours[name].shape), rtol=0, atol=1e-6):
            del ours[name]
            report.dropped[named[name]] = "equal to the formula"
    return rows


def _config(ours: Mapping[str, Tensor], rows: Mapping[str, int], facts: Facts, where: str) -> ModelConfig:
    def size(name: str, axis: int = 0) -> int:
        return _required(ours, name, where, axis + 1).shape[axis]

    def layers(prefix: str) -> int:
        numbers = re.findall(rf"^{prefix}\.(\d+)\.", "\n".join(ours), flags=re.MULTILINE)
        return 1 + max(map(int, numbers), default=0)

    first = "decoder.layers.0.self_attn"
    head_width = size(f"{first}.q_proj.weight") // facts.decoder_heads
    if size("encoder.conv1.weight", 2) != 3:
        shape = tuple(ours["encoder.conv1.weight"].shape)
        raise UserError(f"{where}: the encoder's first convolution is {shape}, (width, mels, 3) was expected")
    try:
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
    except UserError as error:
        hint = "heads are not in the weights: for another size than the published one give --facts FILE.json"
        raise UserError(f"{where}: {error}; {hint}") from error


def _required(tensors: Mapping[str, Tensor], name: str, where: str, axes: int = 1) -> Tensor:
    if name not in tensors:
        raise UserError(f"{where}: no '{name}' inside; is this a state dict of that family?")
    if tensors[name].ndim < axes:
        raise UserError(f"{where}: '{name}' is {tuple(tensors[name].shape)}, at least {axes} axes were expected")
    return tensors[name]
