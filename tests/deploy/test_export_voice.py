"""The vectors of voice and pace in exported graphs say what PyTorch says, of any length and of fixed ones."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer, models

from tests.deploy import tiny_model
from zhiyin.deploy.export import Exported, export
from zhiyin.deploy.export_plan import Options
from zhiyin.model import checkpoint
from zhiyin.model.config import ModelConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime import bundle
from zhiyin.runtime.onnx import OnnxBackend

DATA_DEPENDENT = {"NonZero", "Unique", "Compress", "TopK", "If", "Loop", "Scan", "DFT", "STFT", "Shape", "Range"}


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    torch.manual_seed(3)
    projector = dataclasses.replace(tiny_model.PROJECTOR, voice_mels=80, voice_stats="functionals", pace=True)
    return SpeechLM(ModelConfig(tiny_model.ENCODER, projector, tiny_model.DECODER, ctc=True, eos_id=5)).eval()


@pytest.fixture(scope="module")
def folder(model: SpeechLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("voice") / "checkpoint"
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(tiny_model.VOCABULARY)}, unk_token="t0"))
    checkpoint.save(place, model, tiny_model.SPEC, words.to_str())
    return place


def speech(*frames: int) -> list[np.ndarray]:
    """Features with loud and quiet frames."""
    rng = np.random.default_rng(sum(frames))
    swell = [0.5 * np.sin(np.arange(count) / 9.0)[None] for count in frames]
    return [(rng.random((80, count)) + wave).astype(np.float32) for count, wave in zip(frames, swell, strict=True)]


def voices(model: SpeechLM, mels: list[np.ndarray]) -> list[np.ndarray]:
    """The vectors of voice and pace of each utterance alone, in PyTorch."""
    with torch.no_grad():
        heard = [model.listen(torch.from_numpy(mel)[None], torch.tensor([mel.shape[1]])) for mel in mels]
    return [one.vectors_BSD[0, :2].numpy() for one in heard]


def made(folder: Path, out: Path, **options: object) -> Exported:
    return export(folder, out, Options(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-4), ("float16", 1e-2), ("int8", 5e-2)])
def test_any_length(model: SpeechLM, folder: Path, tmp_path: Path, precision: str, near: float) -> None:
    backend = OnnxBackend(made(folder, tmp_path / "out", precision=precision).folder, threads=1)
    mels = speech(300, 41, 7, 1)
    expected = voices(model, mels)
    for seen, voice in zip(backend.encode(mels), expected, strict=True):
        np.testing.assert_allclose(seen.vectors_SD[:2], voice, atol=near * np.abs(expected[0]).max())


@pytest.mark.parametrize("opset", [11, 17])
def test_fixed_lengths(model: SpeechLM, folder: Path, tmp_path: Path, opset: int) -> None:
    out = made(folder, tmp_path / "out", buckets_s=(0.3, 2.0), opset=opset).folder
    mels = speech(200, 150, 30, 3)
    for seen, voice in zip(OnnxBackend(out, threads=1).encode(mels), voices(model, mels), strict=True):
        np.testing.assert_allclose(seen.vectors_SD[:2], voice, atol=1e-4)
    for graph in bundle.read_graphs(out):
        assert not {node.op_type for node in onnx.load(out / graph.file).graph.node} & DATA_DEPENDENT
