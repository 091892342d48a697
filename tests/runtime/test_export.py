"""What export writes: plain operators, weights stored once and as asked, all or nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from zhiyin.deploy import export_quantised, export_trace
from zhiyin.deploy.export import Exported, export
from zhiyin.deploy.export_plan import Options
from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.generate import decode
from zhiyin.runtime.onnx import OnnxBackend

GRAPHS = (bundle.ENCODER, bundle.PREFILL, bundle.STEP)

# Written by hand from what is known of static compilers, apart from the list in the exporter.
DENIED = {
    *("If", "Loop", "Scan", "NonZero", "Unique", "Compress", "RNN", "Einsum", "IsNaN", "IsInf", "TopK"),
    *("Scatter", "ScatterElements", "ScatterND", "GatherND", "GatherElements", "Attention", "Gelu", "RotaryEmbedding"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "QLinearConv"),
}
SHAPE_ARITHMETIC = {"Shape", "Size", "ConstantOfShape", "Range", "Expand"}


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def places(path: Path) -> dict[str, tuple[str, str, str]]:
    """Tensor name -> file, offset and length of what lies outside the graph."""
    graph = onnx.load(path, load_external_data=False).graph
    found = {}
    for tensor in graph.initializer:
        facts = {entry.key: entry.value for entry in tensor.external_data}
        if facts:
            found[tensor.name] = (facts["location"], facts["offset"], facts["length"])
    return found


@pytest.fixture(scope="module", params=["float32", "float16", "int8"])
def precise(make, tmp_path_factory, request) -> Exported:
    return export(make("qwen2").checkpoint, tmp_path_factory.mktemp(request.param) / "out", Options(request.param))


def test_graphs_hold_only_what_static_compilers_take(tiny, precise) -> None:
    for folder in (tiny.bundle, precise.folder):
        for name in GRAPHS:
            model = onnx.load(folder / name)
            assert {(item.domain, item.version) for item in model.opset_import} == {("", 17)}
            kinds = {node.op_type for node in nodes(model.graph)}
            assert not kinds & DENIED and not {node.domain for node in nodes(model.graph)} - {""}
            if name != bundle.ENCODER:
                assert not kinds & SHAPE_ARITHMETIC, "a decoder graph computes no shapes"
            free = {dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim} - {""}
            assert free == ({"B", "F"} if name == bundle.ENCODER else {"B"})


def test_decoder_weights_are_stored_once(tiny) -> None:
    prefill, step = places(tiny.bundle / bundle.PREFILL), places(tiny.bundle / bundle.STEP)
    assert {location for location, _, _ in prefill.values()} == {"decoder.weights"}
    assert set(prefill.values()) == set(step.values())
    large = sum(p.numel() * 4 for p in tiny.model.decoder.layers.parameters() if p.dim() == 2)
    head = tiny.model.decoder.embed_tokens.weight.numel() * 4
    size = (tiny.bundle / "decoder.weights").stat().st_size
    assert large + head <= size < 1.05 * (large + head)


def half_step(weight: np.ndarray, precision: str) -> np.ndarray:
    """Half the distance between neighbouring stored values, for a weight [in, out]."""
    if precision == "int8":
        return np.abs(weight).max(axis=0, keepdims=True) / 127 / 2
    return np.maximum(np.abs(weight) * 2.0**-11, 2.0**-25) if precision == "float16" else np.zeros_like(weight)


def test_stored_weights_are_the_rounded_ones(small, precise) -> None:
    """Read without our code, each matrix of the decoder is in the file, within half a step of the checkpoint's."""
    precision = bundle.read(precise.folder).precision
    graph = onnx.load(precise.folder / bundle.STEP).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    matrices = {name: array for name, array in tensors.items() if array.ndim == 2 and array.size >= 4096}
    assert {array.dtype.name for array in matrices.values()} == {precision}
    scales = {name: tensors.get(name.replace(".stored", ".scale"), np.ones(1)) for name in matrices}
    stored = [array * scales[name] if precision == "int8" else array for name, array in matrices.items()]
    decoder = small.model.decoder
    expected = [w.T.numpy() for w in (*decoder.layers.parameters(), decoder.embed_tokens.weight) if w.dim() == 2]
    assert len(stored) == len(expected)
    for weight in expected:
        limit = 1.001 * half_step(weight, precision)
        same = [array for array in stored if array.shape == weight.shape and (np.abs(weight - array) <= limit).all()]
        assert len(same) == 1


def test_smaller_precisions_stay_near(small, precise) -> None:
    backend = OnnxBackend(precise.folder, threads=1)
    precision = backend.spec.precision
    limit, ratio = {"float32": (1e-5, 1.0), "float16": (2e-3, 0.52), "int8": (5e-2, 0.28)}[precision]
    assert max(precise.differences.values()) < limit
    assert precise.size_bytes == sum(path.stat().st_size for path in precise.folder.iterdir())
    weights = [(folder / "decoder.weights").stat().st_size for folder in (precise.folder, small.bundle)]
    assert weights[0] <= ratio * weights[1]
    for mine, exact in zip(backend.encode(small.mels(300, 40)), small.eager.encode(small.mels(300, 40)), strict=True):
        worst = np.abs(mine.vectors_SD - exact.vectors_SD).max() / np.abs(exact.vectors_SD).max()
        assert worst < limit and (worst > 1e-5) == (precision != "float32")
    replies = decode(backend, small.prompts(), max_new_tokens=5)
    assert all(np.isfinite(reply.mean_logprob) for reply in replies)
    table = np.load(precise.folder / bundle.EMBEDDINGS)
    assert table.dtype == (np.float32 if precision == "float32" else np.float16)


