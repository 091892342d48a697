"""Golden files, greedy decoding and tiny models for the tests of this room.

Our models run on `--device`; what they are compared with is computed or recorded on the CPU, and compared there.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from zhiyin.model.checkpoint import Report, read_tensors
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.convert.osum import OSUM, OSUM_PANGU, Facts, convert
from zhiyin.model.decoder import Decoder
from zhiyin.model.speech_lm import Row, SpeechLM


@pytest.fixture(autouse=True)
def quiet_and_repeatable() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        yield


class Golden:
    """One reference model: its state dict, its recorded arrays, and our model made from the state dict.

    What is recorded stays on the CPU; `model`, `mel` and `frames` are on the device.
    """

    def __init__(self, root: Path, name: str, device: str):
        self.name, self.device = name, device
        self.spec = json.loads((root / name / "spec.json").read_text())
        self.arrays = {key: torch.from_numpy(value) for key, value in np.load(root / name / "golden.npz").items()}
        self.mels = np.load(root / "frontend" / "frontend.npz")
        self.state = read_tensors(root / name / "checkpoint.pt")
        self.limits = json.loads((root / "manifest.json").read_text())["tolerances"]
        self.facts: Facts = dataclasses.replace(
            {"osum": OSUM, "pangu": OSUM_PANGU}[name],
            encoder_heads=self.spec["encoder"]["heads"],
            projector_heads=self.spec["adapter"]["heads"],
            decoder_heads=self.spec["llm"]["heads"],
        )
        self.scale: float = self.spec["lora"]["scale"]
        self.model = self.convert(self.state)[0]

    def convert(self, state: dict[str, Tensor]) -> tuple[SpeechLM, Report]:
        weights, config, report = convert(state, self.facts, lora_scale=self.scale)
        model = SpeechLM(config).eval()
        model.load_state_dict(weights, strict=True)
        return model.to(self.device), report

    def mel(self, utterance: str, *, rounded: bool | None = None) -> Tensor:
        """Recorded features [1, M, F]; OSUM-Pangu rounds them to bfloat16."""
        mel = torch.from_numpy(self.mels[f"mel/{utterance}"]).T[None]
        rounded = self.spec["compute"]["features_rounded_to_bf16"] if rounded is None else rounded
        return (mel.bfloat16().float() if rounded else mel).to(self.device)

    def frames(self, *mels: Tensor) -> Tensor:
        """Number of frames [B] of features that end with them."""
        return torch.tensor([mel.shape[-1] for mel in mels], device=self.device)

    def row(self, case: str, labels: int) -> Row:
        """The text around the speech of a recorded case, from its token map, the last `labels` ids being the target."""
        ids = self.arrays[f"{case}/token_map"][0].tolist()
        body, target = (ids[:-labels], ids[-labels:]) if labels else (ids, [])
        if -1 not in body:
            return Row(before=body, target=target)
        return Row(body[: body.index(-1)], body[body.index(-3) + 1 :], target)

    def labels(self, utterance: str) -> int:
        return len(self.arrays[f"inputs/{utterance}/label_ids"])

    def teacher_forced(self, model: SpeechLM, mel: Tensor | None, row: Row) -> tuple[Tensor, float]:
        """Logits [N, V] and loss of one row."""
        speech = None if mel is None else model.listen(mel, self.frames(mel))
        sequences = model.assemble(speech, [row])
        logits = model.decoder.logits(model.decoder(sequences.embeds_BND))[0]
        return logits, float(model.loss(sequences)[0])


@functools.cache
def _golden(root: Path, name: str, device: str) -> Golden:
    return Golden(root, name, device)


@pytest.fixture(params=["osum", "pangu"])
def golden(shared: Path, device: str, request: pytest.FixtureRequest) -> Golden:
    return _golden(shared / "golden", request.param, device)


@pytest.fixture
def pangu(shared: Path, device: str) -> Golden:
    return _golden(shared / "golden", "pangu", device)


@pytest.fixture
def osum(shared: Path, device: str) -> Golden:
    return _golden(shared / "golden", "osum", device)


Greedy = Callable[..., tuple[list[int], list[Tensor]]]


@pytest.fixture
def greedy() -> Greedy:
    """Greedy ids and the logits [V] behind each, by the cache or by running the whole sequence again each time."""

    def run(decoder: Decoder, prefix_ND: Tensor, count: int, *, penalty: float = 1.0, cached: bool = True):
        embeds, ids, seen = prefix_ND[None], [], []
        keys, values = decoder.empty_cache(1, prefix_ND.shape[0] + count)
        start = 0
        for _ in range(count):
            if cached:
                positions = torch.arange(start, embeds.shape[1], device=embeds.device)[None]
                hidden, keys, values = decoder.extend(embeds[:, start:], positions, keys, values)
            else:
                hidden = decoder(embeds)
            logits = decoder.logits(hidden[0, -1])
            seen.append(logits)
            scores = logits.clone()
            # Keskar et al. 2019, on generated tokens only, as `transformers` does when it is given embeddings
            scores[ids] = torch.where(scores[ids] < 0, scores[ids] * penalty, scores[ids] / penalty)
            ids.append(int(scores.argmax()))
            start = embeds.shape[1]
            embeds = torch.cat([embeds, decoder.embed_tokens(torch.tensor([[ids[-1]]], device=embeds.device))], dim=1)
        return ids, seen

    return run


@pytest.fixture
def tiny(device: str) -> SpeechLM:
    """A complete model with random weights, CTC head included."""
    made = SpeechLM(
        ModelConfig(
            EncoderConfig(num_mels=8, width=16, num_layers=2, num_heads=2, ffn_width=24, max_positions=64),
            ProjectorConfig(width=12, num_layers=1, num_heads=2, ffn_width=20, max_positions=32),
            DecoderConfig(
                vocab_size=40, width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_width=4, ffn_width=24
            ),
            ctc=True,
            eos_id=3,
        )
    )
    return made.eval().to(device)
