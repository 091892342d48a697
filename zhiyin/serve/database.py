"""The one database of an installation: SQLite in its data folder, or PostgreSQL by URL.

Every change is one transaction: `writing` takes the right to write first and waits for it, so that a transaction
never fails half way for a lock. What goes wrong underneath becomes one line that says what to do (`Unavailable`).
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from zhiyin.errors import UserError
from zhiyin.serve.settings import Folders, Settings

WAIT_S = 15.0  # for a lock; longer than any transaction of ours takes
CONNECTIONS = 40  # as many as there are threads that may ask at once
Reason = Literal["locked", "full", "lost"]

_MENDS: dict[Reason, str] = {
    "locked": "nothing was changed: try again, and look for what else has it open, a backup or a tool",
    "full": "nothing was changed: make room on its disk",
    "lost": "nothing was changed: try again, and look at the database and its disk",
}


class Unavailable(UserError):
    """The database cannot do it now; nothing was changed.

    Attributes:
        reason: ``locked`` (somebody else writes), ``full`` (no room on its disk) or ``lost`` (no answer).
    """

    def __init__(self, reason: Reason, seen: str) -> None:
        """Say what was seen, and what to do."""
        super().__init__(f"history database: {seen}; {_MENDS[reason]}")
        self.reason: Reason = reason


def url(settings: Settings, folders: Folders) -> URL:
    """Where the history of an installation is.

    Raises:
        UserError: `Settings.db` is no URL of a database that we know.
    """
    return parse(settings.db) if settings.db else URL.create("sqlite", database=str(folders.database))


def parse(given: str | URL) -> URL:
    """A checked URL; both ways to write PostgreSQL's are taken.

    Raises:
        UserError: it is no URL, or of a database we do not know.
    """
    try:
        found = make_url(given)
    except (ArgumentError, ValueError):  # the text may hold a password: it is not shown
        raise UserError("db: not a URL; write sqlite:///FILE or postgresql://USER@HOST/NAME") from None
    kind = found.get_backend_name()
    if kind == "sqlite" and found.database and found.database != ":memory:":
        return found.set(drivername="sqlite")
    if kind in ("postgresql", "postgres"):
        return found.set(drivername="postgresql+psycopg")
    shown = found.render_as_string(hide_password=True)
    raise UserError(f"db: {shown} is not supported; write sqlite:///FILE or postgresql://USER@HOST/NAME")


def open(given: str | URL, *, wait_s: float = WAIT_S) -> Engine:
    """An engine whose database has the present tables; they are made or upgraded first.

    Several processes may do this at once. Close it with `Engine.dispose`.

    Args:
        given: URL, see `parse`.
        wait_s: how long a transaction waits for a lock.

    Raises:
        UserError: the URL does not fit, or a newer version of zhiyin has been here.
        Unavailable: the database does not answer.
    """
    from zhiyin.serve.migrations import upgrade  # brings alembic, which only this needs

    where = parse(given)
    engine = _sqlite(where, wait_s) if where.get_backend_name() == "sqlite" else _postgresql(where, wait_s)
    try:
        with writing(engine) as connection:
            upgrade.to_head(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the database and changes nothing.

    Raises:
        Unavailable: see `Unavailable`.
    """
    joined = _joined(engine)
    if joined is not None:
        yield joined
        return
    with _told(), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine, *, lasting: bool = True) -> Iterator[Connection]:
    """A transaction that is kept whole when the block ends, and undone whole when it raises.

    Args:
        engine: from `open`.
        lasting: whether it must outlive a power cut, for which the disk is waited for; all outlive a killed process.

    Raises:
        Unavailable: see `Unavailable`; nothing was changed.
    """
    joined = _joined(engine)
    if joined is not None:
        yield joined
        return
    options = {"synchronous": "FULL" if lasting else "NORMAL"}
    with _told(), _turn(engine), engine.connect().execution_options(**options) as connection, connection.begin():
        if not (lasting or is_sqlite(connection)):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        yield connection


@contextmanager
def together(engine: Engine) -> Iterator[None]:
    """What this thread reads and writes in the block is one lasting transaction: all is kept, or nothing.

    The disk is waited for once. One change that fails undoes the others, so nothing that cannot be done again
    belongs into the block.

    Raises:
        Unavailable: see `Unavailable`; nothing was changed.
    """
    here: threading.local = engine.get_execution_options()["here"]
    with writing(engine) as connection:
        here.connection = connection
        try:
            yield
        finally:
            here.connection = None


