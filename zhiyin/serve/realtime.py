"""`/v1/realtime?intent=transcription`: speech understood while it is spoken, as OpenAI's realtime clients speak it.

A client appends audio; items come back. With `server_vad` an item is a stretch of speech: the committed words of its
open segment are its deltas, the final segment completes it. With `turn_detection` null an item is what lies between two
commits of the client. Every wrong message is answered by an `error`, and the connection goes on.

Source of names and fields: types/realtime and types/beta/realtime of the client `openai` 3.54.
"""

import asyncio
import base64
import binascii
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, WebSocket

from zhiyin.errors import UserError
from zhiyin.serve import asking
from zhiyin.serve.listening import FAILED, FLUSHED, LAST_WORDS_S, Listening
from zhiyin.serve.realtime_session import Session, shown, shown_beta, updated, updated_beta
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service
from zhiyin.serve.socket import FAULT, NORMAL, WRONG, Gone, Socket, close_code, parsed
from zhiyin.tasks.parse import join_words

ALIASES = ("gpt-live-transcribe", "gpt-realtime-whisper")  # OpenAI's names that exist for realtime alone
IDLE_S = 300.0  # without a message; then the connection is closed
STALL_S = 2.0  # without audio; then speech that is open ends
MIN_COMMIT_S = 0.1
MAX_ERRORS = 100  # of one connection

_SUBPROTOCOL = "realtime"
_BETA = "realtime=v1"  # of the header OpenAI-Beta
_KNOWN = "session.update, input_audio_buffer.append, input_audio_buffer.commit, input_audio_buffer.clear"

router = APIRouter()


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    """One connection of a client."""
    service: Service = websocket.app.state.zhiyin
    user: str = websocket.state.principal.name
    is_offered = _SUBPROTOCOL in websocket.scope.get("subprotocols", ())
    await websocket.accept(subprotocol=_SUBPROTOCOL if is_offered else None)
    socket = Socket(websocket)
    is_beta = _BETA in websocket.headers.get("openai-beta", "")
    try:
        session = Session(_named("sess"), model=_model(websocket, service))
        with service.limits.live(user):
            connection = _Connection(socket, service, user, session, is_beta=is_beta)
            websocket.state.audit_object = await connection.run()
    except UserError as error:
        refusal = error if isinstance(error, Refusal) else Refusal(503, "unavailable", str(error), retry_after_s=5)
        await socket.send(_error(refusal, ""))
        await socket.close(close_code(refusal), str(refusal))


@dataclass(eq=False)
class _Item:
    """What is said between two commits.

    Attributes:
        id: of the item.
        said: what is final of it.
        sent: what deltas have told.
        seconds: of its audio.
    """

    id: str
    said: list[dict[str, Any]] = field(default_factory=list)
    sent: str = ""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """As it was spoken."""
        return join_words(one["text"] for one in self.said)

    @property
    def transcript(self) -> str:
        """In written form."""
        return join_words(one["written"] or one["text"] for one in self.said)


