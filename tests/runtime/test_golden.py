"""OSUM and OSUM-Pangu as a user runs them: the reference's file converted, loaded by each backend, against its records.

What the reference recorded is compared with the checkpoint (eager) and with the exported bundle (no torch at the time
of running); stages in between are `tests/model/test_golden.py`'s.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from zhiyin.deploy.export import export
from zhiyin.model.convert.command import Request, convert
from zhiyin.model.convert.osum import OSUM, OSUM_PANGU
from zhiyin.runtime.base import Float32
from zhiyin.runtime.eager import EagerBackend
from zhiyin.runtime.generate import Prompt, decode
from zhiyin.runtime.onnx import OnnxBackend

SPEECH, LOGITS, LOSS = 5e-5, 3e-4, 2e-5  # the manifest's limits

Backend = EagerBackend | OnnxBackend


@dataclass(frozen=True)
class Reference:
    """One reference model's records, and ours made from its file."""

    spec: dict
    arrays: dict[str, np.ndarray]
    mels: dict[str, np.ndarray]
    backend: Backend

    def mel(self, utterance: str) -> Float32:
        """Recorded features [M, F]; OSUM-Pangu rounds them to bfloat16."""
        mel_MF = np.ascontiguousarray(self.mels[f"mel/{utterance}"].T)
        return _to_bf16(mel_MF) if self.spec["compute"]["features_rounded_to_bf16"] else mel_MF

    def prompt(self, case: str, vectors_SD: Float32) -> tuple[Prompt, list[int]]:
        """The text around the speech of a recorded case, and the text after it that was scored."""
        ids = self.arrays[f"{case}/token_map"][0].tolist()
        labels = 0 if case.startswith("greedy") else len(self.arrays[f"inputs/{case.split('/')[1]}/label_ids"])
        body, target = (ids[:-labels], ids[-labels:]) if labels else (ids, [])
        return Prompt(body[: body.index(-1)], vectors_SD, body[body.index(-3) + 1 :]), target

    def embeds(self, prompt: Prompt, target: list[int]) -> Float32:
        """What the decoder is given, [N, D]."""
        parts = [prompt.before_ids, prompt.after_ids, target]
        before, after, said = (self.backend.embed(list(ids)) for ids in parts)
        begin, end = self.backend.markers[:1], self.backend.markers[1:]
        return np.concatenate([before, begin, prompt.vectors_SD, end, after, said])


@functools.cache
def _folder(shared: Path, name: str, kind: str, variant: str, out: Path) -> Path:
    """The converted checkpoint, or the bundle made from it."""
    if kind == "onnx":
        return export(_folder(shared, name, "eager", variant, out), out / f"{name}-{variant}-bundle").folder
    source = shared / "golden" / name
    spec = json.loads((source / "spec.json").read_text())
    rows = spec["llm"]["vocab"]
    facts = dataclasses.replace(
        {"osum": OSUM, "pangu": OSUM_PANGU}[name],
        encoder_heads=spec["encoder"]["heads"],
        projector_heads=spec["adapter"]["heads"],
        decoder_heads=spec["llm"]["heads"],
        eos_id=_never_said(np.load(source / "golden.npz"), rows),
        eos_token="",
    )
    (out / "facts.json").write_text(json.dumps(dataclasses.asdict(facts)))
    Tokenizer(models.WordLevel({f"t{i}": i for i in range(rows)}, unk_token="t0")).save(str(out / "tokenizer.json"))
    weights = _variant(source / "checkpoint.pt", variant, out)
    scale = None if variant == "nolora" else spec["lora"]["scale"]
    request = Request(weights, out / "tokenizer.json", lora_scale=scale, facts=out / "facts.json")
    return convert(request, out / f"{name}-{variant}").folder


def _variant(weights: Path, variant: str, out: Path) -> Path:
    """The reference's file, or one as it would be without some of the LoRA, or without the position tables."""
    if variant == "whole":
        return weights
    kept = {"nolora": (), "partial_lora": ("o_proj", "gate_proj", "down_proj"), "analytic_pe": ("_proj",)}[variant]
    state = {}
    for key, tensor in torch.load(weights, weights_only=True).items():
        has_lora = any(name in key for name in kept)
        if (variant == "analytic_pe" and key.endswith(".pos_enc.pe")) or (".lora_" in key and not has_lora):
            continue
        state[key if has_lora else key.replace(".base_layer.", ".")] = tensor
    torch.save(state, out / "variant.pt")
    return out / "variant.pt"


def _never_said(arrays: np.lib.npyio.NpzFile, rows: int) -> int:
    """An end token that stops no recorded reply early."""
    said = {int(token) for name in arrays if name.endswith("/ids") for token in arrays[name]}
    return max(set(range(rows)) - said)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


BOTH = [(name, kind) for name in ("osum", "pangu") for kind in ("eager", "onnx")]


@pytest.fixture(scope="module", params=BOTH)
def reference(shared: Path, scratch: Path, request: pytest.FixtureRequest) -> Reference:
    return _reference(shared, scratch, *request.param, "whole")


