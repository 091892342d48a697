"""Jobs: the queue of recordings, and how each goes from one state to the next. A job is a row of the history.

Every change is one transaction, and says in its condition which states it may follow: two that contradict each other
cannot both happen, whoever makes them. Safe for threads and processes.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Connection, Engine, Update, bindparam, case, func, insert, select, update

from zhiyin.result import Result
from zhiyin.serve import search
from zhiyin.serve.database import reading, together, writing
from zhiyin.serve.job import (
    APART,
    BRIEF,
    MODES,
    OPEN,
    Job,
    Mode,
    Wish,
    is_id,
    job_of,
    new_id,
    now,
    whole,
)
from zhiyin.serve.schema import JOB_TEXTS, JOBS, storable

# Statements that every job needs are built once: that takes longer than to execute them.
_ID: BindParameter[str] = bindparam("job_id")
_NUMBER: BindParameter[int] = bindparam("job_number")
_INSERT = insert(JOBS).returning(JOBS.c.number)
_INSERT_TEXTS = insert(JOB_TEXTS)
_GET = whole().where(JOBS.c.id == _ID)
_OPEN_OF = select(func.count(), func.count().filter(JOBS.c.user == bindparam("whose"))).where(JOBS.c.state.in_(OPEN))
_CLAIM = (
    update(JOBS)
    .where(JOBS.c.id == _ID, JOBS.c.state == "queued")
    .values(state="running", attempts=JOBS.c.attempts + 1, started_at=bindparam("now"), error="")
    .returning(JOBS.c.attempts)
)
_FINISH = (
    update(JOBS)
    .where(JOBS.c.id == _ID, JOBS.c.state == "running")
    .values(
        language=case((JOBS.c.language == "", bindparam("heard", type_=JOBS.c.language.type)), else_=JOBS.c.language)
    )
    .returning(JOBS.c.number, JOBS.c.file_name)
)
_FINISH_TEXTS = update(JOB_TEXTS).where(JOB_TEXTS.c.number == _NUMBER)


@dataclass(frozen=True)
class Usage:
    """What a user brought since some time."""

    bytes: int
    audio_s: float


class Jobs:
    """The jobs of an installation."""

    def __init__(self, engine: Engine) -> None:
        """Take them from an engine of `database.open`."""
        self._engine = engine

    def together(self) -> AbstractContextManager[None]:
        """What this thread does in the block is kept all together or not at all; see `database.together`."""
        return together(self._engine)

    def add(
        self,
        *,
        user: str,
        mode: Mode,
        file_name: str,
        audio: str,
        sha256: str,
        bytes: int,
        wish: Wish,
        duration_s: float = 0.0,
        batch: str = "",
        id: str | None = None,
    ) -> Job:
        """Accept a recording: it is queued, and outlives the process from now on.

        Raises:
            Unavailable: the database cannot take it; nothing was kept.
        """
        record = _record(user, mode, file_name, audio, sha256, bytes, wish, duration_s, batch, id)
        with writing(self._engine) as connection:
            _insert(connection, record, wish)
        return _new(record, wish)

    def add_done(
        self,
        *,
        user: str,
        mode: Mode,
        file_name: str,
        wish: Wish,
        result: Result,
        model_hash: str = "",
        audio: str = "",
        sha256: str = "",
        bytes: int = 0,
        batch: str = "",
        id: str | None = None,
        started_at: datetime | None = None,
    ) -> Job:
        """Keep what was understood without a queue, e.g. of a live session that has ended."""
        record = _record(user, mode, file_name, audio, sha256, bytes, wish, result.duration_s, batch, id)
        with writing(self._engine) as connection:
            _insert(connection, {**record, "state": "running", "attempts": 1, "started_at": started_at or now()}, wish)
            _finish(connection, record["id"], result, model_hash)
            return _job(connection, record["id"])

    def get(self, id: str, user: str | None) -> Job | None:
        """A job with everything; of another user than `user` none, with None of any."""
        if not is_id(id):
            return None
        with reading(self._engine) as connection:
            row = connection.execute(_GET, {"job_id": id}).one_or_none()
        return job_of(row) if row and (user is None or row.user == storable(user)) else None

    def claim(self, id: str) -> int:
        """Begin a queued job; how often it was begun by now, 0 when it is queued no more."""
        with writing(self._engine, lasting=False) as connection:
            return int(connection.execute(_CLAIM, {"job_id": id, "now": now()}).scalar() or 0)

    def progress(self, id: str, until_s: float, duration_s: float | None = None) -> None:
        """Say how far a running job is."""
        values = {"progress_s": until_s} | ({} if duration_s is None else {"duration_s": duration_s})
        with writing(self._engine, lasting=False) as connection:
            _turn(connection, id, ("running",), values)

    def finish(self, id: str, result: Result, model_hash: str) -> bool:
        """Keep what a running job found; False, and nothing is kept, when it runs no more (it was cancelled)."""
        with writing(self._engine) as connection:
            return _finish(connection, id, result, model_hash)

    def fail(self, id: str, error: str) -> bool:
        """End an open job with the reason; False when it is open no more."""
        values = {"state": "failed", "finished_at": now(), "error": " ".join(error.split())}
        with writing(self._engine) as connection:
            return _turn(connection, id, OPEN, values)

    def cancel(self, id: str) -> bool:
        """End an open job; False when it is open no more."""
        with writing(self._engine) as connection:
            return _turn(connection, id, OPEN, {"state": "cancelled", "finished_at": now()})

    def requeue(self, id: str, *, attempt: bool = True) -> bool:
        """Put a running job back into the queue, at its old place; False when it runs no more.

        Args:
            id: of the job.
            attempt: whether the attempt counts; not when it was given up for no fault of the job's.
        """
        change = _turning(("running",)).values(state="queued", attempts=JOBS.c.attempts - (0 if attempt else 1))
        with writing(self._engine, lasting=False) as connection:
            return connection.execute(change, {"job_id": id}).rowcount == 1

    def retry(self, id: str) -> bool:
        """Put a job that failed or was cancelled into the queue again, as if it were new; False for others."""
        fresh = {"state": "queued", "attempts": 0, "progress_s": 0.0, "error": "", "finished_at": None}
        with writing(self._engine) as connection:
            return _turn(connection, id, ("failed", "cancelled"), fresh)

    def forget_audio(self, id: str) -> None:
        """Note that the recording of a job is kept no more; call it after the file is gone."""
        with writing(self._engine) as connection:
            connection.execute(update(JOBS).where(JOBS.c.id == id).values(audio=""))

    def understood_with_audio(self) -> list[Job]:
        """Done jobs whose recording is still kept."""
        with reading(self._engine) as connection:
            is_kept = (JOBS.c.state == "done") & (JOBS.c.audio != "")
            return [job_of(row) for row in connection.execute(whole(BRIEF).where(is_kept))]

    def unfinished(self) -> list[Job]:
        """Queued and running jobs, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(whole(BRIEF).where(JOBS.c.state.in_(OPEN)).order_by(JOBS.c.number))
            return [job_of(row) for row in rows]

    def open_of(self, user: str) -> tuple[int, int]:
        """How many jobs are queued or running, of all users and of one."""
        with reading(self._engine) as connection:
            row = connection.execute(_OPEN_OF, {"whose": user}).one()
        return int(row[0]), int(row[1])

    def recent(self, user: str | None, *, states: Collection[str] = (), batch: str = "", limit: int = 100) -> list[Job]:
        """The newest jobs, without segments and results; what was deleted is left out."""
        query = whole(BRIEF).where(JOBS.c.deleted_at.is_(None))
        query = query if user is None else query.where(JOBS.c.user == user)
        query = query.where(JOBS.c.state.in_(states)) if states else query
        query = query.where(JOBS.c.batch == batch) if batch else query
        with reading(self._engine) as connection:
            return [job_of(row) for row in connection.execute(query.order_by(JOBS.c.number.desc()).limit(limit))]

    def usage(self, user: str, since: datetime) -> Usage:
        """What a user brought since then, deleted or not."""
        sums = select(func.coalesce(func.sum(JOBS.c.bytes), 0), func.coalesce(func.sum(JOBS.c.duration_s), 0.0))
        with reading(self._engine) as connection:
            row = connection.execute(sums.where(JOBS.c.user == user, JOBS.c.created_at >= since)).one()
        return Usage(int(row[0]), float(row[1]))


