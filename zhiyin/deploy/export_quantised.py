"""Matrix products in 8-bit integers, for CPUs: the weights as stored, the other side quantised while it runs.

``MatMul(x, W)`` becomes ``DynamicQuantizeLinear(x)`` (one scale per call, 0 to 255), ``MatMulInteger``, and a product
by both scales; onnxruntime makes one kernel of the three. Compilers of NPUs have no parser for these operators.

Weights get 7 bits. Many CPUs add two products of 8-bit numbers in 16 bits and cut what is more than 32767: 2 x 255 x 63
is the most that never is. So a bundle says the same on every CPU.

Only for graphs that are given one utterance at a time: the scale of a call would be that of all its rows, and a row
would no longer say in a batch what it says alone.
Source: onnxruntime, "Quantize ONNX models", section "When and why do I need to try U8U8"; ONNX `DynamicQuantizeLinear`.
"""

import onnx
import torch
from onnx import ModelProto, NodeProto, helper
from torch import Tensor

LEVELS = 63
MIN_ELEMENTS = 4096  # smaller products gain nothing


def quantise(model: ModelProto, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rewrite the products of a graph.

    Args:
        model: changed in place.
        tensors: the graph's weights, name -> tensor.

    Returns:
        The weights the graph needs now: int8 [in, out] and their scales [out] in place of the products' matrices.
    """
    kept = dict(tensors)
    nodes: list[NodeProto] = []
    turned: dict[str, str] = {}  # activation -> its quantised name
    users = [name for node in model.graph.node for name in node.input]
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "MatMul" else ""
        if weight not in tensors or tensors[weight].numel() < MIN_ELEMENTS or users.count(weight) > 1:
            nodes.append(node)
            continue
        kept |= _integers(weight, kept.pop(weight))
        value, result = node.input[0], node.output[0]
        if value not in turned:
            turned[value] = f"{value}.q"
            names = [f"{value}.q", f"{value}.q.scale", f"{value}.q.zero"]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [value], names))
        parts = [f"{value}.q", f"{weight}.stored", f"{value}.q.zero"]
        nodes.append(helper.make_node("MatMulInteger", parts, [f"{result}.i"]))
        nodes.append(helper.make_node("Cast", [f"{result}.i"], [f"{result}.f"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{value}.q.scale", f"{weight}.scale"], [f"{result}.s"]))
        nodes.append(helper.make_node("Mul", [f"{result}.f", f"{result}.s"], [result]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return kept


def _integers(name: str, weight: Tensor) -> dict[str, Tensor]:
    """7-bit steps per output channel; the stored matrix lies as the product reads it."""
    scale = (weight.abs().amax(dim=0) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return {f"{name}.stored": (weight / scale).round().to(torch.int8), f"{name}.scale": scale}
