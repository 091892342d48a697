"""The tables of the service. They are made by the migrations alone; a test compares both.

A job is a row of history from the moment it is accepted. `jobs` is narrow, so that lists and filters read little;
what is long (texts, segments, hotwords) is in `job_texts`. `job_words` is what the search reads: the texts of a job,
normalised; `job_grams` is its index (`search.py`), in SQLite an FTS5 table, in PostgreSQL arrays with a GIN index.
"""

import json
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeDecorator

NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER is a row number in SQLite


class Words(TypeDecorator[str]):
    """Any text: what no database holds (zero bytes, halves of surrogate pairs) is made visible, the same in both."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """See `storable`."""
        return None if value is None else storable(value)


class Json(TypeDecorator[Any]):
    """JSON kept as text, so that both databases give back exactly what was given."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Half surrogates become JSON escapes, which are read back as they were."""
        return None if value is None else storable(json.dumps(value, ensure_ascii=False, allow_nan=False))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value again."""
        return None if value is None else json.loads(value)


class Moment(TypeDecorator[datetime]):
    """A time with its zone; kept in UTC, also where the database knows no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """UTC, without the zone for SQLite."""
        if value is None:
            return None
        utc = value.astimezone(timezone.utc)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def storable(value: str) -> str:
    """A text that every database can hold."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\u2400")


METADATA = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s"}
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("user", Words, nullable=False),
    Column("mode", String(16), nullable=False),
    Column("batch", Words, nullable=False),
    Column("file_name", Words, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("audio", Words, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("tasks", Words, nullable=False),
    Column("language", Words, nullable=False),
    Column("itn", Boolean),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("progress_s", Float, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("model", Words, nullable=False),
    Column("model_hash", Words, nullable=False),
    Column("backend", Words, nullable=False),
    Column("device", Words, nullable=False),
    Column("precision", Words, nullable=False),
    Column("labels", Json, nullable=False),
    Column("processing_s", Float, nullable=False),
    Column("real_time_factor", Float, nullable=False),
    Column("error", Words, nullable=False),
    Column("edited_at", Moment),
    Column("deleted_at", Moment),
    sqlite_autoincrement=True,  # the number of a purged row is not given again
)
Index(None, JOBS.c.user, JOBS.c.number)
Index(None, JOBS.c.created_at)
Index(None, JOBS.c.batch, JOBS.c.number)
_OPEN = text("state IN ('queued', 'running')")
Index("ix_jobs_open", JOBS.c.state, JOBS.c.number, sqlite_where=_OPEN, postgresql_where=_OPEN)
_GONE = text("deleted_at IS NOT NULL")
Index("ix_jobs_deleted", JOBS.c.number, sqlite_where=_GONE, postgresql_where=_GONE)

JOB_TEXTS = Table(
    "job_texts",
    METADATA,
    Column("number", NUMBER, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("wish", Json, nullable=False),
    Column("text", Words, nullable=False),
    Column("written", Words, nullable=False),
    Column("edited", Words),
    Column("answer", Words, nullable=False),
    Column("translation", Words, nullable=False),
    Column("hotwords", Json, nullable=False),
    Column("segments", Json, nullable=False),
    Column("result", Json, nullable=False),
)

JOB_WORDS = Table(
    "job_words",
    METADATA,
    Column("number", NUMBER, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("words", Words, nullable=False),
)

HOTWORD_LISTS = Table(
    "hotword_lists",
    METADATA,
    Column("user", Words, primary_key=True),
    Column("name", Words, primary_key=True),
    Column("text", Words, nullable=False),
    Column("num_words", Integer, nullable=False),
    Column("num_rules", Integer, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", Words, nullable=False),
    Column("role", String(16), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("last_used_at", Moment),
    Column("revoked_at", Moment),
)

_POSTGRES = MetaData()
_NUMBER_OF_JOB = Column("number", BigInteger, ForeignKey(JOBS.c.number, ondelete="CASCADE"), primary_key=True)
JOB_GRAMS = Table("job_grams", _POSTGRES, _NUMBER_OF_JOB, Column("grams", ARRAY(BigInteger), nullable=False))
Index("ix_job_grams_grams", JOB_GRAMS.c.grams, postgresql_using="gin")


def metadata(dialect: str) -> MetaData:
    """All tables as a database of this kind has them; virtual tables are no part of it."""
    found = MetaData(naming_convention=METADATA.naming_convention)
    for table in (*METADATA.sorted_tables, *(_POSTGRES.sorted_tables if dialect == "postgresql" else ())):
        table.to_metadata(found)
    return found
