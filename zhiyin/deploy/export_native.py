"""Graphs of our own checkpoints: encoder with projector and CTC head, and the decoder against its cache.

Shapes: `B` batch, `M` mel bins, `F` mel frames, `T` encoder frames, `S` speech vectors, `N` tokens in one call,
`D` decoder width, `V` vocabulary, `L` layers, `G` key/value heads, `C` places in the cache, `K` head width.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.deploy import buckets
from zhiyin.deploy.export_plan import Check, Feeds, Options, Plan, Source, bucket, features
from zhiyin.model import checkpoint
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime import bundle
from zhiyin.runtime.base import ModelSpec
from zhiyin.runtime.eager import spec_of

_EXTENDED = ("logits", "new_keys", "new_values")
_BATCH_AXES = {
    **{name: 0 for name in ("embeds", "positions", "last", "logits")},
    **{name: 1 for name in ("keys", "values", "new_keys", "new_values")},
}


class Listen(nn.Module):
    """Encoder, projector and, where there is one, CTC head."""

    def __init__(self, model: SpeechLM):
        super().__init__()
        self.model = model
        self.outputs = ("vectors", "counts", *(("ctc", "ctc_frames") if model.config.ctc else ()))

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, ...]:
        """Features [B, M, F] and lengths [B] -> vectors [B, S, D], counts [B], CTC logits [B, T, V], lengths [B]."""
        speech = self.model.listen(mel, frames)
        heads = (self.model.ctc(speech.encoded_BTE), speech.encoded_lengths_B) if self.model.config.ctc else ()
        return (speech.vectors_BSD, speech.vector_counts_B, *heads)


class Extend(nn.Module):
    """Decoder against its cache, with logits of one token per row."""

    def __init__(self, model: SpeechLM):
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, embeds: Tensor, positions: Tensor, last: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, ...]:
        """Embeddings [B, N, D] at positions [B, N] -> logits [B, V] after token `last` [B], and the new cache."""
        hidden, keys, values = self.decoder.extend(embeds, positions, keys, values)
        # a product instead of an index: a gather per row would need one more operator family
        row_BN = (torch.arange(hidden.shape[1])[None] == last[:, None]).to(hidden.dtype)
        return self.decoder.logits((row_BN[:, None] @ hidden)[:, 0]), keys, values


def source(folder: Path, options: Options) -> Source:
    """A checkpoint as graphs to be made.

    Raises:
        UserError: no whole checkpoint, or a bucket that does not fit it.
    """
    model, record = checkpoint.load(folder)
    model.requires_grad_(False)
    spec = spec_of(model.config, record, f"checkpoint {folder}: spec")
    spec = dataclasses.replace(spec, precision=options.precision, extra={**spec.extra, "parameters": _count(model)})
    tables = {}
    if "decoder" in options.components:
        kind = np.float32 if options.precision == "float32" else np.float16
        tables = {bundle.EMBEDDINGS: model.decoder.embed_tokens.weight.numpy().astype(kind, copy=False)}
        tables[bundle.MARKERS] = model.markers.numpy()
    if not options.buckets_s:
        return Source(spec, tables, dynamic(model, spec), folder / checkpoint.TOKENIZER)
    sizes = buckets.frames(spec, options.buckets_s, encoder_frames=most_frames(model))
    spec = dataclasses.replace(spec, max_window_s=options.buckets_s[-1])
    batches = options.batches if "decoder" in options.components else ()
    return Source(spec, tables, static(model, spec, sizes, batches), folder / checkpoint.TOKENIZER)


def most_frames(model: SpeechLM) -> int:
    """Mel frames that the position tables of encoder and projector allow."""
    config = model.config
    stride = math.prod(config.encoder.conv_strides)
    return min(config.encoder.max_positions * stride, config.projector.max_positions * config.frames_per_vector)


def static(model: SpeechLM, spec: ModelSpec, sizes: Sequence[int], batches: Sequence[int]) -> Iterator[Plan]:
    """Graphs whose every size is fixed: an encoder for each of `sizes` frames, decoders for each of `batches` rows."""
    listen = Listen(model).eval()
    for shorter, frames in zip((0, *sizes), sizes, strict=False):
        yield bucket(listen, listen, listen.outputs, num_mels=spec.num_mels, frames=frames, shorter=shorter)
    for batch in batches:
        for size in buckets.CALL_TOKENS:
            file = f"decoder_{size}.onnx" if batch == 1 else f"decoder_{size}_b{batch}.onnx"
            yield extend(model, spec, file, size, (batch,))


def dynamic(model: SpeechLM, spec: ModelSpec) -> Iterator[Plan]:
    """Graphs for any length of audio and any batch, at fixed sizes of a call and of the cache."""
    axes = {"mel": {0: "B", 2: "F"}, "frames": {0: "B"}, "vectors": {0: "B", 1: "S"}, "counts": {0: "B"}}
    axes |= {"ctc": {0: "B", 1: "T"}, "ctc_frames": {0: "B"}}
    most = spec.max_frames
    lengths = ([most // 2, most // 3], [1], [most], [most // 4, most // 5 + 1, 7])
    examples = [features(spec.num_mels, row) for row in lengths]
    listen = Listen(model).eval()
    yield Plan(
        bundle.ENCODER,
        bundle.ENCODER_WEIGHTS,
        listen,
        examples[0],
        listen.outputs,
        lambda: _checks(listen, examples),
        traced_axes=axes,
        runs_alone=True,
    )
    for file, size in zip((bundle.PREFILL, bundle.STEP), buckets.CALL_TOKENS, strict=True):
        yield extend(model, spec, file, size, (2, 1, 3))


def extend(model: SpeechLM, spec: ModelSpec, file: str, size: int, batches: Sequence[int]) -> Plan:
    """A decoder graph for calls of `size` tokens; for one batch size, or, given several to try, for any."""
    examples = [_tokens(model, spec, size, batch) for batch in batches]
    module = Extend(model).eval()
    plan = Plan(file, bundle.DECODER_WEIGHTS, module, examples[0], _EXTENDED, lambda: _checks(module, examples))
    if len(batches) > 1:
        return dataclasses.replace(plan, batch_axes=_BATCH_AXES)
    return dataclasses.replace(plan, component="decoder", size=size, batch=batches[0])


def _checks(module: nn.Module, examples: Sequence[Feeds]) -> Iterator[Check]:
    for feeds in examples:
        with torch.no_grad():
            yield feeds, module(**feeds)


def _tokens(model: SpeechLM, spec: ModelSpec, size: int, batch: int) -> Feeds:
    """A call in the middle of a generation: rows at different places, the last of several all padding but one token."""
    generator = torch.Generator().manual_seed(size + batch)
    config = model.config.decoder
    shape = (config.num_layers, batch, config.num_kv_heads, spec.max_tokens, config.head_width)
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    embeds = torch.randn(batch, size, config.width, generator=generator) * model.decoder.embed_tokens.weight.std()
    counts = torch.full((batch,), size)
    counts[-1] = 1 if batch > 1 else -(-size * 2 // 3)
    starts = torch.arange(batch) * 3
    places = torch.arange(size)[None]
    positions = torch.where(places < counts[:, None], starts[:, None] + places, -1)
    return {"embeds": embeds, "positions": positions, "last": counts - 1, "keys": keys, "values": values}


def _count(model: SpeechLM) -> dict[str, int]:
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {**parts, "total": sum(p.numel() for p in model.parameters())}
