"""From a module to a graph that says the same: tracing in PyTorch, and the comparison nothing is written without."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional as fn

from zhiyin.deploy.export_graphs import Weights, check_fixed, clean, free_batch, narrow, store, take_weights
from zhiyin.deploy.export_plan import Plan
from zhiyin.deploy.export_quantised import quantise
from zhiyin.errors import UserError
from zhiyin.runtime.bundle import Graph

# largest difference to PyTorch, relative to the largest value; measured on random models, doubled
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "int8": 2.5e-1, "int8-dynamic": 2.5e-1}


@dataclass(frozen=True)
class Made:
    """A graph that was written: its entry for the bundle's record, where its sizes are fixed, and how far it is from
    PyTorch in float32, relative to the largest value."""

    graph: Graph | None
    difference: float


def write(plan: Plan, folder: Path, weights: Weights, *, precision: str, opset: int) -> Made:
    """Trace a graph, write it and compare it.

    Raises:
        UserError: an operator or a size that deployment targets refuse, or a difference to PyTorch.
    """
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch) / plan.file
        _trace(plan, traced, opset)
        proto = clean(traced)
    named = {**dict(plan.module.named_parameters()), **dict(plan.module.named_buffers())}
    tensors = take_weights(proto, plan.example, named)
    if plan.batch_axes:
        free_batch(proto, plan.batch_axes)
    if plan.size:
        narrow(proto)
    if precision == "int8-dynamic" and plan.runs_alone:
        tensors = quantise(proto, tensors)
    path = folder / plan.file
    store(proto, path, tensors, weights, precision)
    graph = Graph(plan.file, plan.component, plan.size, plan.batch, *check_fixed(path)) if plan.size else None
    return Made(graph, _compare(plan, path, TOLERANCE[precision]))


def _trace(plan: Plan, path: Path, opset: int) -> None:
    names = (*plan.example, *plan.outputs)
    with warnings.catch_warnings(), torch.no_grad(), _plain_attention():
        warnings.simplefilter("ignore")  # the tracer warns of every shape it reads
        torch.onnx.export(
            plan.module,
            tuple(plan.example.values()),
            str(path),
            dynamo=False,
            export_params=False,  # weights come one at a time, afterwards
            do_constant_folding=False,
            opset_version=opset,
            input_names=list(plan.example),
            output_names=list(plan.outputs),
            dynamic_axes={name: axes for name, axes in plan.traced_axes.items() if name in names},
        )


def _compare(plan: Plan, path: Path, tolerance: float) -> float:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")  # one more copy of the weights
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    narrowed = {item.name for item in session.get_inputs() if item.type == "tensor(int32)"}
    worst = 0.0
    for feeds, expected in plan.checks():
        arrays = {name: (feed.int() if name in narrowed else feed).numpy() for name, feed in feeds.items()}
        seen = session.run(list(plan.outputs), arrays)
        for name, want, got in zip(plan.outputs, expected, seen, strict=True):
            part = got[tuple(slice(0, size) for size in want.shape)]
            difference = float(np.abs(want.numpy() - part).max() / max(1e-6, float(want.abs().max())))
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
