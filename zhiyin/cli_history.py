"""`zhiyin history`: what the service understood, on the command line; beside a running service or without one."""

import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.errors import UserError

if TYPE_CHECKING:
    from zhiyin.serve.history import History, Query
    from zhiyin.serve.job import Job
    from zhiyin.serve.settings import Folders, Settings

NEEDED = ("sqlalchemy", "alembic")
SHOWN_CHARS = 60  # of a text in a list

history = typer.Typer(
    help="What the service understood: list, show, export, purge.", no_args_is_help=True, rich_markup_mode=None
)

_CONFIG = typer.Option("--config", metavar="FILE", help="Settings of the service.")
_DATA = typer.Option("--data", metavar="DIR", help="Folder of the service.  [default: ~/.local/share/zhiyin/service]")
_DB = typer.Option("--db", metavar="URL", help="postgresql://USER@HOST/NAME instead of a file below --data.")
_TEXT = typer.Option("--text", metavar="WORDS", help='All in text or file name; "in quotes": together.')
_USER = typer.Option("--user", metavar="NAME", help="Only of this user.")
_STATE = typer.Option("--state", metavar="STATE", help="queued, running, done, failed or cancelled; may be repeated.")
_MODE = typer.Option("--mode", metavar="MODE", help="upload, microphone, batch, live, api or chat; may be repeated.")
_TASK = typer.Option("--task", metavar="ID", help="With this task; may be repeated.")
_LANGUAGE = typer.Option("--language", metavar="CODE", help="Only in this language.")
_LABEL = typer.Option("--label", metavar="[TASK=]LABEL", help="Only with this label.")
_BATCH = typer.Option("--batch", metavar="NAME", help="Only of this batch.")
_SINCE = typer.Option("--since", metavar="TIME", help="Accepted then or later, e.g. 2026-05-01 or 2026-05-01T08:00.")
_UNTIL = typer.Option("--until", metavar="TIME", help="Accepted before.")
_DELETED = typer.Option("--deleted", help="What was deleted instead.")
_AS_JSON = typer.Option("--json", help="One JSON object a line.")
_OUT = typer.Option("--out", metavar="FILE", help="Instead of standard output.", show_default=False)
_FORMAT = typer.Option("--format", metavar="FORMAT", help="csv, json, jsonl or srt (a ZIP of subtitles).")
_SHOWN = typer.Option("--format", metavar="FORMAT", help="json, or of the result: txt, srt, vtt or tsv.")
_OLDER = typer.Option("--older-than", metavar="DAYS", help="Rows of this age; 0: none for their age.")
_GONE = typer.Option("--deleted-older-than", metavar="DAYS", help="Rows deleted so long ago.")


@dataclass(frozen=True)
class Place:
    """Where the history is, as it was given."""

    config: Path | None
    data: Path | None
    db: str | None


@history.command("list")
def list_jobs(
    text: Annotated[str, _TEXT] = "",
    user: Annotated[str | None, _USER] = None,
    state: Annotated[list[str] | None, _STATE] = None,
    mode: Annotated[list[str] | None, _MODE] = None,
    task: Annotated[list[str] | None, _TASK] = None,
    language: Annotated[str, _LANGUAGE] = "",
    label: Annotated[str, _LABEL] = "",
    batch: Annotated[str, _BATCH] = "",
    since: Annotated[str, _SINCE] = "",
    until: Annotated[str, _UNTIL] = "",
    deleted: Annotated[bool, _DELETED] = False,
    oldest: Annotated[bool, typer.Option("--oldest", help="Oldest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Rows of a page.")] = 50,
    after: Annotated[str, typer.Option("--after", metavar="ID", help="The page after this row.")] = "",
    as_json: Annotated[bool, _AS_JSON] = False,
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
) -> None:
    """List a page of the history, newest first."""
    words = (text, user, state, mode, task, language, label, batch, since, until, deleted)
    with _opened(Place(config, data, db)) as (kept, _, _):
        page = kept.search(_query(*words, order="oldest" if oldest else "newest", limit=limit, after=after))
    if as_json:
        from zhiyin.serve import history_export

        typer.echo(b"".join(history_export.json_lines(page.rows)), nl=False)
    else:
        typer.echo("".join(f"{line}\n" for line in _table(page.rows)), nl=False)
    total = "more than 10000" if page.total is None else page.total
    more = f"; the next page: --after {page.next}" if page.next else ""
    typer.echo(f"{len(page.rows)} of {total}{more}", err=True)


