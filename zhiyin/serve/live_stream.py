"""The server's side of one live stream: samples go to a worker, its events come back."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.serve.child import Child, WorkerState

MAX_AHEAD_SAMPLES = 5 * SAMPLE_RATE_HZ  # that a stream may be ahead of the worker
_SAMPLE_BYTES = 4


class LiveStream:
    """One stream; from `Dispatcher.open_live`."""

    def __init__(self, id: str, child: Child) -> None:
        self.id = id
        self.is_over = False
        self.opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why it was refused, or nothing
        self._child = child
        self._ahead = 0
        self._fed = asyncio.Event()
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    @property
    def worker(self) -> WorkerState:
        """Of the worker that understands it."""
        return self._child.state

    async def send(self, samples: bytes) -> None:
        """Give the next samples: float32, little-endian, mono 16 kHz. Waits while the worker is far behind."""
        whole = len(samples) // _SAMPLE_BYTES
        if self.is_over or not whole:
            return
        self._ahead += whole
        self._child.send({"do": "audio", "id": self.id}, samples[: whole * _SAMPLE_BYTES])
        await self._child.drain()
        while self._ahead > MAX_AHEAD_SAMPLES and not self.is_over:
            self._fed.clear()
            await self._fed.wait()

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """What `live.events.to_dict` makes of the stream's events, until it is over; for one reader.

        The last one is ``{"event": "closed", "processing_s": ...}``, or ``{"event": "error", "message": ...}``.
        """
        while (event := await self._queue.get()) is not None:
            yield event

    async def flush(self) -> None:
        """End the open segment here; ``{"event": "flushed"}`` follows its events, and the stream goes on."""
        self._child.send({"do": "flush", "id": self.id})

    async def finish(self) -> None:
        """No more samples; the last events follow, and their iterator ends."""
        self._child.send({"do": "finish", "id": self.id})

    async def close(self) -> None:
        """Drop it."""
        self._child.send({"do": "close", "id": self.id})
        self.end()

    def take(self, message: dict[str, Any]) -> None:
        """What the worker says of it."""
        if message["say"] == "opened":
            self._open("")
        elif message["say"] == "refused":
            self._open(message["error"])
        elif message["say"] == "events":
            self._ahead -= message["fed"]
            self._fed.set()
            for event in message["events"]:
                self._queue.put_nowait(event)
        elif not self.is_over:
            error = message["error"]
            closed = {"event": "closed", "processing_s": message["processing_s"]}
            self.end({"event": "error", "message": error} if error else closed)

    def lose(self, why: str) -> None:
        """The worker is gone."""
        self._open(why)
        self.end({"event": "error", "message": f"{why}; connect again"})

    def end(self, event: dict[str, Any] | None = None) -> None:
        """The last event; nobody waits any more."""
        if self.is_over:
            return
        self.is_over = True
        self._fed.set()
        if event is not None:
            self._queue.put_nowait(event)
        self._queue.put_nowait(None)

    def _open(self, refusal: str) -> None:
        if not self.opened.done():
            self.opened.set_result(refusal)
