"""`zhiyin serve` as a process: the socket, TLS, what is said at the start, and how it stops.

The first SIGTERM or Ctrl-C drains: no new connections, requests and jobs that are worked on end, within `drain_s` each;
what does not is queued again in the database. The second one ends the process at once, which is as safe as a power cut:
everything that was accepted is on disk.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from zhiyin.errors import UserError
from zhiyin.serve import app, logs, security
from zhiyin.serve.service import Service
from zhiyin.serve.settings import Settings
from zhiyin.serve.socket import MAX_MESSAGE_BYTES, PONG_S

HEADERS_S = 20.0  # a connection that has not said in this time what it wants is closed
_BACKLOG = 2048
_CLOSE_S = 0.5
_OPEN_FILES = 65_536
_LOG = logging.getLogger("zhiyin.serve")


def serve(settings: Settings) -> None:
    """Serve until a signal comes.

    Raises:
        UserError: the address, the data folder, the database, the certificate or the settings cannot be used.
    """
    flush = logs.configure()
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    try:
        _allow_many_files()
        check_tls(settings)
        with listen(settings.host, settings.port) as listener:
            _run(settings, listener)
    finally:
        flush()


def _run(settings: Settings, listener: socket.socket) -> None:
    application = app.create(settings)
    service: Service = application.state.zhiyin
    service.tokens.refresh()
    security.check_binding(settings, service.tokens.has_live)
    for line in facts(settings, service, listener.getsockname()[1]):
        sys.stderr.write(f"zhiyin: {line}\n")
    start = _Start(application)
    try:
        Server(_config(settings, start)).run(sockets=[listener])
    except SystemExit:
        if start.problem is None:
            raise
    if start.problem is not None:
        raise start.problem


def facts(settings: Settings, service: Service, port: int) -> list[str]:
    """What is said at the start, a line each."""
    scheme = "https" if settings.tls_cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    limited = "no token was made yet: only this machine comes in, as administrator"
    if service.tokens.is_used:
        limited = "a token is needed"
    elif settings.insecure and not security.is_loopback(settings.host):
        limited = "INSECURE: no token was made, and everybody who reaches the address comes in"
    return [
        f"address  {scheme}://{host}:{port}  ({limited})",
        f"page     {f'{scheme}://{host}:{port}/' if settings.page else 'off'}, API at /v1 and /api, described at /docs",
        f"data     {service.folders.data}" + (", history in another database" if settings.db else ""),
        f"model    {settings.model or 'pocket, the built-in one'}; "
        f"{len(settings.devices)} worker(s), device {' '.join(settings.devices)}, backend {settings.backend}",
        "model is loading; /readyz says when, /api/device where it really runs. SIGTERM or Ctrl-C stops",
    ]


def check_tls(settings: Settings) -> None:
    """Refuse a certificate that no client could be shown.

    Raises:
        UserError: a file is missing or unreadable, or certificate and key are no pair.
    """
    if not settings.tls_cert:
        return
    for path in (settings.tls_cert, settings.tls_key):
        if not os.access(path, os.R_OK):
            raise UserError(f"TLS: {path} cannot be read; give PEM files with --tls-cert and --tls-key")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise UserError(f"TLS: {settings.tls_cert} and {settings.tls_key} are no pair in PEM ({reason})") from None


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; taken before anything is loaded, so that a busy port is said at once.

    Raises:
        UserError: the address is not ours, or busy.
    """
    where = f"address {host}:{port}"
    try:
        family, kind, protocol, _, found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"{where}: not known here ({error}); give --host an address of this machine") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(found)
            listener.listen(_BACKLOG)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"{where}: cannot be taken ({reason}); give another --host or --port") from None
        yield listener


class Server(uvicorn.Server):
    """Stops at the first signal when all is done, at the second one at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """Handlers of both signals, while it runs; afterwards the process ends as it was told to, with 0."""
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See the class. Workers end when their channel does, with this process."""
        if self.should_exit:
            os._exit(128 + sig)
        os.write(2, b"zhiyin: stopping when what is worked on has ended; again stops at once\n")
        self.should_exit = True


class Connection(H11Protocol):
    """One connection, which has `HEADERS_S` for the head of each request; uvicorn itself waits for ever.

    When the service stops, a client that does not answer the end of TLS is not waited for, either.
    """

    _timer: asyncio.TimerHandle | None = None
    _is_stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time runs from here."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEADERS_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Stop the time when a head is whole, start it with the first byte of the next one."""
        super().data_received(data)
        if not self._awaits_head:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADERS_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more to wait for."""
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close when what is being answered has been."""
        super().shutdown()
        self._is_stopping = True
        self._leave()

    def on_response_complete(self) -> None:
        """See `shutdown`."""
        super().on_response_complete()
        if self._is_stopping:
            self._leave()

    def _leave(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            is_sent = not self.transport.get_write_buffer_size()
            self.loop.call_later(_CLOSE_S, self.transport.abort if is_sent else self._leave)

    @property
    def _awaits_head(self) -> bool:
        if self.transport.get_protocol() is not self:  # a WebSocket now
            return False
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and bool(self.cycle is None or self.conn.trailing_data[0])

    def _give_up(self) -> None:
        self._timer = None
        if self._awaits_head:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Start:
    """Passes everything on; keeps what a start failed by, so that it is one line for the person."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner
        self.problem: UserError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "lifespan":
            await self._inner(scope, receive, send)
            return

        async def quiet(message: Message) -> None:
            hidden: dict[str, Any] = {"message": ""} if message["type"] == "lifespan.startup.failed" else {}
            await send({**message, **hidden})

        try:
            await self._inner(scope, receive, quiet)
        except UserError as error:
            self.problem = error
            raise
        except Exception as error:
            logs.say(_LOG, logging.CRITICAL, "the service did not start or stop as it should", error)
            raise


def _config(settings: Settings, application: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="asyncio",
        http=Connection,
        ws="websockets-sansio",  # reads no further than it is asked to: whoever sends too fast is held back
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_timeout=PONG_S,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        backlog=_BACKLOG,
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """False for what uvicorn calls an error and is a client's doing, which it was told: a handshake that was refused,
    frames that are none."""
    return not str(record.msg).startswith(("ASGI callable returned without completing", "Invalid UTF-8 sequence"))


def _allow_many_files() -> None:
    """A connection is an open file; the usual 1024 of a shell are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
