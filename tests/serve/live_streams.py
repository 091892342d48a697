"""A dispatcher for tests of the live sockets: the worker's streams, each in a thread of this process."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from zhiyin.errors import UserError
from zhiyin.live import work as working
from zhiyin.live.session import Settings as LiveSettings
from zhiyin.live.work import Work
from zhiyin.result import Segment
from zhiyin.runtime.load import Loaded
from zhiyin.serve import database, live_socket, realtime, security
from zhiyin.serve.audit import Audit
from zhiyin.serve.bookkeeper import Bookkeeper
from zhiyin.serve.child import WorkerState
from zhiyin.serve.history import History
from zhiyin.serve.hotword_lists import HotwordLists
from zhiyin.serve.job import Wish
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.limits import Allowance
from zhiyin.serve.metrics import Metrics
from zhiyin.serve.recordings import Recordings
from zhiyin.serve.service import Service
from zhiyin.serve.settings import Limits, Settings, folders
from zhiyin.serve.socket import MAX_MESSAGE_BYTES
from zhiyin.serve.tokens import Tokens
from zhiyin.serve.worker_runs import StreamRun


class Engine:
    """Computes at once, where the worker's engine makes batches; one lock, because the model is one."""

    def __init__(self, model: Loaded) -> None:
        self.model = model
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def compute(self, works: Sequence[Work]) -> list[Segment]:
        with self._lock:
            if self.error is not None:
                raise self.error
            return working.compute(works, self.model)

    def is_sound(self) -> bool:
        return True


class LiveStream:
    """As the dispatcher's."""

    def __init__(self, streams: "Streams", wish: Wish, settings: LiveSettings) -> None:
        self.worker = streams.worker
        self._streams, self._loop = streams, asyncio.get_running_loop()
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        order = {
            "id": str(id(self)),
            "tasks": list(wish.tasks),
            "options": asdict(wish.options()),
            "settings": asdict(settings),
        }
        self._run = StreamRun(order, streams.engine, self._say)  # type: ignore[arg-type]
        threading.Thread(target=self._run.run, daemon=True).start()

    def _say(self, message: dict[str, Any]) -> None:
        told = json.loads(json.dumps(message))  # what comes through a channel is JSON
        if told["say"] == "closed":
            self._streams.open_count -= 1
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, told)

    def _put(self, told: dict[str, Any]) -> None:
        if told["say"] == "events":
            for event in told["events"]:
                self._said.put_nowait(event)
            return
        error, closed = told["error"], {"event": "closed", "processing_s": told["processing_s"]}
        self._said.put_nowait({"event": "error", "message": error} if error else closed)
        self._said.put_nowait(None)

    async def send(self, samples: bytes) -> None:
        self._run.give(samples)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        while (event := await self._said.get()) is not None:
            yield event

    async def flush(self) -> None:
        self._run.do("flush")

    async def finish(self) -> None:
        self._run.do("finish")

    async def close(self) -> None:
        self._run.do("close")


class Streams:
    """What the live sockets need of a dispatcher.

    Attributes:
        open_count: streams that were opened and have not ended.
        opened: wishes and settings of all that were opened.
        refuse: the next stream is refused with this.
    """

    def __init__(self, model: Loaded) -> None:
        self.engine = Engine(model)
        self.open_count = 0
        self.is_ready = True
        self.opened: list[tuple[Wish, LiveSettings]] = []
        self.refuse: UserError | None = None
        spec = model.backend.spec
        self.worker = WorkerState(
            asked="cpu",
            slots=1,
            device="cpu",
            backend=model.backend.name,
            model=spec.name,
            model_hash="0" * 64,
            precision=spec.precision,
            tasks=spec.tasks,
            languages=spec.languages,
            state="ready",
            spec=spec,
        )

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    def workers(self) -> list[WorkerState]:
        return [self.worker]

    async def open_live(self, wish: Wish, settings: LiveSettings | None = None) -> LiveStream:
        if self.refuse is not None:
            raise self.refuse
        stream = LiveStream(self, wish, settings or LiveSettings())
        self.open_count += 1
        self.opened.append((wish, settings or LiveSettings()))
        return stream


@contextmanager
def serving(data: Path, streams: Streams, *, keep_audio: bool = True, **limits: Any) -> Iterator[tuple[str, Service]]:
    """Both live sockets behind the real middlewares on a free port; gives `127.0.0.1:PORT` and the parts."""
    settings = Settings(data=data, limits=Limits(**limits), keep_audio=keep_audio, page=False)
    places = folders(settings)
    engine = database.open(database.url(settings, places))
    jobs, metrics = Jobs(engine), Metrics()
    service = Service(
        settings=settings,
        folders=places,
        engine=engine,
        jobs=jobs,
        books=Bookkeeper(jobs, places.journals),
        history=History(engine, places),
        hotwords=HotwordLists(engine),
        dispatcher=streams,  # type: ignore[arg-type]
        limits=Allowance(settings.limits, engine, jobs, places),
        audit=Audit(places, settings.audit_days, metrics.audit_failed),
        metrics=metrics,
        tokens=Tokens(engine),
        recordings=Recordings(),
    )
    app = FastAPI()
    app.state.zhiyin = service
    security.install(app, service)
    app.include_router(realtime.router)
    app.include_router(live_socket.router)
    config = uvicorn.Config(
        app, port=0, log_level="warning", ws="websockets-sansio", ws_max_size=MAX_MESSAGE_BYTES, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    patch = pytest.MonkeyPatch()
    for module in (realtime, live_socket):
        patch.setattr(module, "STALL_S", 60.0)  # a machine that is busy is no client that stalls
    try:
        yield f"127.0.0.1:{port}", service
    finally:
        patch.undo()
        server.should_exit = True
        thread.join(20)
        service.audit.close()
        engine.dispose()
