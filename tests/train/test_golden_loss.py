"""The losses of the packaged recipes stay what they were: each stage file, a tiny model, recordings made here.

A change that means to move them says so and writes them anew: ``python tests/train/test_golden_loss.py``.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from zhiyin.data import cache, tokenizer  # noqa: E402
from zhiyin.data.loader import Loader  # noqa: E402
from zhiyin.data.manifest import Record, read_growing  # noqa: E402
from zhiyin.model.config import DecoderConfig, EncoderConfig, ProjectorConfig  # noqa: E402
from zhiyin.tasks.render import TimedWord  # noqa: E402
from zhiyin.train import loop, recipe, stages  # noqa: E402
from zhiyin.train.stages import ModelSection  # noqa: E402

GOLDEN = Path(__file__).with_name("golden_loss.json")
CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = ("pocket", "pocket-joint")
STEPS = 6
SIZES = ModelSection(
    EncoderConfig(
        width=16, num_layers=1, num_heads=2, ffn_width=32, max_positions=600, conv_strides=(2, 2), conv_kernel=5
    ),
    ProjectorConfig(
        (1, 2),
        width=16,
        num_layers=1,
        num_heads=2,
        ffn_width=32,
        max_positions=400,
        voice_mels=80,
        voice_stats="functionals",
        pace=True,
    ),
    DecoderConfig(
        vocab_size=1,
        width=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        ffn_width=32,
        qkv_bias=False,
        qk_norm=True,
        tie_embeddings=True,
        dropout=0.1,
    ),
)


def recordings(folder: Path) -> list[Record]:
    """Two dozen tones: words with times, gender, age and events, from sources the stage files name."""
    rng = np.random.default_rng(5)
    made = []
    for i in range(24):
        seconds = 0.6 + 0.05 * i
        time_T = np.arange(round(seconds * 16_000)) / 16_000
        samples = 0.2 * np.sin(2 * np.pi * (150 + 30 * i) * time_T) + 0.01 * rng.standard_normal(len(time_T))
        soundfile.write(folder / f"{i}.flac", samples, 16_000)
        source = ("fsdd", "so762", "esc10", "synthetic-join")[i % 4]
        words = () if source == "esc10" else (TimedWord("one", 0.1, 0.3), TimedWord("two", 0.3, seconds - 0.05))
        labels = {"ved": "none"} if source == "esc10" else {"sgc": ("female", "male")[i // 4 % 2], "sap": "adult"}
        text = " ".join(word.text for word in words)
        tasks = (*labels, "asr", *(("srwt",) if source == "synthetic-join" else ()))
        made.append(Record(f"r{i}", folder / f"{i}.flac", seconds, tasks, text, words, labels, source=source))
    return made


def losses(name: str, folder: Path) -> list[list[float]]:
    """Total, language-model and CTC loss of the first steps of a recipe."""
    stage = stages.read(CONFIGS / f"{name}.toml")
    stage = replace(
        stage,
        model=SIZES,
        optimizer=replace(stage.optimizer, steps=STEPS, warmup_steps=2, bf16=False),
        loader=replace(stage.loader, batch_s=8.0, pool=64, min_word_count=1),
        mix=replace(stage.mix, plain_share=0.0),  # how requests are worded may change
        run=replace(stage.run, log_every=1, save_every=100, evaluate_every=100, tensorboard=False),
    )
    records = recordings(folder)
    marks = ["<asr>", "<srwt>", "<ved>", "<sgc>", "<sap>", "<female>", "<male>", "<adult>", "<child>"]
    marks += ["<cry>", "<sneeze>", "<none>"]
    pieces = tokenizer.train(["one two"] * 3, marks, num_pieces=24, max_time_s=3.0, time_step_s=0.04)
    features = cache.build(folder / "features", records, stage.loader.speeds, workers=1)
    loader = Loader(
        records,
        features,
        pieces,
        stage.spec.labels,
        stage.loader,
        stage.mix,
        stage.augment,
        eos_id=1,
        time_step_s=stage.tokenizer.time_step_s,
        seed=stage.run.seed,
    )
    assert stage.model is not None
    model = recipe.build(recipe.sizes(stage.model, pieces), seed=1)
    loop.train(model, loader, stage, folder, device="cpu", report=lambda line: None)
    return [[row["loss"], row["lm_loss"], row["ctc_loss"]] for row in read_growing(folder / "metrics.jsonl")]


@pytest.mark.parametrize("name", RECIPES)
def test_the_losses_of_a_recipe_have_not_moved(name: str, tmp_path: Path) -> None:
    np.testing.assert_allclose(losses(name, tmp_path), json.loads(GOLDEN.read_text())[name], rtol=1e-4, atol=5e-4)


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    found = {}
    for recipe_name in RECIPES:
        with tempfile.TemporaryDirectory() as scratch:
            found[recipe_name] = losses(recipe_name, Path(scratch))
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
