"""Server-sent events: a response that is written as things happen.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi.responses import StreamingResponse

_BEAT_S = 15.0  # proxies close connections on which nothing moves


@dataclass(frozen=True)
class Event:
    """One event; `id` is what a client that reconnects sends back."""

    data: Any
    id: str = ""


def response(events: AsyncIterator[Event], headers: dict[str, str] | None = None) -> StreamingResponse:
    """Events as they come, with a comment now and then while none does."""
    quiet = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})}
    return StreamingResponse(_lines(events), media_type="text/event-stream", headers=quiet)


async def _lines(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    waiting: asyncio.Task[Event] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(events))  # type: ignore[arg-type]
            done, _ = await asyncio.wait([waiting], timeout=_BEAT_S)
            if not done:
                yield b": still here\n\n"
                continue
            event, waiting = waiting.result(), None
            yield text(event).encode()
    except StopAsyncIteration:
        return
    finally:
        with anyio.CancelScope(shield=True):
            if waiting is not None:
                waiting.cancel()
                await asyncio.wait([waiting])
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()


def text(event: Event) -> str:
    """An event as lines; strings as they are, everything else as JSON."""
    data = event.data if isinstance(event.data, str) else json.dumps(event.data, ensure_ascii=False)
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return (f"id: {event.id}\n" if event.id else "") + lines + "\n"
