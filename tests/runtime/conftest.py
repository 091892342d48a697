"""Tiny random models of each decoder family, as checkpoints and as bundles."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from zhiyin.deploy.export import Exported, export
from zhiyin.model import checkpoint
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig
from zhiyin.model.speech_lm import SpeechLM
from zhiyin.runtime.eager import EagerBackend
from zhiyin.runtime.generate import Prompt, Reply
from zhiyin.runtime.onnx import OnnxBackend

VOCABULARY = 97
SPEC = {
    "name": "tiny",
    "tasks": ["asr", "sgc"],
    "labels": {"sgc": ["female", "male"]},
    "max_window_s": 3.0,
    "max_tokens": 160,  # more than two calls of the prefill graph
    "extra": {"revision": "test"},
}

_DECODER = DecoderConfig(
    vocab_size=VOCABULARY,
    width=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_width=16,
    ffn_width=128,
    rope_theta=10_000.0,
)
DECODERS = {
    "qwen2": dataclasses.replace(_DECODER, qkv_bias=True, tie_embeddings=True),
    # dropout must be off in everything that runs or is exported
    "qwen3": dataclasses.replace(_DECODER, qkv_bias=False, qk_norm=True, num_kv_heads=2, head_width=24, dropout=0.5),
    "pangu": dataclasses.replace(_DECODER, qkv_bias=True, out_bias=True, num_kv_heads=1),
}

Backend = EagerBackend | OnnxBackend


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Tiny:
    """One random model in all its forms; it is exported when a test asks for that."""

    model: SpeechLM
    checkpoint: Path
    eager: EagerBackend

    @functools.cached_property
    def exported(self) -> Exported:
        return export(self.checkpoint, self.checkpoint.with_name("bundle"))

    @functools.cached_property
    def onnx(self) -> OnnxBackend:
        return OnnxBackend(self.bundle, threads=1)

    @property
    def bundle(self) -> Path:
        return self.exported.folder

    @property
    def backends(self) -> tuple[Backend, Backend]:
        return self.eager, self.onnx

    @staticmethod
    def mels(*frames: int) -> list[np.ndarray]:
        generator = np.random.default_rng(sum(frames))
        return [generator.standard_normal((80, count)).astype(np.float32) for count in frames]

    def prompts(self) -> list[Prompt]:
        """Prompts of different forms, from 1 token to more than the prefill graph takes at once."""
        heard = self.eager.encode(self.mels(40, 300))
        speech = [Prompt(range(3, 5 + i), item.vectors_SD, range(7, 7 + i)) for i, item in enumerate(heard)]
        return [*speech, Prompt(before_ids=range(10, 90)), Prompt(before_ids=[11])]

    def oracle(self, prompt: Prompt, limit: int, eos_id: int) -> Reply:
        """Greedy decoding without a cache: the whole sequence through `Decoder.forward` at each step."""
        decoder = self.model.decoder
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < limit:
            logits_V = decoder.logits(decoder(self._embed(prompt, ids)[None])[0, -1])
            token = int(logits_V.argmax())
            logprobs.append(float(logits_V.double().log_softmax(-1)[token]))
            if token == eos_id:
                return Reply(tuple(ids), True, float(np.mean(logprobs)))
            ids.append(token)
        return Reply(tuple(ids), False, float(np.mean(logprobs)))

    def _embed(self, prompt: Prompt, said: Sequence[int]) -> torch.Tensor:
        def tokens(ids: Sequence[int]) -> torch.Tensor:
            return self.model.decoder.embed_tokens(torch.tensor(list(ids), dtype=torch.long))

        heard = []
        if prompt.vectors_SD is not None:
            heard = [self.model.markers[:1], torch.from_numpy(prompt.vectors_SD), self.model.markers[1:]]
        return torch.cat([tokens(prompt.before_ids), *heard, tokens([*prompt.after_ids, *said])])


Make = Callable[[str], Tiny]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, device: str) -> Make:
    """A model of a decoder family, made once; only the one of Qwen3 has no CTC head. `eager` runs on `--device`."""

    @functools.cache
    def of(family: str) -> Tiny:
        folder = tmp_path_factory.mktemp(family)
        model = _random_model(DECODERS[family], ctc=family != "qwen3")
        checkpoint.save(folder / "checkpoint", model, SPEC, _vocabulary())
        return Tiny(model, folder / "checkpoint", EagerBackend(folder / "checkpoint", device=device, dtype="float32"))

    return of


@pytest.fixture(params=list(DECODERS))
def tiny(make: Make, request: pytest.FixtureRequest) -> Tiny:
    """Each decoder family."""
    return make(request.param)


@pytest.fixture
def small(make: Make) -> Tiny:
    """One model, for tests where the family does not matter."""
    return make("qwen2")


def _random_model(decoder: DecoderConfig, *, ctc: bool) -> SpeechLM:
    torch.manual_seed(7)
    config = ModelConfig(
        EncoderConfig(
            width=32, num_layers=2, num_heads=2, ffn_width=64, max_positions=80, conv_strides=(2, 2), conv_kernel=5
        ),
        ProjectorConfig((1, 2), width=32, num_layers=1, num_heads=2, ffn_width=48, max_positions=40),
        decoder,
        ctc=ctc,
        eos_id=5,
    )
    model = SpeechLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # no weight stays at the zeros and ones of its making
        parameter.add_(torch.randn(parameter.shape) * 0.5 * parameter.shape[-1] ** -0.5)
    model.decoder.norm.weight.normal_()  # of both signs: else a tied decoder repeats its last token for ever
    return model


def _vocabulary() -> str:
    """The JSON of a tokenizer whose words are t0, t1, ..."""
    words = {f"t{i}": i for i in range(VOCABULARY)}
    return Tokenizer(models.WordLevel(words, unk_token="t0")).to_str()
