"""Graphs of fixed size: what PyTorch says of the utterance alone, operators ATC reads, and nothing cut in silence."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer, models

from zhiyin.deploy.export import Exported, export
from zhiyin.deploy.export_plan import Options
from zhiyin.errors import UserError
from zhiyin.model import checkpoint
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime import bundle
from zhiyin.runtime.eager import EagerBackend
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.onnx import OnnxBackend

NEAR = 1e-4
BUCKETS_S, FRAMES = (0.5, 1.2, 3.0), (50, 120, 300)
# By hand from what is known of ATC and of static compilers, apart from the list in the exporter.
DENIED = {
    *(
        "If",
        "Loop",
        "Scan",
        "NonZero",
        "Unique",
        "Compress",
        "RNN",
        "Einsum",
        "IsNaN",
        "IsInf",
        "TopK",
        "Shape",
        "Size",
    ),
    *("Scatter", "ScatterElements", "ScatterND", "GatherND", "GatherElements", "Attention", "Gelu", "RotaryEmbedding"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "QLinearConv"),
    *("ConstantOfShape", "Range", "Expand", "STFT", "DFT", "GroupNormalization", "RMSNormalization", "Swish"),
}
# Operators of opset 11, by hand from the standard's change log; above it only what came with the opset.
SINCE = {"LayerNormalization": 17}


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    torch.manual_seed(5)
    encoder = EncoderConfig(
        width=32, num_layers=1, num_heads=2, ffn_width=64, max_positions=80, conv_strides=(2, 2), conv_kernel=5
    )
    projector = ProjectorConfig((1, 2), width=32, num_layers=1, num_heads=2, ffn_width=48, max_positions=40)
    decoder = DecoderConfig(97, 64, 2, 4, 2, 16, 96, rope_theta=1e4, qk_norm=True, out_bias=True, tie_embeddings=True)
    made = SpeechLM(ModelConfig(encoder, projector, decoder, ctc=True, eos_id=5)).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.5 * parameter.shape[-1] ** -0.5)
    made.decoder.norm.weight.normal_()  # of both signs: else a tied decoder repeats its last token for ever
    return made


@pytest.fixture(scope="module")
def folder(model: SpeechLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("static") / "checkpoint"
    spec = {"name": "tiny", "tasks": ["asr"], "max_window_s": 3.0, "max_tokens": 160}
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(97)}, unk_token="t0")).to_str()
    checkpoint.save(place, model, spec, words)
    return place


@pytest.fixture(scope="module")
def static(folder: Path) -> Exported:
    return export(folder, folder.parent / "bundle", Options(buckets_s=BUCKETS_S, batches=(1, 3)))


@pytest.fixture(scope="module")
def backend(static: Exported) -> OnnxBackend:
    return OnnxBackend(static.folder, threads=1)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def mels(*frames: int) -> list[np.ndarray]:
    generator = np.random.default_rng(sum(frames))
    return [generator.standard_normal((80, count)).astype(np.float32) for count in frames]


@pytest.mark.parametrize("opset", [11, 17])
def test_every_node_is_one_that_atc_reads(folder: Path, static: Exported, tmp_path: Path, opset: int) -> None:
    short = Options(buckets_s=(0.5,), opset=opset)
    out = static.folder if opset == 17 else export(folder, tmp_path / "out", short).folder
    files = [graph.file for graph in bundle.read_graphs(out)]
    assert len(files) == (7 if opset == 17 else 3)
    for file in files:
        proto = onnx.load(out / file)
        assert {(item.domain, item.version) for item in proto.opset_import} == {("", opset)}
        found = {node.op_type for node in nodes(proto.graph)}
        assert not found & DENIED and not {node.domain for node in nodes(proto.graph)} - {""}
        assert all(onnx.defs.has(kind) and SINCE.get(kind, 0) <= opset for kind in found)
        onnx.checker.check_model(proto, full_check=True)


def test_every_size_is_a_number_and_nothing_has_64_bits(static: Exported) -> None:
    """What onnx itself infers of each value; what a constant says of a shape is no value that is computed."""
    for graph in bundle.read_graphs(static.folder):
        proto = onnx.shape_inference.infer_shapes(onnx.load(static.folder / graph.file), strict_mode=True)
        values = [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]
        assert len(values) >= len(proto.graph.node)
        for value in values:
            kind = value.type.tensor_type
            assert all(dim.HasField("dim_value") for dim in kind.shape.dim), value.name
            assert kind.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.BOOL), value.name


def test_the_record_lists_the_graphs_as_they_are(static: Exported) -> None:
    graphs = bundle.read_graphs(static.folder)
    listed = [(graph.component, graph.size, graph.batch) for graph in graphs]
    assert listed == [*[("decoder", n, b) for b in (1, 3) for n in (1, 64)], *[("encoder", n, 1) for n in FRAMES]]
    assert bundle.read_target(static.folder) == bundle.Target("onnx")
    kinds = {"tensor(float)": "float32", "tensor(int32)": "int32"}
    for graph in graphs:
        session = onnxruntime.InferenceSession(str(static.folder / graph.file))
        for ports, true in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
            assert [(p.name, p.dtype, list(p.shape)) for p in ports] == [(t.name, kinds[t.type], t.shape) for t in true]
    assert bundle.read(static.folder).max_window_s == 3.0
    assert set(static.differences) == {graph.file for graph in graphs}


def test_weights_lie_on_disk_once(model: SpeechLM, static: Exported) -> None:
    for component, part in (("encoder", (model.encoder, model.projector, model.ctc)), ("decoder", (model.decoder,))):
        exact = sum(4 * weight.numel() for module in part for weight in module.parameters())
        assert (static.folder / f"{component}.weights").stat().st_size < 1.3 * exact


@pytest.mark.parametrize("rubbish", [0.0, 1e3])
def test_padding_changes_nothing(model: SpeechLM, static: Exported, rubbish: float) -> None:
    """Each bucket at several true lengths against the model without padding, whatever stands in the padding."""
    for graph in bundle.read_graphs(static.folder)[-3:]:
        session = onnxruntime.InferenceSession(str(static.folder / graph.file))
        for frames in {1, 7, graph.size // 2, graph.size - 1, graph.size}:
            mel = mels(frames)[0]
            padded = np.full((1, 80, graph.size), rubbish, np.float32)
            padded[0, :, :frames] = mel
            seen = session.run(None, {"mel": padded, "frames": np.array([frames], np.int32)})
            speech = model.listen(torch.from_numpy(mel[None]), torch.tensor([frames]))
            assert (seen[1], seen[3]) == (speech.vector_counts_B.numpy(), speech.encoded_lengths_B.numpy())
            alone = speech.vectors_BSD[0].numpy(), model.ctc(speech.encoded_BTE)[0].numpy()
            for one, true in zip((seen[0][0], seen[2][0]), alone, strict=True):
                np.testing.assert_allclose(one[: len(true)], true, atol=NEAR)


def test_audio_goes_to_the_next_larger_bucket(folder: Path, backend: OnnxBackend) -> None:
    eager = EagerBackend(folder, device="cpu")
    assert backend.buckets == FRAMES
    for frames in (1, 49, 50, 51, 120, 121, 300):
        one, true = (b.encode(mels(frames))[0] for b in (backend, eager))
        np.testing.assert_allclose(one.vectors_SD, true.vectors_SD, atol=NEAR)
        assert one.ctc_TV is not None and true.ctc_TV is not None
        np.testing.assert_allclose(one.ctc_TV, true.ctc_TV, atol=NEAR)
    with pytest.raises(ValueError, match=r"features of 301 frames: model 'tiny' has buckets for \(50, 120, 300\)"):
        backend.encode(mels(301))
    with pytest.raises(ValueError, match=r"takes \[80, 1 to 300\]"):
        backend.encode([np.zeros((79, 20), np.float32)])


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_replies_are_those_of_the_whole_sequence(
    model: SpeechLM, folder: Path, backend: OnnxBackend, rows: int
) -> None:
    """Rows by themselves (batch 1), in full groups and in groups that are filled up, which end at different times."""
    eager = EagerBackend(folder, device="cpu")
    heard = [item.vectors_SD for item in eager.encode(mels(40, 300))]
    prompts = [
        Prompt(range(3, 9), heard[0]),
        Prompt(range(10, 90)),
        Prompt([11]),
        Prompt([2], heard[1], [7]),
        Prompt([8]),
    ]
    expected = decode(eager, prompts[:rows], max_new_tokens=12)
    replies = decode(backend, prompts[:rows], max_new_tokens=12)
    assert [reply.ids for reply in replies] == [reply.ids for reply in expected]
    np.testing.assert_allclose([r.mean_logprob for r in replies], [r.mean_logprob for r in expected], atol=NEAR)
    alone = decode(backend, prompts[:1], max_new_tokens=12)[0]
    assert alone.ids == replies[0].ids and len(set(alone.ids)) > 2, "the model says something"


def test_kept_rows_go_on_as_if_alone(backend: OnnxBackend) -> None:
    embeds = [backend.embed(range(start, start + size)) for start, size in ((1, 5), (20, 70), (40, 2), (9, 3), (1, 1))]
    session = backend.start(5)
    assert session.rows == 3
    session.extend(embeds)
    session.keep([4, 1])
    after_BV = session.extend([backend.embed([50]), backend.embed([])])
    assert after_BV.shape == (2, 97)
    expected = backend.start(1).extend([np.concatenate([embeds[4], backend.embed([50])])])[0]
    np.testing.assert_allclose(after_BV[0], expected, atol=NEAR)
    session.keep([1])
    after_V = session.extend([backend.embed([51])])[0]
    expected = backend.start(1).extend([np.concatenate([embeds[1], backend.embed([51])])])[0]
    np.testing.assert_allclose(after_V, expected, atol=NEAR)


def test_only_encoder_and_projector(folder: Path, tmp_path: Path) -> None:
    options = Options(buckets_s=(1.0,), components=("encoder", "projector"))
    out = export(folder, tmp_path / "out", options).folder
    assert sorted(path.name for path in out.glob("*")) == [
        *("bundle.json", "encoder.weights", "encoder_100.onnx", "tokenizer.json")
    ]
    assert bundle.read(out).max_window_s == 1.0
    with pytest.raises(UserError, match="holds encoder and projector only"):
        OnnxBackend(out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(buckets_s=(0.5, 3.1)), r"bucket 3.1 s: model 'tiny': its windows are at most 3 s \(max_window_s\)"),
        (Options(buckets_s=(1.0, 5.0)), r"bucket 5 s: model 'tiny': its encoder has positions for 3.2 s; leave this"),
        (Options(buckets_s=(1.0, 1.001)), r"bucket 1 s: .* it is 100 frames, as another bucket"),
        (Options(opset=18), r"opset 18: 11 to 17 are what ATC reads"),
        (Options(opset=10), r"opset 10: 11 to 17 are what ATC reads"),
        (Options("int8-dynamic", buckets_s=(1.0,)), r"precision int8-dynamic is for CPUs; leave out --buckets"),
        (Options(components=("encoder",)), "encoder and projector are one graph"),
        (Options(components=("encoder", "voice")), "component 'voice' is not known; known: encoder projector decoder"),
        (Options(components=("encoder", "projector")), "only fixed lengths are written; add --buckets"),
    ],
)
def test_wrong_requests(folder: Path, tmp_path: Path, options: Options, said: str) -> None:
    with pytest.raises(UserError, match=said):
        export(folder, tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


def test_a_damaged_record_is_seen(static: Exported, tmp_path: Path) -> None:
    for path in static.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = json.loads((tmp_path / bundle.RECORD).read_text())
    for change, said in (
        ({"graphs": []}, "graphs: none is listed"),
        ({"graphs": [{"file": "x"}]}, "graphs: an entry is damaged"),
        ({"target": {"kind": "tensorrt"}}, "kind is onnx or om was expected"),
        ({"graphs": record["graphs"][:3]}, "holds encoder and projector only"),
    ):
        (tmp_path / bundle.RECORD).write_text(json.dumps(record | change))
        with pytest.raises(UserError, match=said):
            OnnxBackend(tmp_path)
    (tmp_path / bundle.RECORD).write_text(json.dumps(record))
    (tmp_path / "encoder_120.onnx").write_bytes(b"\0" * (tmp_path / "encoder_120.onnx").stat().st_size)
    with pytest.raises(UserError, match=r"encoder_120.onnx is damaged \(its SHA-256 differs\)"):
        OnnxBackend(tmp_path)
    (tmp_path / "encoder_120.onnx").unlink()
    with pytest.raises(UserError, match=r"encoder_120.onnx is missing"):
        OnnxBackend(tmp_path)
