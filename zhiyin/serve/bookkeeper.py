"""The database, for the dispatcher: asked in one thread, one question after the other, until it answers."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

from zhiyin.serve.database import Unavailable
from zhiyin.serve.job import OPEN, Job
from zhiyin.serve.jobs import Jobs

PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Bookkeeper:
    """Keeps in the database what happens to jobs; and their journals as long as they are open."""

    def __init__(self, jobs: Jobs, journals: Path) -> None:
        """Take the jobs, and the folder of journals."""
        self._jobs, self._journals = jobs, journals
        self._thread = ThreadPoolExecutor(1, "bookkeeper")

    def journal(self, id: str) -> Path:
        """The journal of a job."""
        return self._journals / f"{id}.jsonl"

    async def ask(self, do: Callable[..., T], *args: Any) -> T:
        """Call something until the database answers: a disk that is full for a while must not cost what was heard."""
        loop = asyncio.get_running_loop()
        for pause_s in chain(PAUSES_S, repeat(PAUSES_S[-1])):
            try:
                return await loop.run_in_executor(self._thread, partial(do, *args))
            except Unavailable as error:
                _log.error("the database takes no change (%s); it is tried again in %.1f s", error, pause_s)
                await asyncio.sleep(pause_s)
        raise AssertionError

    async def close(self, id: str, change: Callable[[], object]) -> Job | None:
        """Make a change that may end a job; returns the job if it is open no more."""
        return await self.ask(self._close, id, change)

    async def stop(self, open_ids: Sequence[str]) -> None:
        """Queue these again and end the thread."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(Unavailable):  # then they are taken up as jobs that were running
            for id in open_ids:
                await loop.run_in_executor(self._thread, partial(self._jobs.requeue, id, attempt=False))
        await asyncio.to_thread(self._thread.shutdown)

    def _close(self, id: str, change: Callable[[], object]) -> Job | None:
        change()
        job = self._jobs.get(id, None)
        if job is None or job.state in OPEN:
            return None
        self.journal(id).unlink(missing_ok=True)
        return job
