"""The bookkeeper: what waits is one transaction, nobody is answered before it is kept, and nobody pays for another."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.serve.rows import new
from zhiyin.serve import database
from zhiyin.serve.bookkeeper import Bookkeeper
from zhiyin.serve.database import Unavailable, writing
from zhiyin.serve.jobs import Jobs


def kept(engine: Engine) -> list[str]:
    """The states of all jobs, as another process sees them."""
    other = database.open(engine.url)
    try:
        return [job.state for job in reversed(Jobs(other).recent(None))]
    finally:
        other.dispose()


def keeping(engine: Engine, folder: Path, do: Callable[[Bookkeeper, Jobs], Coroutine[Any, Any, None]]) -> None:
    """Do something with a bookkeeper, and end it."""

    async def main() -> None:
        jobs = Jobs(engine)
        books = Bookkeeper(jobs, folder)
        try:
            await do(books, jobs)
        finally:
            await books.stop()

    asyncio.run(main())


def holding(gate: threading.Event) -> Callable[[], None]:
    """What the thread does while others come."""

    def hold() -> None:
        assert gate.wait(20)

    return hold


def test_what_waits_is_one_transaction_and_is_kept_before_anybody_is_answered(engine: Engine, tmp_path: Path) -> None:
    commits: list[object] = []

    def note(connection: object) -> None:
        commits.append(connection)

    seen: list[list[str]] = []
    event.listen(engine, "commit", note)

    async def do(books: Bookkeeper, jobs: Jobs) -> None:
        ids, gate = [new(jobs).id for _ in range(5)], threading.Event()
        first = asyncio.ensure_future(books.once(holding(gate)))
        await asyncio.sleep(0.05)
        commits.clear()
        rest = [asyncio.ensure_future(books.once(jobs.claim, id)) for id in ids]
        rest[-1].add_done_callback(lambda _: seen.append(kept(engine)))
        await asyncio.sleep(0.05)
        gate.set()
        assert [await one for one in rest] == [1] * 5 and len(commits) == 1
        await first

    keeping(engine, tmp_path, do)
    event.remove(engine, "commit", note)
    assert seen == [["running"] * 5]


def test_one_that_fails_costs_the_others_nothing(engine: Engine, tmp_path: Path) -> None:
    async def do(books: Bookkeeper, jobs: Jobs) -> None:
        ids, gate = [new(jobs).id for _ in range(3)], threading.Event()

        def broken() -> None:
            assert jobs.cancel(ids[1])
            raise ValueError("a bug of ours")

        asked: list[Callable[[], Any]] = [lambda: jobs.claim(ids[0]), broken, lambda: jobs.claim(ids[2])]
        first = asyncio.ensure_future(books.once(holding(gate)))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(books.once(one)) for one in asked]
        await asyncio.sleep(0.05)
        gate.set()
        found = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert found[1] == found[3] == 1 and isinstance(found[2], ValueError)
        assert kept(engine) == ["running", "cancelled", "running"]  # its own change was kept before it failed

    keeping(engine, tmp_path, do)


def test_what_finds_no_room_does_not_hold_up_what_does(engine: Engine, tmp_path: Path) -> None:
    async def do(books: Bookkeeper, jobs: Jobs) -> None:
        id, gate = new(jobs).id, threading.Event()

        def large() -> None:
            raise Unavailable("full", "the disk is full")

        first = asyncio.ensure_future(books.once(holding(gate)))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(books.once(one)) for one in (large, lambda: jobs.claim(id))]
        await asyncio.sleep(0.05)
        gate.set()
        found = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert isinstance(found[1], Unavailable) and found[2] == 1 and kept(engine) == ["running"]

    keeping(engine, tmp_path, do)


def test_changes_together_are_seen_within_and_undone_whole(engine: Engine) -> None:
    jobs = Jobs(engine)
    ids = [new(jobs).id for _ in range(2)]
    with pytest.raises(ValueError, match="a bug"), jobs.together():
        assert jobs.claim(ids[0]) == 1 and jobs.cancel(ids[1])
        states = [job.state for id in ids if (job := jobs.get(id, None))]
        assert states == ["running", "cancelled"]
        raise ValueError("a bug")
    assert kept(engine) == ["queued", "queued"] and jobs.claim(ids[0]) == 1
    with writing(engine):
        pass  # the right to write was given back
