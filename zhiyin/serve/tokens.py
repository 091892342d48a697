"""Who may use the service: tokens, of which only hashes are kept, and the principal each one stands for.

A token has 192 random bits, so one SHA-256 is enough to keep it by: there is nothing to guess that a slow hash or a
salt would make harder. The secret is shown once, when it is made.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from sqlalchemy import Engine, func, insert, select, update

from zhiyin.errors import UserError
from zhiyin.serve.database import Unavailable, reading, writing
from zhiyin.serve.schema import TOKENS as table

PREFIX = "zy_"
ROLES = ("user", "admin")
FRESH_S = 1.0  # so long a token that was made or revoked by another process is not noticed
NOTED_S = 60.0  # how exactly last_used_at is known
_NAME = re.compile(r"[\w.@+-]{1,64}")


@dataclass(frozen=True)
class Principal:
    """Who asks: the name that owns what is made, what it may do, and by which token ("": without one)."""

    name: str
    role: str
    token_id: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether it may see and change what belongs to others and to the service."""
        return self.role == "admin"


@dataclass(frozen=True)
class Token:
    """What is known of a token; never its secret."""

    id: str
    name: str
    role: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class Tokens:
    """The table of tokens; safe between threads. `check` reads memory only, `refresh` asks the table."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._live: tuple[tuple[str, Principal], ...] = ()
        self._is_used, self._read_at = False, float("-inf")
        self._used: dict[str, datetime] = {}
        self._noted_at = float("-inf")

    def add(self, name: str, role: str = "user") -> str:
        """A new token of a user; the answer is its secret, which cannot be had again.

        Raises:
            UserError: a name or role that cannot be.
        """
        if not _NAME.fullmatch(name):
            raise UserError(f"token for {name!r}: a name has 1 to 64 letters, digits or any of . _ @ + -")
        if role not in ROLES:
            raise UserError(f"token for {name!r}: role '{role}' is not known; known: {' '.join(ROLES)}")
        secret = PREFIX + secrets.token_urlsafe(24)
        row = {"id": secrets.token_hex(6), "name": name, "role": role, "hash": _hash(secret), "created_at": _now()}
        with writing(self._engine) as connection:
            connection.execute(insert(table).values(row))
        self.refresh()
        return secret

    def list(self) -> tuple[Token, ...]:
        """Every token there ever was, oldest first."""
        columns = (table.c.id, table.c.name, table.c.role, table.c.created_at, table.c.last_used_at, table.c.revoked_at)
        with reading(self._engine) as connection:
            rows = connection.execute(select(*columns).order_by(table.c.created_at, table.c.id)).all()
        return tuple(Token(*row) for row in rows)

    def revoke(self, id: str) -> bool:
        """End a token and the sessions that were begun with it; False if there is no such live token."""
        wish = update(table).where(table.c.id == id, table.c.revoked_at.is_(None)).values(revoked_at=_now())
        with writing(self._engine) as connection:
            done = connection.execute(wish).rowcount == 1
        self.refresh()
        return done

    @property
    def is_fresh(self) -> bool:
        """Whether what is in memory is younger than `FRESH_S`."""
        return time.monotonic() - self._read_at < FRESH_S

    @property
    def is_used(self) -> bool:
        """Whether a token was ever made here. From then on everybody needs one, also when all were revoked."""
        return self._is_used

    @property
    def has_live(self) -> bool:
        """Whether anybody has a token that works."""
        return bool(self._live)

    def refresh(self) -> None:
        """Read the table anew.

        Raises:
            Unavailable: the database does not answer.
        """
        live = select(table.c.hash, table.c.name, table.c.role, table.c.id).where(table.c.revoked_at.is_(None))
        with reading(self._engine) as connection:
            rows = connection.execute(live).all()
            is_used = bool(rows) or connection.execute(select(func.count()).select_from(table)).scalar_one() > 0
        with self._lock:
            self._live = tuple((row[0], Principal(row[1], row[2], row[3])) for row in rows)
            self._is_used, self._read_at = is_used, time.monotonic()

    @property
    def has_news(self) -> bool:
        """Whether `note` has something to write."""
        return bool(self._used) and time.monotonic() - self._noted_at > NOTED_S

    def note(self) -> None:
        """Write down when tokens were last used; where the database cannot now, the next time."""
        with self._lock:
            used, self._used, self._noted_at = self._used, {}, time.monotonic()
        try:
            with writing(self._engine) as connection:
                for id, when in used.items():
                    connection.execute(update(table).where(table.c.id == id).values(last_used_at=when))
        except Unavailable:
            with self._lock:
                self._used = used | self._used

    def check(self, secret: str) -> Principal | None:
        """Whose live token this is. Every hash is compared, each in constant time."""
        digest, found = _hash(secret), None
        for known, principal in self._live:
            if hmac.compare_digest(known, digest):
                found = principal
        if found is not None:
            self._touch(found.token_id)
        return found

    def of_session(self, token_id: str) -> Principal | None:
        """Whose session this is: its token must still be live."""
        for _, principal in self._live:
            if principal.token_id == token_id:
                self._touch(token_id)
                return principal
        return None

    def _touch(self, id: str) -> None:
        with self._lock:
            self._used[id] = _now()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> datetime:
    return datetime.now(timezone.utc)
