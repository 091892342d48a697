"""Search by pieces of text of one to three characters, the same in Chinese and English and in both databases.

Chinese has no spaces between words, and most of its words are two characters long: shorter than the pieces of
SQLite's and PostgreSQL's own trigram indexes, and PostgreSQL's drops Chinese where its locale is C. So the pieces are
cut here, and each is a number. SQLite keeps them in an FTS5 table, PostgreSQL in an array with a GIN index. Every row
with all pieces of a term is then compared with the whole term.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    true,
    update,
)

from zhiyin.errors import UserError
from zhiyin.serve.database import is_sqlite
from zhiyin.serve.job import Job
from zhiyin.serve.schema import JOB_GRAMS, JOB_WORDS, JOBS, storable

MAX_CHARS = 200
_TERM = re.compile(r'"([^"]*)"|(\S+)')
_SIZES = (1, 2, 3)
_APART = 260  # numbers of 8 bytes: PostgreSQL keeps what is larger than 2 kB apart from the rows

_ROW = JOB_WORDS.c.number == bindparam("row")  # statements that every job needs are built once
_INSERT_WORDS = insert(JOB_WORDS)
_NEW_WORDS = update(JOB_WORDS).where(_ROW)
_OLD_WORDS = select(JOB_WORDS.c.words).where(_ROW)
_ADD_GRAMS = text("INSERT INTO job_grams (rowid, grams) VALUES (:number, :grams)")
_FORGET_GRAMS = text("INSERT INTO job_grams (job_grams, rowid, grams) VALUES ('delete', :number, :grams)")


def normalise(written: str) -> str:
    """A text as it is compared: width and case do not count, nor what kind of space there is."""
    return " ".join(unicodedata.normalize("NFKC", storable(written)).casefold().split())


def terms(query: str) -> tuple[str, ...]:
    """What must all be found: words, and what stands in double quotes.

    Raises:
        UserError: the query is too long.
    """
    if len(query) > MAX_CHARS:
        raise UserError(f"search: {len(query)} characters; give at most {MAX_CHARS}")
    found = (normalise(quoted or plain) for quoted, plain in _TERM.findall(query))
    return tuple(term for term in dict.fromkeys(found) if term)


def grams(words: str) -> frozenset[int]:
    """All pieces of one to three characters."""
    return frozenset(_code(words[i : i + size]) for size in _SIZES for i in range(len(words) - size + 1))


def needed(term: str) -> frozenset[int]:
    """The fewest pieces that say the most: those of three characters, or the term itself."""
    size = min(len(term), _SIZES[-1])
    return frozenset(_code(term[i : i + size]) for i in range(len(term) - size + 1))


def array(words: str) -> list[int]:
    """All pieces as PostgreSQL keeps them.

    The rows an index finds are looked up one by one. With small arrays in them they would be a hundred times as many
    pages, so an array is made long enough, by repeating a piece, to be kept apart.
    """
    pieces = sorted(grams(words))
    return pieces + pieces[:1] * (_APART - len(pieces))


def _code(piece: str) -> int:
    """Up to three characters as one number; a character has 21 bits and is never 0 here."""
    found = 0
    for char in piece:
        found = found << 21 | ord(char)
    return found


def texts_of(job: Job) -> tuple[str | None, ...]:
    """What a job is found by."""
    return (job.file_name, job.text, job.written, job.edited, job.answer, job.translation)


def add(connection: Connection, number: int, texts: Sequence[str | None]) -> None:
    """Make a job findable by its texts."""
    words = _words(texts)
    connection.execute(_INSERT_WORDS, {"number": number, "words": words})
    _add_grams(connection, number, words)


def change(connection: Connection, number: int, texts: Sequence[str | None]) -> None:
    """Make a job that was added findable by other texts."""
    words = _words(texts)
    old = connection.execute(_OLD_WORDS, {"row": number}).scalar_one()
    if old == words:
        return
    connection.execute(_NEW_WORDS, {"row": number, "words": words})
    if is_sqlite(connection):
        _forget_grams(connection, number, old)
    else:
        connection.execute(delete(JOB_GRAMS).where(JOB_GRAMS.c.number == number))
    _add_grams(connection, number, words)


def forget(connection: Connection, numbers: Sequence[int]) -> None:
    """Take jobs out of the index that are about to be removed; their rows here go with those of `jobs`."""
    if is_sqlite(connection):
        rows = connection.execute(select(JOB_WORDS).where(JOB_WORDS.c.number.in_(numbers)))
        for number, words in rows.all():
            _forget_grams(connection, number, words)


def condition(connection: Connection, found: Sequence[str]) -> ColumnElement[bool]:
    """Rows of `jobs` with all these terms (from `terms`)."""
    if not found:
        return true()
    wanted = sorted({gram for term in found for gram in needed(term)})
    if is_sqlite(connection):
        match = text("SELECT rowid FROM job_grams WHERE job_grams MATCH :grams").bindparams(grams=_tokens(wanted))
        has: ColumnElement[bool] = JOBS.c.number.in_(match.columns(JOBS.c.number).scalar_subquery())
    else:
        # left to itself, PostgreSQL likes to compare the arrays row by row, which takes seconds
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = select(JOB_GRAMS.c.number).where(JOB_GRAMS.c.grams.contains(wanted)).cte("found")
        has = JOBS.c.number == rows.prefix_with("MATERIALIZED").c.number
    find = func.instr if is_sqlite(connection) else func.strpos
    long = [term for term in found if len(term) > _SIZES[-1]]  # what is shorter is a piece itself
    return and_(has, *(find(_words_of_job(), term) > 0 for term in long))


def _words_of_job() -> ScalarSelect[str]:
    return select(JOB_WORDS.c.words).where(JOB_WORDS.c.number == JOBS.c.number).scalar_subquery()


def _words(texts: Sequence[str | None]) -> str:
    """The texts as one, with line breaks between them, which no term has: nothing is found across two of them."""
    return "\n".join(dict.fromkeys(words for one in texts if one and (words := normalise(one))))


def _tokens(pieces: Iterable[int]) -> str:
    """Numbers as words that the tokenizer of SQLite takes as they are."""
    return " ".join(f"{piece:x}" for piece in sorted(pieces))


def _add_grams(connection: Connection, number: int, words: str) -> None:
    if is_sqlite(connection):
        connection.execute(_ADD_GRAMS, {"number": number, "grams": _tokens(grams(words))})
    else:
        connection.execute(insert(JOB_GRAMS).values(number=number, grams=array(words)))


def _forget_grams(connection: Connection, number: int, words: str) -> None:
    """FTS5 keeps no copy of what it was given: it must be told again what to take out."""
    connection.execute(_FORGET_GRAMS, {"number": number, "grams": _tokens(grams(words))})