def _record(
    user: str,
    mode: Mode,
    file_name: str,
    audio: str,
    sha256: str,
    num_bytes: int,
    wish: Wish,
    duration_s: float,
    batch: str,
    id: str | None,
) -> dict[str, Any]:
    """The row of a new job."""
    if mode not in MODES or not (id is None or is_id(id)):
        raise ValueError(f"mode {mode!r}, id {id!r}")
    empty = dict.fromkeys(("model", "model_hash", "backend", "device", "precision", "error"), "")
    return {
        **empty,
        "id": id or new_id(),
        "created_at": now(),
        "user": storable(user),
        "mode": mode,
        "batch": storable(batch),
        "file_name": storable(file_name),
        "sha256": sha256,
        "audio": storable(audio),
        "bytes": num_bytes,
        "duration_s": duration_s,
        "tasks": storable(" ".join(wish.tasks)),
        "language": storable(wish.language),
        "itn": wish.itn,
        "state": "queued",
        "attempts": 0,
        "progress_s": 0.0,
        "labels": {},
        "processing_s": 0.0,
        "real_time_factor": 0.0,
    }


def _insert(connection: Connection, record: dict[str, Any], wish: Wish) -> None:
    number = connection.execute(_INSERT, record).scalar_one()
    asked = {name: value for name, value in asdict(wish).items() if name not in APART}
    texts = dict.fromkeys(("text", "written", "answer", "translation"), "")
    rest = {"hotwords": list(wish.hotwords), "segments": [], "result": {}}
    connection.execute(_INSERT_TEXTS, {"number": number, "wish": asked, **texts, **rest})
    search.add(connection, number, [record["file_name"]])


