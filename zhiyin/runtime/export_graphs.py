"""ONNX files of a bundle: cleaned graphs, and weights outside them, each stored once and in a chosen precision.

A stored weight is widened where it is used (``Cast``, and ``Mul`` by a scale), with operators that every compiler
takes; onnxruntime does that once while loading and computes in float32.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from zhiyin.errors import UserError

PRECISIONS = ("float32", "float16", "int8")
MIN_OUTSIDE_BYTES = 1024  # smaller tensors stay in the graph
MIN_REDUCED = 4096  # elements; smaller tensors keep float32: they cost nothing and norms are sensitive
ALIGNMENT_BYTES = 64

# What ATC has no parser for, what static compilers cannot plan, and what has a shape that depends on values.
REFUSED = {
    *("Attention", "Gelu", "RMSNormalization", "RotaryEmbedding", "Swish", "RNN", "MatMulInteger", "QLinearConv"),
    *("QLinearMatMul", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("Compress", "If", "Loop", "NonZero", "Scan", "Scatter", "ScatterElements", "ScatterND", "Unique"),
}


class Weights:
    """One file of raw tensors; several graphs share it, equal tensors are written once."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}

    def put(self, array: np.ndarray) -> tuple[int, int]:
        """Offset and length of an array in the file, which is appended to when it does not hold it yet."""
        raw = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(raw).digest()
        if key not in self._places:
            with self.path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGNMENT_BYTES))
                self._places[key] = file.tell(), len(raw)
                file.write(raw)
        return self._places[key]


def clean(path: Path) -> ModelProto:
    """A traced graph after onnxruntime's standard-operator simplifications (constants folded, copies merged).

    Raises:
        UserError: an operator is left that deployment targets refuse.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".clean"))
    # that fusion would write batch times tokens into a reshape, where `free_batch` could not find the batch again
    kept_apart = ["MatMulAddFusion"]
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=kept_apart)
    model = onnx.load(options.optimized_model_filepath)
    foreign = sorted({node.op_type for node in model.graph.node if node.domain or node.op_type in REFUSED})
    if foreign:
        raise UserError(f"export {path.name}: operators {', '.join(foreign)} are left; deployment targets refuse them")
    kept = [item for item in model.opset_import if not item.domain]
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.extend(kept)
    return model


def free_batch(model: ModelProto, axes: Mapping[str, int]) -> None:
    """Let a graph that was traced at one batch size take any.

    Traced with all sizes fixed, a graph has no arithmetic on shapes left. Its reshapes hold the batch size as their
    first number: 0 there means "as it comes in".

    Args:
        model: changed in place; every reshape in it keeps the batch in front.
        axes: input or output -> its batch axis.
    """
    first = model.graph.input[0]
    batch = first.type.tensor_type.shape.dim[axes[first.name]].dim_value
    targets = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in model.graph.initializer:
        if tensor.name in targets:
            shape = numpy_helper.to_array(tensor).copy()
            if shape[0] != batch:
                raise UserError(f"export: a reshape to {shape.tolist()} does not keep the batch in front")
            shape[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        size = value.type.tensor_type.shape.dim[axes[value.name]]
        size.Clear()
        size.dim_param = "B"


def store(model: ModelProto, path: Path, weights: Weights, precision: str) -> None:
    """Write a graph beside its weights file, reducing the large tensors to `precision`."""
    graph = model.graph
    axes = dict(_output_axes(graph))
    nodes, tensors = [], []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if precision == "float32" or array.dtype != np.float32 or array.ndim < 2 or array.size < MIN_REDUCED:
            tensors.append(_outside(tensor.name, array, weights))
            continue
        low, widen, scale = _reduce(tensor.name, array, axes.get(tensor.name) if precision == "int8" else None)
        tensors += [_outside(f"{tensor.name}.stored", low, weights), *scale]
        nodes += widen
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))


def _reduce(name: str, array: np.ndarray, axis: int | None) -> tuple[np.ndarray, list[NodeProto], list[TensorProto]]:
    """The stored array, the nodes that widen it again, and the scales: int8 per output channel, or float16."""
    if axis is None:
        widen = [helper.make_node("Cast", [f"{name}.stored"], [name], to=TensorProto.FLOAT)]
        return array.astype(np.float16), widen, []
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.maximum(np.abs(array).max(axis=others, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    widen = [
        helper.make_node("Cast", [f"{name}.stored"], [f"{name}.wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.wide", f"{name}.scale"], [name]),
    ]
    return np.rint(array / scale).astype(np.int8), widen, [numpy_helper.from_array(scale, f"{name}.scale")]


def _output_axes(graph: GraphProto) -> Iterator[tuple[str, int]]:
    """Weights of products and convolutions, and which axis counts their output channels."""
    for node in graph.node:
        if node.op_type == "MatMul":
            yield node.input[1], 1
        elif node.op_type == "Conv":
            yield node.input[1], 0


def _outside(name: str, array: np.ndarray, weights: Weights) -> TensorProto:
    """A tensor that points into the weights file, or holds its own bytes where they are few."""
    tensor = numpy_helper.from_array(array, name)
    if array.nbytes < MIN_OUTSIDE_BYTES:
        return tensor
    offset, length = weights.put(array)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", weights.path.name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
