"""What may be asked of the history, and as a condition on its rows."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, Connection, and_, func, literal, or_

from zhiyin.errors import UserError
from zhiyin.serve import search
from zhiyin.serve.database import is_sqlite
from zhiyin.serve.job import MODES, STATES
from zhiyin.serve.schema import JOBS

Order = Literal["newest", "oldest"]
MAX_LIMIT = 500


@dataclass(frozen=True)
class Query:
    """What is looked for; what is empty does not matter.

    Attributes:
        text: words that must all be in the texts or the file name of a job, in any case and width; what stands in
            double quotes counts as one.
        user: whose jobs; None: everybody's.
        states: any of these.
        modes: any of these.
        tasks: all of these.
        language: its code; ``zh`` finds ``zh-CN`` too.
        model: its name.
        device: how its name begins, e.g. ``cpu``.
        since: accepted then or later; with its zone.
        until: accepted before.
        label: a label of the whole recording, ``happy`` or with its task ``ser=happy``.
        batch: the batch it came with.
        deleted: what was deleted instead of what was not.
        order: ``newest`` or ``oldest`` first.
        limit: rows of a page, 1 to `MAX_LIMIT`.
        after: `Page.next` of the page before.
    """

    text: str = ""
    user: str | None = None
    states: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    language: str = ""
    model: str = ""
    device: str = ""
    since: datetime | None = None
    until: datetime | None = None
    label: str = ""
    batch: str = ""
    deleted: bool = False
    order: Order = "newest"
    limit: int = 50
    after: str = ""


def conditions(connection: Connection, query: Query) -> ColumnElement[bool]:
    """Rows of `jobs` that a query finds, on all its pages.

    Raises:
        UserError: the query makes no sense.
    """
    _check(query)
    found: list[ColumnElement[bool]] = []
    found.append(JOBS.c.deleted_at.is_not(None) if query.deleted else JOBS.c.deleted_at.is_(None))
    if query.user is not None:
        found.append(JOBS.c.user == query.user)
    if query.states:
        found.append(JOBS.c.state.in_(query.states))
    if query.modes:
        found.append(JOBS.c.mode.in_(query.modes))
    if query.language:
        found.append(or_(JOBS.c.language == query.language, _begins(JOBS.c.language, query.language + "-")))
    if query.model:
        found.append(JOBS.c.model == query.model)
    if query.device:
        found.append(_begins(JOBS.c.device, query.device))
    if query.since is not None:
        found.append(JOBS.c.created_at >= query.since)
    if query.until is not None:
        found.append(JOBS.c.created_at < query.until)
    if query.batch:
        found.append(JOBS.c.batch == query.batch)
    tasks = literal(" ") + JOBS.c.tasks + " "
    found += [_holds(connection, tasks, f" {task} ") for task in query.tasks]
    if query.label:
        found.append(_holds(connection, JOBS.c.labels, _label(query.label)))
    return and_(*found, search.condition(connection, search.terms(query.text)))


def _label(label: str) -> str:
    """A label as it stands in the JSON of a row."""
    task, is_named, value = label.rpartition("=")
    found = f": {json.dumps(value, ensure_ascii=False)}"
    return json.dumps(task, ensure_ascii=False) + found if is_named else found


def _begins(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Not LIKE: in it case counts in one database and not in the other."""
    return func.substr(column, 1, len(text)) == text


def _holds(connection: Connection, column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    find = func.instr if is_sqlite(connection) else func.strpos
    return find(column, text) > 0


def _check(query: Query) -> None:
    if not 1 <= query.limit <= MAX_LIMIT:
        raise UserError(f"history: limit {query.limit}; give 1 to {MAX_LIMIT}, and the next page with `after`")
    if query.order not in ("newest", "oldest"):
        raise UserError(f"history: order '{query.order}' is not known; known: newest oldest")
    for kind, given, known in (("state", query.states, STATES), ("mode", query.modes, MODES)):
        unknown = [one for one in given if one not in known]
        if unknown:
            raise UserError(f"history: {kind} '{unknown[0]}' is not known; known: {' '.join(known)}")
    for name, moment in (("since", query.since), ("until", query.until)):
        if moment is not None and moment.tzinfo is None:
            raise UserError(f"history: {name} has no zone; write e.g. 2026-05-01T00:00:00+08:00")
