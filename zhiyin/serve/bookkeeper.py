"""The database, asked in one thread: what waits there is one transaction, and the disk is waited for once.

Who asks is answered when the transaction is kept, not before: what was promised outlives a power cut.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

from zhiyin.serve.database import Unavailable
from zhiyin.serve.job import OPEN, Job
from zhiyin.serve.jobs import Jobs

AT_ONCE = 64  # changes of one transaction
PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Bookkeeper:
    """Keeps in the database what happens to jobs; and their journals as long as they are open."""

    def __init__(self, jobs: Jobs, journals: Path) -> None:
        """Take the jobs, and the folder of journals."""
        self._jobs, self._journals = jobs, journals
        self._thread = ThreadPoolExecutor(1, "bookkeeper")
        self._waiting: list[_Question] = []
        self._work: asyncio.Task[None] | None = None

    def journal(self, id: str) -> Path:
        """The journal of a job."""
        return self._journals / f"{id}.jsonl"

    async def once(self, do: Callable[..., T], *args: Any) -> T:
        """Call something that asks or changes the database, and may be called again if a change beside it fails.

        Raises:
            Unavailable: the database cannot do it now; nothing was changed.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Question(partial(do, *args), answer))
        if self._work is None:
            self._work = asyncio.create_task(self._answer())
        found: T = await answer
        return found

    async def ask(self, do: Callable[..., T], *args: Any) -> T:
        """The same until the database answers: a disk that is full for a while must not cost what was heard."""
        for pause_s in chain(PAUSES_S, repeat(PAUSES_S[-1])):
            try:
                return await self.once(do, *args)
            except Unavailable as error:
                _log.error("the database takes no change (%s); it is tried again in %.1f s", error, pause_s)
                await asyncio.sleep(pause_s)
        raise AssertionError

    async def close(self, id: str, change: Callable[[], object]) -> Job | None:
        """Make a change that may end a job; returns the job if it is open no more."""
        return await self.ask(self._close, id, change)

    async def stop(self, open_ids: Sequence[str] = ()) -> None:
        """Queue these again and end the thread."""
        with contextlib.suppress(Unavailable):  # then they are taken up as jobs that were running
            for id in open_ids:
                await self.once(partial(self._jobs.requeue, id, attempt=False))
        await asyncio.to_thread(self._thread.shutdown)

    async def _answer(self) -> None:
        """Do what waits; what comes meanwhile waits for the next time."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            asked, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            try:
                outcomes = await loop.run_in_executor(self._thread, self._all, [one.do for one in asked])
            except RuntimeError as error:  # the thread was ended
                outcomes = [error] * len(asked)
            for one, outcome in zip(asked, outcomes, strict=True):
                one.settle(outcome)
        self._work = None

    def _all(self, dos: Sequence[Callable[[], Any]]) -> list[Any]:
        """All as one; where that fails, each by itself, so that nobody pays for another's."""
        if len(dos) > 1:
            try:
                with self._jobs.together():
                    return [do() for do in dos]
            except Unavailable as error:
                if error.reason != "full":  # there may be room for some of them
                    return [error] * len(dos)
            except Exception:
                _log.exception("%d changes of the database failed together; each is made by itself", len(dos))
        return [_outcome(do) for do in dos]

    def _close(self, id: str, change: Callable[[], object]) -> Job | None:
        change()
        job = self._jobs.get(id, None)
        if job is None or job.state in OPEN:
            return None
        self.journal(id).unlink(missing_ok=True)  # who is killed before the change is kept hears it from the beginning
        return job


@dataclass(frozen=True)
class _Question:
    """What to call, and who waits for what it returns."""

    do: Callable[[], Any]
    answer: "asyncio.Future[Any]"

    def settle(self, outcome: Any) -> None:
        if self.answer.done():  # nobody waits any more
            return
        if isinstance(outcome, BaseException):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


def _outcome(do: Callable[[], Any]) -> Any:
    """What a call returns or raises."""
    try:
        return do()
    except Exception as error:
        return error
