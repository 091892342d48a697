"""OM bundles for tests: graphs of a static ONNX bundle, or of one that takes any length, through the double of ATC."""

import contextlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from tests.npu_sim import fake_atc
from zhiyin.deploy import atc
from zhiyin.runtime import bundle
from zhiyin.runtime.bundle import Graph, Port, Target

SOC = "Ascend310P3"


def compiled(folder: Path, out: Path, *, soc: str = SOC, precision: str = "fp32") -> Path:
    """A static ONNX bundle as an OM bundle, as on a machine without ATC: `build.sh` is written, what it says is done
    (by the double), and the same command seals the result."""
    job = atc.plan(folder, out, soc, precision=precision, host="linux-aarch64")
    list(atc.run(job))
    for step in job.steps:
        command = [word.replace("--output=", f"--output={out}/") for word in step.command[1:]]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = fake_atc.main(command)
        assert code == 0, said.getvalue()
    list(atc.run(job))
    return out


def fixed(folder: Path, out: Path, buckets: Sequence[int], batches: Sequence[int] = (1,)) -> Path:
    """A bundle that takes any length, its sizes fixed by hand: nothing of the exporter's own static graphs is used."""
    out.mkdir(parents=True)
    graphs = [_fix(folder / bundle.ENCODER, out, "encoder", size, 1) for size in buckets]
    for name, size in ((bundle.PREFILL, 64), (bundle.STEP, 1)):
        graphs += [_fix(folder / name, out, "decoder", size, batch) for batch in batches]
    for name in (bundle.EMBEDDINGS, bundle.MARKERS, bundle.TOKENIZER):
        shutil.copyfile(folder / name, out / name)
    bundle.seal(out, bundle.read(folder), Target("onnx"), graphs)
    return out


def _fix(path: Path, out: Path, component: str, size: int, batch: int) -> Graph:
    model = onnx.load(path)
    inputs = []
    for item in model.graph.input:
        tensor = item.type.tensor_type
        sizes = {"B": batch, "F": size}
        shape = [sizes[one.dim_param] if one.dim_param else one.dim_value for one in tensor.shape.dim]
        for field, one in zip(tensor.shape.dim, shape, strict=True):
            field.Clear()
            field.dim_value = one
        inputs.append(Port(item.name, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), tuple(shape)))
    file = f"{component}_{size}_{batch}.onnx"
    onnx.save(model, out / file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {port.name: np.ones(port.shape, port.dtype) for port in inputs}
    results = zip(session.get_outputs(), session.run(None, feeds), strict=True)
    outputs = [Port(item.name, str(array.dtype), array.shape) for item, array in results]
    return Graph(file, component, size, batch, tuple(inputs), tuple(outputs))
