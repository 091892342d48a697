"""Databases for tests: SQLite in a file, and a real PostgreSQL that the tests start for themselves.

`tests/serve/conftest.py` makes the fixtures known. Where PostgreSQL is not installed its tests are skipped, visibly.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text

from zhiyin.serve import database, schema

KINDS = ("sqlite", "postgresql")


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, the newest that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    found += [Path(on_path).resolve()] if on_path and not found else []
    return found[-1].parent if found else None


def _other_user() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


@contextmanager
def started(where: Path, *settings: str) -> Iterator[str]:
    """A PostgreSQL of our own; its locale is C, the poorest one.

    Args:
        where: the folder of its programs, from `programs`.
        settings: lines of its configuration, ``name=value``.

    Yields:
        The folder of its socket; whoever is let in there is the user ``zhiyin``.
    """
    as_user = _other_user()
    folder = Path(tempfile.mkdtemp(prefix="zhiyin-pg-"))
    if as_user:
        os.chown(folder, as_user["user"], as_user["group"])  # type: ignore[arg-type]
    common = {"cwd": folder, "stdout": subprocess.DEVNULL, **as_user}
    made = [where / "initdb", "-D", folder / "data", "-U", "zhiyin", "--auth=trust", "-E", "UTF8", "--locale=C"]
    subprocess.run([*made, "--no-sync"], check=True, **common)  # type: ignore[call-overload]
    lines = ["listen_addresses=", "max_connections=120", f"unix_socket_directories={folder}", *settings]
    options = [part for line in lines for part in ("-c", line)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([where / "postgres", "-D", folder / "data", *options], stderr=log, **common)  # type: ignore[call-overload]
    try:
        _wait(folder, server)
        yield str(folder)
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: it is thrown away
        server.wait(30)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL that all tests share."""
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed (no initdb in /usr/lib/postgresql/*/bin or on PATH)")
    with started(where, "fsync=off") as folder:
        yield folder


def _wait(folder: Path, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(host=str(folder), user="zhiyin", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "log").read_text()) from None
            time.sleep(0.05)


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """The URL of an empty database of that server, for this test alone."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(host=postgresql, user="zhiyin", dbname="postgres", autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        yield f"postgresql://zhiyin@/{name}?host={postgresql}"
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind, for this test alone."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the present tables, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "history.db"
    database.open(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture(scope="session")
def postgresql_engine(postgresql: str) -> Iterator[Engine]:
    """A database with the present tables, emptied after each test."""
    with psycopg.connect(host=postgresql, user="zhiyin", dbname="postgres", autocommit=True) as server:
        server.execute("CREATE DATABASE ready")
    opened = database.open(f"postgresql://zhiyin@/ready?host={postgresql}")
    yield opened
    opened.dispose()


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database with the present tables and no rows, of each kind."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("sqlite_file"), tmp_path / "history.db")
        opened = database.open(f"sqlite:///{file}")
        yield opened
        opened.dispose()
        return
    opened = request.getfixturevalue("postgresql_engine")
    yield opened
    names = ", ".join(schema.metadata("postgresql").tables)
    with opened.begin() as connection:
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
