"""The reference models as bundles: what OSUM and OSUM-Pangu said greedily, without torch at the time of running."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from zhiyin.model import checkpoint
from zhiyin.model.convert.osum import OSUM, OSUM_PANGU, convert
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.export import export
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.onnx import OnnxBackend

RECORD = {"name": "reference", "tasks": ["asr"], "max_window_s": 8.0, "max_tokens": 256}


@pytest.fixture(scope="module", params=["osum", "pangu"])
def reference(shared: Path, tmp_path_factory, request) -> tuple[OnnxBackend, dict[str, np.ndarray], bool]:
    """The bundle of a reference model, its recorded arrays, and whether it rounds features to bfloat16."""
    folder, out = shared / "golden" / request.param, tmp_path_factory.mktemp(request.param)
    spec = json.loads((folder / "spec.json").read_text())
    facts = dataclasses.replace(
        {"osum": OSUM, "pangu": OSUM_PANGU}[request.param],
        encoder_heads=spec["encoder"]["heads"],
        projector_heads=spec["adapter"]["heads"],
        decoder_heads=spec["llm"]["heads"],
    )
    state = checkpoint.read_tensors(folder / "checkpoint.pt")
    weights, config, _ = convert(state, facts, lora_scale=spec["lora"]["scale"])
    model = SpeechLM(config).eval()
    model.load_state_dict(weights)
    tokenizer = Tokenizer(models.WordLevel({"t0": 0}, unk_token="t0")).to_str()
    checkpoint.save(out / "checkpoint", model, RECORD, tokenizer)
    export(out / "checkpoint", out / "bundle")
    rounded = spec["compute"]["features_rounded_to_bf16"]
    return OnnxBackend(out / "bundle", threads=1), dict(np.load(folder / "golden.npz")), rounded


@pytest.mark.parametrize("utterance", ["a", "b"])
@pytest.mark.parametrize(("penalty", "name"), [(1.0, "rp100"), (1.05, "rp105")])
def test_greedy_ids_of_the_reference(reference, shared, utterance: str, penalty: float, name: str) -> None:
    backend, arrays, rounded = reference
    mel_MF = np.load(shared / "golden" / "frontend" / "frontend.npz")[f"mel/{utterance}"].T
    ids = arrays[f"greedy/{utterance}/token_map"][0].tolist()
    [heard] = backend.encode([_to_bf16(mel_MF) if rounded else mel_MF])
    prompt = Prompt(ids[: ids.index(-1)], heard.vectors_SD, ids[ids.index(-3) + 1 :])
    expected = arrays[f"greedy/{utterance}/{name}/ids"].tolist()
    [reply] = decode(backend, [prompt], max_new_tokens=len(expected), repetition_penalty=penalty)
    said = [*reply.ids, *([backend.spec.eos_id] if reply.ended else [])]
    assert said == expected[: len(said)] and (reply.ended or len(said) == len(expected))


def _to_bf16(array: np.ndarray) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, as float32."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
