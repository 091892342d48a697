"""The loop: it learns, a cut run equals an uncut one to the bit, and faults are named."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zhiyin.config import tomllib  # noqa: E402
from zhiyin.data.augment import AugmentConfig  # noqa: E402
from zhiyin.data.loader import Batch, Loader, Place  # noqa: E402
from zhiyin.data.manifest import read_growing  # noqa: E402
from zhiyin.errors import UserError  # noqa: E402
from zhiyin.model.config import DecoderConfig, EncoderConfig, ModelConfig, ProjectorConfig  # noqa: E402
from zhiyin.model.speech_lm import SpeechLM  # noqa: E402
from zhiyin.train import curves, loop, saving, stages  # noqa: E402
from zhiyin.train.stages import ModelSection, OptimizerSection, RunSection, SpecSection, Stage  # noqa: E402

ENCODER = EncoderConfig(
    num_mels=8, width=16, num_layers=1, num_heads=2, ffn_width=32, max_positions=64, conv_strides=(2, 2), dropout=0.1
)
PROJECTOR = ProjectorConfig(conv_strides=(1,), width=16, num_layers=1, num_heads=2, ffn_width=32, max_positions=64)
DECODER = DecoderConfig(
    vocab_size=20, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_width=8, ffn_width=32, tie_embeddings=True
)
STAGE = Stage(
    model=ModelSection(ENCODER, PROJECTOR, DECODER),
    spec=SpecSection("tiny", ("asr",), ("en",), {}),
    optimizer=OptimizerSection(steps=12, peak_rate=3e-3, warmup_steps=2, bf16=False),
    run=RunSection(log_every=1, save_every=4, evaluate_every=6, tensorboard=False),
)


class Batches(Loader):
    """The loader's resumable stream over made-up features: the band that is loud names the token to say."""

    label_ids = (2, 3)
    alone = np.zeros(8, bool)

    def __init__(self, *, broken_from: int = 10**9):
        self.broken_from = broken_from

    def _stream(self, start: Place):  # type: ignore[no-untyped-def]
        at = start.batch
        while True:
            rng = random.Random(at)
            tokens = [rng.randrange(2, 10) for _ in range(8)]
            mel = np.random.default_rng(at).normal(0, 0.1, (8, 8, 24)).astype(np.float32)
            for i, token in enumerate(tokens):
                mel[i, token - 2] += 1.0
            if at >= self.broken_from:
                mel[:] = np.nan
            said = tuple((token, 1) for token in tokens)
            heard = tuple((token,) for token in tokens)
            at += 1
            yield (
                Batch(mel, np.full(8, 24), ((11,),) * 8, said, heard, tuple(f"r{i}" for i in range(8)), self.alone),
                Place(0, at),
            )


def model() -> SpeechLM:
    torch.manual_seed(0)
    made = SpeechLM(ModelConfig(encoder=ENCODER, projector=PROJECTOR, decoder=DECODER, ctc=True, eos_id=1))
    torch.nn.init.normal_(made.decoder.embed_tokens.weight, std=0.25)
    return made


def run(folder: Path, device: str, stage: Stage = STAGE, *, loader: Loader | None = None) -> list[float]:
    folder.mkdir(exist_ok=True)
    loop.train(model(), loader or Batches(), stage, folder, device=device, report=lambda line: None)
    return [row["loss"] for row in read_growing(folder / "metrics.jsonl") if "loss" in row]


def test_a_run_cut_in_two_is_the_same_run(tmp_path: Path, device: str) -> None:
    whole = run(tmp_path / "whole", device)
    half = replace(STAGE, optimizer=replace(STAGE.optimizer, steps=12))

    class Cut(Exception):
        pass

    def stop(made: SpeechLM) -> dict[str, float]:
        raise Cut

    (tmp_path / "cut").mkdir()
    with pytest.raises(Cut):  # killed after step 6; the last state is that of step 4
        loop.train(model(), Batches(), half, tmp_path / "cut", device=device, evaluate=stop, report=lambda line: None)
    run(tmp_path / "cut", device, half)
    again = {}
    for row in read_growing(tmp_path / "cut" / "metrics.jsonl"):
        again[row["step"]] = row["loss"]
    assert [again[step] for step in sorted(again)] == whole
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True, map_location="cpu")["model"]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_learns_and_averages_the_last_states(tmp_path: Path, device: str) -> None:
    optimizer = replace(STAGE.optimizer, steps=120, warmup_steps=10, label_smoothing=0.0)
    stage = replace(STAGE, optimizer=optimizer, run=replace(STAGE.run, save_every=20))
    losses = run(tmp_path / "run", device, stage)
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    files = sorted((tmp_path / "run" / "weights").glob("*.pt"))
    assert len(files) == stage.run.average_last
    averaged = model()
    saving.average(averaged, files)
    mean = averaged.state_dict()
    parts = [torch.load(file, weights_only=True, map_location="cpu") for file in files]
    for name, value in mean.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(0))


def test_a_model_without_a_ctc_head_learns_from_its_replies(tmp_path: Path, device: str) -> None:
    torch.manual_seed(1)
    headless = SpeechLM(ModelConfig(ENCODER, PROJECTOR, DECODER, ctc=False, eos_id=1))
    loop.train(headless, Batches(), STAGE, tmp_path, device=device, report=lambda line: None)
    rows = [row for row in read_growing(tmp_path / "metrics.jsonl") if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"] and all(row["loss"] == row["lm_loss"] for row in rows)


def test_only_the_parts_named_change(tmp_path: Path, device: str) -> None:
    stage = replace(STAGE, optimizer=replace(STAGE.optimizer, train=("decoder", "projector.norm"), steps=4))
    before = {name: value.clone() for name, value in model().state_dict().items()}
    after = loop.train(model(), Batches(), stage, tmp_path, device=device, report=lambda line: None).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value.cpu(), before[name])}
    assert {name.split(".")[0] for name in changed} == {"decoder", "projector"}
    assert {name for name in changed if name.startswith("projector.")} == {
        "projector.norm.weight",
        "projector.norm.bias",
    }


