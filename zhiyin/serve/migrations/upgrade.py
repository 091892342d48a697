"""Bring a database to the present tables; several processes may do it at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from zhiyin.errors import UserError

_LOCK = 0x7A686979  # any number that only we use: the one who holds it in PostgreSQL upgrades, the others wait


def to_head(connection: Connection) -> None:
    """Apply the steps that are missing, in the transaction of `connection`: all of them or none.

    Raises:
        UserError: the database was made by a newer version.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise UserError(
                f"db: its encoding is {encoding}, which cannot hold every text; make it with ENCODING 'UTF8'"
            )
    elif "ENABLE_FTS5" not in {row[0] for row in connection.exec_driver_sql("PRAGMA compile_options")}:
        raise UserError("db: the SQLite of this Python has no FTS5, which the search needs; use PostgreSQL")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).resolve().parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    if present == scripts.get_current_head():
        return
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise UserError(f"db: its tables are of version {present}, made by a newer zhiyin; install that, or another db")
    command.upgrade(config, "head")
