"""Bodies of requests that hold no recording: how large they may be, and how slowly they may come.

The routes that take recordings stream them to disk under limits of their own (`uploads`). Every other body is read into
memory by whoever handles it, so it is small, and a client that drips is left.
"""

import time

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from zhiyin.serve.settings import Limits

MAX_BYTES = 4 << 20
MAX_CHAT_BYTES = 64 << 20  # JSON that holds recordings
_RECORDINGS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/api/jobs", "/api/understand", "/api/vad")
_CLOSE = {"connection": "close"}  # what else would come of the body is not waited for
_SMALL_BYTES = 1 << 16


def limited(scope: Scope, receive: Receive, limits: Limits) -> Receive:
    """`receive` of a request whose body is bounded in size and time; of routes with guards of their own the same.

    Its calls raise `HTTPException` 413 or 408, which routes answer in the usual shape.
    """
    path = scope["path"]
    if scope["type"] != "http" or path in _RECORDINGS:
        return receive
    is_page_upload = path.endswith("/gradio_api/upload")
    most = limits.upload_bytes if is_page_upload else MAX_CHAT_BYTES if path.startswith("/v1/") else MAX_BYTES
    said = Headers(scope=scope).get("content-length", "")
    return _Bounded(receive, most, int(said) if said.isdecimal() else 0, limits).receive


class _Bounded:
    """The body so far."""

    def __init__(self, receive: Receive, most: int, said: int, limits: Limits) -> None:
        self._receive, self._most, self._said, self._limits = receive, most, said, limits
        self._bytes, self._is_whole, self._began_s = 0, False, time.monotonic()

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()  # now it tells of a disconnect only, whenever that is
        if self._said > self._most:
            raise self._too_large()
        message = await self._next()
        self._is_whole = not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most:
            raise self._too_large()
        elapsed_s = time.monotonic() - self._began_s
        is_slow = self._bytes < self._limits.upload_bytes_per_s * (elapsed_s - self._limits.upload_stall_s)
        if not self._is_whole and is_slow:
            raise self._too_slow()
        return message

    async def _next(self) -> Message:
        if not self._limits.upload_stall_s:
            return await self._receive()
        try:
            with anyio.fail_after(self._limits.upload_stall_s):
                return await self._receive()
        except TimeoutError:
            raise self._too_slow() from None

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413, f"the body of this request has more than {self._most} bytes, which is the limit", _CLOSE
        )

    def _too_slow(self) -> HTTPException:
        return HTTPException(408, "the body of this request came too slowly; send it again", _CLOSE)


async def read_small(receive: Receive, most: int) -> bytes:
    """A whole body of at most so many bytes; what is more is cut off."""
    parts, size, is_more = [], 0, True
    while is_more and size <= most:
        message = await receive()
        part = message.get("body", b"")
        parts.append(part)
        size, is_more = size + len(part), message.get("more_body", False)
    return b"".join(parts)[:most]


def is_large(scope: Scope) -> bool:
    """Whether what is still to come of a body is better not waited for."""
    headers = Headers(scope=scope)
    said = headers.get("content-length", "")
    return "transfer-encoding" in headers or (said.isdecimal() and int(said) > _SMALL_BYTES)
