"""Qwen3-ASR, Qwen2-Audio and Voxtral through transformers: replies equal those of its own processor and `generate`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from tests.runtime import hf_tiny_others as tiny
from zhiyin.ask import Options
from zhiyin.audio import front_end
from zhiyin.audio.io import open_recording
from zhiyin.audio.windows import OVERLAP_S, cut
from zhiyin.hear import UNFINISHED
from zhiyin.pipeline import understand
from zhiyin.runtime.base import Encoded
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.hf import HfBackend
from zhiyin.runtime.load import load
from zhiyin.segments import make
from zhiyin.tasks import families, table
from zhiyin.tasks.families import Asked

Float32 = NDArray[np.float32]
TOKENS = 24
ASR = table.select("asr")


# Less than half a second, whole seconds, more than one attention window, nothing that 160 divides.
SOUNDS = [tiny.sound(*one) for one in ((0.3, 0), (1.0, 1), (2.63, 2), (4.10007, 3))]


@dataclass(frozen=True)
class Case:
    """A family, a tiny model of it, and how transformers is given the same."""

    family: str
    model_type: str
    make: Callable[[Path], Path]
    inputs: Callable[[str, str, Float32], dict[str, torch.Tensor]]
    asked: tuple[Asked, ...]


def words(model_type: str, **names: str) -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer(model_type), pad_token="<|im_end|>", extra_special_tokens=names
    )
    tokenizer.padding_side = "left"
    return tokenizer


def qwen3_asr_inputs(before: str, after: str, samples_T: Float32) -> dict[str, torch.Tensor]:
    tokenizer = words(
        "qwen3_asr", audio_token="<|audio_pad|>", audio_bos_token="<|audio_start|>", audio_eos_token="<|audio_end|>"
    )
    processor = transformers.Qwen3ASRProcessor(transformers.Qwen3ASRFeatureExtractor(), tokenizer)
    return dict(processor(text=[f"{before}<|audio_pad|>{after}"], audio=[samples_T], return_tensors="pt"))


def qwen2_audio_inputs(before: str, after: str, samples_T: Float32) -> dict[str, torch.Tensor]:
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    processor = transformers.Qwen2AudioProcessor(extractor, words("qwen2_audio"), chat_template="")
    text = f"{before}<|AUDIO|>{after}"
    return dict(processor(text=[text], audio=[samples_T], sampling_rate=16_000, return_tensors="pt"))


def voxtral_inputs(before: str, after: str, samples_T: Float32) -> dict[str, torch.Tensor]:
    """Its processor needs mistral-common for the text; 375 places for 30 s are those of `VoxtralProcessor`."""
    tokenizer = tiny.tokenizer("voxtral")
    ids = tokenizer.encode(before + "[AUDIO]" * 375 + after).ids
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    heard = extractor(samples_T, sampling_rate=16_000, pad_to_multiple_of=480_000, return_tensors="pt")
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones((1, len(ids)), dtype=torch.long), **heard}


CASES = [
    Case(
        "qwen3-asr",
        "qwen3_asr",
        tiny.qwen3_asr,
        qwen3_asr_inputs,
        (Asked(ASR), Asked(ASR, language="en", hotwords=("zhiyin", "知音"))),
    ),
    Case(
        "qwen2-audio",
        "qwen2_audio",
        tiny.qwen2_audio,
        qwen2_audio_inputs,
        (Asked(ASR, language="en"), Asked(table.select("sttc")), Asked(instruction="Who is it?")),
    ),
    Case(
        "voxtral",
        "voxtral",
        tiny.voxtral,
        voxtral_inputs,
        (Asked(ASR, language="fr"), Asked(instruction="Who is it?")),
    ),
]


@dataclass(frozen=True)
class Pair:
    """A case, our backend, and the model in the hands of transformers."""

    case: Case
    folder: Path
    backend: HfBackend
    reference: Any

    def prompt(self, heard: Encoded, asked: Asked) -> Prompt:
        told, tokenizer = families.find(self.case.family).told(asked), tiny.tokenizer(self.case.model_type)
        before, after = ([i for text in side for i in tokenizer.encode(text).ids] for side in (told.before, told.after))
        return Prompt(before, heard.vectors_SD, after)

    def encode(self, sounds: list[Float32]) -> list[Encoded]:
        spec = self.backend.spec
        return self.backend.encode([front_end.compute(spec.front_end, one, num_mels=spec.num_mels) for one in sounds])

    def generated(self, samples_T: Float32, asked: Asked) -> tuple[int, ...]:
        told = families.find(self.case.family).told(asked)
        inputs = self.case.inputs("".join(told.before), "".join(told.after), samples_T)
        said = self.reference.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        row = said[0, inputs["input_ids"].shape[1] :].tolist()
        return tuple(row[: row.index(tiny.END)] if tiny.END in row else row)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.family)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    folder = case.make(tmp_path_factory.mktemp(case.family))
    backend = HfBackend(folder, device="cpu")
    reference = getattr(transformers, type(backend.model).__name__).from_pretrained(folder).eval()
    return Pair(case, folder, backend, reference)


def test_what_the_folder_says(pair: Pair) -> None:
    spec, family = pair.backend.spec, families.find(pair.case.family)
    assert (spec.family, spec.eos_id) == (pair.case.family, tiny.END)
    assert spec.tasks == family.tasks and spec.can_follow_instructions == family.can_follow_instructions
    for asked in pair.case.asked:
        family.check(asked, spec)


@torch.inference_mode()
def test_greedy_replies_equal_generate(pair: Pair) -> None:
    heard = pair.encode(SOUNDS)
    for asked in pair.case.asked:
        prompts = [pair.prompt(one, asked) for one in heard]
        replies = [decode(pair.backend, [prompt], max_new_tokens=TOKENS)[0].ids for prompt in prompts]
        assert replies == [pair.generated(one, asked) for one in SOUNDS]
        assert len(set(replies)) > 1, "the replies do not tell sounds apart"


def test_a_batch_is_as_each_alone(pair: Pair) -> None:
    heard, alone = pair.encode(SOUNDS), [pair.encode([one])[0] for one in SOUNDS]
    for one, other in zip(heard, alone, strict=True):
        assert np.array_equal(one.vectors_SD, other.vectors_SD)
    prompts = [pair.prompt(one, pair.case.asked[0]) for one in heard]
    together = decode(pair.backend, prompts, max_new_tokens=TOKENS)
    apart = [decode(pair.backend, [prompt], max_new_tokens=TOKENS)[0] for prompt in prompts]
    assert [reply.ids for reply in together] == [reply.ids for reply in apart]


def test_the_longest_window_fits(pair: Pair) -> None:
    heard = pair.encode([tiny.sound(pair.backend.spec.max_window_s, 4)])[0]
    assert len(heard.vectors_SD) == {"qwen3-asr": 390, "qwen2-audio": 750, "voxtral": 375}[pair.case.family]


@torch.inference_mode()
def test_from_a_file_to_a_result(pair: Pair, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows go through the model together; each is told what `generate` says of it alone."""
    monkeypatch.setattr(families.Family, "limit_tokens", lambda *_: TOKENS)
    asked, family = pair.case.asked[0], families.find(pair.case.family)
    recording = tiny.three_utterances(repository, tmp_path)
    model = load(pair.folder, device="cpu")
    monkeypatch.setattr("zhiyin.hear.build", lambda *_: None)  # `generate` knows no bias towards hotwords
    options = Options(language=asked.language, hotwords=asked.hotwords)
    result = understand(recording, "asr", model=model, options=options)
    windows = list(cut(open_recording(recording).blocks(), limit_s=30.0, overlap_s=OVERLAP_S))
    expected = []
    for window in windows:
        said = pair.generated(window.samples_T, asked)
        parsed = family.read(tiny.tokenizer(pair.case.model_type).decode(said), asked)
        expected.append(make(window, parsed, () if len(said) < TOKENS else (UNFINISHED,)))
    assert len(windows) == 3 and [replace(segment, confidence=None) for segment in result.segments] == expected
    assert (result.family, result.backend, result.tasks) == (pair.case.family, "hf", ("asr",))


