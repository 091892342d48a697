"""The decoder against `transformers`, and its two ways in against each other, on tiny random models."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zhiyin.model.config import DecoderConfig
from zhiyin.model.decoder import Decoder

transformers = pytest.importorskip("transformers")

LIMIT = 3e-5  # float32 sums in another order; the logits are of the order of 10
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
OURS = {"vocab_size": 97, "width": 32, "ffn_width": 48, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}


@dataclass(frozen=True)
class Family:
    """A `transformers` class with its extra settings, and ours for the same model."""

    name: str
    theirs: dict = field(default_factory=dict)
    ours: dict = field(default_factory=dict)
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def build(self, device: str) -> tuple[Decoder, "torch.nn.Module"]:
        """Ours on the device, theirs on the CPU."""
        kind = getattr(transformers, f"{self.name}Config")
        config = kind(**SIZES, rms_norm_eps=self.norm_eps, rope_theta=self.rope_theta, **self.theirs)
        theirs = getattr(transformers, f"{self.name}ForCausalLM")(config).eval()
        for parameter in theirs.parameters():  # biases and norms start as zeros and ones, which would hide faults
            parameter += torch.randn_like(parameter) * 0.25
        weights = {k.removeprefix("model.").replace(".mlp.", "."): v for k, v in theirs.state_dict().items()}
        if self.ours.get("tie_embeddings"):
            del weights["lm_head.weight"]
        settings = {"head_width": 8, "rope_theta": self.rope_theta, "norm_eps": self.norm_eps, **OURS, **self.ours}
        decoder = Decoder(DecoderConfig(**settings)).eval()
        decoder.load_state_dict(weights, strict=True)
        return decoder.to(device), theirs


FAMILIES = {
    "qwen2": Family("Qwen2", {}, {"qkv_bias": True}, rope_theta=1e6, norm_eps=1e-6),
    "qwen2 tied": Family("Qwen2", {"tie_word_embeddings": True}, {"qkv_bias": True, "tie_embeddings": True}),
    "qwen3": Family("Qwen3", {"head_dim": 16}, {"qkv_bias": False, "qk_norm": True, "head_width": 16}, norm_eps=1e-6),
    "llama": Family("Llama", {}, {"qkv_bias": False}),
    "openpangu": Family("Llama", {"attention_bias": True}, {"out_bias": True}, rope_theta=16e6),
}


Extend = Callable[..., tuple[Tensor, ...]]


@pytest.fixture(params=FAMILIES)
def pair(device, request):
    return FAMILIES[request.param].build(device)


def far(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.cpu() - theirs.cpu()).abs().max())


def in_place(decoder: Decoder, embeds: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """`append` called as `extend` is."""
    return decoder.append(embeds, positions, keys, values), keys, values


def extend_in_chunks(
    decoder: Decoder, embeds_BND: Tensor, sizes: list[int], places: int, extend: Extend = Decoder.extend
) -> Tensor:
    keys, values = decoder.empty_cache(len(embeds_BND), places)
    keys, values = keys + 3.0, values - 2.0  # unwritten places may hold anything finite
    hidden, start = [], 0
    for size in sizes:
        positions = torch.arange(start, start + size, device=embeds_BND.device).expand(len(embeds_BND), -1)
        part, keys, values = extend(decoder, embeds_BND[:, start : start + size], positions, keys, values)
        hidden.append(part)
        start += size
    return torch.cat(hidden, dim=1)


WAYS = [pytest.param(Decoder.extend, id="extend"), pytest.param(in_place, id="append")]


def test_logits(device, pair):
    decoder, theirs = pair
    ids = torch.randint(97, (3, 20))
    assert far(decoder.logits(decoder(decoder.embed_tokens(ids.to(device)))), theirs(ids).logits) <= LIMIT


@pytest.mark.parametrize("extend", WAYS)
@pytest.mark.parametrize("sizes", [[20], [1] * 20, [7, 1, 12]])
def test_logits_through_the_cache(device, pair, sizes, extend):
    decoder, theirs = pair
    ids = torch.randint(97, (3, 20))
    hidden = extend_in_chunks(decoder, decoder.embed_tokens(ids.to(device)), sizes, 24, extend)
    assert far(decoder.logits(hidden), theirs(ids).logits) <= LIMIT


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`")  # just what is wanted
@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("cached", [True, False])
def test_greedy_text(device, pair, greedy, cached, penalty):
    decoder, theirs = pair
    prefix = decoder.embed_tokens(torch.randint(97, (1, 9)).to(device))
    expected = theirs.generate(
        inputs_embeds=prefix.cpu(),
        attention_mask=torch.ones(1, 9, dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=None,
        pad_token_id=0,
    )
    ids, _ = greedy(decoder, prefix[0], 20, penalty=penalty, cached=cached)
    assert ids == expected[0].tolist()


def test_penalty_matters_for_this_text(device, greedy):
    """Otherwise the penalty above would prove nothing."""
    decoder, _ = FAMILIES["llama"].build(device)
    prefix = decoder.embed_tokens(torch.randint(97, (9,)).to(device))
    assert greedy(decoder, prefix, 20, penalty=1.0)[0] != greedy(decoder, prefix, 20, penalty=1.3)[0]


@pytest.mark.parametrize("extend", WAYS)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), chunk=st.integers(1, 12))
def test_ragged_batch_equals_single(device, extend, lengths, chunk):
    """Rows of different length, padded with position -1 in every chunk, also rows that have ended."""
    torch.manual_seed(0)
    decoder, _ = FAMILIES["openpangu"].build(device)
    rows = [torch.randn(length, 32).to(device) for length in lengths]
    keys, values = decoder.empty_cache(len(rows), 12)
    hidden: list[list[Tensor]] = [[] for _ in rows]
    for start in range(0, max(lengths), chunk):
        embeds = torch.full((len(rows), chunk, 32), 9.0, device=device)
        positions = torch.full((len(rows), chunk), -1, device=device)
        for i, row in enumerate(rows):
            part = row[start : start + chunk]
            embeds[i, : len(part)] = part
            positions[i, : len(part)] = torch.arange(start, start + len(part), device=device)
        out, keys, values = extend(decoder, embeds, positions, keys, values)
        assert out.isfinite().all()
        for i, row in enumerate(rows):
            hidden[i].append(out[i, : max(0, min(chunk, len(row) - start))])
    for row, parts in zip(rows, hidden, strict=True):
        assert far(torch.cat(parts), decoder(row[None])[0]) <= LIMIT


@given(parts=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_appended_in_place_as_extended(device, parts):
    """Rows that add different numbers of tokens to different lengths; the caches are the same, too."""
    torch.manual_seed(0)
    decoder, _ = FAMILIES["qwen3"].build(device)
    keys, values = (cache + 1.0 for cache in decoder.empty_cache(3, 25))
    used = [0, 0, 0]
    for sizes in parts:
        longest = max(sizes)
        if not longest:
            continue
        positions = torch.full((3, longest), -1, device=device)
        for i, size in enumerate(sizes):
            positions[i, :size] = torch.arange(used[i], used[i] + size, device=device)
            used[i] += size
        embeds = torch.randn(3, longest, 32).to(device)
        expected, *caches = decoder.extend(embeds, positions, keys, values)
        out = decoder.append(embeds, positions, keys, values)
        assert far(out[positions >= 0], expected[positions >= 0]) <= LIMIT and out.isfinite().all()
        assert far(keys, caches[0]) <= LIMIT and far(values, caches[1]) <= LIMIT


def test_whole_batch_equals_single(device):
    decoder, _ = FAMILIES["qwen3"].build(device)
    rows = [torch.randn(length, 32).to(device) for length in (5, 9, 1)]
    hidden = decoder(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0))
    for i, row in enumerate(rows):
        assert far(hidden[i, : len(row)], decoder(row[None])[0]) <= LIMIT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_theirs(device, dtype):
    decoder, theirs = FAMILIES["qwen2"].build(device)
    ids = torch.randint(97, (2, 12))
    expected = theirs(ids).logits
    decoder.to(dtype)
    limit = 1.5 * float((theirs.to(dtype)(ids).logits.float() - expected).norm())
    embeds = decoder.embed_tokens(ids.to(device))
    ways = [extend_in_chunks(decoder, embeds, [5, 7], 16, extend) for extend in (Decoder.extend, in_place)]
    for hidden in (decoder(embeds), *ways):
        assert hidden.dtype == dtype
        assert float((decoder.logits(hidden).cpu().float() - expected).norm()) <= limit
