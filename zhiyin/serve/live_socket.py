"""`/api/live`, the live captions of our page: wishes as JSON, then PCM as binary messages; events back.

The client's messages, in this order: one JSON object with wishes (`Opening`; all of them may be left out), binary
messages with audio, at any time ``{"event": "pause"}``, which ends what is open, and at last ``{"event": "finish"}``.
Answers are JSON objects: ``opened``, the events of `live.events.to_dict`, and ``closed`` with the id in the history.
An error is ``{"error": {...}}`` as everywhere, and then the connection is closed.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, WebSocket

from zhiyin.audio.decode import PcmFormat
from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.live.session import Settings
from zhiyin.serve import asking
from zhiyin.serve.job import Wish
from zhiyin.serve.listening import FAILED, FLUSHED, Listening
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service
from zhiyin.serve.socket import FAULT, NORMAL, Gone, Socket, close_code, parsed
from zhiyin.tasks import table

OPENING_S = 30.0  # for the first message
IDLE_S = 300.0  # without a message; then the session is over
STALL_S = 2.0  # without audio; then speech that is open ends
MAX_NAME_CHARS = 200

_CODINGS = {"pcm16": "s16le", "g711_ulaw": "mulaw", "g711_alaw": "alaw"}

router = APIRouter()


@dataclass(frozen=True)
class Opening:
    """The first message.

    Attributes:
        tasks: task ids; none is the transcript.
        language: code of the language that is spoken; empty: heard by the model.
        into: code of the language to translate into.
        hotwords: entries.
        itn: False leaves numbers as they were spoken.
        format: ``pcm16`` (little-endian), ``g711_ulaw`` or ``g711_alaw``; one channel.
        sample_rate_hz: of the audio.
        name: of the session in the history.
    """

    tasks: tuple[str, ...] = ()
    language: str = ""
    into: str = ""
    hotwords: tuple[str, ...] = ()
    itn: bool | None = None
    format: str = "pcm16"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    name: str = ""


@router.websocket("/api/live")
async def live(websocket: WebSocket) -> None:
    """One session of the page."""
    service: Service = websocket.app.state.zhiyin
    user: str = websocket.state.principal.name
    await websocket.accept()
    socket = Socket(websocket)
    try:
        with service.limits.live(user):
            opening = await _opening(socket)
            session = _Session(socket, service, user, opening)
            try:
                await session.run(await _wish(opening, service))
            finally:
                websocket.state.audit_object = session.job_id
    except Gone:
        return
    except UserError as error:
        refusal = error if isinstance(error, Refusal) else Refusal(400, "cannot_do_that", str(error))
        await socket.send(refusal.body())
        await socket.close(close_code(refusal), str(refusal))


class _Session:
    """Audio in, events out; `job_id` is that of the session in the history, once it is there."""

    def __init__(self, socket: Socket, service: Service, user: str, opening: Opening) -> None:
        self._socket = socket
        self.job_id = ""
        pcm = PcmFormat(_CODINGS[opening.format], opening.sample_rate_hz)
        self._listening = Listening(service, user, _clean(opening.name) or "live", pcm, self._told)

    async def run(self, wish: Wish) -> None:
        """Until the client finishes or goes; what was heard is kept in any case.

        Raises:
            UserError: no stream is free, or a message was wrong; what was heard before is kept.
        """
        try:
            await self._listening.open(wish, Settings())
            await self._socket.send({"event": "opened"})
            await self._hear_all()
        except Gone:
            pass
        finally:
            # also when the server is being stopped and this task with it
            job = await asyncio.shield(asyncio.ensure_future(self._listening.store()))
            self.job_id = "" if job is None else job.id
        seconds = round(self._listening.heard_s, 3)
        await self._socket.send({"event": "closed", "id": self.job_id or None, "duration_s": seconds})
        await self._socket.close(NORMAL)

    async def _hear_all(self) -> None:
        silent_s = 0.0
        while silent_s < IDLE_S:
            message = await self._socket.receive(STALL_S)
            silent_s = silent_s + STALL_S if message is None else 0.0
            if isinstance(message, bytes):
                await self._listening.hear(message)
            elif message is not None:
                kind = (await parsed(message)).get("event")
                if kind == "finish":
                    return
                if kind != "pause":
                    known = "pause, finish; audio is binary"
                    raise Refusal(400, "unknown_event", f"event {str(kind)[:80]!r}; known: {known}")
                await self._listening.flush()
            elif self._listening.is_open:
                await self._listening.flush()

    async def _told(self, event: dict[str, Any]) -> None:
        if event["event"] == FAILED:
            refusal = Refusal(500, "stream_lost", event["message"])
            await self._socket.send(refusal.body())
            await self._socket.close(FAULT, str(refusal))
        elif event["event"] != FLUSHED:
            await self._socket.send(event)


async def _opening(socket: Socket) -> Opening:
    """The first message, checked.

    Raises:
        Refusal: there is none, or it makes no sense.
        Gone: the client left before.
    """
    message = await socket.receive(OPENING_S)
    if message is None:
        raise Refusal(
            408, "no_opening", f"no message came within {OPENING_S:g} s; begin with one JSON object of wishes"
        )
    if isinstance(message, bytes):
        raise Refusal(400, "no_opening", "the first message is binary; begin with one JSON object of wishes")
    given = await parsed(message)
    for name in ("tasks", "hotwords"):  # a list, or one text
        if isinstance(given.get(name), str):
            pieces = given[name].replace("+", ",") if name == "tasks" else given[name]
            given[name] = asking.words([pieces])
    try:
        opening = build(Opening, given, "opening")
        if opening.format not in _CODINGS:
            raise UserError(f"opening: format {opening.format[:40]!r} is not known; known: {' '.join(_CODINGS)}")
        if len(opening.name) > MAX_NAME_CHARS:
            raise UserError(f"opening: a name of {len(opening.name)} characters; at most {MAX_NAME_CHARS}")
        PcmFormat(_CODINGS[opening.format], opening.sample_rate_hz)
        table.select(opening.tasks or "asr")
    except UserError as error:
        raise Refusal(400, "invalid_value", str(error)[:500]) from None
    return opening


async def _wish(opening: Opening, service: Service) -> Wish:
    asked = Wish(tasks=opening.tasks, language=opening.language, into=opening.into, hotwords=opening.hotwords)
    return await asking.checked(asking.with_itn(asked, opening.itn, service), service)


def _clean(name: str) -> str:
    """One line without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in name).split())