def test_products_with_integers(small, tmp_path, monkeypatch) -> None:
    """In the encoder alone: the scale of a call is that of all its rows, and the decoder runs rows together."""
    monkeypatch.setattr(export_quantised, "MIN_ELEMENTS", 1000)
    out = export(small.checkpoint, tmp_path / "out", Options("int8-dynamic")).folder
    graph = onnx.load(out / bundle.ENCODER).graph
    kinds = [node.op_type for node in graph.node]
    products = kinds.count("MatMulInteger")
    listening = [w for n, w in small.model.named_parameters() if n.startswith(("encoder", "projector", "ctc"))]
    assert products == sum(w.dim() == 2 and w.numel() >= 1000 for w in listening)
    assert 0 < kinds.count("DynamicQuantizeLinear") < products, "what feeds several products is quantised once"
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    integers = {name: array for name, array in tensors.items() if array.dtype == np.int8 and array.ndim == 2}
    assert len(integers) == products
    exact = [w.T.numpy() for w in small.model.parameters() if w.dim() == 2]
    for name, array in integers.items():
        assert np.abs(array.astype(int)).max(axis=0).tolist() == [63] * array.shape[1]
        wide = array * tensors[name.replace(".stored", ".scale")]
        limit = 1.001 * np.abs(wide).max(axis=0) / 63 / 2
        assert sum(w.shape == wide.shape and (np.abs(w - wide) <= limit).all() for w in exact) == 1
    for name in (bundle.PREFILL, bundle.STEP):
        assert "MatMulInteger" not in {node.op_type for node in onnx.load(out / name).graph.node}
    backend = OnnxBackend(out, threads=1)
    for mine, true in zip(backend.encode(small.mels(300, 40)), small.eager.encode(small.mels(300, 40)), strict=True):
        assert 1e-5 < np.abs(mine.vectors_SD - true.vectors_SD).max() / np.abs(true.vectors_SD).max() < 5e-2


def test_the_record_says_what_the_model_is(small) -> None:
    record = json.loads((small.bundle / bundle.RECORD).read_text())
    assert record["format"] == 1 and record["precision"] == "float32" and record["family"] == "zhiyin"
    assert record["extra"]["parameters"]["total"] == sum(p.numel() for p in small.model.parameters())
    assert set(record["files"]) == {path.name for path in small.bundle.iterdir()} - {bundle.RECORD}


def test_an_older_bundle_is_replaced_only_by_a_proven_one(small, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    export(small.checkpoint, out)
    (out / "left over").touch()
    export(small.checkpoint, out)
    assert not (out / "left over").exists()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setitem(export_trace.TOLERANCE, "int8", 1e-9)
    with pytest.raises(UserError, match=r"encoder.onnx: vectors differs from PyTorch by .*; nothing was replaced"):
        export(small.checkpoint, out, Options("int8"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no scratch folder stays"


def test_a_wrong_graph_is_noticed(small, tmp_path, monkeypatch) -> None:
    """The comparison really looks: a tracer that loses the scale of the attention is caught."""
    monkeypatch.setattr(export_trace, "_plain_attention", lambda: _Skewed())
    with pytest.raises(UserError, match=r"encoder.onnx: .* differs from PyTorch"):
        export(small.checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Skewed:
    def __enter__(self) -> None:
        self.true = torch.nn.functional.scaled_dot_product_attention
        torch.nn.functional.scaled_dot_product_attention = lambda q, k, v, attn_mask, dropout_p: (
            (q @ k.transpose(2, 3)).softmax(-1) @ v
        )

    def __exit__(self, *_: object) -> None:
        torch.nn.functional.scaled_dot_product_attention = self.true


def test_wrong_requests(small, tmp_path) -> None:
    with pytest.raises(UserError, match="precision 'int4' is not known; known: float32 float16 int8 int8-dynamic"):
        export(small.checkpoint, tmp_path / "out", Options("int4"))
    (tmp_path / "precious.txt").touch()
    with pytest.raises(UserError, match="it is there and no bundle"):
        export(small.checkpoint, tmp_path)
    with pytest.raises(UserError, match="it is there and no bundle"):
        export(small.checkpoint, tmp_path / "precious.txt")
    config = json.loads((small.checkpoint / "config.json").read_text())
    config["spec"]["max_window_s"] = 30.0
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "long").mkdir(exist_ok=True)
        (tmp_path / "long" / name).write_bytes((small.checkpoint / name).read_bytes())
    (tmp_path / "long" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"max_window_s 30 is more than its positions allow \(3.2\)"):
        export(tmp_path / "long", tmp_path / "out")
