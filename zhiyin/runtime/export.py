"""Writes a checkpoint as a bundle (extra `export`); every graph is compared with PyTorch before anything is replaced.

Shapes: `B` batch, `M` mel bins, `F` mel frames, `T` encoder frames, `S` speech vectors, `N` tokens in one call,
`D` decoder width, `V` vocabulary, `L` layers, `G` key/value heads, `C` places in the cache, `K` head width.
"""

import dataclasses
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime import bundle
from zhiyin.runtime.base import ModelSpec
from zhiyin.runtime.eager import spec_of
from zhiyin.runtime.export_graphs import PRECISIONS, Weights, clean, free_batch, store

OPSET = 17  # the newest that ATC takes for certain, the oldest with LayerNormalization
PREFILL_TOKENS = 64
# largest difference to PyTorch, relative to the largest value; measured on random models, doubled
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "int8": 2.5e-1}

Feeds = dict[str, Tensor]


@dataclass(frozen=True)
class Exported:
    """What was written: its size, and how far each graph is from PyTorch in float32, relative to the largest value."""

    folder: Path
    size_bytes: int
    differences: dict[str, float]


@dataclass(frozen=True)
class _Graph:
    """One graph: the module and examples of its inputs, the first of which is traced.

    Attributes:
        traced_axes: input or output -> axes whose size is computed inside the graph.
        batch_axes: input or output -> batch axis, freed after tracing; a decoder has no other axis to free.
    """

    name: str
    weights: str
    module: nn.Module
    examples: tuple[Feeds, ...]
    outputs: tuple[str, ...]
    traced_axes: dict[str, dict[int, str]] = field(default_factory=dict)
    batch_axes: dict[str, int] = field(default_factory=dict)


class _Listen(nn.Module):
    """Encoder, projector and, where there is one, CTC head."""

    def __init__(self, model: SpeechLM):
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, ...]:
        speech = self.model.listen(mel, frames)
        heads = (self.model.ctc(speech.encoded_BTE), speech.encoded_lengths_B) if self.model.config.ctc else ()
        return (speech.vectors_BSD, speech.vector_counts_B, *heads)


class _Extend(nn.Module):
    """Decoder against its cache, with logits of one token per row."""

    def __init__(self, model: SpeechLM):
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, embeds: Tensor, positions: Tensor, last: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, ...]:
        hidden, keys, values = self.decoder.extend(embeds, positions, keys, values)
        # a product instead of an index: a gather per row would need one more operator family
        row_BN = (torch.arange(hidden.shape[1])[None] == last[:, None]).to(hidden.dtype)
        return self.decoder.logits((row_BN[:, None] @ hidden)[:, 0]), keys, values


