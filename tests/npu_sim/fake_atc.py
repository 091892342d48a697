#!/usr/bin/env python3
"""A double of `atc` for tests: checks command line and graph as ATC does, writes an .om that only `acl.py` reads.

Options, exclusions, error codes and the fp16 default follow the public ATC documentation; the list of operators without
a parser is written by hand from what ATC is known to refuse. It cannot say that the real ATC compiles a graph.
"""

import argparse
import json
import os
import struct
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

if os.environ.get("ASCEND_HOME_PATH") or os.path.exists("/usr/local/Ascend"):
    raise RuntimeError("double of atc: a real CANN is installed here; use its atc")

NO_PARSER = {
    *("Attention", "Gelu", "GroupNormalization", "RMSNormalization", "RotaryEmbedding", "Swish"),
    *("BlackmanWindow", "DFT", "HammingWindow", "HannWindow", "MelWeightMatrix", "STFT"),
    *("Loop", "RNN", "Scan"),
    *("DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear"),
}
OLDEST, NEWEST, TOLERATED = 11, 17, 18  # opsets; 18 only in the newest parsers
CHIPS = {
    *("Ascend310", "Ascend310P1", "Ascend310P3", "Ascend310B1", "Ascend310B4"),
    *("Ascend910A", "Ascend910B1", "Ascend910B2", "Ascend910B3", "Ascend910B4"),
}
MODES = {
    *("force_fp16", "force_fp32", "cube_fp16in_fp32out", "allow_fp32_to_fp16", "must_keep_origin_dtype"),
    *("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16", "allow_fp32_to_bf16"),
}
MODES_V2 = {"fp16", "origin", "cube_fp16in_fp32out", "mixed_float16", "mixed_bfloat16", "mixed_hif8"}
OPTIONS = (
    *("model", "framework", "output", "soc_version", "input_format", "input_shape", "precision_mode"),
    *("precision_mode_v2", "op_precision_mode", "op_select_implmode", "optypelist_for_implmode", "keep_dtype"),
    *("modify_mixlist", "output_type", "out_nodes", "log", "host_env_os", "host_env_cpu", "external_weight"),
    *("dynamic_dims", "dynamic_batch_size", "dynamic_image_size", "insert_op_conf", "fusion_switch_file", "mode"),
    *("op_compiler_cache_mode", "op_compiler_cache_dir", "buffer_optimize", "virtual_type", "input_fp16_nodes"),
)
PLAIN_INPUTS = {"float32", "float16", "uint8", "int32"}  # documented, and int32, which works in practice


class AtcError(Exception):
    """What ATC would print, with its code."""


def convert(argv: list[str]) -> tuple[str, list[str]]:
    """The path of the model written, and warnings."""
    options = _options(argv)
    model = onnx.load(options.model)
    warnings = _check_graph(model)
    shapes = _shapes(options.input_shape or "")
    inputs = _inputs(model, shapes, warnings)
    fp16 = options.precision_mode == "force_fp16" or options.precision_mode_v2 == "fp16"
    if fp16 or not (options.precision_mode or options.precision_mode_v2):
        from onnxruntime.transformers import float16

        model = float16.convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    graph = model.SerializeToString()
    outputs = _outputs(graph, inputs)
    meta = {"soc_version": options.soc_version, "inputs": inputs, "outputs": outputs}
    raw = json.dumps(meta).encode()
    named = bool(options.host_env_os and options.host_env_cpu)
    path = options.output + (f"_{options.host_env_os}_{options.host_env_cpu}" if named else "") + ".om"
    with open(path, "wb") as file:
        file.write(b"FAKEOM1\0" + struct.pack("<Q", len(raw)) + raw + graph)
    return path, warnings


