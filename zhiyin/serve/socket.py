"""A WebSocket as the live routes use it: messages with a time limit, and a client that may be gone at any moment."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from zhiyin.serve.refusal import Refusal

# What uvicorn is started with. A client is held back by not being read, one message per connection waits.
MAX_MESSAGE_BYTES = 4 * 2**20
PONG_S = 120.0  # the pongs of a client that is held back wait behind its audio
SEND_S = 30.0  # a client that does not read for so long is gone
_PARSED_AT_ONCE_BYTES = 1 << 16  # longer messages are parsed in a thread

_HALF = re.compile(r"\\u[dD][89a-fA-F]")

NORMAL, WRONG, FAULT, LATER = 1000, 1008, 1011, 1013  # codes of RFC 6455 and its registry


class Gone(Exception):
    """The client has left."""


class Socket:
    """One accepted connection. Several tasks may send; one may receive."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._sending = asyncio.Lock()
        self._receiving: asyncio.Task[Any] | None = None
        self.is_gone = False

    async def receive(self, timeout_s: float) -> str | bytes | None:
        """The next message; None when none came in time.

        Raises:
            Gone: the client has left, or the connection was closed from here.
        """
        if self._receiving is None:
            self._receiving = asyncio.ensure_future(self._websocket.receive())
        done, _ = await asyncio.wait({self._receiving}, timeout=timeout_s)
        if not done:
            return None
        task, self._receiving = self._receiving, None
        if task.cancelled():  # closed from here
            raise Gone
        try:
            message = task.result()
        except (WebSocketDisconnect, RuntimeError):  # starlette: received after the disconnect
            message = {"type": "websocket.disconnect"}
        if message["type"] == "websocket.disconnect":
            self.is_gone = True
            raise Gone
        text, data = message.get("text"), message.get("bytes")
        return text if text is not None else data or b""

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send JSON. Nothing happens when the client is gone: whoever receives is told."""
        text = json.dumps(message, ensure_ascii=False, allow_nan=False)
        async with self._sending:
            if self.is_gone or self._websocket.application_state is not WebSocketState.CONNECTED:
                return
            try:
                await asyncio.wait_for(self._websocket.send_text(text), SEND_S)
            except (WebSocketDisconnect, RuntimeError, OSError, asyncio.TimeoutError):
                self.is_gone = True

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection, if it still is one."""
        async with self._sending:
            if self._receiving is not None:
                self._receiving.cancel()
            if self.is_gone or self._websocket.application_state is not WebSocketState.CONNECTED:
                return
            self.is_gone = True
            try:
                short = reason.encode()[:120].decode(errors="ignore")  # a close frame holds 123 bytes
                await asyncio.wait_for(self._websocket.close(code, short), SEND_S)
            except (WebSocketDisconnect, RuntimeError, OSError, asyncio.TimeoutError):
                return


def close_code(refusal: Refusal) -> int:
    """The code to close with after such a refusal: whether trying again helps is what a client wants to know."""
    if refusal.retry_after_s or refusal.status == 429:
        return LATER
    return FAULT if refusal.status >= 500 else WRONG


async def parsed(text: str) -> dict[str, Any]:
    """The object in a text message.

    Raises:
        Refusal: it is not JSON, or no object.
    """
    try:
        is_short = len(text) < _PARSED_AT_ONCE_BYTES
        message = _loaded(text) if is_short else await asyncio.to_thread(_loaded, text)
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid_json", "the message is not JSON; send one JSON object in each text") from None
    if not isinstance(message, dict):
        raise Refusal(400, "invalid_json", f"the message is a JSON {type(message).__name__}; send an object")
    return message


def _loaded(text: str) -> Any:
    """As `json.loads`, without NaN, and without halves of characters, which nothing could store or send."""
    message = json.loads(text, parse_constant=_no_number)
    if _HALF.search(text):
        json.dumps(message, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError
    return message


def _no_number(name: str) -> None:
    raise ValueError(name)
