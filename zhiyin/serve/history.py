"""The history: every job there was, searched, put right, put away and, at some age, removed.

To delete is to put away: it can be undone until the row is purged. To purge removes the row and its recording, first
the file, then the row: when it is stopped between, a row without its file stays, which `recording` says and the next
purge removes; a file without a row never stays for good.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, false, func, or_, select, update

from zhiyin.errors import UserError
from zhiyin.serve import search
from zhiyin.serve.database import reading, writing
from zhiyin.serve.filters import Query, conditions
from zhiyin.serve.job import BRIEF, OPEN, STATES, Job, is_id, job_of, now, whole
from zhiyin.serve.schema import JOB_TEXTS, JOBS
from zhiyin.serve.settings import Folders

MAX_TOTAL = 10_000  # more are not counted
_FOUND_AT_ONCE = 2000  # row numbers that an export looks for at a time
_AT_ONCE = 200  # rows of one transaction of a purge
_ORPHAN_S = 24 * 3600.0  # a recording may be there for so long before its row is


@dataclass(frozen=True)
class Page:
    """A part of what a query finds.

    Attributes:
        rows: jobs without segments and results.
        next: `Query.after` of the next page; empty when there is none.
        total: how many a query finds on all its pages; None when they are more than `MAX_TOTAL`.
    """

    rows: tuple[Job, ...]
    next: str
    total: int | None


@dataclass(frozen=True)
class Purged:
    """What a purge removed, or with `dry_run` would remove.

    Attributes:
        rows: of the history.
        audio_files: recordings of these rows.
        audio_bytes: size of all recordings removed.
        orphans: recordings that belonged to no row.
        dry_run: whether nothing was done.
    """

    rows: int
    audio_files: int
    audio_bytes: int
    orphans: int
    dry_run: bool


@dataclass(frozen=True)
class Stats:
    """How much there is.

    Attributes:
        rows: those that are not deleted.
        deleted: those that can be taken back.
        states: state -> rows that are not deleted.
        audio_s: length of all recordings that are not deleted.
        audio_bytes: size of the recordings that are kept, deleted or not.
    """

    rows: int
    deleted: int
    states: dict[str, int]
    audio_s: float
    audio_bytes: int


class History:
    """The history of an installation."""

    def __init__(self, engine: Engine, folders: Folders) -> None:
        """Take it from an engine of `database.open`; recordings are in `folders.audio`."""
        self._engine, self._folders = engine, folders

    def search(self, query: Query) -> Page:
        """One page of what a query finds.

        Raises:
            UserError: the query makes no sense.
        """
        with reading(self._engine) as connection:
            found, start = conditions(connection, query), _start(connection, query)
            numbers = _numbers(connection, query, found, None, MAX_TOTAL + 1)  # they are counted at the same time
            total = len(numbers)
            if start is not None:
                numbers = _numbers(connection, query, found, start, query.limit + 1)
            rows = _rows(connection, query, numbers[: query.limit], BRIEF)
        more = len(numbers) > query.limit
        return Page(rows, rows[-1].id if more and rows else "", total if total <= MAX_TOTAL else None)

    def every(self, query: Query, *, at_once: int = 50) -> Iterator[Job]:
        """All that a query finds, with everything, in order; a few are in memory at a time, `limit` does not count.

        Raises:
            UserError: the query makes no sense.
        """
        with reading(self._engine) as connection:
            start = _start(connection, query)
        while True:
            with reading(self._engine) as connection:
                numbers = _numbers(connection, query, conditions(connection, query), start, _FOUND_AT_ONCE)
            for first in range(0, len(numbers), at_once):
                with reading(self._engine) as connection:
                    rows = _rows(connection, query, numbers[first : first + at_once], None)
                yield from rows
            if len(numbers) < _FOUND_AT_ONCE:
                return
            start = numbers[-1]

    def pick(self, ids: Sequence[str], user: str | None) -> Iterator[Job]:
        """Jobs by their names, with everything, in that order; what is not there or another user's is left out."""
        for id in ids:
            query = whole().where(JOBS.c.id == id)
            with reading(self._engine) as connection:
                row = connection.execute(query if user is None else query.where(JOBS.c.user == user)).one_or_none()
            if row is not None:
                yield job_of(row)

    def edit(self, id: str, user: str | None, text: str | None) -> Job | None:
        """Keep what a person made of the text, beside the original; None takes it back.

        Returns:
            The job as it is now; None when it is not there, is another user's or is not done.
        """
        with writing(self._engine) as connection:
            is_it = and_(JOBS.c.state == "done", _is_one(id, user))
            number = connection.execute(select(JOBS.c.number).where(is_it)).scalar_one_or_none()
            if number is None:
                return None
            edited_at = None if text is None else now()
            connection.execute(update(JOBS).where(JOBS.c.number == number).values(edited_at=edited_at))
            connection.execute(update(JOB_TEXTS).where(JOB_TEXTS.c.number == number).values(edited=text))
            job = job_of(connection.execute(whole().where(JOBS.c.number == number)).one())
            search.change(connection, number, search.texts_of(job))
        return job

    def delete(self, ids: Sequence[str], user: str | None) -> int:
        """Put jobs away that are open no more; how many there were."""
        is_open = JOBS.c.state.in_(OPEN)
        return self._mark(ids, user, and_(~is_open, JOBS.c.deleted_at.is_(None)), now())

    def undo(self, ids: Sequence[str], user: str | None) -> int:
        """Take back what was deleted; how many there were."""
        return self._mark(ids, user, JOBS.c.deleted_at.is_not(None), None)

    def recording(self, job: Job) -> Path | None:
        """The file of a job's recording; None when it is kept no more."""
        if not job.audio:
            return None
        path = (self._folders.audio / job.audio).resolve()
        inside = path.is_relative_to(self._folders.audio.resolve())
        return path if inside and path.is_file() else None

    def purge(self, older_than_days: float, dry_run: bool = False, *, deleted_days: float = 0.0) -> Purged:
        """Remove old rows and their recordings for good; open jobs stay.

        Args:
            older_than_days: age since a job came; 0 removes none for its age.
            dry_run: whether to count only.
            deleted_days: age of a deletion, from which on it is for good; 0 removes none for that.

        Raises:
            UserError: a negative age, or a recording cannot be removed.
        """
        if older_than_days < 0 or deleted_days < 0:
            raise UserError("purge: an age is negative; give days from 0 on (0: not by this age)")
        is_old = _is_old(older_than_days, deleted_days)
        rows = files = size = 0
        last = 0
        while True:
            with reading(self._engine) if dry_run else writing(self._engine) as connection:
                query = select(JOBS.c.number, JOBS.c.audio).where(is_old, JOBS.c.number > last)
                found = connection.execute(query.order_by(JOBS.c.number).limit(_AT_ONCE)).all()
                if not found:
                    break
                sizes = [self._remove(audio, dry_run) for _, audio in found if audio]
                if not dry_run:
                    _remove_rows(connection, [number for number, _ in found])
            last = found[-1].number
            rows += len(found)
            files += sum(one is not None for one in sizes)
            size += sum(one or 0 for one in sizes)
        orphans = [self._remove(name, dry_run) for name in self._orphans()]
        size += sum(one or 0 for one in orphans)
        return Purged(rows, files, size, len(orphans), dry_run)

    def stats(self, user: str | None) -> Stats:
        """How much there is, of all users or of one."""
        whose = JOBS.c.user == user if user is not None else JOBS.c.number > 0
        kept = func.coalesce(func.sum(JOBS.c.bytes).filter(JOBS.c.audio != ""), 0)
        is_there = JOBS.c.deleted_at.is_(None)
        groups = select(JOBS.c.state, is_there, func.count(), func.sum(JOBS.c.duration_s), kept)
        with reading(self._engine) as connection:
            rows = connection.execute(groups.where(whose).group_by(JOBS.c.state, is_there)).all()
        states = dict.fromkeys(STATES, 0) | {row[0]: row[2] for row in rows if row[1]}
        return Stats(
            rows=sum(states.values()),
            deleted=sum(row[2] for row in rows if not row[1]),
            states=dict(states),
            audio_s=float(sum(row[3] for row in rows if row[1])),
            audio_bytes=int(sum(row[4] for row in rows)),
        )

    def _mark(self, ids: Sequence[str], user: str | None, which: ColumnElement[bool], at: datetime | None) -> int:
        count = 0
        with writing(self._engine) as connection:
            for start in range(0, len(ids), _AT_ONCE):
                part = and_(which, _is_one_of(ids[start : start + _AT_ONCE], user))
                count += connection.execute(update(JOBS).where(part).values(deleted_at=at)).rowcount
        return count

    def _remove(self, audio: str, dry_run: bool) -> int | None:
        """Remove a recording; its size, or None where there was none."""
        path = self._folders.audio / audio
        if not path.resolve().is_relative_to(self._folders.audio.resolve()):
            return None
        try:
            size = path.stat().st_size
            if not dry_run:
                path.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"purge: cannot remove {path} ({reason}); mend that and purge again") from None
        return size

    def _orphans(self) -> Iterator[str]:
        """Recordings without a row, left by a process that was killed."""
        before = time.time() - _ORPHAN_S
        found = []
        for path in self._folders.audio.glob("*/*"):
            if is_id(path.stem) and path.is_file() and path.stat().st_mtime < before:
                found.append(path)
        for start in range(0, len(found), _AT_ONCE):
            part = found[start : start + _AT_ONCE]
            with reading(self._engine) as connection:
                rows = connection.execute(select(JOBS.c.id).where(JOBS.c.id.in_([path.stem for path in part])))
                known = set(rows.scalars())
            yield from (path.relative_to(self._folders.audio).as_posix() for path in part if path.stem not in known)


