"""One decoder for Qwen2, Qwen3, Llama and openPangu: RMSNorm, rotary positions, grouped keys, gated feed-forward.

Shapes: `B` batch, `N` tokens in this call, `D` width, `H` heads, `G` key/value heads, `K` head width,
`C` cache size, `L` layers, `V` vocabulary.

Three ways in: `forward` sees a whole right-padded sequence (training, teacher forcing); `extend` adds tokens to a
key/value cache of fixed size and gives a new one (export); `append` does the same in place (generation in PyTorch).
`extend` uses only what static-shape compilers take: the cache is written by a one-hot product, so there is no scatter,
no branch and no loop in the exported graph. What that costs, copies and products over places nobody has written yet,
`append` saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from zhiyin.model.config import DecoderConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 as in `transformers`."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def rotary(positions_BN: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, halves repeated (the `transformers` layout). Each [B, 1, N, K]"""
    exponent = torch.arange(0, head_width, 2, device=positions_BN.device, dtype=torch.float32) / head_width
    angle = positions_BN[:, None, :, None].float() * (1.0 / theta**exponent)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [B, heads, N, K]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


@dataclass(frozen=True)
class _Call:
    """Where the tokens of one `append` go, and what they see.

    Attributes:
        rows: batch row of each token that is no padding; [tokens], as the next two.
        columns: its place in the call.
        places: its place in the cache.
        used: places of the cache that hold anything after this call.
        visible_BNC: which of these each token sees; None where all of them are seen, or `causal` says enough.
        causal: the call begins at the beginning of the cache.
    """

    rows: Tensor
    columns: Tensor
    places: Tensor
    used: int
    visible_BNC: Tensor | None
    causal: bool

    @classmethod
    def of(cls, positions_BN: Tensor) -> "_Call":
        """Work it out; the one time that a step waits for the device before its logits."""
        ends = torch.stack([positions_BN[:, 0].amax(), positions_BN.amin(), positions_BN.amax()])
        start, low, high = ends.tolist()
        used = max(high, 0) + 1
        causal = start == 0 and used == positions_BN.shape[1]
        visible = None
        if not causal and low != used - 1:
            # padding sees the first place: a token that sees nothing would become NaN
            places = torch.arange(used, device=positions_BN.device)
            visible = places <= positions_BN.clamp(min=0)[:, :, None]
        rows, columns = (positions_BN >= 0).nonzero(as_tuple=True)
        return cls(rows, columns, positions_BN[rows, columns], used, visible, causal)