@history.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `zhiyin history list` shows it.")],
    format: Annotated[str, _SHOWN] = "",
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
) -> None:
    """Show all that is known of one recording."""
    from zhiyin import write

    if format not in ("", *write.FORMATS):
        raise UserError(f"history show: format '{format}' is not known; known: {' '.join(write.FORMATS)}")
    with _opened(Place(config, data, db)) as (kept, _, _):
        job = next(kept.pick([id], None), None)
        if job is None:
            raise UserError(f"history: no row '{id[:40]}'; see `zhiyin history list`")
        path = kept.recording(job)
    from zhiyin.serve import history_export

    result = history_export.result_of(job)
    if format == "json":
        typer.echo(b"".join(history_export.json_lines([job])), nl=False)
    elif not format:
        typer.echo("".join(f"{line}\n" for line in _facts(job, path)), nl=False)
    elif result is None:
        raise UserError(f"history: {id} is {job.state} and has no result; leave --format out to see why")
    else:
        typer.echo(write.FORMATS[format](result), nl=False)


@history.command()
def export(
    format: Annotated[str, _FORMAT] = "csv",
    out: Annotated[Path | None, _OUT] = None,
    text: Annotated[str, _TEXT] = "",
    user: Annotated[str | None, _USER] = None,
    state: Annotated[list[str] | None, _STATE] = None,
    mode: Annotated[list[str] | None, _MODE] = None,
    task: Annotated[list[str] | None, _TASK] = None,
    language: Annotated[str, _LANGUAGE] = "",
    label: Annotated[str, _LABEL] = "",
    batch: Annotated[str, _BATCH] = "",
    since: Annotated[str, _SINCE] = "",
    until: Annotated[str, _UNTIL] = "",
    deleted: Annotated[bool, _DELETED] = False,
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
) -> None:
    """Write all rows that are found, oldest first, into a file for spreadsheets, programs or players."""
    words = (text, user, state, mode, task, language, label, batch, since, until, deleted)
    with _opened(Place(config, data, db)) as (kept, _, _):
        from zhiyin.serve import history_export

        formats: dict[str, Callable[..., Iterator[bytes]]] = {
            "csv": history_export.csv_lines,
            "json": history_export.json_array,
            "jsonl": history_export.json_lines,
            "srt": history_export.srt_zip,
        }
        if format not in formats:
            raise UserError(f"history export: format '{format}' is not known; known: {' '.join(formats)}")
        if format == "srt" and out is None and sys.stdout.isatty():
            raise UserError("history export: a ZIP does not fit a terminal; give --out FILE.zip")
        _write(formats[format](kept.every(_query(*words, order="oldest"))), out)


@history.command()
def purge(
    older_than: Annotated[float, _OLDER] = 0.0,
    deleted_older_than: Annotated[float, _GONE] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and do nothing.")] = False,
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
) -> None:
    """Remove old rows and their recordings for good; jobs that wait or run stay."""
    if not (older_than or deleted_older_than):
        raise UserError("history purge: give --older-than DAYS, --deleted-older-than DAYS or both; try --dry-run first")
    with _opened(Place(config, data, db)) as (kept, settings, made):
        done = kept.purge(older_than, dry_run, deleted_days=deleted_older_than)
        if not dry_run:
            _note(settings, made, f"{done.rows} rows")
    would = "would be " if dry_run else ""
    typer.echo(
        f"{done.rows} rows and {done.audio_files} recordings {would}removed, {done.orphans} recordings without a row, "
        f"{done.audio_bytes / 2**20:.1f} MiB"
    )


