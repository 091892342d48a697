"""The application with a model that says what a test tells it to, served on a port of this process.

The dispatcher here calls the pipeline in a thread; everything before and behind it is the real service. What a real
worker does is tested with the fixture `server`.
"""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tests.fake_model import FakeBackend
from zhiyin import Model, pipeline
from zhiyin.errors import UserError
from zhiyin.serve import app as application
from zhiyin.serve import database, settings
from zhiyin.serve.child import WorkerState
from zhiyin.serve.dispatch import FAULT
from zhiyin.serve.job import Job
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.tokens import Tokens


class Follow:
    """The events of a job so far, and whoever waits for more."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self.told: list[dict[str, Any]] = [{"event": "state", "state": "queued"}]
        self.more = asyncio.Event()

    def tell(self, event: dict[str, Any]) -> None:
        self.told.append(event)
        self.more.set()

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        at = 0
        while True:
            for event in self.told[at:]:
                yield event
                at += 1
            if at == len(self.told) and self.ended.done():
                return
            self.more.clear()
            if at == len(self.told):
                await self.more.wait()


class Scripted:
    """A dispatcher with one model and no other process."""

    def __init__(self, jobs: Jobs, audio: Path, model: Model) -> None:
        self.jobs, self.audio, self.model = jobs, audio, model
        self.problem = ""
        self.cancelled: list[str] = []
        self.admin: list[str] = []
        self.fault = ""  # what every job fails of
        self.let_go = threading.Event()  # jobs wait for it before their last word
        self.let_go.set()
        self._following: dict[str, Follow] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        self.let_go.set()
        await asyncio.gather(*self._tasks)

    def submit(self, job: Job) -> None:
        self._following[job.id] = Follow()
        task = asyncio.ensure_future(asyncio.to_thread(self._work, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self, id: str) -> Job:
        return await asyncio.shield(self._following[id].ended)

    async def events(self, id: str) -> AsyncGenerator[dict[str, Any], None]:
        async for event in self._following[id].events():
            yield event

    async def cancel(self, id: str) -> bool:
        self.cancelled.append(id)
        if not await asyncio.to_thread(self.jobs.cancel, id):
            return False
        self._end(id)
        return True

    def workers(self) -> list[WorkerState]:
        spec = self.model.spec
        return [WorkerState("cpu", 1, model=spec.name, tasks=spec.tasks, state="ready", spec=spec)]

    @property
    def is_ready(self) -> bool:
        return not self.problem

    async def load(self, model: str) -> None:
        self.admin.append(f"load {model}")

    async def unload(self) -> None:
        self.admin.append("unload")

    async def reset(self) -> None:
        self.admin.append("reset")

    def _work(self, job: Job) -> None:
        following = self._following[job.id]

        def hear(segment: Any) -> None:
            record = {**vars(segment)}
            record["turns"] = [vars(turn) for turn in segment.turns]
            record["words"] = [vars(word) for word in segment.words]
            record["written_spans"] = [vars(span) for span in segment.written_spans]
            record["corrections"] = [vars(one) for one in segment.corrections]
            self._loop.call_soon_threadsafe(following.tell, {"event": "segment", "segment": record})

        self.jobs.claim(job.id)
        try:
            if self.fault:
                raise UserError(self.fault)
            loaded = self.model.loaded
            assert isinstance(loaded.backend, FakeBackend)
            tasks = job.wish.tasks or None
            options = job.wish.options()
            result = pipeline.understand(self.audio / job.audio, tasks, model=loaded, options=options, on_segment=hear)
            self.let_go.wait(30)
            self.jobs.finish(job.id, result, "hash")
        except UserError as error:
            self.jobs.fail(job.id, str(error))
        except Exception as error:
            self.jobs.fail(job.id, f"{FAULT} ({error!r})")
        self._loop.call_soon_threadsafe(self._end, job.id)

    def _end(self, id: str) -> None:
        job = self.jobs.get(id, None)
        assert job is not None
        following = self._following[id]
        if not following.ended.done():  # a cancelled job ends twice
            following.ended.set_result(job)
            following.tell({"event": "state", "state": job.state, "error": job.error})


class Served:
    """A running application: where it is, and its scripted dispatcher."""

    def __init__(self, url: str, scripted: Scripted, data: Path, tokens: Tokens) -> None:
        self.url, self.scripted, self.data, self.tokens = url, scripted, data, tokens


@contextmanager
def serving(data: Path, model: Model, **given: Any) -> Iterator[Served]:
    """The application within the block; settings as in a settings file."""
    chosen = settings.read(None, {"page": False, **given, "data": str(data)})
    places = settings.folders(chosen)
    engine = database.open(database.url(chosen, places))
    jobs = Jobs(engine)
    scripted = Scripted(jobs, places.audio, model)
    app = application.create(chosen, jobs=jobs, dispatcher=scripted)  # type: ignore[arg-type]
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", scripted, data, app.state.zhiyin.tokens)
    finally:
        scripted.let_go.set()
        server.should_exit = True
        thread.join()
        listening.close()
        engine.dispose()