def test_qwen2_audio_prompt_is_that_of_its_chat_template(tmp_path: Path) -> None:
    """The template that its processor has of itself, for a request beside the speech."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    template = transformers.Qwen2AudioProcessor(extractor, words("qwen2_audio")).chat_template
    told = families.find("qwen2-audio").told(Asked(instruction="Who is it?"))
    content = [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": "Who is it?"}]
    messages = [{"role": "user", "content": content}]
    written = words("qwen2_audio").apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert "<|AUDIO|>".join(("".join(told.before), "".join(told.after))) == written
    folder = tiny.qwen2_audio(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert load(folder, device="cpu").backend.spec.extra["chat_template"] == "agrees with the prompt"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_hears_nearly_the_same(pair: Pair, dtype: str) -> None:
    half = Pair(pair.case, pair.folder, HfBackend(pair.folder, device="cpu", dtype=dtype), pair.reference)
    for one, other in zip(pair.encode(SOUNDS), half.encode(SOUNDS), strict=True):
        assert one.vectors_SD.shape == other.vectors_SD.shape
        off = np.linalg.norm(one.vectors_SD - other.vectors_SD) / np.linalg.norm(one.vectors_SD)
        assert off <= {"bfloat16": 0.03, "float16": 0.004}[dtype]