def test_frozen_parts_run_without_dropout() -> None:
    made = model().train()
    loop.freeze(made, ("decoder",))
    assert not made.encoder.training and not made.projector.training and made.decoder.training and made.training
    with pytest.raises(UserError, match=r"train names 'decoders', which is no part .* encoder"):
        loop.freeze(made, ("decoders",))


def test_with_all_weight_on_ctc_only_the_encoder_and_its_head_change(tmp_path: Path, device: str) -> None:
    stage = replace(STAGE, optimizer=replace(STAGE.optimizer, ctc_weight=1.0, steps=4))
    before = {name: value.clone() for name, value in model().state_dict().items()}
    after = loop.train(model(), Batches(), stage, tmp_path, device=device, report=lambda line: None).state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value.cpu(), before[name])}
    assert changed == {"encoder", "ctc"}


def test_a_loss_that_is_no_number_names_the_records(tmp_path: Path, device: str) -> None:
    with pytest.raises(UserError, match="step 3: the loss is not finite; records: r0 r1"):
        run(tmp_path / "run", device, loader=Batches(broken_from=3))


def test_a_run_of_another_model_is_refused(tmp_path: Path, device: str) -> None:
    run(tmp_path / "run", device)
    other = SpeechLM(
        ModelConfig(encoder=ENCODER, projector=PROJECTOR, decoder=replace(DECODER, ffn_width=40), ctc=True, eos_id=1)
    )
    with pytest.raises(UserError, match="holds another model"):
        loop.train(other, Batches(), STAGE, tmp_path / "run", device=device, report=lambda line: None)


def test_a_chip_without_bfloat16_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (7, 5))
    stage = replace(STAGE, optimizer=replace(STAGE.optimizer, bf16=True))
    line = r"^training on cuda:0 \(Tesla T4\): it has no bfloat16; write bf16 = false under \[optimizer\] of the stage$"
    with pytest.raises(UserError, match=line):
        loop.train(model(), Batches(), stage, tmp_path, device="cuda:0", report=lambda line: None)
    assert not list(tmp_path.iterdir())
    loop.check_format(STAGE.optimizer, "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (8, 0))
    loop.check_format(stage.optimizer, "cuda:0")
    loop.check_format(stage.optimizer, "cpu")


def test_the_loader_thread_hands_its_fault_over(tmp_path: Path, device: str) -> None:
    class Broken(Batches):
        def _stream(self, start: Place):  # type: ignore[no-untyped-def]
            raise UserError("line 17 is broken")
            yield

    with pytest.raises(UserError, match="line 17"):
        run(tmp_path / "run", device, loader=Broken())


def test_the_rate_rises_and_falls() -> None:
    settings = OptimizerSection(steps=100, peak_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [loop.rate_at(step, settings) for step in range(101)]
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.1)


def test_curves_are_drawn(tmp_path: Path) -> None:
    rows = [{"step": i, "loss": 1.0, "lm_loss": 2.0 / i, "ctc_loss": 3.0 / i} for i in range(1, 9)]
    rows.append({"step": 8, "dev": {"sgc": 0.9}})
    lines = "\n".join(json.dumps(row) for row in rows) + '\n{"step": 9, "lo'  # cut by a kill
    (tmp_path / "metrics.jsonl").write_text(lines)
    curves.draw(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    from matplotlib import image

    picture = image.imread(tmp_path / "curves.png")
    assert picture.shape[1] > 800
    assert picture[..., :3].std() > 0.01


def test_every_stage_file_is_read(repository: Path) -> None:
    files = sorted((repository / "configs").glob("*.toml"))
    assert files
    for file in files:
        assert stages.read(file).optimizer.steps > 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[optimizer]\nstepz = 3", "no setting 'stepz'; did you mean 'steps'"),
        ("[optimizer]\nsteps = 'x'", "steps: int was expected"),
        ("[optimizer]\npeak_rate = 1.0", "needs steps"),
        ("[loader]\nspeeds = 1", "a list was expected"),
        ("x = ", "not TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "stage.toml").write_text(line)
    with pytest.raises(UserError, match=said):
        stages.read(tmp_path / "stage.toml")


def test_augmentation_settings_reach_the_stage(repository: Path) -> None:
    read = stages.read(repository / "configs" / "pocket.toml").augment
    written = tomllib.loads((repository / "configs" / "pocket.toml").read_text())["augment"]
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in written.items()}
    assert read == replace(AugmentConfig(), **said)


def test_what_is_told_is_not_learned_but_changes_what_is() -> None:
    """The loss of a row with told tokens is that of its target alone, after them."""
    made = model().eval()
    ids, voice = ("a",), np.zeros(1, bool)
    batch = Batch(None, np.zeros(1, np.int64), ((11,),), ((4, 1),), (None,), ids, voice, ((7, 8),))
    with torch.no_grad():
        found = loop.losses(made, batch, replace(STAGE.optimizer, label_smoothing=0.0), "cpu").lm
        hidden = made.decoder(made.decoder.embed_tokens(torch.tensor([[11, 7, 8, 4, 1]])))
        scores = made.decoder.logits(hidden).log_softmax(-1)[0]
        without = loop.losses(made, replace(batch, heard=()), replace(STAGE.optimizer, label_smoothing=0.0), "cpu").lm
    assert float(found) == pytest.approx(-float(scores[2, 4] + scores[3, 1]) / 2, rel=1e-5)
    assert abs(float(found - without)) > 1e-4
