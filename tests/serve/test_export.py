"""The history as files: nothing is lost, nothing is a formula, nothing is all in memory."""

import csv
import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.serve.rows import done, new, result
from tests.serve.test_jobs import HOSTILE
from zhiyin import write
from zhiyin.result import Segment
from zhiyin.serve.history import History, Query
from zhiyin.serve.history_export import csv_lines, json_array, json_lines, record, result_of, srt_zip
from zhiyin.serve.job import Job, Wish
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.settings import Settings, folders

EXPORTS: tuple[Callable[[Iterable[Job]], Iterator[bytes]], ...] = (csv_lines, json_lines, json_array, srt_zip)


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine)


@pytest.fixture
def history(engine: Engine, tmp_path: Path) -> History:
    return History(engine, folders(Settings(data=tmp_path / "data")))


def a_job(**others: object) -> Job:
    """A job that was never in a database."""
    at = datetime(2026, 5, 1, 8, 30, 59, 123456, timezone.utc)
    found = result().to_dict()
    given = {
        **dict.fromkeys(("id", "user", "batch", "sha256", "audio", "language", "model", "model_hash", "backend"), "x"),
        **dict.fromkeys(("device", "precision", "text", "written", "answer", "translation", "error"), "y"),
        **dict.fromkeys(("bytes", "attempts"), 1) | dict.fromkeys(("duration_s", "progress_s", "processing_s"), 1.5),
        **dict.fromkeys(("created_at", "started_at", "finished_at"), at),
        **dict.fromkeys(("edited", "edited_at", "deleted_at")),
        **{"mode": "api", "file_name": "a.wav", "wish": Wish(), "tasks": ("asr",), "labels": {}, "state": "done"},
        **{"real_time_factor": 0.25, "result": json.loads(json.dumps(found))},
    }
    return Job(**{**given, **others})  # type: ignore[arg-type]


def rows_of(table: bytes) -> list[dict[str, str]]:
    """A table as a spreadsheet reads it."""
    assert table.startswith(b"\xef\xbb\xbf") and table.endswith(b"\r\n")
    return list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline="")))


def test_csv(history: History, jobs: Jobs) -> None:
    job = done(jobs, "今天开会，\n“好”", wish=Wish(hotwords=("张三", "李四"), itn=False), batch="周一")
    history.edit(job.id, None, "改过")
    failed = new(jobs)
    jobs.fail(failed.id, "no, sound")
    rows = rows_of(b"".join(csv_lines(history.every(Query(order="oldest")))))
    assert [row["id"] for row in rows] == [job.id, failed.id]
    first = rows[0]
    assert (first["text"], first["edited"], first["hotwords"]) == ("今天开会，\n“好”", "改过", "张三\n李四")
    assert (first["labels"], first["tasks"], first["itn"], first["batch"]) == ("ser=happy", "asr ser", "off", "周一")
    assert first["created_at_utc"] == job.created_at.strftime("%Y-%m-%d %H:%M:%S")
    assert (float(first["duration_s"]), float(first["real_time_factor"])) == (3.0, 0.2)
    assert (rows[1]["state"], rows[1]["error"], rows[1]["edited"], rows[1]["itn"]) == ("failed", "no, sound", "", "")


def test_every_column_of_the_issue_is_in_the_table() -> None:
    (row,) = rows_of(b"".join(csv_lines([a_job()])))
    wanted = "id user mode file_name sha256 duration_s tasks language model model_hash device precision hotwords itn"
    wanted += " text written labels processing_s real_time_factor state error created_at_utc deleted_at_utc edited"
    assert set(wanted.split()) <= set(row)


FORMULAS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1+1",
    "  \t@x",
    "＝1+1",
    "＋1",
    "－1",
    "＠x",
    "'=1",
    '"=1',
)


@pytest.mark.parametrize("text", [*HOSTILE, *FORMULAS])
def test_no_cell_is_a_formula_and_none_is_lost(text: str) -> None:
    names = ("user", "batch", "file_name", "text", "written", "edited", "answer", "error", "device", "model")
    wish = Wish(instruction=text, hotwords=(text,), into=text)
    job = a_job(**dict.fromkeys(names, text), wish=wish, labels={text: text}, tasks=(text,), language=text)
    (row,) = rows_of(b"".join(csv_lines([job])))
    for name in (*names, "instruction", "hotwords", "into", "language", "tasks"):
        assert row[name] == text or row[name] == f"'{text}"
    for cell in row.values():
        assert not cell.lstrip(" \"'\t\r\n").startswith(tuple("=+-@＝＋－＠")) or cell.startswith("'")
        assert not cell.startswith(("\t", "\r", "\n"))
    assert row["text"] == f"'{text}" or text not in FORMULAS