def _joined(engine: Engine) -> Connection | None:
    """The connection of the block `together` that this thread is in."""
    found: Connection | None = getattr(engine.get_execution_options()["here"], "connection", None)
    return found


@contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    """Writers of one process take turns: SQLite would have them ask again and again, and the unlucky wait for long."""
    options = engine.get_execution_options()
    turn: threading.Lock | None = options.get("turn")
    if turn is None:
        yield
        return
    if not turn.acquire(timeout=options["wait_s"]):
        raise Unavailable("locked", f"no turn to write for {options['wait_s']:g} s")
    try:
        yield
    finally:
        turn.release()


def is_sqlite(connection: Connection) -> bool:
    """Whether this is SQLite and not PostgreSQL."""
    return connection.dialect.name == "sqlite"


def _sqlite(where: URL, wait_s: float) -> Engine:
    folder = Path(str(where.database)).absolute().parent
    if not folder.is_dir():
        raise UserError(f"db: {folder} is no folder; make it, or give another file")
    engine = create_engine(
        where,
        connect_args={"timeout": wait_s},
        execution_options={"turn": threading.Lock(), "wait_s": wait_s, "here": threading.local()},
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=wait_s,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not by the driver's guess
        if _to_wal(connection, wait_s) != "wal":
            raise UserError(
                f"db: {where.database}: its file system has no shared memory for WAL; put it on a local disk"
            )
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        synchronous = connection.get_execution_options().get("synchronous")  # of those who write, see `writing`
        if synchronous:
            connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if synchronous else "BEGIN")

    return engine


def _to_wal(connection: sqlite3.Connection, wait_s: float) -> str:
    """The mode that was reached; SQLite does not wait by itself while another process does the same."""
    end_s = time.monotonic() + wait_s
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if _of_sqlite(str(error)) != "locked" or time.monotonic() > end_s:
                raise
        time.sleep(0.02)


def _postgresql(where: URL, wait_s: float) -> Engine:
    # to compile a query takes longer than any of ours does
    options = f"-c lock_timeout={round(wait_s * 1000)} -c timezone=UTC -c client_encoding=UTF8 -c jit=off"
    return create_engine(
        where,
        connect_args={"options": options, "connect_timeout": max(2, round(wait_s)), "application_name": "zhiyin"},
        execution_options={"here": threading.local()},
        pool_size=10,
        max_overflow=CONNECTIONS - 10,
        pool_timeout=wait_s,
        pool_pre_ping=True,  # a restarted server is found again
    )


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except NoConnection:
        raise Unavailable("locked", f"all {CONNECTIONS} connections are in use") from None
    except DBAPIError as error:
        reason = _reason(error.orig)
        if reason is None:
            raise
        raise Unavailable(reason, str(error.orig).strip().splitlines()[0]) from None
    except sqlite3.OperationalError as error:  # while a connection is prepared
        raise Unavailable(_of_sqlite(str(error)) or "lost", str(error)) from None


def _reason(error: BaseException | None) -> Reason | None:
    """What the database complains of; nothing where it is a bug of ours.

    Source: https://www.sqlite.org/rescode.html (the texts of the codes; Python 3.10 has no numbers), and
    https://www.postgresql.org/docs/current/errcodes-appendix.html.
    """
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(str(error))
    state = getattr(error, "sqlstate", None)
    if state is None:  # there was no answer
        return "lost" if type(error).__name__ in ("OperationalError", "InterfaceError") else None
    if state in ("55P03", "40P01", "57014"):  # lock not available, deadlock, cancelled
        return "locked"
    if state in ("53100", "53200", "53400"):  # disk, memory, configured limit
        return "full"
    if state[:2] in ("08", "28", "3D", "53", "57", "58") or state in ("25006", "42501"):
        return "lost"  # connection, who may enter, which database, too many, shut down, its system, may not write
    return None


def _of_sqlite(seen: str) -> Reason | None:
    known: dict[str, Reason] = {
        "database is locked": "locked",
        "database table is locked": "locked",
        "database or disk is full": "full",
        "disk I/O error": "lost",
        "unable to open database file": "lost",
        "attempt to write a readonly database": "lost",
        "database disk image is malformed": "lost",
        "file is not a database": "lost",
    }
    return next((reason for text, reason in known.items() if text in seen), None)