def _reference(shared: Path, scratch: Path, name: str, kind: str, variant: str) -> Reference:
    torch.set_num_threads(1)
    folder = _folder(shared, name, kind, variant, scratch)
    backend: Backend = OnnxBackend(folder, threads=1) if kind == "onnx" else EagerBackend(folder, device="cpu")
    records = shared / "golden" / name
    return Reference(
        json.loads((records / "spec.json").read_text()),
        dict(np.load(records / "golden.npz")),
        dict(np.load(shared / "golden" / "frontend" / "frontend.npz")),
        backend,
    )


def far(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def test_what_the_converted_model_says_of_itself(reference: Reference) -> None:
    spec = reference.backend.spec
    assert spec.family == {"osum": "osum", "pangu": "osum-pangu"}[reference.spec["model"]]
    assert spec.tasks == ("asr", "srwt", "ved", "ser", "ssr", "sgc", "sap", "sttc")
    assert (spec.max_window_s, spec.languages) == (30.0, ("zh", "en"))
    assert spec.can_follow_instructions == (reference.spec["model"] == "pangu")
    assert ("openPangu" in spec.licence) == (reference.spec["model"] == "pangu")


@pytest.mark.parametrize("batch", ["a", "b", "c", "bca"])
def test_speech_side(reference: Reference, batch: str) -> None:
    """Vectors of an utterance alone, and what it gets in a batch."""
    heard = reference.backend.encode([reference.mel(utterance) for utterance in batch])
    for utterance, item in zip(batch, heard, strict=True):
        assert far(item.vectors_SD, reference.arrays[f"single/{utterance}/speech_embeds"][0]) <= SPEECH


@pytest.mark.parametrize("batch", ["a", "b", "ba"])
def test_teacher_forced(reference: Reference, batch: str) -> None:
    """Logits at every recorded place, and the loss they give; one token at a time through the cache."""
    heard = reference.backend.encode([reference.mel(utterance) for utterance in batch])
    made = [reference.prompt(f"single/{u}", item.vectors_SD) for u, item in zip(batch, heard, strict=True)]
    rows = [reference.embeds(*pair) for pair in made]
    for utterance, row in zip(batch, rows, strict=True):
        assert far(row, reference.arrays[f"single/{utterance}/inputs_embeds"][0]) <= SPEECH
    for utterance, (_, target), logits in zip(batch, made, logits_of(reference.backend, rows), strict=True):
        check_logits(reference, f"single/{utterance}", logits, target)


def logits_of(backend: Backend, rows: list[Float32]) -> list[np.ndarray]:
    """After each place of each row, [N, V]."""
    session = backend.start(len(rows))
    seen: list[list[np.ndarray]] = [[] for _ in rows]
    for place in range(max(map(len, rows))):
        logits_BV = session.extend([row[place : place + 1] for row in rows])
        for i, row in enumerate(rows):
            if place < len(row):
                seen[i].append(logits_BV[i])
    return [np.stack(logits) for logits in seen]


def check_logits(reference: Reference, case: str, logits: np.ndarray, target: list[int]) -> None:
    assert far(logits[reference.spec["logits_from"][case] :], reference.arrays[f"{case}/logits"][0]) <= LOGITS
    if case in reference.spec["losses"]:
        scores = torch.from_numpy(logits[-len(target) - 1 : -1]).double()
        loss = float(torch.nn.functional.cross_entropy(scores, torch.tensor(target)))
        assert abs(loss - reference.spec["losses"][case]) <= LOSS


@pytest.mark.parametrize(
    ("name", "kind", "variant"),
    [
        (name, kind, variant)
        for name, kind in BOTH
        for variant in ("nolora", "partial_lora", "analytic_pe", "unrounded_feats")
        if name == "pangu" or "lora" in variant  # OSUM's tables are the formula, and it rounds no features
    ],
)
def test_variants(shared: Path, scratch: Path, name: str, kind: str, variant: str) -> None:
    reference = _reference(shared, scratch, name, kind, "whole" if variant == "unrounded_feats" else variant)
    mel_MF = reference.mels["mel/a"].T if variant == "unrounded_feats" else reference.mel("a")
    [heard] = reference.backend.encode([np.ascontiguousarray(mel_MF)])
    if f"{variant}/a/speech_embeds" in reference.arrays:
        assert far(heard.vectors_SD, reference.arrays[f"{variant}/a/speech_embeds"][0]) <= SPEECH
    prompt, target = reference.prompt("single/a", heard.vectors_SD)
    [logits] = logits_of(reference.backend, [reference.embeds(prompt, target)])
    check_logits(reference, f"{variant}/a", logits, target)


@pytest.mark.parametrize(("penalty", "name"), [(1.0, "rp100"), (1.05, "rp105")])
@pytest.mark.parametrize("batch", ["a", "b", "ba"])
def test_greedy_ids(reference: Reference, batch: str, penalty: float, name: str) -> None:
    heard = reference.backend.encode([reference.mel(utterance) for utterance in batch])
    prompts = [reference.prompt(f"greedy/{u}", item.vectors_SD)[0] for u, item in zip(batch, heard, strict=True)]
    expected = [reference.arrays[f"greedy/{u}/{name}/ids"].tolist() for u in batch]
    replies = decode(reference.backend, prompts, max_new_tokens=max(map(len, expected)), repetition_penalty=penalty)
    for reply, ids in zip(replies, expected, strict=True):
        assert list(reply.ids)[: len(ids)] == ids


def _to_bf16(array: np.ndarray) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, as float32."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
