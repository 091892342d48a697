"""One database, two kinds: migrations, transactions, faults."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import errors
from sqlalchemy import Engine, event, func, insert, inspect, select, text

from zhiyin.errors import UserError
from zhiyin.serve import database, schema
from zhiyin.serve.database import Unavailable, reading, writing
from zhiyin.serve.jobs import Jobs, Wish
from zhiyin.serve.settings import Settings, folders

NEW = {"user": "li", "mode": "api", "file_name": "a.wav", "audio": "", "sha256": "", "bytes": 1, "wish": Wish()}


def add(jobs: Jobs, file_name: str = "a.wav") -> str:
    """A queued job."""
    return jobs.add(**{**NEW, "file_name": file_name}).id  # type: ignore[arg-type]


def test_migrations_make_the_tables_of_the_schema(engine: Engine) -> None:
    is_virtual = engine.dialect.name == "sqlite"  # the index of the search, with tables of its own

    def is_ours(name: str | None, kind: str, _: object) -> bool:
        return kind != "table" or not (is_virtual and str(name).startswith("job_grams"))

    options = {"compare_type": True, "compare_server_default": True, "include_name": is_ours}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata(engine.dialect.name)) == []
        assert "job_grams" in inspect(connection).get_table_names()


def test_the_migration_test_can_fail(engine: Engine) -> None:
    with engine.connect() as connection:
        found = schema.metadata(engine.dialect.name)
        found.tables["jobs"].c.file_name.type = schema.Moment()
        found.remove(found.tables["tokens"])
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = str(compare_metadata(context, found))
    assert "modify_type" in differences and "remove_table" in differences and "tokens" in differences


def test_indexes_of_the_schema_are_there(engine: Engine) -> None:
    with engine.connect() as connection:
        names = {index["name"] for index in inspect(connection).get_indexes("jobs")}
    assert names >= {f"ix_jobs_{one}" for one in ("user_number", "created_at", "batch_number", "open", "deleted")}


def test_opening_twice_keeps_what_is_there(database_url: str) -> None:
    first = database.open(database_url)
    id = add(Jobs(first))
    first.dispose()
    second = database.open(database_url)
    assert Jobs(second).get(id, None) is not None
    second.dispose()


_OPEN = """
import sys, time
from zhiyin.serve import database
time.sleep(max(0, float(sys.argv[2]) - time.time()))
database.open(sys.argv[1])
"""


def test_two_starts_at_once(database_url: str) -> None:
    at = str(time.time() + 1)
    command = [sys.executable, "-W", "error", "-c", _OPEN, database_url, at]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [child.communicate()[1].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], errors
    engine = database.open(database_url)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [("0001",)]
    engine.dispose()


def test_a_newer_database_is_refused(database_url: str) -> None:
    engine = database.open(database_url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(UserError, match="version 9999, made by a newer zhiyin"):
        database.open(database_url)


def test_a_migration_that_fails_leaves_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zhiyin.serve.migrations.versions import r0001_first

    def break_off(*_: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", break_off)  # all tables of jobs are made by then
        with pytest.raises(RuntimeError, match="no"):
            database.open(database_url)
    assert r0001_first.revision == "0001"
    engine = database.open(database_url)
    assert add(Jobs(engine))
    engine.dispose()


def test_urls() -> None:
    assert database.parse("postgresql://a@b/c").drivername == "postgresql+psycopg"
    assert database.parse("sqlite:///a b/历史.db").database == "a b/历史.db"
    for wrong in ("sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d", "nothing", "", "postgresql+x://[::"):
        with pytest.raises(UserError, match=r"write sqlite:///FILE or postgresql://") as error:
            database.parse(wrong)
        assert "secret" not in str(error.value)


def test_sqlite_lies_in_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "odd?name=#%41 资料")
    made = folders(settings)
    engine = database.open(database.url(settings, made))
    add(Jobs(engine))
    engine.dispose()
    assert sorted(path.name for path in made.data.iterdir()) == ["audio", "audit", "history.db", "journals", "uploads"]


def test_sqlite_is_set_up_for_many_readers_and_power_cuts(tmp_path: Path) -> None:
    engine = database.open(f"sqlite:///{tmp_path / 'a.db'}", wait_s=3)
    with reading(engine) as connection:
        names = ("journal_mode", "foreign_keys", "busy_timeout")
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names] == ["wal", 1, 3000]
    for lasting, level in ((True, 2), (False, 1), (True, 2)):
        with writing(engine, lasting=lasting) as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
    engine.dispose()


def test_postgresql_waits_for_its_disk_where_it_must(postgresql_url: str) -> None:
    engine = database.open(postgresql_url)
    for lasting, level in ((True, "on"), (False, "off"), (True, "on")):
        with writing(engine, lasting=lasting) as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == level
    engine.dispose()


def test_a_lock_is_waited_for(database_url: str) -> None:
    engine = database.open(database_url, wait_s=20)
    jobs, held = Jobs(engine), threading.Event()

    def hold() -> None:
        with writing(engine) as connection:
            connection.execute(text("UPDATE jobs SET \"user\" = 'other'"))
            held.set()
            time.sleep(0.5)

    id = add(jobs)
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert jobs.claim(id)
    thread.join()
    assert (job := jobs.get(id, None)) and (job.state, job.user) == ("running", "other")
    engine.dispose()


def test_a_lock_that_stays_is_an_error_and_changes_nothing(database_url: str) -> None:
    engine, other = database.open(database_url, wait_s=0.3), database.open(database_url)
    jobs = Jobs(engine)
    id = add(jobs)
    with writing(other) as connection:
        connection.execute(text("UPDATE jobs SET \"user\" = 'other'"))
        begin = time.monotonic()
        with pytest.raises(Unavailable, match="nothing was changed: try again") as error:
            jobs.claim(id)
        assert error.value.reason == "locked" and time.monotonic() - begin >= 0.3
        assert jobs.get(id, None) is not None  # who reads does not wait
    assert jobs.claim(id)
    engine.dispose()
    other.dispose()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    engine = database.open(f"sqlite:///{tmp_path / 'a.db'}")
    jobs = Jobs(engine)
    ids = [add(jobs) for _ in range(3)]
    with reading(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @event.listens_for(engine, "begin")
    def _no_room(connection: object) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]

    with pytest.raises(Unavailable, match="full; nothing was changed: make room") as error:
        add(jobs, "x" * 100_000)
    assert error.value.reason == "full"
    with reading(engine) as connection:
        counts = [connection.execute(select(func.count()).select_from(table)).scalar() for table in _of_a_job()]
        assert counts == [3, 3, 3]
        assert connection.execute(text("SELECT count(*) FROM job_grams WHERE job_grams MATCH '61'")).scalar() == 3
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    event.remove(engine, "begin", _no_room)
    with writing(engine) as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert jobs.claim(ids[0])
    engine.dispose()


def _of_a_job() -> tuple[schema.Table, ...]:
    return schema.JOBS, schema.JOB_TEXTS, schema.JOB_WORDS


_KILLED = """
import os, sys
from zhiyin.serve import database, jobs, search
engine = database.open(sys.argv[1])
queue = jobs.Jobs(engine)
new = dict(user="li", mode="api", audio="", sha256="", bytes=1, wish=jobs.Wish())
kept = queue.add(file_name="kept.wav", **new)
print(kept.id, flush=True)
add = search.add
def die(connection, number, texts):
    add(connection, number, texts)
    print("ready", flush=True)
    sys.stdin.readline()
