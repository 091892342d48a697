"""The packaged model on real speech of people it never heard: the figures its card promises, measured again."""

from pathlib import Path

import pytest

import zhiyin
from zhiyin.data.corpora import speech_pack
from zhiyin.evaluate import run, score

MAX_DIGIT_ERRORS = 0.10
MIN_ADULT_GENDER = 0.85


@pytest.fixture(scope="module")
def figures(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    records = speech_pack.read(shared / "data", "test")
    chosen = [
        record
        for record in records
        if score.is_digits(record.text) or ("sgc" in record.labels and record.age_group == "adult")
    ]
    assert len(chosen) > 300
    model = zhiyin.load(threads=1).loaded
    results = run.run(chosen, model, tmp_path_factory.mktemp("pocket"), report=lambda record: None)
    return {figure.name: figure.value for figure in score.score(run.read(results))}


@pytest.mark.slow
def test_digit_strings(figures: dict[str, float]) -> None:
    assert figures["word error rate, digit strings"] <= MAX_DIGIT_ERRORS


@pytest.mark.slow
def test_gender_of_adults(figures: dict[str, float]) -> None:
    assert figures["sgc accuracy of adults"] >= MIN_ADULT_GENDER


@pytest.mark.slow
def test_nothing_failed(figures: dict[str, float]) -> None:
    assert figures["records that failed"] == 0.0


def test_the_checkpoint_says_what_the_bundle_says(repository: Path) -> None:
    pytest.importorskip("torch")
    spoken = sorted((repository / "samples").glob("*.flac"))
    bundle, checkpoint = zhiyin.load(), zhiyin.load(backend="eager")
    assert checkpoint.spec.name == bundle.spec.name == "pocket"
    heard = [model.understand(path, tasks=["asr", "sgc"]) for path in spoken for model in (bundle, checkpoint)]
    same = [a.text == b.text and a.labels == b.labels for a, b in zip(heard[::2], heard[1::2], strict=True)]
    assert all(same)
