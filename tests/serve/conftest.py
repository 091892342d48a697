"""What the tests of the service share."""

from tests.serve.databases import (
    database_url,
    engine,
    postgresql,
    postgresql_engine,
    postgresql_url,
    sqlite_file,
)
from tests.serve.page import browser, page_site
from tests.serve.server import server

__all__ = [
    "browser",
    "database_url",
    "engine",
    "page_site",
    "postgresql",
    "postgresql_engine",
    "postgresql_url",
    "server",
    "sqlite_file",
]