class _Connection:
    """Client events in, server events out."""

    def __init__(self, socket: Socket, service: Service, user: str, session: Session, *, is_beta: bool) -> None:
        self._socket, self._service, self._session, self._is_beta = socket, service, session, is_beta
        self._listening = Listening(service, user, f"realtime {session.id}", session.pcm, self._told)
        self._is_asked = False  # whether `Listening` knows the wishes
        self._item: _Item | None = None
        self._committing: deque[_Item] = deque()  # committed by the client; what is told up to `FLUSHED` is theirs
        self._all_told = asyncio.Event()  # nothing is committed and not completed
        self._all_told.set()
        self._last_id: str | None = None
        self._committed_s = 0.0  # audio before is committed or cleared
        self._errors = 0

    async def run(self) -> str:
        """Until the client goes; returns the id in the history, empty where there was nothing to keep."""
        kind = "transcription_session.created" if self._is_beta else "session.created"
        await self._send(kind, {"session": self._shown()})
        try:
            await self._answer_all()
        except Gone:
            pass
        finally:
            # also when the server is being stopped and this task with it
            job = await asyncio.shield(asyncio.ensure_future(self._listening.store()))
            await self._socket.close(NORMAL)
        return "" if job is None else job.id

    async def _answer_all(self) -> None:
        silent_s = 0.0
        while silent_s < IDLE_S:
            message = await self._socket.receive(STALL_S)
            if message is not None:
                silent_s = 0.0
                await self._answer(message)
                continue
            silent_s += STALL_S
            if self._session.silence_ms is not None and self._listening.is_open:
                await self._listening.flush()
        await self._refuse(Refusal(408, "idle", f"no message for {IDLE_S:g} s; connect again"), "")
        await self._socket.close(WRONG, "idle")

    async def _answer(self, message: str | bytes) -> None:
        event_id = ""
        try:
            if isinstance(message, bytes):
                raise Refusal(400, "invalid_message", "a binary message; send JSON text, audio in it as base64")
            event = await parsed(message)
            event_id = _event_id(event)
            await self._do(event)
        except Refusal as refusal:
            await self._refuse(refusal, event_id)
            if refusal.status in (413, 429) or refusal.status >= 500:
                await self._socket.close(close_code(refusal), str(refusal))
        except UserError as error:
            await self._refuse(Refusal(400, "invalid_value", str(error)), event_id)

    async def _do(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        actions: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "session.update": self._update,
            "transcription_session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }
        if not isinstance(kind, str) or kind not in actions:
            seen = "no type" if kind is None else f"type {str(kind)[:80]!r}"
            message = f"an event with {seen}; a transcription session knows {_KNOWN}"
            raise Refusal(400, "unknown_event", message, param="type")
        await actions[kind](event)

    async def _update(self, event: dict[str, Any]) -> None:
        is_beta = event["type"] == "transcription_session.update"
        if not isinstance(event.get("session"), dict):
            raise Refusal(400, "missing_parameter", f"{event['type']} needs an object 'session'", param="session")
        before = self._session
        session = (updated_beta if is_beta else updated)(before, event["session"])
        if session.model and session.model not in ALIASES:
            asking.model_of(session.model, self._service)
        await asking.checked(session.wish, self._service)
        is_new = (session.wish, session.settings) != (before.wish, before.settings)
        self._session, self._is_beta = session, is_beta
        if is_new and self._is_asked:
            await self._listening.open(session.wish, session.settings)
        self._listening.read_as(session.pcm)
        kind = "transcription_session.updated" if is_beta else "session.updated"
        await self._send(kind, {"session": self._shown()})

    async def _append(self, event: dict[str, Any]) -> None:
        given = event.get("audio")
        if not isinstance(given, str):
            raise Refusal(400, "missing_parameter", "input_audio_buffer.append needs 'audio', base64", param="audio")
        try:
            audio = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(400, "invalid_value", "audio: this is not base64", param="audio") from None
        if not self._is_asked:
            await self._listening.open(self._session.wish, self._session.settings)
            self._is_asked = True
        await self._listening.hear(audio)

    async def _commit(self, event: dict[str, Any]) -> None:
        now_s = self._listening.heard_s
        seconds = now_s - self._committed_s
        if seconds < MIN_COMMIT_S:
            message = f"there are {seconds * 1000:.0f} ms of audio to commit; at least {MIN_COMMIT_S * 1000:.0f} ms"
            raise Refusal(400, "input_audio_buffer_commit_empty", message)
        item, self._item = self._item or _Item(_named("item")), None
        item.seconds, self._committed_s = seconds, now_s
        self._committing.append(item)
        self._all_told.clear()
        await self._tell_committed(item)
        await self._listening.flush()

    async def _clear(self, event: dict[str, Any]) -> None:
        with suppress(asyncio.TimeoutError):  # what is committed is not cleared
            await asyncio.wait_for(self._all_told.wait(), LAST_WORDS_S)
        await self._listening.drop()
        self._item, self._committed_s = None, self._listening.heard_s
        self._committing.clear()
        self._all_told.set()
        await self._send("input_audio_buffer.cleared", {})

    async def _told(self, event: dict[str, Any]) -> None:
        """What `Listening` tells, in the words of this protocol."""
        kind = event["event"]
        if kind == FLUSHED:
            await self._flushed()
        elif kind == FAILED:
            await self._failed(event["message"])
        elif kind == "partial":
            await self._tell_delta(self._open_item(), event["committed"])
        elif kind == "final":
            await self._final(event["segment"])
        elif self._session.silence_ms is not None and not self._committing:
            item = self._open_item()
            if kind == "speech_started":
                ms = round(event["start_s"] * 1000)
                await self._send("input_audio_buffer.speech_started", {"audio_start_ms": ms, "item_id": item.id})
            elif kind == "speech_ended":
                ms = round(event["end_s"] * 1000)
                await self._send("input_audio_buffer.speech_stopped", {"audio_end_ms": ms, "item_id": item.id})

    def _open_item(self) -> _Item:
        """The item that what is told belongs to."""
        if self._committing:
            return self._committing[0]
        self._item = self._item or _Item(_named("item"))
        return self._item

    async def _final(self, segment: dict[str, Any]) -> None:
        item = self._open_item()
        item.said.append(segment)
        await self._tell_delta(item, "")
        if self._committing or self._session.silence_ms is None:
            return
        item.seconds = segment["end_s"] - segment["start_s"]
        self._item, self._committed_s = None, max(self._committed_s, segment["end_s"])
        await self._tell_committed(item)
        await self._tell_completed(item)

    async def _flushed(self) -> None:
        if self._committing:  # else it was a stall
            await self._tell_completed(self._committing.popleft())
            if not self._committing:
                self._all_told.set()

    async def _failed(self, message: str) -> None:
        refusal = Refusal(500, "stream_lost", message)
        for item in [*self._committing, *([self._item] if self._item else [])]:
            kind = "conversation.item.input_audio_transcription.failed"
            await self._send(kind, {"item_id": item.id, "content_index": 0, **refusal.body()})
        self._all_told.set()
        await self._refuse(refusal, "")
        await self._socket.close(FAULT, message)

    async def _tell_delta(self, item: _Item, committed: str) -> None:
        """What is new of the certain text. An item's deltas, joined, are its text as it was spoken."""
        text = join_words([item.text, committed] if item.said else [committed])
        if len(text) > len(item.sent) and text.startswith(item.sent):
            delta, item.sent = text[len(item.sent) :], text
            kind = "conversation.item.input_audio_transcription.delta"
            await self._send(kind, {"item_id": item.id, "content_index": 0, "delta": delta})

    async def _tell_committed(self, item: _Item) -> None:
        previous, self._last_id = self._last_id, item.id
        await self._send("input_audio_buffer.committed", {"item_id": item.id, "previous_item_id": previous})
        content = [{"type": "input_audio", "transcript": None}]
        made = {"id": item.id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user"}
        names = ("created",) if self._is_beta else ("added", "done")
        for name in names:
            fields = {"previous_item_id": previous, "item": {**made, "content": content}}
            await self._send(f"conversation.item.{name}", fields)

    async def _tell_completed(self, item: _Item) -> None:
        usage = {"type": "duration", "seconds": round(item.seconds, 3)}
        kind = "conversation.item.input_audio_transcription.completed"
        fields = {"item_id": item.id, "content_index": 0, "transcript": item.transcript, "usage": usage}
        await self._send(kind, fields)

    def _shown(self) -> dict[str, Any]:
        return shown_beta(self._session) if self._is_beta else shown(self._session)

    async def _refuse(self, refusal: Refusal, event_id: str) -> None:
        self._errors += 1
        await self._socket.send(_error(refusal, event_id))
        if self._errors >= MAX_ERRORS:
            await self._socket.close(WRONG, f"{MAX_ERRORS} wrong messages")

    async def _send(self, kind: str, fields: dict[str, Any]) -> None:
        await self._socket.send({"type": kind, "event_id": _named("event"), **fields})


def _model(websocket: WebSocket, service: Service) -> str:
    """The model that the address names, if it does; also what else the address asks is checked."""
    intent = websocket.query_params.get("intent", "transcription")
    if intent != "transcription":
        message = f"intent {intent[:80]!r}; this service understands speech: ?intent=transcription"
        raise Refusal(400, "invalid_value", message, param="intent")
    model = websocket.query_params.get("model", "")
    if model not in ALIASES:
        asking.model_of(model, service)
    return model


def _event_id(event: dict[str, Any]) -> str:
    given = event.get("event_id")
    return given[:512] if isinstance(given, str) else ""


def _error(refusal: Refusal, event_id: str) -> dict[str, Any]:
    return {
        "type": "error",
        "event_id": _named("event"),
        "error": {**refusal.body()["error"], "event_id": event_id or None},
    }


def _named(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
