"""Fun-ASR-Nano through transformers: speech vectors, greedy replies and prompts are those of its own `generate`."""

import importlib
from dataclasses import replace
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
from zhiyin.errors import UserError
from zhiyin.hear import UNFINISHED
from zhiyin.pipeline import understand
from zhiyin.runtime.base import Encoded
from zhiyin.runtime.generate import Prompt, Reply, decode
from zhiyin.runtime.hf import HfBackend
from zhiyin.runtime.load import load
from zhiyin.segments import make
from zhiyin.tasks import families, table
from zhiyin.tasks.families import Asked

Float32 = NDArray[np.float32]
TOKENS = 24
FAMILY = families.find("fun-asr-nano")
ASR = table.select("asr")
PLAIN = Asked(ASR)
FULL = Asked(ASR, language="zh", hotwords=("开放时间", "zhiyin"), itn=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.fun_asr_nano(tmp_path_factory.mktemp("fun"))


@pytest.fixture(scope="module")
def backend(folder: Path) -> HfBackend:
    return HfBackend(folder, device="cpu")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    model = transformers.FunAsrNanoForConditionalGeneration.from_pretrained(folder).eval()
    # transformers 5.23 leaves the adaptor without a kind of attention; the one it falls back to adds its mask to the
    # scores instead of hiding the padding, so that a batch is not what its rows are.
    model.model.multi_modal_projector.config._attn_implementation = "sdpa"
    return model


SOUNDS = [tiny.sound(*one) for one in ((1.0, 0), (2.63, 1), (0.02, 2), (4.1, 3))]


def features(samples_T: Float32) -> Float32:
    return front_end.compute("kaldi-lfr", samples_T, num_mels=560)


def ids(asked: Asked) -> tuple[list[int], list[int]]:
    told, tokenizer = FAMILY.told(asked), tiny.tokenizer("fun_asr_nano")
    before, after = ([i for text in side for i in tokenizer.encode(text).ids] for side in (told.before, told.after))
    return before, after


def prompt(heard: Encoded, asked: Asked) -> Prompt:
    before, after = ids(asked)
    return Prompt(before, heard.vectors_SD, after)


def generated(reference: Any, samples: list[Float32], asked: Asked) -> list[tuple[int, ...]]:
    """What transformers says to the batch, with one placeholder for each speech vector, padded on the left."""
    before, after = ids(asked)
    mels = [torch.from_numpy(features(samples_T).T.copy()) for samples_T in samples]
    rows = [torch.tensor([*before, *[tiny.AUDIO] * len(mel), *after]) for mel in mels]
    wide = max(map(len, rows))
    said = reference.generate(
        input_ids=torch.stack([torch.nn.functional.pad(row, (wide - len(row), 0)) for row in rows]),
        attention_mask=torch.stack([(torch.arange(wide) >= wide - len(row)).long() for row in rows]),
        input_features=torch.nn.utils.rnn.pad_sequence(mels, batch_first=True),
        input_features_mask=torch.nn.utils.rnn.pad_sequence([torch.ones(len(mel)).long() for mel in mels], True),
        do_sample=False,
        max_new_tokens=TOKENS,
    )
    out = []
    for row in said[:, wide:].tolist():
        out.append(tuple(row[: row.index(tiny.END)] if tiny.END in row else row))
    return out


def test_what_the_folder_says(backend: HfBackend) -> None:
    spec = backend.spec
    assert (spec.family, spec.front_end, spec.num_mels) == ("fun-asr-nano", "kaldi-lfr", 560)
    assert (spec.tasks, spec.eos_id, spec.max_tokens) == (("asr",), tiny.END, 1024)
    assert spec.max_frames == features(np.zeros(30 * 16_000, np.float32)).shape[1]


@torch.inference_mode()
def test_vectors_equal_transformers_in_one_batch(backend: HfBackend, reference: Any) -> None:
    mels = [torch.from_numpy(features(samples_T).T.copy()) for samples_T in SOUNDS]
    batch = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(mel)).long() for mel in mels], True)
    expected = reference.model.get_audio_features(batch, mask, return_dict=True).pooler_output
    found = backend.encode([features(samples_T) for samples_T in SOUNDS])
    assert [len(heard.vectors_SD) for heard in found] == [len(mel) for mel in mels]
    assert np.abs(np.concatenate([heard.vectors_SD for heard in found]) - expected.numpy()).max() <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("asked", [PLAIN, FULL], ids=["plain", "hotwords"])