search.add = die
queue.add(file_name="lost.wav", **new)
"""


def test_kill_in_the_middle_of_a_transaction(database_url: str) -> None:
    command = [sys.executable, "-c", _KILLED, database_url]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    id = child.stdout.readline().strip()
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    engine = database.open(database_url)
    jobs = Jobs(engine)
    assert [job.id for job in jobs.unfinished()] == [id]
    with reading(engine) as connection:
        for table in _of_a_job():
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 1
    assert jobs.claim(id) and add(jobs)
    engine.dispose()


def test_many_writers_at_once(engine: Engine) -> None:
    jobs = Jobs(engine)

    def work(number: int) -> list[str]:
        ids = [add(jobs, f"{number}-{i}.wav") for i in range(3)]
        for id in ids:
            assert jobs.claim(id)
            jobs.progress(id, 1.0)
        return ids

    with ThreadPoolExecutor(30) as pool:
        ids = [id for found in pool.map(work, range(30)) for id in found]
    assert {job.id for job in jobs.unfinished()} == set(ids) and len(ids) == 90


def test_rows_of_a_job_go_together(engine: Engine) -> None:
    id = add(Jobs(engine))
    with writing(engine) as connection:
        connection.execute(schema.JOBS.delete().where(schema.JOBS.c.id == id))
    with reading(engine) as connection:
        for table in _of_a_job():
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 0


def test_a_row_without_its_job_is_refused(engine: Engine) -> None:
    from sqlalchemy.exc import IntegrityError

    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(insert(schema.JOB_WORDS).values(number=7, words="x"))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database" * 100)
    with pytest.raises(Unavailable, match="file is not a database; nothing was changed") as error:
        database.open(f"sqlite:///{tmp_path / 'a.db'}")
    assert error.value.reason == "lost"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        database.open(f"sqlite:///{tmp_path / 'no' / 'a.db'}")


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file or directory") as error:
        database.open(f"postgresql://u:secret@/d?host={tmp_path}", wait_s=1)
    assert error.value.reason == "lost" and "secret" not in str(error.value)


def test_a_server_that_went_away_is_found_again(postgresql_url: str, postgresql: str) -> None:
    engine = database.open(postgresql_url)
    id = add(Jobs(engine))
    with psycopg.connect(host=postgresql, user="zhiyin", dbname="postgres", autocommit=True) as server:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'zhiyin'")
    assert Jobs(engine).get(id, None) is not None
    engine.dispose()


def test_arrays_of_the_search_are_kept_apart_from_their_rows(postgresql_url: str) -> None:
    """A table of short rows is what makes common words quick to find."""
    engine = database.open(postgresql_url)
    for row in range(40):
        add(Jobs(engine), "".join(chr(0x4E00 + 50 * row + i) for i in range(50)))
    with reading(engine) as connection:
        heap = connection.execute(text("SELECT pg_relation_size('job_grams')")).scalar_one()
        whole = connection.execute(text("SELECT grams FROM job_grams")).scalars().all()
    engine.dispose()
    assert heap == 8192 and {len(set(grams)) for grams in whole} == {50 + 49 + 48}  # 1.2 kB each would be six pages


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.DiskFull(), "full"),
        (errors.OutOfMemory(), "full"),
        (errors.LockNotAvailable(), "locked"),
        (errors.DeadlockDetected(), "locked"),
        (errors.AdminShutdown(), "lost"),
        (errors.TooManyConnections(), "lost"),
        (errors.InvalidPassword(), "lost"),
        (errors.ReadOnlySqlTransaction(), "lost"),
        (errors.InsufficientPrivilege(), "lost"),
        (psycopg.OperationalError("no route"), "lost"),
        (psycopg.InterfaceError("closed"), "lost"),
        (errors.UniqueViolation(), None),
        (errors.UndefinedColumn(), None),
        (psycopg.ProgrammingError("too few parameters"), None),
        (sqlite3.OperationalError("no such column: x"), None),
        (sqlite3.IntegrityError("UNIQUE constraint failed"), None),
        (sqlite3.OperationalError("disk I/O error"), "lost"),
    ],
)
def test_what_is_no_fault_of_ours_is_known(error: Exception, reason: str | None) -> None:
    assert database._reason(error) == reason


def test_postgresql_must_hold_every_text(postgresql: str) -> None:
    with psycopg.connect(host=postgresql, user="zhiyin", dbname="postgres", autocommit=True) as server:
        server.execute("CREATE DATABASE latin ENCODING 'SQL_ASCII' TEMPLATE template0")
    with pytest.raises(UserError, match="its encoding is SQL_ASCII"):
        database.open(f"postgresql://zhiyin@/latin?host={postgresql}")


def test_texts_of_sqlite_errors_are_those_of_this_sqlite(tmp_path: Path) -> None:
    """The reasons are known by their texts; this one is made for real, see the tests above for the others."""
    (tmp_path / "a.db").touch()
    first = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    second = sqlite3.connect(tmp_path / "a.db", isolation_level=None, timeout=0)
    with pytest.raises(sqlite3.OperationalError) as error:
        second.execute("BEGIN IMMEDIATE")
    first.close()
    second.close()
    assert database._reason(error.value) == "locked"