class Attention(nn.Module):
    """Causal attention with grouped keys and values."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        width, head = config.width, config.head_width
        self.q_proj = nn.Linear(width, config.num_heads * head, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, config.num_kv_heads * head, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, config.num_kv_heads * head, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.num_heads * head, width, bias=config.out_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(head, config.norm_eps)
            self.k_norm = RMSNorm(head, config.norm_eps)

    def project(self, x_BND: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, N, K], keys and values [B, G, N, K], positions applied."""
        b, n, _ = x_BND.shape
        head = self.config.head_width
        q = self.q_proj(x_BND).view(b, n, -1, head)
        k = self.k_proj(x_BND).view(b, n, -1, head)
        v = self.v_proj(x_BND).view(b, n, -1, head).transpose(1, 2)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q.transpose(1, 2), cos, sin), rotate(k.transpose(1, 2), cos, sin), v

    def forward(self, x_BND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Whole sequence, causal; right padding needs no mask because it is never looked at."""
        q, k, v = self.project(x_BND, cos, sin)
        y = fn.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != q.shape[1])
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def extend(
        self,
        x_BND: Tensor,
        cos: Tensor,
        sin: Tensor,
        write_BNC: Tensor,
        bias_BNC: Tensor,
        k_BGCK: Tensor,
        v_BGCK: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens against a cache: write them, then attend to what `bias_BNC` leaves visible."""
        q, k, v = self.project(x_BND, cos, sin)
        put = write_BNC.transpose(1, 2)[:, None]  # [B, 1, C, N]
        keep = 1.0 - put.sum(dim=3, keepdim=True)
        k_BGCK = k_BGCK * keep + put @ k
        v_BGCK = v_BGCK * keep + put @ v
        b, h, n, head = q.shape
        groups = k_BGCK.shape[1]
        q = q.reshape(b, groups, h // groups * n, head)
        scores = (q @ k_BGCK.transpose(2, 3)) * head**-0.5
        scores = scores.view(b, groups, h // groups, n, -1) + bias_BNC[:, None, None]
        y = scores.float().softmax(dim=-1).to(q.dtype).view(b, groups, h // groups * n, -1) @ v_BGCK
        return self.o_proj(y.view(b, h, n, head).transpose(1, 2).flatten(2)), k_BGCK, v_BGCK

    def append(self, x_BND: Tensor, cos: Tensor, sin: Tensor, call: _Call, k_BGCK: Tensor, v_BGCK: Tensor) -> Tensor:
        """Tokens against a cache that is written in place."""
        q, k, v = self.project(x_BND, cos, sin)
        for cache, new in ((k_BGCK, k), (v_BGCK, v)):
            cache[call.rows, :, call.places] = new[call.rows, :, call.columns]
        y = fn.scaled_dot_product_attention(
            q,
            k_BGCK[:, :, : call.used],
            v_BGCK[:, :, : call.used],
            attn_mask=None if call.visible_BNC is None else call.visible_BNC[:, None],
            is_causal=call.causal,
            enable_gqa=k.shape[1] != q.shape[1],
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """One decoder layer, names as in `transformers`."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.gate_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.down_proj = nn.Linear(config.ffn_width, config.width, bias=False)
        self.dropout = config.dropout

    def forward(self, x_BND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Whole sequence, causal."""
        return self.feed(x_BND + self.drop(self.self_attn(self.input_layernorm(x_BND), cos, sin)))

    def feed(self, x_BND: Tensor) -> Tensor:
        """Gated feed-forward with its residual."""
        y = self.post_attention_layernorm(x_BND)
        return x_BND + self.drop(self.down_proj(fn.silu(self.gate_proj(y)) * self.up_proj(y)))

    def drop(self, x: Tensor) -> Tensor:
        """Residual dropout, only where the config asks for it (pocket)."""
        return fn.dropout(x, self.dropout, self.training) if self.dropout else x


class Decoder(nn.Module):
    """Embeddings in, logits out."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(config) for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.width, config.norm_eps)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits [..., V]."""
        weight = self.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight
        return fn.linear(hidden, weight)

    def forward(self, embeds_BND: Tensor) -> Tensor:
        """Hidden states of a whole right-padded batch, [B, N, D], after the final norm."""
        b, n, _ = embeds_BND.shape
        positions = torch.arange(n, device=embeds_BND.device)[None].expand(b, n)
        cos, sin = rotary(positions, self.config.head_width, self.config.rope_theta)
        x = embeds_BND
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def extend(
        self, embeds_BND: Tensor, positions_BN: Tensor, keys_LBGCK: Tensor, values_LBGCK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add tokens to a cache of fixed size.

        Args:
            embeds_BND: token or speech embeddings.
            positions_BN: where each goes in the cache; -1 marks padding, which is written nowhere.
            keys_LBGCK: cached keys, `C` places; unwritten places may hold anything finite.
            values_LBGCK: cached values.

        Returns:
            Hidden states [B, N, D] after the final norm, and the two caches.
        """
        places = torch.arange(keys_LBGCK.shape[3], device=embeds_BND.device)[None, None, :]
        write = (positions_BN[:, :, None] == places).to(embeds_BND.dtype)
        # a large finite number, not -inf: a padded row sees nothing and must not become NaN
        bias = (places > positions_BN[:, :, None]).to(embeds_BND.dtype) * -1e4
        cos, sin = rotary(positions_BN.clamp(min=0), self.config.head_width, self.config.rope_theta)
        x, keys, values = embeds_BND, [], []
        for i, layer in enumerate(self.layers):
            y, k, v = layer.self_attn.extend(
                layer.input_layernorm(x), cos, sin, write, bias, keys_LBGCK[i], values_LBGCK[i]
            )
            x = layer.feed(x + y)
            keys.append(k)
            values.append(v)
        return self.norm(x), torch.stack(keys), torch.stack(values)

    @torch.no_grad()
    def append(self, embeds_BND: Tensor, positions_BN: Tensor, keys_LBGCK: Tensor, values_LBGCK: Tensor) -> Tensor:
        """Add tokens to a cache of fixed size, in place; what `extend` computes, without a copy of the cache.

        Args:
            embeds_BND: token or speech embeddings.
            positions_BN: where each goes in the cache; -1 marks padding, which is written nowhere.
            keys_LBGCK: cached keys, changed; what stands in unwritten places does not matter, if it is finite.
            values_LBGCK: cached values, changed.

        Returns:
            Hidden states [B, N, D] after the final norm; those of padding are finite and mean nothing.
        """
        call = _Call.of(positions_BN)
        cos, sin = rotary(positions_BN.clamp(min=0), self.config.head_width, self.config.rope_theta)
        x = embeds_BND
        for layer, keys_BGCK, values_BGCK in zip(self.layers, keys_LBGCK, values_LBGCK, strict=True):
            x = x + layer.self_attn.append(layer.input_layernorm(x), cos, sin, call, keys_BGCK, values_BGCK)
            x = layer.feed(x)
        return self.norm(x)

    def empty_cache(self, batch: int, places: int) -> tuple[Tensor, Tensor]:
        """Zeroed keys and values for `batch` sequences of up to `places` tokens, on the weights' device."""
        c, weight = self.config, self.embed_tokens.weight
        shape = (c.num_layers, batch, c.num_kv_heads, places, c.head_width)
        return weight.new_zeros(shape), weight.new_zeros(shape)
