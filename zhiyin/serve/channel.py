"""Messages between the server and its workers: a JSON object and bytes, over a pair of sockets.

A message is the lengths of both (two unsigned 32-bit numbers, big-endian), the object in UTF-8, the bytes. Nothing in
it is ever executed or unpickled, and none is longer than `MAX_BYTES`.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from typing import Any

from zhiyin.errors import UserError

MAX_BYTES = 256 << 20  # the words of 24 hours with their times take about 30 MB
_LENGTHS = struct.Struct(">II")

Message = tuple[dict[str, Any], bytes]


class Broken(Exception):
    """What came is no message; the other side is not to be trusted any more."""


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    """The bytes of a message.

    Raises:
        UserError: it is too long.
    """
    text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
    if len(text) + len(body) > MAX_BYTES:
        raise UserError(f"a message of {len(text) + len(body)} bytes is too long; at most {MAX_BYTES} are sent at once")
    return _LENGTHS.pack(len(text), len(body)) + text + body


class Channel:
    """The worker's end: blocking; `send` may be called by several threads, `receive` by one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Send a message.

        Raises:
            UserError: it is too long.
            OSError: nobody is there any more.
        """
        data = pack(header, body)
        with self._lock:
            self._socket.sendall(data)

    def receive(self) -> Message | None:
        """The next message; nothing when the other side is gone.

        Raises:
            Broken: what came is no message.
        """
        head = self._exactly(_LENGTHS.size)
        if head is None:
            return None
        header_bytes, body_bytes = _lengths(head)
        data = self._exactly(header_bytes + body_bytes)
        return None if data is None else (_header(data[:header_bytes]), data[header_bytes:])

    def _exactly(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self._socket.recv(min(count - len(data), 1 << 20))
            except ConnectionError:
                return None
            if not piece:
                return None
            data += piece
        return bytes(data)


class AsyncChannel:
    """The server's end, in its event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, connection: socket.socket) -> "AsyncChannel":
        """Take over a connected socket."""
        return cls(*await asyncio.open_connection(sock=connection))

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Put a message into the buffer; what a dead worker does not take is dropped with it.

        Raises:
            UserError: it is too long.
        """
        if not self._writer.is_closing():
            self._writer.write(pack(header, body))

    async def drain(self) -> None:
        """Wait while the other side is slow to take what was sent."""
        with contextlib.suppress(ConnectionError):  # whoever reads is told
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """See `Channel.receive`."""
        try:
            header_bytes, body_bytes = _lengths(await self._reader.readexactly(_LENGTHS.size))
            header = await self._reader.readexactly(header_bytes)
            return _header(header), await self._reader.readexactly(body_bytes)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """The other side sees the end."""
        self._writer.close()


def _lengths(head: bytes) -> tuple[int, int]:
    header_bytes, body_bytes = _LENGTHS.unpack(head)
    if header_bytes + body_bytes > MAX_BYTES:
        raise Broken(f"a message of {header_bytes + body_bytes} bytes was announced; at most {MAX_BYTES} are taken")
    return header_bytes, body_bytes


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise Broken(f"a message is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise Broken(f"a message is no object: {data[:80]!r}")
    return header
