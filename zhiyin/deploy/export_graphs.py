"""ONNX files of a bundle: cleaned graphs, and weights outside them, each stored once and in a chosen precision.

A graph is traced without its weights, so it stays small however large the model is; the weights are fetched one at a
time while it is stored. A stored weight is widened where it is used (``Cast``, and ``Mul`` by a scale), with operators
that every compiler takes; onnxruntime does that once while loading and computes in float32.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from zhiyin.errors import UserError
from zhiyin.runtime.bundle import Port

PRECISIONS = ("float32", "float16", "int8", "int8-dynamic")
MIN_OUTSIDE_BYTES = 1024  # smaller tensors stay in the graph
MIN_REDUCED = 4096  # elements; smaller tensors keep float32: they cost nothing and norms are sensitive
ALIGNMENT_BYTES = 64

# What ATC has no parser for, what static compilers cannot plan, and what has a shape that depends on values.
REFUSED = {
    *("Attention", "Gelu", "GroupNormalization", "RMSNormalization", "RotaryEmbedding", "Swish", "RNN", "Einsum"),
    *("MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("STFT", "DFT", "MelWeightMatrix", "HannWindow", "HammingWindow", "BlackmanWindow", "IsNaN", "IsInf", "TopK"),
    *("Compress", "If", "Loop", "NonZero", "Scan", "Scatter", "ScatterElements", "ScatterND", "Unique"),
    *("GatherElements", "GatherND"),
}
# Inputs that say a shape: the standard wants int64 there, and a compiler that knows all sizes computes nothing with it.
SHAPE_OPERANDS = {
    **{kind: {1} for kind in ("Expand", "Pad", "ReduceSum", "Reshape", "Split", "Squeeze", "Tile", "Unsqueeze")},
    "ConstantOfShape": {0},
    "Slice": {1, 2, 3, 4},
}
_WIDE = (TensorProto.INT64, TensorProto.UINT64, TensorProto.DOUBLE)


class Weights:
    """One file of raw tensors; several graphs share it, equal tensors are written once."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}

    def put(self, array: np.ndarray) -> tuple[int, int]:
        """Offset and length of an array in the file, which is appended to when it does not hold it yet."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
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
    foreign = sorted({node.op_type for node in _nodes(model.graph) if node.domain or node.op_type in REFUSED})
    if foreign:
        raise UserError(f"export {path.name}: operators {', '.join(foreign)} are left; deployment targets refuse them")
    kept = [item for item in model.opset_import if not item.domain]
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.extend(kept)
    return model


def take_weights(model: ModelProto, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the weights of a graph traced without them its constants, transposed ones as the products want them.

    Args:
        model: changed in place; afterwards its inputs are those of `inputs`.
        inputs: the true inputs.
        weights: name -> tensor of the traced module.

    Returns:
        Name in the graph -> tensor (a view where it is transposed), for `store`.
    """
    graph = model.graph
    names = {value.name for value in graph.input} - inputs.keys()
    turned = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in names and list(node.attribute[0].ints) == [1, 0]
    }
    found = {output: weights[source].T for output, source in turned.items()}
    nodes = [node for node in graph.node if node.output[0] not in turned]
    used = {name for node in nodes for name in node.input}
    found |= {name: weights[name] for name in names if name in used}
    kept = [value for value in graph.input if value.name in inputs]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(kept)
    return found


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


def narrow(model: ModelProto) -> None:
    """Compute with int32 wherever the tracer left int64: NPUs emulate 64-bit integers, slowly or not at all.

    Args:
        model: a graph of fixed sizes, changed in place, its inputs and outputs too; what says a shape stays int64.
    """
    graph = model.graph
    wide = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT64}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.INT64:
                attribute.i = TensorProto.INT32
        shapes = SHAPE_OPERANDS.get(node.op_type, set())
        for i, name in enumerate(node.input):
            if name in wide and i not in shapes:
                node.input[i] = f"{name}.int32"
    used = {name for node in graph.node for name in node.input}
    for name, tensor in wide.items():
        if f"{name}.int32" in used:
            values = numpy_helper.to_array(tensor)
            least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max  # "to the end" is written as the largest int64
            graph.initializer.append(
                numpy_helper.from_array(values.clip(least, most).astype(np.int32), f"{name}.int32")
            )
        if name not in used:
            graph.initializer.remove(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            value.type.tensor_type.elem_type = TensorProto.INT32


def check_fixed(path: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a graph whose every size is a number and which computes with 32 bits at most.

    Raises:
        UserError: a size is open, or a node gives 64-bit numbers.
    """
    model = onnx.load(path, load_external_data=False)
    seen = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    values = {value.name: value.type.tensor_type for value in (*seen.graph.value_info, *seen.graph.output)}
    for node in seen.graph.node:
        for name in node.output:
            sizes = [dim.dim_value for dim in values[name].shape.dim] if name in values else [0]
            if min(sizes, default=1) < 1:
                raise UserError(f"export {path.name}: the size of {name} ({node.op_type}) is not fixed")
            if values[name].elem_type in _WIDE:
                raise UserError(f"export {path.name}: {name} ({node.op_type}) has 64 bits; NPUs want 32")
    return _ports(model.graph.input), _ports(model.graph.output)


def store(model: ModelProto, path: Path, tensors: Mapping[str, Tensor], weights: Weights, precision: str) -> None:
    """Write a graph beside its weights file, reducing the large tensors to `precision`.

    Args:
        model: changed: the tensors become initializers.
        path: the graph's file; `weights` lies in the same folder.
        tensors: what `take_weights` gave, read one at a time.
        weights: the file that several graphs share.
        precision: one of `PRECISIONS`.
    """
    graph = model.graph
    axes = dict(_output_axes(graph))
    nodes: list[NodeProto] = []
    stored: list[TensorProto] = []
    for name, array in _arrays(graph, tensors):
        if precision == "float32" or array.dtype != np.float32 or array.ndim < 2 or array.size < MIN_REDUCED:
            stored.append(_outside(name, array, weights))
            continue
        low, widen, scale = _reduce(name, array, axes.get(name) if precision != "float16" else None)
        stored += [_outside(f"{name}.stored", low, weights), *scale]
        nodes += widen
    del graph.initializer[:]
    graph.initializer.extend(stored)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))


def _arrays(graph: GraphProto, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for name, weight in tensors.items():
        yield name, weight.detach().numpy()


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


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
    if array.nbytes < MIN_OUTSIDE_BYTES:
        return numpy_helper.from_array(array, name)
    offset, length = weights.put(array)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", weights.path.name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _ports(values: Iterator[onnx.ValueInfoProto]) -> tuple[Port, ...]:
    return tuple(
        Port(
            value.name,
            np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    )
