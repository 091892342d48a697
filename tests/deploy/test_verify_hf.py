"""Granite Speech through transformers: its rows are what transformers computes, faults are found, all is timed."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GraniteSpeechForConditionalGeneration

from tests.runtime import hf_tiny
from zhiyin.deploy import bench, verify, verify_inputs, verify_observe
from zhiyin.runtime.load import Loaded, load


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = hf_tiny.granite(tmp_path_factory.mktemp("hf") / "granite")
    model = load(str(folder), device="cpu", backend="hf", dtype="float32")
    model.backend.spec = replace(model.backend.spec, max_tokens=180)  # random weights know no end
    return model


@pytest.fixture(scope="module")
def copy(granite: Loaded) -> Path:
    return Path(shutil.copytree(granite.source, Path(granite.source).parent / "copy"))


@pytest.fixture(scope="module")
def seen(granite: Loaded) -> tuple[list[verify_inputs.Case], verify_observe.Seen]:
    sounds = verify_inputs.sounds("real,random", granite.backend.spec)
    cases = verify_inputs.prepare(granite, [sounds[0], sounds[-1]])
    return cases, verify_observe.observe(granite, cases)


def test_rows_are_what_transformers_computes(
    granite: Loaded, seen: tuple[list[verify_inputs.Case], verify_observe.Seen]
) -> None:
    """With the processor (a recording) and without it (random features)."""
    cases, found = seen
    theirs: Any = GraniteSpeechForConditionalGeneration.from_pretrained(granite.source).eval()
    for case in cases:
        features = torch.from_numpy(np.ascontiguousarray(case.mel_MF.T))[None]
        with torch.no_grad():
            heard = theirs.model.encoder(features).last_hidden_state
            vectors = theirs.model.projector(heard)[0]
        np.testing.assert_allclose(found.arrays["encoder"][case.name], heard.numpy().ravel(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.arrays["projector"][case.name], vectors.numpy(), rtol=0, atol=1e-5)
        for question in case.questions:
            prompt = verify_observe.embeds(granite, case, question)
            reply = granite.backend.embed(question.reply_ids)[:-1]
            whole = torch.from_numpy(np.concatenate([prompt, reply]))[None]
            with torch.no_grad():
                hidden = theirs.model.language_model(inputs_embeds=whole, use_cache=False).last_hidden_state
                logits = theirs.lm_head(hidden[0, len(prompt) - 1 :]) / theirs.config.text_config.logits_scaling
            got = found.arrays["decoder"][f"{case.name} {question.name}"]
            np.testing.assert_allclose(got, logits.numpy(), rtol=0, atol=1e-4)
    assert set(found.arrays["features"]) == {cases[0].name}


def test_transcript_and_translation_are_both_asked(seen: tuple[list[verify_inputs.Case], verify_observe.Seen]) -> None:
    cases, found = seen
    assert [question.name for question in cases[0].questions] == ["asr", "ast into de"]
    assert set(found.texts["text"]) == {f"{cases[0].name} asr", f"{cases[0].name} ast into de"}
    blocks = [row for row in found.arrays if "." in row]
    assert blocks == [
        *(f"encoder layers.{i}" for i in range(4)),
        *(f"projector qformer.encoder.layer.{i}" for i in range(2)),
        *(f"decoder layers.{i}" for i in range(2)),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_model_passes(granite: Loaded, copy: Path, dtype: str) -> None:
    subject = load(str(copy), device="cpu", backend="hf", dtype=dtype)
    report = verify.compare(subject, granite, inputs="random", runs=1, hunt=dtype == "float32")
    assert report.passed, [row for row in report.rows if row.wrong]


def _swap_heads(model: Any) -> None:
    part = model.model.encoder.layers[2].attn.to_q
    part.weight.data = part.weight.data.flip(0)


def _drop_scale(model: Any) -> None:
    model.model.language_model.layers[1].residual_multiplier = 1.0


def _query(model: Any) -> None:
    model.model.projector.query.data = model.model.projector.query.data.roll(1, dims=1)


def _transposed(model: Any) -> None:
    part = model.model.language_model.layers[0].self_attn.o_proj
    part.weight.data = part.weight.data.flip(1)


@pytest.mark.parametrize(
    ("break_it", "row", "place"),
    [
        (_swap_heads, "encoder layers.2", "model.encoder.layers.2.attn.to_q"),
        (
            _query,
            "projector qformer.encoder.layer.0",
            "model.projector: its parts are right, but what it gives to qformer",
        ),
        (_transposed, "decoder layers.0", "model.language_model.layers.0.self_attn.o_proj"),
        (_drop_scale, "decoder layers.1", "model.language_model.layers.1: "),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_faults_are_caught_and_located(granite: Loaded, copy: Path, break_it: Any, row: str, place: str) -> None:
    subject = load(str(copy), device="cpu", backend="hf", dtype="float32")
    found: Any = subject.backend
    break_it(found.model)
    report = verify.compare(subject, granite, inputs="random", runs=1, hunt=True)
    assert next(one.name for one in report.rows if one.wrong) == row
    assert any(place in line for line in report.hunt), report.hunt


@pytest.mark.parametrize(("task", "into"), [("asr", ""), ("ast", "de")])
def test_every_component_is_timed_for_both_tasks(granite: Loaded, task: str, into: str) -> None:
    plan = bench.Plan(warmup=0, runs=1, lengths_s=(1.0,), batches=(1, 2), tokens=2, task=task, into=into)
    report = bench.measure([bench.Subject("granite", granite, 0.0, None)], plan)
    assert {row.component for row in report.rows if row.batch == 1} == set(bench.COMPONENTS)
    assert {row.component for row in report.rows if row.batch == 2} == set(bench.COMPONENTS) - {bench.WHOLE}
