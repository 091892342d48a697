"""Encoder and projector of Granite models as graphs of fixed size, against transformers on the real length."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.runtime import hf_tiny
from zhiyin.deploy import export_granite
from zhiyin.deploy.export import export
from zhiyin.deploy.export_plan import Options
from zhiyin.errors import UserError
from zhiyin.runtime import bundle
from zhiyin.runtime.hf import HfBackend
from zhiyin.runtime.onnx import OnnxBackend

HALF = ("encoder", "projector")


@pytest.mark.parametrize(("kind", "buckets_s"), [("granite", (1.0, 1.5)), ("granite_plus", (1.5,))])
def test_padding_changes_nothing(kind: str, buckets_s: tuple[float, ...], tmp_path: Path) -> None:
    """The tiny encoder attends within 20 columns and is asked in windows of 15; most lengths here are no multiples."""
    folder = getattr(hf_tiny, kind)(tmp_path / "model")
    exported = export(folder, tmp_path / "out", Options(buckets_s=buckets_s, components=HALF))
    assert max(exported.differences.values()) < 1e-5
    whole = HfBackend(folder, device="cpu", dtype="float32")
    for graph in bundle.read_graphs(exported.folder):
        session = onnxruntime.InferenceSession(str(exported.folder / graph.file))
        assert not {node.op_type for node in onnx.load(exported.folder / graph.file).graph.node} & {
            "Einsum",
            "If",
            "Loop",
        }
        for frames in (1, 14, 31, 40, graph.size - 1, graph.size):
            mel = np.random.default_rng(frames).standard_normal((160, frames)).astype(np.float32)
            padded = np.full((1, 160, graph.size), 50.0, np.float32)  # what pads must not matter
            padded[0, :, :frames] = mel
            vectors, counts = session.run(None, {"mel": padded, "frames": np.array([frames], np.int32)})
            expected = whole.encode([mel])[0].vectors_SD
            assert counts.tolist() == [len(expected)] == [3 * -(-frames // 15)]
            np.testing.assert_allclose(vectors[0, : counts[0]], expected, atol=1e-4)
    assert bundle.read(exported.folder).max_window_s == 1.5
    with pytest.raises(UserError, match="it holds encoder and projector only"):
        OnnxBackend(exported.folder)


def test_a_lost_mask_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is with transformers, so a convolution that hears the padding is caught."""
    folder = hf_tiny.granite(tmp_path / "model")
    convolve = export_granite._convolve
    monkeypatch.setattr(export_granite, "_convolve", lambda part, x, real: convolve(part, x, torch.ones_like(real)))
    with pytest.raises(UserError, match=r"encoder_50.onnx: vectors differs from PyTorch by .*; nothing was replaced"):
        export(folder, tmp_path / "out", Options(buckets_s=(1.0,), components=HALF))
    assert not (tmp_path / "out").exists()


def test_the_language_model_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "granite_speech"}')
    with pytest.raises(UserError, match="give --components encoder,projector"):
        export(tmp_path, tmp_path / "out", Options(buckets_s=(1.0,)))