@contextmanager
def _opened(place: Place) -> Iterator[tuple["History", "Settings", "Folders"]]:
    """The history, which must be there already."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the history needs {', '.join(missing)}; install the extra: pip install 'zhiyin[serve]'")
    from zhiyin.serve import database, settings
    from zhiyin.serve.history import History

    told = settings.read(place.config, {"data": place.data, "db": place.db})
    if not told.db and not (told.data / "history.db").is_file():
        raise UserError(f"history: there is none in {told.data}; give the folder of the service with --data DIR")
    made = settings.folders(told)
    engine = database.open(database.url(told, made))
    try:
        yield History(engine, made), told, made
    finally:
        engine.dispose()


def _query(
    text: str,
    user: str | None,
    state: list[str] | None,
    mode: list[str] | None,
    task: list[str] | None,
    language: str,
    label: str,
    batch: str,
    since: str,
    until: str,
    deleted: bool,
    *,
    order: Any,
    limit: int = 50,
    after: str = "",
) -> "Query":
    from zhiyin.serve.history import Query

    return Query(
        text=text,
        user=user,
        states=tuple(state or ()),
        modes=tuple(mode or ()),
        tasks=tuple(task or ()),
        language=language,
        since=_moment("--since", since),
        until=_moment("--until", until),
        label=label,
        batch=batch,
        deleted=deleted,
        order=order,
        limit=limit,
        after=after,
    )


def _moment(name: str, given: str) -> datetime | None:
    """A time as people write it; without a zone it is that of this machine."""
    if not given:
        return None
    try:
        found = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", given))
    except ValueError:
        raise UserError(f"{name} '{given}' is no time; write 2026-05-01 or 2026-05-01T08:00+08:00") from None
    return found.astimezone()


def _table(jobs: "tuple[Job, ...]") -> Iterator[str]:
    """A line for each job, times in the zone of this machine."""
    yield f"{'id':<32}  {'accepted':<16}  {'state':<9}  {'seconds':>8}  {'user':<12}  file: text"
    for job in jobs:
        at, said = job.created_at.astimezone(), job.edited or job.written or job.text or job.answer or job.error
        name, user = _line(job.file_name, 30), _line(job.user, 12)
        yield (
            f"{job.id}  {at:%Y-%m-%d %H:%M}  {job.state:<9}  {job.duration_s:8.1f}  {user:<12}  "
            f"{name}: {_line(said, SHOWN_CHARS)}"
        )


def _facts(job: "Job", path: Path | None) -> Iterator[str]:
    """All fields that say something, then the texts."""
    from zhiyin.serve import history_export

    record = history_export.record(job)
    asked = record.pop("wish")
    long = {name: record.pop(name) for name in ("text", "written", "edited", "answer", "translation")}
    del record["result"]
    record["audio"] = str(path) if path else "kept no more" if job.audio else ""
    for name, value in {**record, **{f"asked {key}": value for key, value in asked.items()}, **long}.items():
        if value not in ("", None, [], (), {}, False):
            value = round(value, 4) if isinstance(value, float) else value
            shown = "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
            shown = "; ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else shown
            yield f"{name}: {_line(str(shown))}"


def _line(text: str, size: int | None = None) -> str:
    """One line that a terminal shows as it is: what was said or uploaded may hold its control codes."""
    plain = " ".join("".join(char if unicodedata.category(char)[0] not in "CZ" else " " for char in text).split())
    return plain if size is None or len(plain) <= size else plain[: size - 1] + "…"


def _write(pieces: Iterator[bytes], out: Path | None) -> None:
    """Write a file whole or not at all."""
    if out is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        part.replace(out)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"history export: cannot write {out} ({reason}); choose another --out") from None
    finally:
        part.unlink(missing_ok=True)


def _note(settings: "Settings", made: "Folders", result: str) -> None:
    """What was removed stands in the audit log."""
    import getpass

    from zhiyin.serve.audit import Audit

    audit = Audit(made, settings.audit_days)
    audit.write(user=getpass.getuser(), address="command line", action="history purge", result=result)
    audit.close()