def test_plain_cells_stay_as_they_are() -> None:
    for text in ("it's 5 o'clock", "100%", "a=b", "3-4", "今天 -1", "(=1)", ""):
        (row,) = rows_of(b"".join(csv_lines([a_job(text=text)])))
        assert row["text"] == text


def test_json(history: History, jobs: Jobs) -> None:
    job, queued = done(jobs, wish=Wish(hotwords=("张三",))), new(jobs)
    lines = b"".join(json_lines(history.every(Query(order="oldest")))).decode().splitlines()
    found = [json.loads(line) for line in lines]
    assert found == json.loads(b"".join(json_array(history.every(Query(order="oldest")))))
    assert found == [json.loads(json.dumps(record(one))) for one in (job, jobs.get(queued.id, None)) if one]
    assert found[0]["result"] == job.result and found[0]["wish"]["hotwords"] == ["张三"] and "张三" in lines[0]
    assert datetime.fromisoformat(found[0]["created_at"]) == job.created_at and found[1]["finished_at"] is None
    assert b"".join(json_array([])) == b"[]\n" and b"".join(json_lines([])) == b""


@pytest.mark.parametrize("text", [*HOSTILE, "\x00\udcff"])
def test_json_keeps_any_text(text: str) -> None:
    job = a_job(text=text, file_name=text, labels={text: text})
    kept = json.loads(b"".join(json_lines([job])))
    assert (kept["text"], kept["file_name"], kept["labels"]) == (text, text, {text: text})


def test_subtitles(history: History, jobs: Jobs) -> None:
    job = done(jobs)
    new(jobs)
    archive = zipfile.ZipFile(io.BytesIO(b"".join(srt_zip(history.every(Query())))))
    assert archive.testzip() is None and archive.namelist() == [f"会议-{job.id[-8:]}.srt"]
    assert archive.read(archive.namelist()[0]).decode() == write.srt(result())
    assert archive.infolist()[0].date_time[:5] == job.created_at.timetuple()[:5]
    assert zipfile.ZipFile(io.BytesIO(b"".join(srt_zip([])))).namelist() == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\win.ini", "win"),
        ("..", "recording"),
        ('a\x00\n\u202e<>:"|?*b.wav', "ab"),
        ("", "recording"),
        (".wav", "wav"),
        ("会议.第一.mp3", "会议.第一"),
        ("x" * 300, "x" * 80),
        ("a\udcff.wav", "a"),
    ],
)
def test_names_in_the_archive_lead_nowhere(name: str, stem: str) -> None:
    jobs = [a_job(file_name=name, id=f"{number:032x}") for number in (1, 2)]
    names = zipfile.ZipFile(io.BytesIO(b"".join(srt_zip(jobs)))).namelist()
    assert names == [f"{stem}-00000001.srt", f"{stem}-00000002.srt"]


def test_subtitles_hold_any_text() -> None:
    segment = Segment(0.0, 1.0, "a\udcff --> <b>")
    job = a_job(result=result(segments=(segment,)).to_dict())
    archive = zipfile.ZipFile(io.BytesIO(b"".join(srt_zip([job]))))
    assert archive.read(archive.namelist()[0]).decode().endswith("a\\udcff → <b>\n")


def test_a_result_is_read_back(jobs: Jobs) -> None:
    assert result_of(done(jobs)) == result() and result_of(new(jobs)) is None


@pytest.mark.parametrize("export", EXPORTS)
def test_what_is_given_is_taken_one_by_one(export: Callable[[Iterable[Job]], Iterator[bytes]]) -> None:
    taken = 0

    def some() -> Iterator[Job]:
        nonlocal taken
        for taken in range(1, 11):
            yield a_job(id=f"{taken:032x}")

    pieces = export(some())
    assert next(pieces) and taken <= 1
    assert next(pieces) and taken <= 2
    assert sum(len(piece) for piece in pieces) > 0 and taken == 10


@pytest.mark.parametrize("export", EXPORTS)
def test_memory_does_not_grow_with_the_history(
    export: Callable[[Iterable[Job]], Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "srt", lambda _: os.urandom(150_000).hex())
    job = a_job(text="会" * 100_000)

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in export(replace(job, id=f"{i:032x}") for i in range(count)):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(2), peak(8)
    assert many < few + 200_000  # a job is larger
