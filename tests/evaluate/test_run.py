"""From records to rows: by tags and in plain language, parts of recordings, resuming."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tests.fake_model import fake_model
from zhiyin.cli import app
from zhiyin.data.manifest import Record, read_growing
from zhiyin.errors import UserError
from zhiyin.evaluate import run
from zhiyin.evaluate.measures import Options, measures
from zhiyin.tasks import instructions


@pytest.fixture
def records(repository: Path, tmp_path: Path) -> list[Record]:
    spoken = [soundfile.read(repository / "samples" / f"digits-{number}.flac")[0] for number in (1, 2, 3)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(spoken), 16000)
    base = Record("r0", tmp_path / "a.wav", 5.88, ("asr", "sgc"), text="turn left", labels={"sgc": "male"})
    return [replace(base, id=f"r{at}") for at in range(24)]


def rows_of(records: list[Record], reply: str, out: Path, *ask: str, **options: str) -> list[dict]:
    model = fake_model(reply).loaded
    return read_growing(run.run(records, model, out, report=lambda record: None, ask=ask, **options))


@pytest.mark.parametrize("options", [{}, {"wordings": "dev"}])
def test_requests_in_plain_language_are_those_that_training_never_uses(
    records: list[Record], tmp_path: Path, options: dict[str, str]
) -> None:
    rows = rows_of(records, "<asr><sgc>turn left<male>", tmp_path / "out", "en", "zh", **options)
    fitting = [row for row in rows if row["tasks"]]
    assert len(fitting) == 48 and 0 < len(rows) - len(fitting) < 16
    for row in rows:
        asked = row["instruction"]
        ways = {split: instructions.phrasings(row["tasks"], asked["language"], split) for split in instructions.SPLITS}
        assert [split for split in ways if asked["text"] in ways[split]] == [options.get("wordings", "test")]
    found = {measure.name: measure for measure in measures(rows, Options()) if measure.task == "instructions"}
    assert found["tags"].figure == pytest.approx(48 / len(rows))
    assert len({row["instruction"]["text"] for row in fitting}) > 10


def test_requests_by_tags_and_what_rows_say_of_the_record(records: list[Record], tmp_path: Path) -> None:
    row = rows_of(records[:1], "turn left<male>", tmp_path / "out")[0]
    assert "instruction" not in row and row["hypothesis"]["labels"] == {"sgc": "male"}
    assert Path(row["audio"]).is_absolute() and row["slice"]["gender"] == "male"


def test_a_part_is_heard_alone(records: list[Record], tmp_path: Path) -> None:
    part = replace(records[0], start_s=0.0, end_s=1.95, duration_s=1.95)
    model = fake_model(lambda asked, number, seconds: "turn" if seconds < 2.0 else "left", ["turn", "left"]).loaded
    row = read_growing(run.run([part], model, tmp_path / "out", report=lambda record: None))[0]
    assert row["hypothesis"]["text"] == "turn"
    whole = read_growing(run.run(records[:1], model, tmp_path / "whole", report=lambda record: None))[0]
    assert "left" in whole["hypothesis"]["text"]


def test_an_interrupted_run_goes_on(records: list[Record], tmp_path: Path) -> None:
    first = rows_of(records[:3], "turn left<male>", tmp_path / "out", "en")
    again = rows_of(records, "turn left<male>", tmp_path / "out", "en")
    assert again[: len(first)] == first
    keys = [(row["id"], row["instruction"]["text"]) for row in again]
    assert len(keys) == len(set(keys))


def test_the_command_runs_scores_and_resumes(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["eval", "--pack", str(shared / "data"), "--split", "dev", "--limit", "6", "--threads", "1"]
    done = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "| records that failed | 0.0 % |" in done.output
    names = {"about.json", "results.jsonl", "scores.json", "report.md", "figures.json", "figures.md", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert "data:audio/ogg;base64," in (out / "report.html").read_text(encoding="utf-8")
    before = (out / "results.jsonl").read_bytes()
    assert CliRunner().invoke(app, [*command, "--out", str(out)]).output == done.output
    assert (out / "results.jsonl").read_bytes() == before
    again = CliRunner().invoke(app, ["score", str(out)])
    assert "| asr | MER |" in again.output

    asked = CliRunner().invoke(app, [*command, "--out", str(out), "--ask", "zh"])
    assert asked.exit_code == 0, asked.output
    known = {text for text, _ in instructions.expected("dev", "zh")}
    assert {row["instruction"]["text"] for row in read_growing(out / "results.jsonl")} <= known
    assert "| instructions | tags |" in (out / "figures.md").read_text(encoding="utf-8")
    wrong = CliRunner().invoke(app, [*command, "--out", str(out), "--ask", "fr"])
    assert isinstance(wrong.exception, UserError) and "fr" in str(wrong.exception)
