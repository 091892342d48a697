"""Who does what, and when: jobs from the database to the workers, their results back into it; live streams.

Lives in the event loop of the server and never computes or waits there: the database is asked in a thread of its own,
one question after the other. What is only here can be lost at any time; what was accepted stands in the database, and
a service that starts again goes on with it.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.live.session import Settings as LiveSettings
from zhiyin.result import Result
from zhiyin.serve.bookkeeper import Bookkeeper
from zhiyin.serve.child import Child, WorkerState
from zhiyin.serve.crew import Crew
from zhiyin.serve.following import Event, Following, last
from zhiyin.serve.job import OPEN, Job, Wish, now
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.live_stream import LiveStream
from zhiyin.serve.observer import Observer, Unobserved
from zhiyin.serve.settings import Settings, folders
from zhiyin.serve.waiting import Waiting
from zhiyin.serve.worker_runs import FAULT

__all__ = ["FAULT", "LOST", "Busy", "Dispatcher", "LiveStream", "Observer", "Unobserved", "WorkerState"]

LOST = "the worker"  # errors of jobs begin with it where the process or its device failed
JOURNAL_FROM_S = 10.0  # of audio; what is shorter is heard again in less time than it takes to keep a journal of each
READY_S = 60.0  # that a live stream waits for a model that is being loaded
_log = logging.getLogger(__name__)


class Busy(UserError):
    """There are as many live streams as are allowed."""


class Dispatcher:
    """Everything that is asked of the workers."""

    def __init__(
        self, settings: Settings, jobs: Jobs, observe: Observer | None = None, books: Bookkeeper | None = None
    ) -> None:
        """Nothing runs before `start`; `books` are those of whoever else changes the same jobs."""
        self._settings, self._jobs, self._observe = settings, jobs, observe or Unobserved()
        self._folders = folders(settings)
        self._crew = Crew(settings, on_message=self._take, on_lost=self._lost)
        self._books = books or Bookkeeper(jobs, self._folders.journals)
        self._waiting = Waiting()
        self._suspects: deque[Job] = deque()  # at their last attempt
        self._followings: dict[str, Following] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take up what was left, and start the workers; their models are loaded later."""
        if not self._settings.keep_audio:  # what a crash left between the two steps of `_drop`
            for job in await self._books.ask(self._jobs.understood_with_audio):
                await self._books.ask(self._drop, job)
        for job in await self._books.ask(self._jobs.unfinished):
            await self._take_up(job)
        self._crew.start()

    async def stop(self) -> None:
        """Let what runs end, for a while; what does not is queued again, in the database."""
        self._crew.is_held = True
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._settings.drain_s
        while loop.time() < ends_s and (self._crew.is_busy or self._tasks):
            await asyncio.sleep(0.02)
        await self._crew.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for child in self._crew.children:
            for stream in child.streams.values():
                stream.lose("the service is being stopped")
        for following in self._followings.values():
            following.give_up()
        await self._books.stop([id for child in self._crew.children for id in child.jobs])
        self._crew.children.clear()

    def submit(self, job: Job) -> None:
        """Take a job that stands in the database now."""
        self._follow(job)
        self._enqueue(job)

    async def wait(self, id: str) -> Job:
        """The job when it is done, failed or cancelled.

        Raises:
            UserError: there is no such job, or the service is being stopped.
        """
        found = await self._find(id)
        job = found if isinstance(found, Job) else await asyncio.shield(found.ended)
        if job is None:
            raise UserError(f"job {id}: the service is being stopped; it goes on when the service runs again")
        return job

    async def events(self, id: str) -> AsyncGenerator[Event, None]:
        """What happens to a job, from its present state to its last one.

        ``{"event": "state", "state": ..}``, with ``"error"`` where it failed; ``{"event": "progress", "until_s": ..,
        "duration_s": ..}``; ``{"event": "segment", "segment": {..}}``. Of a running job the segments so far come first.

        Raises:
            UserError: there is no such job.
        """
        found = await self._find(id)
        if isinstance(found, Job):
            yield last(found)
            return
        async for event in found.events():
            yield event

    async def cancel(self, id: str) -> bool:
        """End a job that waits or runs; False when it is none of these."""
        if not await self._books.ask(self._jobs.cancel, id):
            return False
        self._waiting.remove(id)
        self._suspects = deque(job for job in self._suspects if job.id != id)
        for child in self._crew.children:
            if id in child.jobs:  # its place is free when the worker says so
                child.send({"do": "cancel", "id": id})
        await self._settle(id, lambda: None)
        return True

    async def open_live(self, wish: Wish, settings: LiveSettings | None = None) -> LiveStream:
        """A live stream, on the worker with the least to do.

        Raises:
            Busy: there are as many as are allowed.
            UserError: the model cannot do what is asked, or there is none.
        """
        most = self._settings.limits.live_streams
        if sum(len(child.streams) for child in self._crew.children) >= most:
            raise Busy(f"{most} live streams are open, the most this service takes; try again later")
        self._crew.wake()
        await self._crew.until_ready(READY_S)
        child = min(self._crew.ready, key=lambda one: (len(one.streams), len(one.jobs)))
        stream = LiveStream(uuid.uuid4().hex, child)
        child.streams[stream.id] = stream
        asked = {"tasks": list(wish.tasks), "options": _options(wish)}
        child.send({"do": "live", "id": stream.id, **asked, "settings": None if settings is None else asdict(settings)})
        if refusal := await stream.opened:
            raise UserError(refusal)
        return stream

    def workers(self) -> list[WorkerState]:
        """The workers as they are now."""
        return self._crew.states()

    @property
    def is_ready(self) -> bool:
        """Whether work that comes now is begun soon."""
        return not self._crew.is_held and any(one.state in ("ready", "unloaded") for one in self.workers())

    @property
    def problem(self) -> str:
        """Why nothing can be done at present, one line; empty while something can, or will soon."""
        return self._crew.problem

    async def load(self, model: str) -> None:
        """Change to another model, on all workers, when what is being worked on is done.

        Raises:
            UserError: it does not load (the one before is loaded again), or the work does not end soon.
        """
        try:
            await self._crew.load(model)
        finally:
            self._hand_out()

    async def unload(self) -> None:
        """Free the memory of the models; the next job loads them again. Errors as for `load`."""
        await self._crew.order("unload")
        self._hand_out()

    async def reset(self) -> None:
        """Free everything on the devices and load the models anew. Errors as for `load`."""
        try:
            await self._crew.order("reset")
        finally:
            self._hand_out()

    async def _take_up(self, job: Job) -> None:
        """A job of an earlier run of the service."""
        if job.state == "running":
            if job.attempts >= self._settings.attempts:
                await self._books.ask(self._jobs.fail, job.id, _given_up(job, "with the service"))
                return
            await self._books.ask(self._jobs.requeue, job.id)
        self.submit(replace(job, state="queued"))

    def _follow(self, job: Job) -> None:
        if job.id not in self._followings:
            self._followings[job.id] = Following("queued", job.duration_s)

    def _enqueue(self, job: Job) -> None:
        if 0 < self._settings.attempts - 1 <= job.attempts:
            self._suspects.append(job)
        else:
            self._waiting.add(job)
        self._hand_out()

    def _hand_out(self) -> None:
        """Begin what can be begun."""
        if self._waiting or self._suspects:
            self._crew.wake()
        self._hand_out_suspects()
        while self._waiting:
            child = min(self._crew.ready, key=lambda one: (len(one.jobs), len(one.streams)), default=None)
            job = None if child is None else self._waiting.take(self._may(len(child.jobs)))
            if child is None or job is None:
                break
            self._begin(child, job)
        self._observe.queue(len(self._waiting) + len(self._suspects))

    def _may(self, busy: int) -> Callable[[Job], bool]:
        """Who may begin a job on a worker that is so busy.

        Behind the last slot, up to twice as many, it is those who have nothing running: long recordings of one user
        shut nobody out.
        """
        running = {job.user for child in self._crew.children for job in child.jobs.values()}
        slots = self._settings.slots
        return lambda job: busy < slots or (busy < 2 * slots and job.user not in running)

    def _hand_out_suspects(self) -> None:
        """Jobs under which workers have ended: each alone, so that it can only bring itself to fail."""
        for child in self._crew.children:
            child.is_alone = child.is_alone and bool(child.jobs or self._suspects)
        if self._suspects and not any(child.is_alone for child in self._crew.children) and self._crew.ready:
            min(self._crew.ready, key=lambda one: len(one.jobs)).is_alone = True
        for child in self._crew.children:
            if child.is_alone and child.has_model and not child.jobs and self._suspects and not self._crew.is_held:
                self._begin(child, self._suspects.popleft())

    def _begin(self, child: Child, job: Job) -> None:
        child.jobs[job.id] = job
        self._do(job.id, self._claim(child, job))

    async def _claim(self, child: Child, job: Job) -> None:
        attempts = await self._books.ask(self._jobs.claim, job.id)
        if child.jobs.get(job.id) is not job:  # the worker has ended meanwhile
            if attempts:
                await self._books.ask(self._jobs.requeue, job.id)
                self._enqueue(job)
            return
        if not attempts:  # it was cancelled
            del child.jobs[job.id]
            self._hand_out()
            return
        child.jobs[job.id] = replace(job, state="running", attempts=attempts)
        if job.id in self._followings:
            self._followings[job.id].turn("running")
        order = {
            "owner": job.user,
            "audio": str(self._folders.audio / job.audio),
            "name": job.file_name,
            "journal": "" if 0 < job.duration_s < JOURNAL_FROM_S else str(self._books.journal(job.id)),
            "tasks": list(job.wish.tasks),
            "options": _options(job.wish),
            "longest_s": self._settings.limits.audio_s,
        }
        child.send({"do": "job", "id": job.id, **order})

    def _take(self, child: Child, message: dict[str, Any]) -> None:
        """What a worker says."""
        for size in message.get("batches", ()):
            self._observe.batch(size)
        what, id = message["say"], message.get("id", "")
        if what == "state":
            self._hand_out()
        elif what == "progress" and id in child.jobs:
            self._heard(child.jobs[id], message["segments"], message["until_s"])
        elif what == "end" and id in child.jobs:
            self._do(id, self._ended(child, child.jobs.pop(id), message))
        elif id in child.streams:
            stream = child.streams[id]
            if what in ("closed", "refused"):
                del child.streams[id]
            stream.take(message)

    def _heard(self, job: Job, segments: list[dict[str, Any]], until_s: float) -> None:
        following = self._followings.get(job.id)
        if following is None:
            return
        if segments and not following.segments:
            self._observe.first_text("job", (now() - job.created_at).total_seconds())
        if following.hear(segments, until_s):
            self._do("", self._books.ask(self._jobs.progress, job.id, until_s))

    async def _ended(self, child: Child, job: Job, message: dict[str, Any]) -> None:
        """A worker has ended a job, in whatever way."""
        self._hand_out()
        if "lost" in message:
            await self._again(job, message["lost"])
        elif "unloaded" in message:
            await self._again(job, "", counts=False)
        else:
            child.succeeded()
            ended = await self._books.close(job.id, partial(self._keep, job, message, child.model_hash))
            if ended is not None and ended.state == "done" and not self._settings.keep_audio:
                ended = await self._books.ask(self._drop, ended)  # only now that what was heard is kept
            if ended is not None:
                self._told(ended)

    def _drop(self, job: Job) -> Job:
        """Remove a recording that was understood and is not to be kept."""
        if job.audio:
            (self._folders.audio / job.audio).unlink(missing_ok=True)
            self._jobs.forget_audio(job.id)
        return replace(job, audio="")

    def _keep(self, job: Job, message: dict[str, Any], model_hash: str) -> None:
        """What came of a job, into the database; nothing of a cancelled one."""
        if "error" in message:
            self._jobs.fail(job.id, message["error"])
        elif "result" in message:
            found = build(Result, message["result"], f"result of job {job.id}")
            self._jobs.finish(job.id, found, model_hash)

    def _lost(self, child: Child, why: str) -> None:
        """The process of a worker has ended."""
        jobs, child.jobs = child.jobs, {}
        streams, child.streams = child.streams, {}
        child.is_alone = False
        for stream in streams.values():
            stream.lose(why)
        for job in jobs.values():
            if job.state == "running":  # the others are still being claimed
                self._do(job.id, self._again(job, why))

    async def _again(self, job: Job, why: str, *, counts: bool = True) -> None:
        """Begin a job once more, unless it was begun often enough."""
        if counts and job.attempts >= self._settings.attempts:
            await self._settle(job.id, partial(self._jobs.fail, job.id, _given_up(job, why)))
        elif await self._books.ask(partial(self._jobs.requeue, job.id, attempt=counts)):
            self._followings[job.id].turn("queued")
            self._enqueue(replace(job, state="queued"))

    async def _settle(self, id: str, change: Callable[[], object]) -> None:
        job = await self._books.close(id, change)
        if job is not None:
            self._told(job)

    def _told(self, job: Job) -> None:
        """Tell those who follow a job that it has ended."""
        following = self._followings.pop(job.id, None)
        if following is not None:
            if job.segments and not following.segments:
                self._observe.first_text("job", (now() - job.created_at).total_seconds())
            following.end(job)
            self._observe.job_done(job)

    async def _find(self, id: str) -> "Following | Job":
        """Who tells of an open job, or the job when it is open no more."""
        if id in self._followings:
            return self._followings[id]
        job = await self._books.ask(self._jobs.get, id, None)
        if job is None:
            raise UserError(f"there is no job {id}")
        if job.state in OPEN and id not in self._followings:
            self._follow(job)  # of another process
        return self._followings[id] if job.state in OPEN else job

    def _do(self, id: str, work: Coroutine[Any, Any, Any]) -> None:
        """Something for a job that takes its time; where it goes wrong the job fails, and nobody waits for ever."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, id))

    def _done(self, id: str, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        _log.error("job %s: a fault in the dispatcher", id, exc_info=error)
        for child in self._crew.children:
            child.jobs.pop(id, None)
        said = f"{FAULT}: {type(error).__name__}; see the log of the service"
        if id:
            self._do("", self._settle(id, partial(self._jobs.fail, id, said)))


def _options(wish: Wish) -> dict[str, Any]:
    """For `worker_runs.options_of`."""
    return {**asdict(replace(wish.options(), hotwords=())), "hotwords": list(wish.hotwords)}


def _given_up(job: Job, why: str) -> str:
    return f"{LOST} ended {job.attempts} times while this recording was understood ({why}); it is not tried again"