def test_greedy_replies_equal_generate(backend: HfBackend, reference: Any, asked: Asked) -> None:
    heard = backend.encode([features(samples_T) for samples_T in SOUNDS])
    replies = decode(backend, [prompt(one, asked) for one in heard], max_new_tokens=TOKENS)
    expected = [generated(reference, [samples_T], asked)[0] for samples_T in SOUNDS]
    assert [reply.ids for reply in replies] == expected == generated(reference, SOUNDS, asked)
    assert len(set(expected)) > 1 and all(len(set(row)) > 1 for row in expected), "the replies do not tell anything"


def test_a_batch_is_as_each_alone(backend: HfBackend) -> None:
    heard = backend.encode([features(samples_T) for samples_T in SOUNDS])
    alone = [backend.encode([features(samples_T)])[0] for samples_T in SOUNDS]
    for one, other in zip(heard, alone, strict=True):
        assert np.array_equal(one.vectors_SD, other.vectors_SD)
    together = decode(backend, [prompt(one, FULL) for one in heard], max_new_tokens=TOKENS)
    apart: list[Reply] = [decode(backend, [prompt(one, FULL)], max_new_tokens=TOKENS)[0] for one in alone]
    assert [reply.ids for reply in together] == [reply.ids for reply in apart]
    for one, other in zip(together, apart, strict=True):
        assert abs(one.mean_logprob - other.mean_logprob) <= 1e-5


@torch.inference_mode()
def test_the_scale_of_the_samples_does_not_matter(backend: HfBackend, reference: Any) -> None:
    """transformers' extractor does not bring samples to the scale of integers as FunASR's does; that only adds a number
    to every feature, and the first layer norm takes it away again."""
    mel_MF = features(SOUNDS[1])
    shifted = torch.from_numpy(mel_MF.T.copy())[None] - 2 * np.log(2.0**15)
    mask = torch.ones(shifted.shape[:2], dtype=torch.long)
    expected = reference.model.get_audio_features(shifted, mask, return_dict=True).pooler_output
    assert np.abs(backend.encode([mel_MF])[0].vectors_SD - expected.numpy()).max() <= 1e-4


def test_features_equal_those_of_its_extractor(backend: HfBackend, reference: Any) -> None:
    try:
        importlib.import_module("torchaudio")
        extractor = transformers.FunAsrNanoFeatureExtractor()
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio cannot be imported: {error}")
    expected = extractor(SOUNDS[1], sampling_rate=16_000, return_tensors="np")["input_features"][0].T
    assert np.abs(features(SOUNDS[1]) - expected - 2 * np.log(2.0**15)).max() <= 1e-3


def test_prompts_hold_hotwords_language_and_no_written_form() -> None:
    text = "".join(FAMILY.told(FULL).before)
    assert "热词列表：[开放时间, zhiyin]" in text and text.endswith("语音转写成中文，不进行文本规整：")
    assert "热词" not in "".join(FAMILY.told(PLAIN).before)


@pytest.fixture(scope="module")
def recording(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.three_utterances(repository, tmp_path_factory.mktemp("speech"))


@torch.inference_mode()
@pytest.mark.parametrize("asked", [PLAIN, FULL], ids=["plain", "hotwords"])
def test_from_a_file_to_a_result(
    folder: Path, reference: Any, recording: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows go through the model together; each is told what `generate` says of it alone."""
    monkeypatch.setattr(families.Family, "limit_tokens", lambda *_: TOKENS)
    model = load(folder, device="cpu")
    monkeypatch.setattr("zhiyin.hear.build", lambda *_: None)  # `generate` knows no bias towards hotwords
    options = Options(language=asked.language, hotwords=asked.hotwords, itn=asked.itn)
    result = understand(recording, "asr", model=model, options=options)
    windows = list(cut(open_recording(recording).blocks(), limit_s=30.0, overlap_s=OVERLAP_S))
    expected = []
    for window in windows:
        said = generated(reference, [window.samples_T], asked)[0]
        parsed = FAMILY.read(tiny.tokenizer("fun_asr_nano").decode(said), asked)
        expected.append(make(window, parsed, () if len(said) < TOKENS else (UNFINISHED,)))
    assert len(windows) == 3 and [replace(segment, confidence=None) for segment in result.segments] == expected
    assert (result.family, result.backend, result.tasks) == ("fun-asr-nano", "hf", ("asr",)) and result.text


def test_what_it_cannot_do_is_refused(folder: Path, recording: Path) -> None:
    model = load(folder, device="cpu")
    with pytest.raises(UserError, match=r"cannot do sgc; it can do: asr"):
        understand(recording, "asr,sgc", model=model)
    with pytest.raises(UserError, match=r"does not know language 'fr'; languages: zh en ja"):
        understand(recording, "asr", model=model, options=Options(language="fr"))
    with pytest.raises(UserError, match="takes no plain language"):
        understand(recording, model=model, options=Options(instruction="What is said?"))
