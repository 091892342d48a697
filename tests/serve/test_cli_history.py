"""`zhiyin history`, beside a service that may be running."""

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.serve.rows import done, new, result
from tests.serve.test_history import age, recording
from zhiyin import write
from zhiyin.cli import main
from zhiyin.serve import database
from zhiyin.serve.jobs import Job, Jobs, Wish
from zhiyin.serve.settings import Folders, Settings, folders


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("ZHIYIN_DATA", str(tmp_path / "data"))
    return folders(Settings(data=tmp_path / "data"))


@pytest.fixture
def opened(kept: Folders) -> Iterator[Engine]:
    engine = database.open(f"sqlite:///{kept.database}")
    yield engine
    engine.dispose()


@pytest.fixture
def jobs(opened: Engine) -> Jobs:
    return Jobs(opened)


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    """Standard output, standard error and exit code of `zhiyin history`."""
    code = 0
    try:
        main(["history", *words])
    except SystemExit as left:
        code = int(left.code or 0)
    out, err = capfd.readouterr()
    return out, err, code


def test_list(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    first = done(jobs, "今天开会", file_name="会议.wav")
    second = new(jobs, user="wang", mode="api", file_name="call.wav")
    jobs.fail(second.id, "no sound in it")
    out, err, code = run(capfd, "list")
    lines = out.splitlines()
    assert code == 0 and err == "2 of 2\n" and lines[0].split()[:3] == ["id", "accepted", "state"]
    assert [line.split()[0] for line in lines[1:]] == [second.id, first.id]
    assert "wang" in lines[1] and lines[1].endswith("call.wav: no sound in it")
    assert lines[2].endswith("会议.wav: 今天开会") and "      3.0" in lines[2]
    for words in (
        ["--text", "开会"],
        ["--user", "li"],
        ["--state", "done"],
        ["--mode", "upload"],
        ["--label", "happy"],
    ):
        assert run(capfd, "list", *words)[0].splitlines()[1:] == lines[2:]
    assert run(capfd, "list", "--since", "2100-01-01")[0].count("\n") == 1
    assert run(capfd, "list", "--until", "2100-01-01T00:00Z")[0] == out
    out, err, _ = run(capfd, "list", "--limit", "1", "--json")
    assert json.loads(out)["id"] == second.id and err == f"1 of 2; the next page: --after {second.id}\n"
    out, _, _ = run(capfd, "list", "--after", second.id)
    assert out.splitlines()[1:] == lines[2:]


def test_a_terminal_is_not_told_what_to_do(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[2J\x07b\u202e\nc"
    job = done(jobs, text, file_name=text, user=text)
    for words in (["list"], ["show", job.id]):
        out, _, _ = run(capfd, *words)
        assert not set("\x1b\x07\u202e") & set(out) and "a [2J b c" in out


def test_show(jobs: Jobs, kept: Folders, capfd: pytest.CaptureFixture[str]) -> None:
    job = done(jobs, wish=Wish(("asr",), hotwords=("张三", "李四")))
    out, _, code = run(capfd, "show", job.id)
    facts = dict(line.split(": ", 1) for line in out.splitlines())
    assert code == 0 and (facts["text"], facts["state"], facts["model"]) == (job.text, "done", "pocket")
    assert (facts["asked hotwords"], facts["labels"], facts["tasks"]) == ("张三; 李四", "ser=happy", "asr; ser")
    assert "error" not in facts and "audio" not in facts
    assert json.loads(run(capfd, "show", job.id, "--format", "json")[0])["result"] == job.result
    assert run(capfd, "show", job.id, "--format", "srt")[0] == write.srt(result())
    gone, there = done(jobs, audio="ab/gone.wav"), "1" * 32
    assert "audio: kept no more\n" in run(capfd, "show", gone.id)[0]
    done(jobs, id=there, audio=recording(kept, there))
    assert f"audio: {kept.audio}" in run(capfd, "show", there)[0]


def test_export(jobs: Jobs, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = done(jobs, "今天开会"), new(jobs, user="wang")
    out, _, _ = run(capfd, "export")
    rows = list(csv.DictReader(io.StringIO(out.removeprefix("\ufeff"))))
    assert [row["id"] for row in rows] == [first.id, second.id] and rows[0]["text"] == "今天开会"
    out, _, _ = run(capfd, "export", "--format", "jsonl", "--user", "wang")
    assert json.loads(out)["id"] == second.id
    assert [row["id"] for row in json.loads(run(capfd, "export", "--format", "json")[0])] == [first.id, second.id]
    file = tmp_path / "all.zip"
    assert run(capfd, "export", "--format", "srt", "--out", str(file)) == ("", "", 0)
    assert zipfile.ZipFile(file).namelist() == [f"会议-{first.id[-8:]}.srt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.zip", "data"]


def test_an_export_that_fails_leaves_nothing(jobs: Jobs, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done(jobs)
    (tmp_path / "taken").mkdir()
    for out in ("no/all.csv", "taken"):
        _, err, code = run(capfd, "export", "--out", str(tmp_path / out))
        assert code == 2 and "cannot write" in err and "choose another --out" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "taken"]


def test_purge(jobs: Jobs, opened: Engine, kept: Folders, capfd: pytest.CaptureFixture[str]) -> None:
    old, gone = "1" * 32, "2" * 32
    for id in (old, gone):
        done(jobs, id=id, audio=recording(kept, id, 2**20))
    age(opened, old, 40)
    age(opened, gone, 40, "deleted_at")
    assert run(capfd, "purge", "--older-than", "30", "--dry-run")[0] == (
        "1 rows and 1 recordings would be removed, 0 recordings without a row, 1.0 MiB\n"
    )
    assert not list(kept.audit.iterdir()) and jobs.get(old, None)
    assert run(capfd, "purge", "--older-than", "30", "--deleted-older-than", "39.5")[0] == (
        "2 rows and 2 recordings removed, 0 recordings without a row, 2.0 MiB\n"
    )
    assert jobs.recent(None) == [] and not list(kept.audio.glob("*/*"))
    (log,) = kept.audit.iterdir()
    line = json.loads(log.read_text())
    assert (line["action"], line["result"], line["address"]) == ("history purge", "2 rows", "command line")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["purge"], "give --older-than DAYS, --deleted-older-than DAYS or both"),
        (["purge", "--older-than", "-1"], "an age is negative"),
        (["show", "x"], "no row 'x'; see `zhiyin history list`"),
        (["show", "x", "--format", "doc"], "known: txt json srt vtt tsv"),
        (["export", "--format", "xls"], "known: csv json jsonl srt"),
        (["list", "--since", "monday"], "--since 'monday' is no time; write 2026-05-01"),
        (["list", "--limit", "0"], "limit 0; give 1 to 500"),
        (["list", "--after", "x"], "after 'x' is no job"),
        (["list", "--state", "gone"], "state 'gone' is not known"),
        (["list", "--db", "mysql://x"], "not supported"),
        (["list", "--config", "no.toml"], "cannot be read"),
    ],
)
def test_mistakes(jobs: Jobs, capfd: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    out, err, code = run(capfd, *words)
    assert (out, code) == ("", 2) and message in err and err.startswith("zhiyin: ") and err.count("\n") == 1


def test_a_job_without_a_result(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    job: Job = new(jobs)
    assert "is queued and has no result" in run(capfd, "show", job.id, "--format", "srt")[1]
    assert "state: queued\n" in run(capfd, "show", job.id)[0]


def test_nothing_is_made_where_nothing_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, err, code = run(capfd, "list", "--data", str(tmp_path / "none"))
    assert code == 2 and f"there is none in {tmp_path / 'none'}; give the folder" in err
    assert not (tmp_path / "none").exists()


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['alembic'] = None\nfrom zhiyin.cli import main\nmain(['history', 'list'])"
    code = code.replace("None\n", "None\nimport importlib.util as u; f = u.find_spec\n", 1).replace(
        "from zhiyin.cli", "u.find_spec = lambda n: None if n == 'alembic' else f(n)\nfrom zhiyin.cli", 1
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "ZHIYIN_DATA": str(tmp_path)}
    )
    assert done.returncode == 2 and "pip install 'zhiyin[serve]'" in done.stderr


def test_postgresql(engine: Engine, kept: Folders, capfd: pytest.CaptureFixture[str]) -> None:
    job = done(Jobs(engine))
    out, err, code = run(capfd, "list", "--db", engine.url.render_as_string(hide_password=False), "--text", "今天")
    assert code == 0 and job.id in out and err == "1 of 1\n"
