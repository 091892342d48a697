"""A multipart body, taken apart while it arrives: its text fields, and where the bytes of its recording go.

Format: RFC 7578, parsed by python-multipart. A body that stalls or drips is given up.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from zhiyin.serve.refusal import Refusal
from zhiyin.serve.settings import Limits

FIELD_BYTES = 2**20  # of all text fields together
MAX_PARTS = 1000
_DRAIN_S = 2.0  # a refused client that still sends reads the answer only if somebody listens


class Sink(Protocol):
    """Where the recording goes."""

    def open(self, file_name: str) -> None:
        """It begins; the client calls it so."""

    def take(self, data: bytes) -> None:
        """More of it."""


class Body:
    """The bytes of a request, as long as they come fast enough and are not too many."""

    def __init__(self, request: Request, limits: Limits) -> None:
        kind, options = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Refusal(415, "not_multipart", "send the recording as multipart/form-data, in a part named 'file'")
        self.boundary = options[b"boundary"]
        length = request.headers.get("content-length", "")
        self.announced_bytes = int(length) if length.isdigit() else 0
        self.limits = limits
        self._stream = request.stream()
        self._is_stalled = False

    async def chunks(self) -> AsyncIterator[bytes]:
        received, waited_s = 0, 0.0
        stall_s = self.limits.upload_stall_s or math.inf
        while True:
            began_s = time.monotonic()
            try:
                chunk = await asyncio.wait_for(anext(self._stream), self.limits.upload_stall_s or None)
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError:
                self._is_stalled = True
                raise Refusal(
                    408, "upload_stalled", f"no byte of the upload came for {stall_s:g} s; send it again"
                ) from None
            waited_s += time.monotonic() - began_s
            received += len(chunk)
            if waited_s > stall_s and received < waited_s * self.limits.upload_bytes_per_s:
                self._is_stalled = True
                slowest = f"{self.limits.upload_bytes_per_s:g} bytes a second"
                raise Refusal(408, "upload_too_slow", f"the upload comes slower than {slowest}; send it again")
            if received > self.limits.upload_bytes + FIELD_BYTES:
                raise too_big(self.limits)
            if chunk:
                yield chunk

    async def drain(self) -> None:
        """Listen a little longer, so that the answer is read; the connection is closed after it anyway."""
        until_s = time.monotonic() + _DRAIN_S
        with suppress(StopAsyncIteration, ClientDisconnect, asyncio.TimeoutError, RuntimeError):
            while not self._is_stalled and (left_s := until_s - time.monotonic()) > 0:
                await asyncio.wait_for(anext(self._stream), left_s)


class Parser:
    """python-multipart's callbacks as a list of what happened since the last chunk."""

    def __init__(self, boundary: bytes) -> None:
        self.events: list[tuple[str, bytes]] = []
        note = self._note
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self.events.append(("begin", b"")),
                "on_part_data": lambda data, start, end: note("data", data, start, end),
                "on_part_end": lambda: self.events.append(("end", b"")),
                "on_header_field": lambda data, start, end: note("name", data, start, end),
                "on_header_value": lambda data, start, end: note("value", data, start, end),
                "on_header_end": lambda: self.events.append(("header", b"")),
                "on_headers_finished": lambda: self.events.append(("headers", b"")),
                "on_end": lambda: self.events.append(("whole", b"")),
            },
        )

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        self.events = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Refusal(400, "broken_form", f"the multipart body cannot be read: {str(error)[:200]}") from None
        return self.events

    def _note(self, kind: str, data: bytes, start: int, end: int) -> None:
        self.events.append((kind, data[start:end]))


class Fields:
    """Parts as they come: the text fields, and where the data of the file goes."""

    def __init__(self, sink: Sink) -> None:
        self.fields: dict[str, list[str]] = {}
        self.is_whole = False
        self._sink = sink
        self._parts = self._bytes = 0
        self._header, self._value, self._disposition, self._text = b"", b"", b"", b""
        self._name = ""
        self._is_file = False

    def take(self, kind: str, data: bytes) -> None:
        if kind == "data":
            self._take_data(data)
        elif kind == "name":
            self._header += self._counted(data)
        elif kind == "value":
            self._value += self._counted(data)
        elif kind == "header":
            if self._header.lower() == b"content-disposition":
                self._disposition = self._value
            self._header = self._value = b""
        elif kind == "begin":
            self._begin()
        elif kind == "headers":
            self._take_name()
        elif kind == "end" and not self._is_file:
            self.fields.setdefault(self._name, []).append(_text(self._text, self._name))
        elif kind == "whole":
            self.is_whole = True

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Refusal(400, "too_many_fields", f"the form has more than {MAX_PARTS} parts; put words into one field")
        self._disposition = self._text = b""

    def _take_name(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _text(options.get(b"name", b""), "name")[:100]
        self._is_file = self._name == "file"
        if self._is_file:
            self._sink.open(options.get(b"filename", b"").decode("utf-8", "replace"))
        elif b"filename" in options:
            raise Refusal(
                400,
                "unknown_file",
                f"part '{self._name}' is a file; the recording is the part 'file'",
                param=self._name,
            )

    def _take_data(self, data: bytes) -> None:
        if self._is_file:
            self._sink.take(data)
            return
        self._text += self._counted(data)

    def _counted(self, data: bytes) -> bytes:
        self._bytes += len(data)
        if self._bytes > FIELD_BYTES:
            raise Refusal(413, "fields_too_big", f"the text fields hold more than {FIELD_BYTES} bytes; shorten them")
        return data


def too_big(limits: Limits) -> Refusal:
    """What is said of a recording that is too large."""
    said = f"the recording is larger than {limits.upload_bytes} bytes; compress it, e.g. as FLAC or Opus"
    return Refusal(413, "upload_too_big", said, param="file")


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "not_utf8", f"field '{name}' is not UTF-8; send it as UTF-8", param=name) from None