def _numbers(
    connection: Connection, query: Query, found: ColumnElement[bool], start: int | None, limit: int
) -> list[int]:
    """Row numbers of a page; what is long is read for these rows only."""
    numbers = select(JOBS.c.number).where(found)
    is_newest = query.order == "newest"
    if start is not None:
        numbers = numbers.where(JOBS.c.number < start if is_newest else JOBS.c.number > start)
    numbers = numbers.order_by(JOBS.c.number.desc() if is_newest else JOBS.c.number)
    return list(connection.execute(numbers.limit(limit)).scalars())


def _rows(
    connection: Connection, query: Query, numbers: Sequence[int], columns: tuple[ColumnElement[Any], ...] | None
) -> tuple[Job, ...]:
    """The jobs with these numbers; `columns` as `whole` takes them, None is all."""
    chosen = whole() if columns is None else whole(columns)
    order = JOBS.c.number.desc() if query.order == "newest" else JOBS.c.number
    rows = connection.execute(chosen.where(JOBS.c.number.in_(numbers)).order_by(order))
    return tuple(job_of(row) for row in rows)


def _start(connection: Connection, query: Query) -> int | None:
    """The row number after which a page begins; where its row was purged, that of its neighbour in time."""
    if not query.after:
        return None
    if not is_id(query.after):
        raise UserError(f"history: after '{query.after[:40]}' is no job; give `next` of the page before")
    is_newest = query.order == "newest"
    before = JOBS.c.id <= query.after if is_newest else JOBS.c.id >= query.after
    near = select(JOBS.c.id, JOBS.c.number).where(before)
    row = connection.execute(near.order_by(JOBS.c.id.desc() if is_newest else JOBS.c.id).limit(1)).one_or_none()
    if row is None:
        return 0 if is_newest else 2**62
    if row.id == query.after:
        return int(row.number)
    return int(row.number) + (1 if is_newest else -1)


def _is_one(id: str, user: str | None) -> ColumnElement[bool]:
    return and_(JOBS.c.id == id, JOBS.c.user == user) if user is not None else JOBS.c.id == id


def _is_one_of(ids: Sequence[str], user: str | None) -> ColumnElement[bool]:
    which = JOBS.c.id.in_([id for id in ids if is_id(id)])
    return which if user is None else and_(which, JOBS.c.user == user)


def _is_old(older_than_days: float, deleted_days: float) -> ColumnElement[bool]:
    """Closed rows whose time has come; of 0 days none."""
    present = now()
    old = JOBS.c.created_at < present - timedelta(days=older_than_days) if older_than_days else false()
    gone = JOBS.c.deleted_at < present - timedelta(days=deleted_days) if deleted_days else false()
    return and_(JOBS.c.state.not_in(OPEN), or_(old, gone))


def _remove_rows(connection: Connection, numbers: Sequence[int]) -> None:
    """Rows of a job in all tables; foreign keys take the others along."""
    search.forget(connection, numbers)
    connection.execute(delete(JOBS).where(JOBS.c.number.in_(numbers)))