def export(checkpoint_folder: Path, out_folder: Path, *, precision: str = "float32") -> Exported:
    """Write a checkpoint as a bundle; an older bundle in `out_folder` is replaced once the new one is proven.

    Args:
        checkpoint_folder: written by `model.checkpoint.save`.
        out_folder: a new or empty folder, or a bundle.
        precision: of the stored weights: ``float32``, ``float16``, or ``int8`` per output channel (then tables that
            are no matrix product are float16). All three compute in float32.

    Raises:
        UserError: unknown precision, no checkpoint, a folder with other content, or a graph that differs from PyTorch.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision '{precision}' is not known; known: {' '.join(PRECISIONS)}")
    out = Path(out_folder).absolute()
    if out.exists() and not (out / bundle.RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"export to {out}: it is there and no bundle; give a new folder or an older bundle")
    model, record = checkpoint.load(checkpoint_folder)
    model.requires_grad_(False)
    spec = spec_of(model.config, record, f"checkpoint {checkpoint_folder}: spec")
    spec = dataclasses.replace(spec, precision=precision, extra={**spec.extra, "parameters": _count(model)})
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        fresh = Path(scratch) / "bundle"
        fresh.mkdir()
        differences = _write(model, spec, fresh)
        shutil.copyfile(Path(checkpoint_folder) / checkpoint.TOKENIZER, fresh / bundle.TOKENIZER)
        bundle.seal(fresh, spec)
        size = sum(path.stat().st_size for path in fresh.iterdir())
        _swap(fresh, out, Path(scratch) / "old")
    return Exported(out, size, differences)


def _swap(fresh: Path, out: Path, old: Path) -> None:
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(fresh, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise


def _write(model: SpeechLM, spec: ModelSpec, folder: Path) -> dict[str, float]:
    table = np.float32 if spec.precision == "float32" else np.float16
    np.save(folder / bundle.EMBEDDINGS, model.decoder.embed_tokens.weight.numpy().astype(table))
    np.save(folder / bundle.MARKERS, model.markers.numpy())
    differences = {}
    files: dict[str, Weights] = {}
    for graph in _graphs(model, spec):
        with tempfile.TemporaryDirectory() as scratch:
            traced = Path(scratch) / graph.name
            _trace(graph, traced)
            proto = clean(traced)
        if graph.batch_axes:
            free_batch(proto, graph.batch_axes)
        weights = files.setdefault(graph.weights, Weights(folder / graph.weights))
        store(proto, folder / graph.name, weights, spec.precision)
        differences[graph.name] = _compare(graph, folder / graph.name, TOLERANCE[spec.precision])
    return differences


def _graphs(model: SpeechLM, spec: ModelSpec) -> Iterator[_Graph]:
    listened = ("vectors", "counts", *(("ctc", "ctc_frames") if model.config.ctc else ()))
    axes = {"mel": {0: "B", 2: "F"}, "frames": {0: "B"}, "vectors": {0: "B", 1: "S"}, "counts": {0: "B"}}
    axes |= {"ctc": {0: "B", 1: "T"}, "ctc_frames": {0: "B"}}
    most = spec.max_frames
    lengths = ([most // 2, most // 3], [1], [most], [most // 4, most // 5 + 1, 7])
    speech = tuple(_speech(spec, row) for row in lengths)
    yield _Graph(bundle.ENCODER, "encoder.weights", _Listen(model).eval(), speech, listened, axes)
    extended = ("logits", "new_keys", "new_values")
    batch_axes = {name: 0 for name in ("embeds", "positions", "last", "logits")}
    batch_axes |= {name: 1 for name in ("keys", "values", "new_keys", "new_values")}
    for name, size in ((bundle.PREFILL, PREFILL_TOKENS), (bundle.STEP, 1)):
        tokens = tuple(_tokens(model, spec, size, batch) for batch in (2, 1, 3))
        yield _Graph(name, "decoder.weights", _Extend(model).eval(), tokens, extended, batch_axes=batch_axes)


def _speech(spec: ModelSpec, lengths: list[int]) -> Feeds:
    generator = torch.Generator().manual_seed(len(lengths))
    mel = torch.randn(len(lengths), spec.num_mels, max(lengths), generator=generator)
    return {"mel": mel, "frames": torch.tensor(lengths)}


def _tokens(model: SpeechLM, spec: ModelSpec, size: int, batch: int) -> Feeds:
    """A call in the middle of a generation: rows at different places, the last row all padding but one token."""
    generator = torch.Generator().manual_seed(size + batch)
    config = model.config.decoder
    shape = (config.num_layers, batch, config.num_kv_heads, spec.max_tokens, config.head_width)
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    embeds = torch.randn(batch, size, config.width, generator=generator) * model.decoder.embed_tokens.weight.std()
    counts = torch.full((batch,), size)
    counts[-1] = 1
    starts = torch.arange(batch) * 3
    places = torch.arange(size)[None]
    positions = torch.where(places < counts[:, None], starts[:, None] + places, -1)
    return {"embeds": embeds, "positions": positions, "last": counts - 1, "keys": keys, "values": values}


def _trace(graph: _Graph, path: Path) -> None:
    inputs = graph.examples[0]
    names = (*inputs, *graph.outputs)
    with warnings.catch_warnings(), torch.no_grad(), _plain_attention():
        warnings.simplefilter("ignore")  # the tracer warns of every shape it reads
        torch.onnx.export(
            graph.module,
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(graph.outputs),
            dynamic_axes={name: axes for name, axes in graph.traced_axes.items() if name in names},
        )


def _compare(graph: _Graph, path: Path, tolerance: float) -> float:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for feeds in graph.examples:
        with torch.no_grad():
            expected = graph.module(**feeds)
        seen = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in feeds.items()})
        for name, want, got in zip(graph.outputs, expected, seen, strict=True):
            difference = float(np.abs(want.numpy() - got).max() / max(1e-6, float(want.abs().max())))
            if not difference <= tolerance:
                fault = f"{name} differs from PyTorch by {difference:.1e}, allowed is {tolerance:.0e}"
                raise UserError(f"export {path.name}: {fault}; nothing was replaced")
            worst = max(worst, difference)
    return worst


@contextmanager
def _plain_attention() -> Iterator[None]:
    """While tracing, attention is softmax(scores + bias): the fused operator would add IsNaN and infinities."""
    fused = fn.scaled_dot_product_attention

    def plain(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout_p: float = 0.0) -> Tensor:
        bias = (1.0 - attn_mask.to(q.dtype)) * -1e4
        return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v

    fn.scaled_dot_product_attention = plain  # type: ignore[assignment]
    try:
        yield
    finally:
        fn.scaled_dot_product_attention = fused


def _count(model: SpeechLM) -> dict[str, int]:
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {**parts, "total": sum(p.numel() for p in model.parameters())}
