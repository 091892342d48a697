"""Lists of hotwords that users keep, by name."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, delete, insert, select

from zhiyin.errors import UserError
from zhiyin.serve.database import reading, writing
from zhiyin.serve.job import now
from zhiyin.serve.schema import HOTWORD_LISTS
from zhiyin.text import hotword_list

MAX_LISTS = 200  # of one user
MAX_NAME = 100
MAX_BYTES = 2 * 2**20

_BRIEF = tuple(column for column in HOTWORD_LISTS.columns if column.name not in ("user", "text"))


@dataclass(frozen=True)
class Listed:
    """A list of hotwords, without them."""

    name: str
    num_words: int
    num_rules: int
    updated_at: datetime


@dataclass(frozen=True)
class Kept(Listed):
    """A list of hotwords; `text` is what was saved, one entry in a line."""

    text: str

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries, as `jobs.Wish.hotwords` wants them."""
        lines = (line.strip() for line in self.text.splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))


class HotwordLists:
    """The lists of an installation; each belongs to one user."""

    def __init__(self, engine: Engine) -> None:
        """Take them from an engine of `database.open`."""
        self._engine = engine

    def save(self, user: str, name: str, text: str) -> Kept:
        """Keep a list; one of the same name is replaced.

        Args:
            user: whose it is.
            name: how it is called.
            text: an entry in each line, as `text.hotword_list` describes them.

        Raises:
            UserError: the name or an entry makes no sense, or there are too many.
        """
        name = _name(name)
        if len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise UserError(f"hotword list '{name}': more than {MAX_BYTES // 2**20} MB; keep the words that are said")
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        checked = hotword_list.read(text.split("\n"))  # entries: a text alone could name a file
        if not checked:
            raise UserError(f"hotword list '{name}' holds no words; write one per line")
        row = Kept(name, len(checked.words), len(checked.rules), now(), text)
        is_it = (HOTWORD_LISTS.c.user == user) & (HOTWORD_LISTS.c.name == name)
        with writing(self._engine) as connection:
            connection.execute(delete(HOTWORD_LISTS).where(is_it))
            others = connection.execute(select(HOTWORD_LISTS.c.name).where(HOTWORD_LISTS.c.user == user)).all()
            if len(others) >= MAX_LISTS:
                raise UserError(f"hotword lists: {len(others)} are kept, at most {MAX_LISTS}; delete one first")
            connection.execute(insert(HOTWORD_LISTS).values(user=user, **vars(row)))
        return row

    def list(self, user: str) -> tuple[Listed, ...]:
        """A user's lists, by name."""
        query = select(*_BRIEF).where(HOTWORD_LISTS.c.user == user).order_by(HOTWORD_LISTS.c.name)
        with reading(self._engine) as connection:
            return tuple(Listed(**row._mapping) for row in connection.execute(query))

    def get(self, user: str, name: str) -> Kept | None:
        """One of a user's lists."""
        query = select(*_BRIEF, HOTWORD_LISTS.c.text).where(
            HOTWORD_LISTS.c.user == user, HOTWORD_LISTS.c.name == name.strip()
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return Kept(**row._mapping) if row else None

    def delete(self, user: str, name: str) -> bool:
        """Remove one of a user's lists; whether it was there."""
        is_it = (HOTWORD_LISTS.c.user == user) & (HOTWORD_LISTS.c.name == name.strip())
        with writing(self._engine) as connection:
            return connection.execute(delete(HOTWORD_LISTS).where(is_it)).rowcount == 1


def _name(given: str) -> str:
    name = " ".join(given.split())
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise UserError(
            f"hotword list: the name {given[:40]!r} does not fit; give 1 to {MAX_NAME} printable characters"
        )
    return name