def main(argv: list[str] | None = None) -> int:
    """As the program: messages on standard output, 0 or 1."""
    print("ATC start working now, please wait for a moment.")
    try:
        path, warnings = convert(sys.argv[1:] if argv is None else argv)
    except AtcError as error:
        print(f"ATC run failed, Please check the detail log, Try 'atc --help' for more information\n{error}")
        return 1
    print(*warnings, "ATC run success, welcome to the next use.", path, sep="\n")
    return 0


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="atc", allow_abbrev=False, exit_on_error=False)
    for name in OPTIONS:
        parser.add_argument(f"--{name}")
    try:
        found, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise AtcError(f"E10005: {error}") from error
    if unknown:
        raise AtcError(f"E10005: unknown option {unknown}")
    for name in ("model", "output", "soc_version"):
        if not getattr(found, name):
            raise AtcError(f"E10004: --{name} is required")
    checks = (
        (found.framework != "5", "E10007: --framework must be 5 for ONNX"),
        (found.soc_version not in CHIPS, f"E10001: --soc_version={found.soc_version}"),
        (not os.path.isfile(found.model), f"E10001: --model {found.model} does not exist"),
        (
            found.precision_mode and found.precision_mode_v2,
            "E10056: Cannot configure both parameters --precision_mode and --precision_mode_v2 simultaneously.",
        ),
        (found.precision_mode not in (None, *MODES), f"E10001: --precision_mode={found.precision_mode}"),
        (found.precision_mode_v2 not in (None, *MODES_V2), f"E10001: --precision_mode_v2={found.precision_mode_v2}"),
        (found.input_format not in (None, "NCHW", "NCDHW", "ND"), f"E10001: --input_format={found.input_format}"),
        (
            found.dynamic_dims or found.dynamic_batch_size or found.dynamic_image_size,
            "E10001: this double builds static models only",
        ),
        (bool(found.host_env_os) != bool(found.host_env_cpu), "E10001: --host_env_os and --host_env_cpu go together"),
    )
    for wrong, message in checks:
        if wrong:
            raise AtcError(message)
    return found


def _check_graph(model: onnx.ModelProto) -> list[str]:
    opsets = {item.domain: item.version for item in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    bad: list[str] = []

    def walk(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            foreign = node.domain not in ("", "ai.onnx")
            if foreign or node.op_type in NO_PARSER or not OLDEST <= opset <= TOLERATED:
                bad.append(f"{node.domain or 'ai.onnx'}::{opsets.get(node.domain, opset)}::{node.op_type}")
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)

    walk(model.graph)
    if bad:
        more = f" and {len(bad) - 1} more: {sorted(set(bad))}" if len(bad) > 1 else ""
        raise AtcError(f"E19010: No parser is registered for Op [{bad[0]}]{more}")
    return [f"W: opset {opset} is known to the newest parsers only, export at {NEWEST}"] if opset == TOLERATED else []


def _shapes(given: str) -> dict[str, list[int]]:
    out = {}
    for part in filter(None, given.split(";")):
        name, _, sizes = part.rpartition(":")
        if not name:
            raise AtcError(f"E10002: invalid --input_shape [{part}], expected name:d1,d2")
        try:
            out[name] = [int(size) for size in sizes.split(",")] if sizes else []
        except ValueError as error:
            raise AtcError(f"E10002: --input_shape [{part}]: {error}") from error
    return out


def _inputs(model: onnx.ModelProto, given: dict[str, list[int]], warnings: list[str]) -> list[dict[str, Any]]:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    for name in given:
        if name not in {item.name for item in inputs}:
            raise AtcError(f"E10016: --input_shape names [{name}], no input of the model")
    out = []
    for item in inputs:
        tensor = item.type.tensor_type
        own = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        shape = given.get(item.name, own)
        if len(shape) != len(own):
            raise AtcError(f"E10012: rank of [{item.name}] is {len(own)}, --input_shape gives {len(shape)}")
        for index, (size, fixed) in enumerate(zip(shape, own, strict=True)):
            if size is None or size < 1:
                raise AtcError(f"E10001: input [{item.name}] has non-fixed dims {own}: --input_shape is required")
            if fixed is not None and size != fixed:
                raise AtcError(f"E10011: [{item.name}] dim {index} is fixed to {fixed}, --input_shape says {size}")
        for size, field in zip(shape, tensor.shape.dim, strict=True):
            field.Clear()
            field.dim_value = size
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if dtype not in PLAIN_INPUTS:
            warnings.append(f"W: input [{item.name}] is {dtype}: documented are FP32, FP16 and UINT8")
        out.append({"name": item.name, "shape": shape, "dtype": dtype})
    return out


def _outputs(graph: bytes, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """ATC infers shapes; here the graph runs once, on zeros."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    results = session.run(None, {port["name"]: np.zeros(port["shape"], port["dtype"]) for port in inputs})
    out = []
    for item, result in zip(session.get_outputs(), results, strict=True):
        if 0 in result.shape:
            raise AtcError(f"E10001: output [{item.name}] has a 0 dim {result.shape}")
        out.append({"name": item.name, "shape": list(result.shape), "dtype": str(result.dtype)})
    return out


if __name__ == "__main__":
    sys.exit(main())
