"""`--output-dir` and `--resume`: what is done is not done again, whatever stopped the command, and ends the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.test_cli import Outcome, command, folder, run, speech, wav
from zhiyin import cli_understand, pipeline

__all__ = ["folder", "run", "speech", "wav"]  # fixtures

RATE_HZ = 16_000


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of windows of each batch that goes through the model."""
    batches: list[int] = []
    real = pipeline.hear

    def hear(windows, *rest):
        batches.append(len(windows))
        return real(windows, *rest)

    monkeypatch.setattr(pipeline, "hear", hear)
    return batches


def skipped(outcome: Outcome) -> str:
    return next((line for line in outcome.err.splitlines() if "skipped" in line), "")


def test_only_what_is_missing_or_changed_is_done_again(run, folder: Path, tmp_path: Path, heard: list[int]) -> None:
    out = tmp_path / "out"
    arguments = ("understand", folder, "--output-dir", out)
    assert run(*arguments).code == 0 and len(heard) == 2
    again = run(*arguments, "--resume")
    assert (again.code, again.err) == (0, "zhiyin: 2 of 2 recordings were done before; skipped\n") and len(heard) == 2
    (out / "monday" / "a.txt").unlink()
    outcome = run(*arguments, "--resume")
    assert skipped(outcome) == "zhiyin: 1 of 2 recordings were done before; skipped" and len(heard) == 3
    assert (out / "monday" / "a.txt").read_text() == "four one\n"
    os.utime(folder / "b.wav", ns=(1, 1))
    assert skipped(run(*arguments, "--resume")).startswith("zhiyin: 1 of 2") and len(heard) == 4
    (folder / "new.wav").write_bytes((folder / "b.wav").read_bytes())
    assert skipped(run(*arguments, "--resume")).startswith("zhiyin: 2 of 3") and len(heard) == 5
    assert not skipped(run(*arguments)) and len(heard) == 8, "without --resume all is done"


@pytest.mark.parametrize(
    "option",
    [["--task", "asr,sgc"], ["--no-itn"], ["--hotwords", "fort"], ["--channels", "split"], ["--format", "srt"]],
)
def test_another_request_is_another_result(run, folder: Path, tmp_path: Path, heard: list[int], option) -> None:
    arguments = ("understand", folder, "--output-dir", tmp_path / "out")
    run(*arguments)
    assert not skipped(run(*arguments, "--resume", *option)) and len(heard) == 4
    assert skipped(run(*arguments, "--resume", *option)) and len(heard) == 4


def test_a_list_that_was_cut_off_is_mended(run, folder: Path, tmp_path: Path, heard: list[int]) -> None:
    out = tmp_path / "out"
    arguments = ("understand", folder, "--output-dir", out, "--resume")
    run(*arguments)
    path = out / ".zhiyin.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert skipped(run(*arguments)).startswith("zhiyin: 1 of 2") and len(heard) == 3
    assert skipped(run(*arguments)).startswith("zhiyin: 2 of 2") and len(heard) == 3


def test_a_recording_that_failed_is_tried_again(run, folder: Path, tmp_path: Path) -> None:
    (folder / "c.wav").write_text("no audio")
    arguments = ("understand", folder, "--output-dir", tmp_path / "out", "--resume")
    assert run(*arguments).code == 1
    outcome = run(*arguments)
    assert outcome.code == 1 and skipped(outcome).startswith("zhiyin: 2 of 3")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    """Digits twenty times, with pauses: twenty windows."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.tile(np.concatenate([speech, np.zeros(RATE_HZ)]), 20), RATE_HZ)
    return path


SLOW = """
import sys, time
from zhiyin import cli, pipeline
real = pipeline.hear
def hear(*given):
    time.sleep(0.5)
    return real(*given)
pipeline.hear = hear
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_a_killed_run_goes_on_and_ends_the_same(
    long: Path, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str], heard: list[int]
) -> None:
    options = ["--task", "srwt", "--format", "json", "--output-dir"]
    assert command(capsys, "understand", str(long), *options, str(tmp_path / "whole")).code == 0
    assert heard == [8, 8, 4]
    heard.clear()
    out = tmp_path / "out"
    journal = out / ".long.json.part.jsonl"
    child = subprocess.Popen([sys.executable, "-c", SLOW, "understand", str(long), *options, str(out)], cwd=repository)
    deadline = time.monotonic() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert [path.name for path in out.iterdir()] == [journal.name]
    with journal.open("ab") as file:
        file.write(b'{"channel": null, "sta')  # as if it had been stopped while it wrote
    outcome = command(capsys, "understand", str(long), *options, str(out), "--resume")
    assert outcome.code == 0 and heard == [4], "what was heard is not heard again"
    assert f"{long}: an earlier run had heard the first " in outcome.err
    results = [json.loads((tmp_path / name / "long.json").read_text("utf-8")) for name in ("whole", "out")]
    whole, resumed = ({key: one[key] for key in one if key not in ("notes", "processing_s")} for one in results)
    assert resumed == whole and len(whole["segments"]) == 20 and whole["segments"][0]["words"]
    assert sorted(path.name for path in out.iterdir()) == [".zhiyin.jsonl", "long.json"]


def test_without_resume_a_journal_is_forgotten(
    long: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], heard: list[int], monkeypatch
) -> None:
    out = tmp_path / "out"
    _interrupt(monkeypatch, after=2)
    outcome = command(capsys, "understand", str(long), "--output-dir", str(out))
    assert outcome.code == cli_understand.INTERRUPTED and outcome.out == ""
    assert outcome.err == "zhiyin: interrupted; 0 of 1 recordings are done; --resume goes on from there\n"
    assert [path.name for path in out.iterdir()] == [".long.txt.part.jsonl"]
    monkeypatch.undo()
    assert "earlier run" not in command(capsys, "understand", str(long), "--output-dir", str(out)).err


def test_ctrl_c_shows_what_is_done(long: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    _interrupt(monkeypatch, after=2)
    outcome = command(capsys, "understand", str(long))
    assert outcome.code == cli_understand.INTERRUPTED
    assert outcome.out == " ".join(["41729"] * 15) + "\n", "the last of 16 windows might still have changed"
    first, last = outcome.err.splitlines()
    assert first.startswith(f"zhiyin: {long}: interrupted; understood until 4")
    assert last == "zhiyin: interrupted; 0 of 1 recordings are done"


def _interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C after so many batches."""
    real, batches = pipeline.hear, []

    def hear(*given):
        batches.append(1)
        if len(batches) > after:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(pipeline, "hear", hear)
