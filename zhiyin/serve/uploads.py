"""Uploads: multipart bodies written to disk as they arrive, checked, and only then a job.

An upload lies under ``uploads`` until its job is in the database, and moves to ``audio`` then; after a crash `recover`
tells by the database which of the two it was. Names of clients are shown to people and never used as paths.
"""

import hashlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from anyio import CancelScope, to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from zhiyin.serve.job import new_id
from zhiyin.serve.multipart import FIELD_BYTES, Body, Fields, Parser, too_big
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service

_SUFFIXES = """wav flac ogg oga opus mp3 mpga mpeg mpg m4a mp4 m4v mov webm mkv avi flv ts wma asf aac ac3 amr aif aiff
caf au w64 3gp 3g2 pcm raw"""
SUFFIXES = frozenset(_SUFFIXES.split())  # a file of another name is stored without one; what it is, its bytes say
_WRITE_BYTES = 2**20  # at once, in a thread
_SPACE_EVERY_BYTES = 64 * 2**20
_NAME_CHARS = 200


@dataclass(frozen=True)
class Upload:
    """A recording that has arrived, whole and decodable.

    Attributes:
        id: of the job it will be.
        part: where it lies until then.
        audio: where it goes, under the folder of recordings.
        file_name: as the client names it; for people only.
        sha256: of its bytes.
        bytes: how many.
        duration_s: decoded length; 0 where counting took too long.
        channels: of the audio.
    """

    id: str
    part: Path
    audio: str
    file_name: str
    sha256: str
    bytes: int
    duration_s: float
    channels: int


@dataclass(frozen=True)
class Form:
    """A multipart body: its text fields, each with all values given, and its recording."""

    fields: Mapping[str, tuple[str, ...]]
    upload: Upload


@asynccontextmanager
async def receive(request: Request, service: Service, user: str, *, audio_s: float = 0.0) -> AsyncIterator[Form]:
    """The form of a request; what lies on disk goes away with the block unless `moved` took it.

    Args:
        request: with a body of ``multipart/form-data`` and one part ``file``.
        service: its limits hold.
        user: who gets a place in the queue, or a refusal, before anything is read.
        audio_s: a shorter limit of the recording than the service's.

    Raises:
        Refusal: 400, 408, 413, 415, 429, 503 or 507, each with what to do.
    """
    limits = service.settings.limits
    body = Body(request, limits)
    incoming = _Incoming(service)
    try:
        with await to_thread.run_sync(service.limits.admit, user):
            fields = await _read(body, incoming, service)
            yield Form(fields, await _checked(incoming, service, min(audio_s or limits.audio_s, limits.audio_s)))
    except Refusal:
        await body.drain()
        raise
    except ClientDisconnect:
        raise Refusal(400, "client_gone", "the client went away before its upload was complete") from None
    finally:
        if incoming.is_left:
            with CancelScope(shield=True):
                await to_thread.run_sync(incoming.drop)


async def from_bytes(data: bytes, file_name: str, service: Service) -> Upload:
    """A recording that came inside a JSON body; the caller has a place in the queue for it.

    Raises:
        Refusal: it cannot be decoded, is too long, or there is no space.
    """
    if len(data) > service.settings.limits.upload_bytes:
        raise too_big(service.settings.limits)
    service.limits.check_space(len(data))
    incoming = _Incoming(service)
    try:
        incoming.open(file_name)
        incoming.take(data)
        await to_thread.run_sync(incoming.write, True)
        return await _checked(incoming, service, service.settings.limits.audio_s)
    except BaseException:
        with CancelScope(shield=True):
            await to_thread.run_sync(incoming.drop)
        raise


def moved(upload: Upload, service: Service) -> None:
    """Move a recording to its place; its job is in the database."""
    target = service.folders.audio / upload.audio
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.replace(upload.part, target)


def recover(service: Service) -> int:
    """Put uploads right that a crash left behind; return how many were not complete and are gone."""
    gone = 0
    for part in service.folders.uploads.iterdir():
        job = service.jobs.get(part.name.partition(".")[0], None)
        if job is not None and job.audio and not (service.folders.audio / job.audio).exists():
            target = service.folders.audio / job.audio
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.replace(part, target)
        else:
            part.unlink(missing_ok=True)
            gone += 1
    return gone


