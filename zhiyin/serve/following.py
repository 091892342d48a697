"""What happens to a job, for those who look on: its state, how far it is, its segments."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from zhiyin.serve.job import Job

Event = dict[str, Any]


STORE_EVERY_S = 5.0


class Following:
    """One open job and who follows it; used in the event loop alone.

    Attributes:
        ended: the job when it is open no more; None when the service stops before.
        segments: heard so far.
    """

    def __init__(self, state: str, duration_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Job | None] = self._loop.create_future()
        self.segments: list[dict[str, Any]] = []
        self._state = state
        self._stored_s = self._loop.time()
        self._until_s, self._duration_s = 0.0, duration_s
        self._queues: set[asyncio.Queue[Event | None]] = set()

    def turn(self, state: str) -> None:
        """It is queued or running now; what was heard in an earlier attempt is told again."""
        if state != self._state:
            self._state, self.segments, self._until_s = state, [], 0.0
            self._tell(_state(state))

    def hear(self, segments: list[dict[str, Any]], until_s: float) -> bool:
        """More of it was heard; returns whether it is time to note in the database how far it is."""
        for segment in segments:
            self.segments.append(segment)
            self._tell({"event": "segment", "segment": segment})
        if until_s > self._until_s:
            self._until_s = until_s
            self._tell(self._progress())
        is_time = self._loop.time() - self._stored_s >= STORE_EVERY_S
        if is_time:
            self._stored_s = self._loop.time()
        return is_time

    def end(self, job: Job) -> None:
        """It has ended; the last of its segments were not told yet."""
        for segment in job.segments[len(self.segments) :]:
            self._tell({"event": "segment", "segment": segment})
        self._tell(last(job))
        self._close(job)

    def give_up(self) -> None:
        """The service stops; the job stays in the database."""
        self._close(None)

    async def events(self) -> AsyncGenerator[Event, None]:
        """All of it from the present state on."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        queue.put_nowait(_state(self._state))
        for segment in self.segments:
            queue.put_nowait({"event": "segment", "segment": segment})
        if self._until_s:
            queue.put_nowait(self._progress())
        if self.ended.done():
            if (job := self.ended.result()) is not None:
                queue.put_nowait(last(job))
            queue.put_nowait(None)
        self._queues.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)

    def _progress(self) -> Event:
        return {"event": "progress", "until_s": self._until_s, "duration_s": self._duration_s}

    def _close(self, job: Job | None) -> None:
        self._tell(None)
        if not self.ended.done():
            self.ended.set_result(job)

    def _tell(self, event: Event | None) -> None:
        for queue in self._queues:
            queue.put_nowait(event)


def last(job: Job) -> Event:
    """The event that ends a job's events."""
    return {**_state(job.state), "error": job.error} if job.state == "failed" else _state(job.state)


def _state(state: str) -> Event:
    return {"event": "state", "state": state}