def _new(record: Mapping[str, Any], wish: Wish) -> Job:
    """The job of a row that was just inserted, as `_job` would read it."""
    facts = {name: value for name, value in record.items() if name not in APART}
    empty = dict.fromkeys(("text", "written", "answer", "translation"), "")
    never = dict.fromkeys(("started_at", "finished_at", "edited", "edited_at", "deleted_at"))
    return Job(**{**facts, "wish": wish, "tasks": tuple(record["tasks"].split()), **empty, **never})


def _finish(connection: Connection, id: str, result: Result, model_hash: str) -> bool:
    whole_result = result.to_dict()
    values = {
        "job_id": id,
        "heard": _heard(result),
        "state": "done",
        "finished_at": now(),
        "duration_s": result.duration_s,
        "progress_s": result.duration_s,
        "tasks": " ".join(result.tasks),
        "model": result.model,
        "model_hash": model_hash,
        "backend": result.backend,
        "device": result.device,
        "precision": result.precision,
        "labels": dict(result.labels),
        "processing_s": result.processing_s,
        "real_time_factor": result.processing_s / result.duration_s if result.duration_s else 0.0,
        "error": "",
    }
    row = connection.execute(_FINISH, values).one_or_none()
    if row is None:
        return False
    texts = {"text": result.text, "written": result.written, "answer": result.answer, "translation": result.translation}
    rest = {"segments": whole_result["segments"], "result": {**whole_result, "segments": None}}
    connection.execute(_FINISH_TEXTS, {"job_number": row.number, **texts, **rest})
    search.change(connection, row.number, [row.file_name, *texts.values()])
    return True


def _heard(result: Result) -> str:
    """The language that most of the time was spoken, where the model says it."""
    seconds: dict[str, float] = {}
    for one in result.segments:
        seconds[one.language] = seconds.get(one.language, 0.0) + one.end_s - one.start_s
    seconds.pop("", None)
    return max(seconds, key=lambda code: seconds[code], default="")


@cache
def _turning(before: tuple[str, ...]) -> Update:
    return update(JOBS).where(JOBS.c.id == _ID, JOBS.c.state.in_(before))


def _turn(connection: Connection, id: str, before: tuple[str, ...], values: Mapping[str, Any]) -> bool:
    """Change a job if it is in one of these states; whether it was."""
    return connection.execute(_turning(before), {"job_id": id, **values}).rowcount == 1


def _job(connection: Connection, id: str) -> Job:
    return job_of(connection.execute(_GET, {"job_id": id}).one())
