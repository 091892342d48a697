"""What export makes: options in, a plan for each graph out.

Shapes: `B` batch, `M` mel bins, `F` mel frames.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.runtime import bundle
from zhiyin.runtime.base import ModelSpec

OPSET = 17  # the newest that ATC takes for certain, the oldest with LayerNormalization
OPSETS = range(11, OPSET + 1)  # of ATC's parser
COMPONENTS = ("encoder", "projector", "decoder")

Feeds = dict[str, Tensor]
Check = tuple[Feeds, tuple[Tensor, ...]]
Listen = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Options:
    """How a bundle is written.

    Attributes:
        precision: of the stored weights: ``float32``, ``float16``, or ``int8`` per output channel (then tables that
            are no matrix product are float16); all three compute in float32. ``int8-dynamic`` also computes the
            encoder's matrix products with integers, on CPUs, and so without buckets.
        buckets_s: lengths of audio the encoder graphs are fixed to, smaller first; none: one graph for any length.
        batches: rows the decoder graphs are fixed to, where there are buckets.
        opset: of the graphs, 11 to 17.
        components: without ``decoder`` only encoder and projector are written, for buckets.
    """

    precision: str = "float32"
    buckets_s: tuple[float, ...] = ()
    batches: tuple[int, ...] = (1,)
    opset: int = OPSET
    components: tuple[str, ...] = COMPONENTS


@dataclass(frozen=True)
class Plan:
    """One graph to be made.

    Attributes:
        file: its name in the bundle.
        weights: name of the weights file, shared by graphs that name the same.
        module: what is traced.
        example: the inputs it is traced with; what is not freed below is fixed to their sizes.
        outputs: names.
        checks: gives inputs of the graph and what they must give. Where the truth is smaller than the output, the rest
            of the output is padding.
        component: ``encoder`` or ``decoder`` where all sizes are fixed, with `size` and `batch` of `bundle.Graph`.
        traced_axes: input or output -> axes whose size is computed inside the graph.
        batch_axes: input or output -> batch axis, freed after tracing; a decoder has no other axis to free.
        runs_alone: one utterance per call, so that quantising what a call holds cannot let rows change each other.
    """

    file: str
    weights: str
    module: nn.Module
    example: Feeds
    outputs: tuple[str, ...]
    checks: Callable[[], Iterator[Check]]
    component: str = ""
    size: int = 0
    batch: int = 0
    traced_axes: dict[str, dict[int, str]] = field(default_factory=dict)
    batch_axes: dict[str, int] = field(default_factory=dict)
    runs_alone: bool = False


@dataclass(frozen=True)
class Source:
    """A model in PyTorch, ready to be exported.

    Attributes:
        spec: what the bundle will say of it.
        tables: files of the bundle beside the graphs -> their arrays.
        plans: the graphs.
        tokenizer: path of its `tokenizer.json`.
    """

    spec: ModelSpec
    tables: dict[str, np.ndarray]
    plans: Iterator[Plan]
    tokenizer: Path


def features(num_mels: int, lengths: list[int]) -> Feeds:
    """Random features of some utterances, right-padded to the longest; what pads is random too."""
    generator = torch.Generator().manual_seed(len(lengths))
    mel_BMF = torch.randn(len(lengths), num_mels, max(lengths), generator=generator)
    return {"mel": mel_BMF, "frames": torch.tensor(lengths)}


def bucket(
    module: nn.Module, truth: Listen, outputs: tuple[str, ...], *, num_mels: int, frames: int, shorter: int
) -> Plan:
    """The graph of one bucket, compared at several lengths with what the utterance gives alone, without padding.

    Args:
        module: features [1, M, F] and how many of F are real -> `outputs`.
        truth: the same without padding.
        outputs: names, e.g. ``vectors`` and ``counts``.
        num_mels: rows of the features.
        frames: of the bucket.
        shorter: frames of the next shorter bucket, or 0.
    """
    lengths = sorted({1, shorter + 1, (shorter + frames) // 2, frames - 1 or 1, frames})

    def checks() -> Iterator[Check]:
        for length in lengths:
            mel_1MF = features(num_mels, [length])["mel"]
            padded_1MF = nn.functional.pad(mel_1MF, (0, frames - length))
            with torch.no_grad():
                yield {"mel": padded_1MF, "frames": torch.tensor([length])}, truth(mel_1MF, torch.tensor([length]))

    example = features(num_mels, [frames])
    file = f"encoder_{frames}.onnx"
    return Plan(file, bundle.ENCODER_WEIGHTS, module, example, outputs, checks, "encoder", frames, 1)