class _Incoming:
    """The recording on its way to disk; `open`, `write` and `drop` in any thread, one at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._file: IO[bytes] | None = None
        self._sha256 = hashlib.sha256()
        self.id = self.file_name = self.suffix = ""
        self.part: Path | None = None
        self.num_bytes = self.pending_bytes = 0
        self.pending: list[bytes] = []

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def open(self, file_name: str) -> None:
        if self.part is not None:
            raise Refusal(
                400, "two_files", "one recording is taken at a time; send each in a request of its own", param="file"
            )
        self.id, self.file_name = new_id(), shown_name(file_name)
        suffix = Path(self.file_name).suffix.lower().removeprefix(".")
        self.suffix = f".{suffix}" if suffix in SUFFIXES else ""
        self.part = self._service.folders.uploads / f"{self.id}.part{self.suffix}"

    def take(self, data: bytes) -> None:
        self.pending.append(data)
        self.pending_bytes += len(data)

    def write(self, is_last: bool) -> None:
        """What is pending goes to disk, at the end for good."""
        assert self.part is not None
        try:
            if self._file is None:
                self._file = os.fdopen(os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            for data in self.pending:
                self._file.write(data)
                self._sha256.update(data)
            if is_last:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Refusal(507, "no_space", f"the upload cannot be stored ({why}); tell the administrator") from None
        self.num_bytes += sum(map(len, self.pending))
        self.pending, self.pending_bytes = [], 0

    @property
    def is_left(self) -> bool:
        """Whether anything of it lies where it arrived: it was not moved."""
        return self.part is not None and self.part.exists()

    def drop(self) -> None:
        """Remove what is still there."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if self.part is not None:
            self.part.unlink(missing_ok=True)


async def _read(body: Body, incoming: _Incoming, service: Service) -> dict[str, tuple[str, ...]]:
    """Take the body apart; the recording goes to disk on the way."""
    limits, space = body.limits, service.limits.check_space
    if body.announced_bytes > limits.upload_bytes + FIELD_BYTES:
        raise too_big(limits)
    space(body.announced_bytes)
    parser, form = Parser(body.boundary), Fields(incoming)
    checked_bytes = 0
    async for chunk in body.chunks():
        for kind, data in parser.feed(chunk):
            form.take(kind, data)
        if incoming.num_bytes + incoming.pending_bytes > limits.upload_bytes:
            raise too_big(limits)
        if incoming.pending_bytes >= _WRITE_BYTES:
            await to_thread.run_sync(incoming.write, False)
        if incoming.num_bytes - checked_bytes >= _SPACE_EVERY_BYTES:
            space(0)
            checked_bytes = incoming.num_bytes
    if not form.is_whole:
        raise Refusal(400, "broken_form", "the multipart body ends in the middle; send it again")
    if incoming.part is None:
        raise Refusal(400, "no_file", "no recording was sent; put it into a part named 'file'", param="file")
    await to_thread.run_sync(incoming.write, True)
    return {name: tuple(values) for name, values in form.fields.items()}


async def _checked(incoming: _Incoming, service: Service, limit_s: float) -> Upload:
    """The recording, after a look at it: it must decode, and not be too long."""
    assert incoming.part is not None
    if not incoming.num_bytes:
        raise Refusal(400, "empty_file", "the recording is empty (0 bytes); send an audio file", param="file")
    length = await service.recordings.length(incoming.part, limit_s)
    if length.duration_s > limit_s:
        raise Refusal(
            413, "audio_too_long", f"the recording is longer than {limit_s:g} s; cut it into parts", param="file"
        )
    audio = f"{incoming.id[-2:]}/{incoming.id}{incoming.suffix}"
    duration_s = round(length.duration_s, 3) if length.is_whole else 0.0
    return Upload(
        incoming.id,
        incoming.part,
        audio,
        incoming.file_name,
        incoming.sha256,
        incoming.num_bytes,
        duration_s,
        length.channels,
    )


def shown_name(given: str) -> str:
    """What is shown of a client's file name: its last part, in one line, not too long."""
    name = re.split(r"[/\\]", given)[-1]
    name = "".join(char if char.isprintable() else " " for char in name).strip()
    if len(name) > _NAME_CHARS:
        stem, dot, suffix = name.rpartition(".")
        name = stem[: _NAME_CHARS - 8] + dot + suffix[:7] if dot else name[:_NAME_CHARS]
    return name or "upload"
