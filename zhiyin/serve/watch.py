"""Around every request: it gets an id, a log line, its figures, and, where it matters, an audit line.

The audit line is written before the client hears the answer: what somebody was told was done has been noted. A fault in
a route is answered here too, with the id under which the log has the rest. Paths are never noted, only routes.
"""

import logging
import re
import time
import uuid
from dataclasses import dataclass
from functools import partial

import anyio
from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from zhiyin.serve import logs, refusal
from zhiyin.serve.audit import Audit
from zhiyin.serve.limits import Rate
from zhiyin.serve.metrics import Metrics
from zhiyin.serve.refusal import Refusal

_LOG = logging.getLogger("zhiyin.requests")
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_QUIET = ("/healthz", "/readyz", "/metrics")
_GONE = 499  # the client left before it was answered
_REFUSED = (401, 403, 429)
_REFUSALS_PER_MINUTE = 60  # noted of one address; whoever knocks more often does not fill the disk


@dataclass
class _Seen:
    """What has gone out so far."""

    status: int = 0
    bytes_out: int = 0
    first_s: float | None = None
    is_stream: bool = False
    is_noted: bool = False


class Watch:
    """Pure ASGI: streams and disconnects pass through as they are."""

    def __init__(self, app: ASGIApp, metrics: Metrics, audit: Audit) -> None:
        self._app, self._metrics, self._audit = app, metrics, audit
        self._refusals = Rate(_REFUSALS_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = id
        token = logs.request_id.set(id)
        seen, began_s = _Seen(), time.perf_counter()
        self._metrics.request_began()
        try:
            await self._run(scope, receive, partial(self._send, scope, send, seen, began_s), seen)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(scope, seen, time.perf_counter() - began_s)
            logs.request_id.reset(token)

    async def _run(self, scope: Scope, receive: Receive, send: Send, seen: _Seen) -> None:
        try:
            await self._app(scope, receive, send)
        except (ClientDisconnect, WebSocketDisconnect):
            return  # who asked is gone
        except Exception as error:
            logs.say(_LOG, logging.ERROR, "a request failed", error, route=route(scope))
            if seen.status:
                raise  # too late to say it; the connection is closed by the server
            id = scope["state"]["request_id"]
            message = f"a fault in the service; give request id {id} to whoever runs it, the log has the rest"
            if scope["type"] == "http":
                await refusal.answer(Refusal(500, "internal_error", message), send)
            else:
                await send({"type": "websocket.close", "code": 1011, "reason": ""})

    async def _send(self, scope: Scope, send: Send, seen: _Seen, began_s: float, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
            seen.status = message.get("status", 101)
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            seen.is_stream = headers.get("content-type", "").startswith("text/event-stream")
            headers["x-request-id"] = scope["state"]["request_id"]
            message = {**message, "headers": headers.raw}
            await self._note(scope, seen)
        elif kind == "http.response.body":
            size = len(message.get("body", b""))
            if size and not seen.bytes_out:
                seen.first_s = time.perf_counter() - began_s
            seen.bytes_out += size
        elif kind == "websocket.send":
            seen.bytes_out += len(message.get("text") or message.get("bytes") or b"")
        elif kind == "websocket.close" and not seen.status:
            seen.status = 403  # what the handshake is answered with
            await self._note(scope, seen)
        await send(message)

    async def _end(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        if not seen.status:
            seen.status = _GONE
        if not seen.is_noted or ("audit_object" in scope["state"] and scope["type"] == "websocket"):
            await self._note(scope, seen)
        method, first_s = _method(scope), seen.first_s if seen.is_stream else None
        self._metrics.request_done(method, route(scope), seen.status, seconds, first_s)
        logs.say(
            _LOG,
            logging.DEBUG if scope["path"] in _QUIET else logging.INFO,
            "request",
            method=method,
            route=route(scope),
            status=seen.status,
            seconds=round(seconds, 4),
            bytes_out=seen.bytes_out,
            user=user(scope),
            address=address(scope),
        )

    async def _note(self, scope: Scope, seen: _Seen) -> None:
        """Audited are changes, looks at the history and at anything with an id, and what was refused."""
        seen.is_noted = True
        method, path = _method(scope), scope["path"]
        is_change = method not in ("GET", "HEAD", "OPTIONS") and "/gradio_api/" not in path
        is_refused = seen.status in _REFUSED
        if is_refused and self._refusals.take(address(scope)):
            return
        object = scope["state"].get("audit_object") or (scope.get("path_params") or {}).get("id", "")
        is_look = path.startswith("/api/history") or (object and path.startswith("/api/"))
        if not (is_refused or is_change or is_look):
            return
        line = partial(
            self._audit.write,
            user=user(scope),
            address=address(scope),
            action=f"{method} {route(scope)}",
            object=str(object),
            result=str(seen.status),
            request_id=scope["state"]["request_id"],
        )
        await to_thread.run_sync(line)


def route(scope: Scope) -> str:
    """The template of the route a request came to, e.g. `/api/jobs/{id}`; for logs and figures."""
    if scope["path"] in ("/login", "/login.css", "/logout"):
        return str(scope["path"])
    if scope.get("root_path"):
        return f"{scope['root_path']}/*"
    return str(getattr(scope.get("route"), "path", "") or "unmatched")


def address(scope: Scope) -> str:
    """Where a request comes from, "" if that is not known."""
    return str(scope["client"][0]) if scope.get("client") else ""


def user(scope: Scope) -> str:
    """Who asks, "" as long as that is not known."""
    principal = scope.get("state", {}).get("principal")
    return principal.name if principal is not None else ""


def _method(scope: Scope) -> str:
    if scope["type"] == "websocket":
        return "WEBSOCKET"
    return scope["method"] if scope["method"] in _METHODS else "OTHER"
