"""The packaged model on real speech of people it never heard, so that no change makes it worse unseen.

The bounds are what was measured for docs/pocket.md, with room for other machines' rounding.
"""

from pathlib import Path

import pytest

import zhiyin
from zhiyin.data.corpora import speech_pack
from zhiyin.data.manifest import read_growing
from zhiyin.evaluate import run, score

SOURCES = ("composite", "dsp20", "donateacry", "esc10", "emodb", "cmn")


@pytest.fixture(scope="module")
def figures(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    chosen = [record for record in speech_pack.read(shared / "data", "test") if record.source in SOURCES]
    assert len(chosen) > 300
    model = zhiyin.load(threads=1).loaded
    results = run.run(chosen, model, tmp_path_factory.mktemp("pocket"), report=lambda record: None)
    return {figure.name: figure.value for figure in score.score(read_growing(results))}


@pytest.mark.slow
def test_strings_of_digits_and_words(figures: dict[str, float]) -> None:
    assert figures["word error rate, composite"] <= 0.055


@pytest.mark.slow
def test_chinese_and_english_words(figures: dict[str, float]) -> None:
    assert figures["word error rate, dsp20"] <= 0.035


@pytest.mark.slow
def test_cries_and_sneezes(figures: dict[str, float]) -> None:
    assert figures["ved accuracy"] >= 0.82


@pytest.mark.slow
def test_the_gender_of_adults(figures: dict[str, float]) -> None:
    """Two sources only: so762's adults, the hard ones, would take a minute."""
    assert figures["sgc accuracy of adults"] >= 0.9


@pytest.mark.slow
def test_sounds_without_speech_give_no_text(figures: dict[str, float]) -> None:
    assert figures["text invented where nothing is said"] <= 0.05


@pytest.mark.slow
def test_nothing_failed_and_all_was_read(figures: dict[str, float]) -> None:
    assert figures["records that failed"] == 0.0
    assert figures["replies fully parsed"] == 1.0


def test_the_checkpoint_says_what_the_bundle_says(repository: Path) -> None:
    pytest.importorskip("torch")
    spoken = sorted((repository / "samples").glob("*.flac"))
    bundle, checkpoint = zhiyin.load(), zhiyin.load(backend="eager")
    assert checkpoint.spec.name == bundle.spec.name == "pocket"
    heard = [model.understand(path, tasks=["asr", "ved"]) for path in spoken for model in (bundle, checkpoint)]
    same = [a.text == b.text and a.labels == b.labels for a, b in zip(heard[::2], heard[1::2], strict=True)]
    assert all(same)
