"""The history as files: CSV for spreadsheets, JSON for programs, a ZIP of subtitles. All of it streams.

Each function takes jobs one by one and gives pieces of the file; what was given is kept no longer than that.
"""

import csv
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from zhiyin import write
from zhiyin.config import build
from zhiyin.result import Result
from zhiyin.serve.job import Job

# A cell that begins so is a formula to some spreadsheet, spaces before it or not, wide forms too. Source: OWASP, CSV
# Injection (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = re.compile(r"[\s\x00-\x1f'\"]*[=+\-@＝＋－＠]|[\t\r\n]")
_COLUMNS: dict[str, Callable[[Job], object]] = {
    "id": lambda job: job.id,
    "created_at_utc": lambda job: _moment(job.created_at),
    "user": lambda job: job.user,
    "mode": lambda job: job.mode,
    "batch": lambda job: job.batch,
    "file_name": lambda job: job.file_name,
    "sha256": lambda job: job.sha256,
    "bytes": lambda job: job.bytes,
    "duration_s": lambda job: round(job.duration_s, 3),
    "tasks": lambda job: " ".join(job.tasks),
    "instruction": lambda job: job.wish.instruction,
    "language": lambda job: job.language,
    "into": lambda job: job.wish.into,
    "hotwords": lambda job: "\n".join(job.wish.hotwords),
    "itn": lambda job: {True: "on", False: "off", None: ""}[job.wish.itn],
    "text": lambda job: job.text,
    "written": lambda job: job.written,
    "edited": lambda job: job.edited or "",
    "labels": lambda job: "; ".join(f"{task}={label}" for task, label in job.labels.items()),
    "answer": lambda job: job.answer,
    "translation": lambda job: job.translation,
    "state": lambda job: job.state,
    "error": lambda job: job.error,
    "attempts": lambda job: job.attempts,
    "started_at_utc": lambda job: _moment(job.started_at),
    "finished_at_utc": lambda job: _moment(job.finished_at),
    "processing_s": lambda job: round(job.processing_s, 3),
    "real_time_factor": lambda job: round(job.real_time_factor, 4),
    "model": lambda job: job.model,
    "model_hash": lambda job: job.model_hash,
    "backend": lambda job: job.backend,
    "device": lambda job: job.device,
    "precision": lambda job: job.precision,
    "edited_at_utc": lambda job: _moment(job.edited_at),
    "deleted_at_utc": lambda job: _moment(job.deleted_at),
}


def csv_lines(jobs: Iterable[Job]) -> Iterator[bytes]:
    """A table with a header and a row for each job, that spreadsheets open with Chinese intact (UTF-8 with its mark).

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    yield b"\xef\xbb\xbf" + _csv_row(_COLUMNS)
    for job in jobs:
        yield _csv_row(column(job) for column in _COLUMNS.values())


def json_lines(jobs: Iterable[Job]) -> Iterator[bytes]:
    """A JSON document in each line, see `record`."""
    for job in jobs:
        yield _json(record(job)) + b"\n"


def json_array(jobs: Iterable[Job]) -> Iterator[bytes]:
    """One JSON document: an array of what `record` gives."""
    lead = b"["
    for job in jobs:
        yield lead + b"\n" + _json(record(job))
        lead = b","
    yield b"[]\n" if lead == b"[" else b"\n]\n"


def srt_zip(jobs: Iterable[Job]) -> Iterator[bytes]:
    """A ZIP archive with the subtitles of every job that has a result; their times are those of the original text."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for job in jobs:
            result = result_of(job)
            if result is not None:
                entry = zipfile.ZipInfo(f"{_stem(job)}.srt", job.created_at.timetuple()[:6])
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, write.srt(result).encode("utf-8", "backslashreplace"))
                yield sink.taken()
    yield sink.taken()


def record(job: Job) -> dict[str, Any]:
    """A job as JSON: its fields, times in ISO 8601, `result` as docs/result.md describes it."""
    fields = asdict(job)
    del fields["segments"]  # they are in the result
    moments = {name: value.isoformat() for name, value in fields.items() if isinstance(value, datetime)}
    return {**fields, **moments}


def result_of(job: Job) -> Result | None:
    """The result of a job read with everything, as the pipeline gave it; None where it has none."""
    return build(Result, job.result, f"result of job {job.id}") if job.result else None


class _Sink(io.RawIOBase):
    """Takes what the archive writes and hands it on; it cannot go back, so the archive does not try to."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _csv_row(cells: Iterable[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n").writerow(
        [_harmless(cell) if isinstance(cell, str) else cell for cell in cells]
    )
    return line.getvalue().encode()


def _harmless(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def _moment(moment: datetime | None) -> str:
    """As spreadsheets read a time."""
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def _stem(job: Job) -> str:
    """A name inside an archive: the file's, without what could lead elsewhere; the end of the job's keeps two apart."""
    last = re.split(r"[/\\]", job.file_name)[-1]
    shown = "".join(char for char in last if unicodedata.category(char)[0] != "C" and char not in '<>:"|?*')
    stem = shown.rpartition(".")[0] or shown
    return f"{stem.strip(' .')[:80] or 'recording'}-{job.id[-8:]}"
