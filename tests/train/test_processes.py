"""Two processes over gloo train as one does with twice the batches: DDP, FSDP2, adapters, a run that was cut."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.train import two  # noqa: E402
from zhiyin.data.manifest import read_growing  # noqa: E402
from zhiyin.train.launch import launch  # noqa: E402
from zhiyin.train.processes import Processes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert launch(2, [sys.executable, two.__file__, str(folder), "cpu"]) == 0
    return folder


def figures(folder: Path) -> dict[int, list[float]]:
    rows = [row for row in read_growing(folder / "metrics.jsonl") if "loss" in row]
    return {row["step"]: [row["loss"], row["lm_loss"], row["ctc_loss"], row["norm"]] for row in rows}


def weights(folder: Path, count: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"final-{count}.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", two.KINDS)
def test_two_processes_are_as_one(kind: str, ran: Path, tmp_path: Path) -> None:
    two.run(tmp_path, kind, 6, Processes("cpu"))
    one, both = figures(tmp_path), figures(ran / kind)
    assert sorted(one) == sorted(both) == list(range(1, 7))
    for step, values in both.items():
        assert values == pytest.approx(one[step], rel=1e-3, abs=2e-3), step  # rounded in the file
    alone, together = weights(tmp_path, 1), weights(ran / kind, 2)
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=2e-5)
    best = [torch.load(folder / "best.pt", weights_only=True) for folder in (tmp_path, ran / kind)]
    assert best[0]["step"] == best[1]["step"] and best[0]["value"] == pytest.approx(best[1]["value"], rel=1e-4)


@pytest.mark.slow
def test_a_divided_run_that_was_cut_is_the_same_run(ran: Path) -> None:
    cut, whole = weights(ran / "cut", 2), weights(ran / "fsdp2", 2)
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
    assert figures(ran / "cut") == figures(ran / "fsdp2")


@pytest.mark.slow
def test_a_run_of_two_goes_on_alone(ran: Path, tmp_path: Path) -> None:
    """What a divided run saves is whole: any number of processes can go on."""
    state = torch.load(ran / "cut" / "state.pt", weights_only=True)
    (tmp_path / "weights").mkdir()
    torch.save(state, tmp_path / "state.pt")
    two.run(tmp_path, "ddp", 8, Processes("cpu"))
    assert sorted(figures(tmp_path)) == [7, 8]
    two.run(tmp_path / "never-cut", "ddp", 8, Processes("cpu"))
    for step, values in figures(tmp_path).items():
        assert values == pytest.approx(figures(tmp_path / "never-cut")[step], rel=1e-3, abs=2e-3)


def test_children_end_with_the_one_who_started_them(tmp_path: Path) -> None:
    child = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1]); from zhiyin.train.launch import end_with_parent;"
        "end_with_parent(); open(os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(60)"
    )
    starter = f"from zhiyin.train.launch import launch; launch(2, {[sys.executable, '-c', child, str(ROOT)]!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, "-c", starter], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    pids: list[int] = []
    while len(pids) < 2:
        assert time.monotonic() < deadline
        pids = [int(text) for rank in "01" if (tmp_path / rank).exists() and (text := (tmp_path / rank).read_text())]
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    while any(map(_is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_that_fails_ends_the_others() -> None:
    code = "import os, sys, time; sys.exit(2) if os.environ['RANK'] == '1' else time.sleep(60)"
    started = time.monotonic()
    assert launch(2, [sys.executable, "-c", code]) == 2
    assert time.monotonic() - started < 30
