"""A run survives what happens to runs: kill -9, a full disk, too little memory, a record that spoils the loss."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.train import two  # noqa: E402
from zhiyin.data.loader import Batch, LoaderConfig  # noqa: E402
from zhiyin.data.manifest import read_growing  # noqa: E402
from zhiyin.errors import UserError  # noqa: E402
from zhiyin.model.speech_lm import SpeechLM  # noqa: E402
from zhiyin.train import loop, quick, saving  # noqa: E402
from zhiyin.train.processes import Processes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from pathlib import Path
from tests.train import two
from zhiyin.train.processes import Processes
two.run(Path(sys.argv[2]), "ddp", 400, Processes("cpu"))
"""


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_growing(folder / "metrics.jsonl") if "loss" in row}


def train(folder: Path, batches: two.Batches | None = None, **optimizer: object) -> SpeechLM:
    stage = replace(two.STAGE, optimizer=replace(two.STAGE.optimizer, **optimizer), loader=LoaderConfig(batch_s=50.0))  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    return loop.train(two.model(), batches or two.Batches(), stage, folder, device="cpu", report=lambda line: None)


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """kill -9 twice, each at another moment; the end is that of a run nobody touched, to the bit."""
    folder = tmp_path / "killed"
    for kill in range(2):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(ROOT), str(folder)])
        deadline, before = time.monotonic() + 120, _lines(folder)
        while _lines(folder) < before + 5 + 2 * kill:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.003)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    reached = max(losses(folder))
    assert 5 < reached < 400
    steps = saving.read(folder).step + 7  # type: ignore[union-attr]
    for name in (folder, tmp_path / "whole"):
        two.run(name, "ddp", steps, Processes("cpu"))
    again, whole = losses(folder), losses(tmp_path / "whole")
    assert {step: again[step] for step in whole} == whole
    ends = [torch.load(name / "final-1.pt", weights_only=True) for name in (folder, tmp_path / "whole")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def _lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_text().count('"lm_loss"') if file.exists() else 0


def test_a_full_disk_leaves_the_state_before(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=3)
    before = (tmp_path / "run" / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(UserError, match=r"step 6: .*state.pt cannot be written \(.*\); the one before stays"):
            train(tmp_path / "run", steps=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not list((tmp_path / "run").rglob("*.part"))
    train(tmp_path / "run", steps=6)
    train(tmp_path / "whole", steps=6)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


class Spoilt(two.Batches):
    """From a batch on, one record of it is no number."""

    def _made(self, number: int) -> Batch:
        batch = super()._made(number)
        if number == 4:
            assert batch.mel_BMF is not None
            batch.mel_BMF[3, 2] = np.nan
            batch.mel_BMF[5, 1, 4] = np.inf
        return batch


def test_the_records_that_spoil_a_loss_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 4: the loss is not finite; records: r3 r5; look at them"):
        train(tmp_path / "run", Spoilt(), steps=6)
    assert saving.read(tmp_path / "run").step == 3  # type: ignore[union-attr]


class Hungry(two.Batches):
    """Of a batch that no memory holds."""

    def _made(self, number: int) -> Batch:
        batch = super()._made(number)
        if number == 2:
            assert batch.mel_BMF is not None
            wide = np.lib.stride_tricks.as_strided(batch.mel_BMF, (2**14, 8, 2**26), (0, 0, 0))  # nothing, until copied
            return replace(batch, mel_BMF=wide, frames_B=np.full(2**14, 2**26))
        return batch


def test_too_little_memory_says_what_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = (
        r"step 2: a batch does not fit into the memory of cpu \(.*\); write batch_s = 30 under \[loader\]"
        r" \(now 50\), or recompute = true"
    )
    with pytest.raises(UserError, match=line):
        train(tmp_path / "run", Hungry(), steps=6)
    with pytest.raises(UserError, match=r"batch_s = 30 under \[loader\] \(now 50\), and give"):
        train(tmp_path / "again", Hungry(), steps=6, recompute=True)

    def other(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(loop, "losses", other)
    with pytest.raises(RuntimeError, match="shapes differ"):  # a bug stays a bug
        train(tmp_path / "bug", steps=6)


def test_less_is_kept_but_the_same_is_learned(tmp_path: Path) -> None:
    train(tmp_path / "kept", steps=4)
    train(tmp_path / "again", steps=4, recompute=True)
    assert losses(tmp_path / "kept") == losses(tmp_path / "again")


def test_batches_of_a_step_count_as_one(tmp_path: Path) -> None:
    """The gradient of two batches is the mean of theirs: one step of plain descent tells."""
    stage = replace(two.STAGE, optimizer=replace(two.STAGE.optimizer, accumulate=2, clip_norm=1e9))
    batches = [two.Batches()._made(number) for number in range(2)]
    made, apart = two.model(), []
    for number, batch in enumerate(batches):
        torch.manual_seed(stage.run.seed * 1_000_003 + number)
        made.zero_grad()
        loop.losses(made.train(), batch, stage.optimizer, "cpu").total.backward()
        apart.append({name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None})
    inside = Processes("cpu").wrap(made, sharded=False)
    made.zero_grad()
    weights_V = torch.ones(20)
    loop._gradients(inside, batches, 0, stage, "cpu", weights_V, Processes("cpu"))
    for name, parameter in made.named_parameters():
        mean = (apart[0][name] + apart[1][name]) / 2
        torch.testing.assert_close(parameter.grad, mean, rtol=1e-4, atol=1e-6)


def test_only_what_changes_is_kept(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=3, train=("decoder",))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["model"] and all(name.startswith("decoder.") for name in state["model"])
    with pytest.raises(UserError, match=r"holds another model \(ctc.bias is missing\)"):
        train(tmp_path / "run", steps=6)
    (tmp_path / "run" / "state.pt").write_bytes(b"PK not really")
    with pytest.raises(UserError, match=r"resuming .*state.pt: it is damaged"):
        train(tmp_path / "run", steps=6)


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    values = iter([0.2, 0.9, 0.5, 0.7])
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(model: SpeechLM) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"ctc_wer": 1 - next(values)}

    stage = replace(two.STAGE, optimizer=replace(two.STAGE.optimizer, steps=9))
    loop.train(two.model(), two.Batches(), stage, tmp_path, device="cpu", evaluate=evaluate, report=lambda line: None)
    best = saving.best(tmp_path)
    assert best is not None and (best.step, round(best.value, 6)) == (6, 0.9)
    assert all(torch.equal(value, seen[1][name]) for name, value in best.weights.items())
    rows = read_growing(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "dev" in row] == [3, 6, 9]
    assert [row["average"] for row in rows if "average" in row] == [{"ctc_wer": pytest.approx(0.3)}]


def test_one_number_says_what_is_better() -> None:
    figures = {"ctc_wer": 0.25, "ctc_wer_fsdd": 0.9, "sgc": 0.5}
    assert quick.score(figures) == pytest.approx((0.75 + 0.5) / 2)
    assert quick.score(figures, "ctc_wer_fsdd") == pytest.approx(0.1)
    answered = {**figures, "answer": 0.9}  # its name holds "wer", and it is no error
    assert quick.score(answered) == pytest.approx((0.75 + 0.5 + 0.9) / 3)
    with pytest.raises(UserError, match="best_by names 'ser'; the figures are ctc_wer, ctc_wer_fsdd, sgc"):
        quick.score(figures, "ser")


def test_event_files_are_written_where_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    said: list[str] = []
    stage = replace(two.STAGE, run=replace(two.STAGE.run, tensorboard=True))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    loop.train(two.model(), two.Batches(), stage, tmp_path, device="cpu", report=said.append)
    assert said[0].startswith("no event files: pip install tensorboard") and not (tmp_path / "tensorboard").exists()
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "with").mkdir()
    loop.train(two.model(), two.Batches(), stage, tmp_path / "with", device="cpu", report=said.append)
    events = EventAccumulator(str(tmp_path / "with" / "tensorboard")).Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert found == pytest.approx(losses(tmp_path / "with"))
    assert json.loads((tmp_path / "with" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
