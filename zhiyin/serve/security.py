"""Who may come in, from where, and what browsers are told about our answers; pure ASGI middlewares and their order.

A request is known by a token (`Authorization: Bearer`, or a WebSocket subprotocol as OpenAI's browser clients send it)
or by the session cookie of the login page. On loopback, as long as no token was ever made, everybody on the machine is
the administrator `local`; there the `Host` must be a name of this machine, or a page of somebody else's that a rebound
name leads here would be, too. What comes with a cookie, or without needing anything, must come from our own pages.
"""

import asyncio
import ipaddress
import logging
from typing import Protocol
from urllib.parse import parse_qs, quote, urlsplit

import anyio
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from zhiyin.errors import UserError
from zhiyin.serve import logs, refusal
from zhiyin.serve.audit import Audit
from zhiyin.serve.bodies import is_large, limited, read_small
from zhiyin.serve.database import Unavailable
from zhiyin.serve.headers import SafeHeaders, is_https
from zhiyin.serve.limits import Allowance
from zhiyin.serve.login import CSS, Sessions, cookie_value, language, local_path, page, read_key, set_cookie
from zhiyin.serve.metrics import CONTENT_TYPE, Metrics, Workers
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.settings import Settings
from zhiyin.serve.tokens import Principal, Tokens
from zhiyin.serve.watch import Watch, address

_LOG = logging.getLogger("zhiyin.security")
LOCAL = Principal("local", "admin")
ANYONE = Principal("anyone", "user")  # with --insecure, from elsewhere
TOKEN_SUBPROTOCOL = "openai-insecure-api-key."
_OPEN = ("/healthz", "/readyz", "/login", "/login.css", "/logout")
_UNLIMITED = ("/healthz", "/readyz")
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_MAX_LOGIN_BYTES = 4096
_HTML = {"content-type": "text/html; charset=utf-8"}


class Service(Protocol):
    """What of the service is needed here."""

    @property
    def settings(self) -> Settings: ...
    @property
    def tokens(self) -> Tokens: ...
    @property
    def limits(self) -> Allowance: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def dispatcher(self) -> Workers: ...


def install(app: FastAPI, service: Service) -> None:
    """Put everything of this module before an application; call it before pages are mounted."""
    sessions = Sessions(read_key(service.settings.data))
    app.add_middleware(Gate, service=service, sessions=sessions)
    app.add_middleware(Watch, metrics=service.metrics, audit=service.audit)
    app.add_middleware(SafeHeaders)  # the last one is the outermost
    service.metrics.watch(service.dispatcher)

    def metrics() -> Response:
        """Figures of the service in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    text = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    app.add_api_route(
        "/metrics",
        metrics,
        response_class=Response,
        responses={200: text},
        tags=["system"],
        summary="Figures for Prometheus",
    )


def principal(connection: HTTPConnection) -> Principal:
    """Who asks; a dependency of routes and WebSockets."""
    found: Principal = connection.state.principal
    return found


def require_admin(request: Request) -> Principal:
    """A dependency of routes that only administrators may use.

    Raises:
        Refusal: 403.
    """
    found = principal(request)
    if not found.is_admin:
        raise Refusal(403, "admin_only", "this needs a token of the role admin; ask whoever runs the service")
    return found


def check_binding(settings: Settings, has_token: bool) -> None:
    """Refuse to let others in without a token.

    Raises:
        UserError: other machines could reach the service, and it asks nobody for a token.
    """
    if has_token or settings.insecure:
        return
    how = "make a token first (zhiyin token add NAME --role admin), or say --insecure"
    if not is_loopback(settings.host):
        raise UserError(f"host {settings.host} lets other machines in, and there is no token; {how}")
    if settings.trusted_proxies:
        raise UserError(f"a trusted proxy lets other machines in, and there is no token; {how}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """Lets a request through with its principal in ``state.principal``, or answers why not; and the login page."""

    def __init__(self, app: ASGIApp, service: Service, sessions: Sessions) -> None:
        self._app, self._settings, self._sessions = app, service.settings, sessions
        self._tokens, self._limits = service.tokens, service.limits
        self._reading = anyio.Lock()
        self._noting: asyncio.Future[None] | None = None
        self._threads = anyio.CapacityLimiter(1)  # a database that hangs takes no thread from the routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            passed = await self._admit(connection, receive, send)
        except Refusal as error:
            await _refuse(scope, receive, send, error)
            return
        if passed:
            await self._app(scope, limited(scope, receive, self._settings.limits), send)

    async def _admit(self, connection: HTTPConnection, receive: Receive, send: Send) -> bool:
        """True: let it through; False: it has been answered here."""
        scope = connection.scope
        path, state = scope["path"], scope["state"]
        if path in _UNLIMITED:
            return True
        await self._read_tokens()
        found, how = self._who(connection)
        self._check_rate(found.name if found is not None else f"address {address(scope)}")
        self._check_origin(connection, is_ambient=how in ("cookie", "nothing"))
        if found is not None:
            state["principal"] = found
        if path in _OPEN and scope["type"] == "http":
            await self._login(connection, receive, send)
            return False
        if found is not None:
            return True
        if _is_page(connection):
            query = scope["query_string"].decode("latin-1")
            wish = quote(f"{path}?{query}" if query else path, safe="/")
            await _redirect(send, f"/login?next={wish}")
            return False
        message = "a token is needed (Authorization: Bearer zy_...), and none was given, or one that is not valid"
        raise Refusal(401, "invalid_token", message)

    async def _read_tokens(self) -> None:
        async with self._reading:
            if self._tokens.is_fresh:
                return
            try:
                await to_thread.run_sync(self._tokens.refresh, limiter=self._threads)
            except Unavailable as error:
                logs.say(_LOG, logging.ERROR, "the table of tokens cannot be read", error)
                message = "the database of the service does not answer; try again in a moment"
                raise Refusal(503, "database_unavailable", message, retry_after_s=5) from None
        if self._tokens.has_news and (self._noting is None or self._noting.done()):
            self._noting = asyncio.ensure_future(to_thread.run_sync(self._tokens.note))  # nobody waits for it

    def _who(self, connection: HTTPConnection) -> tuple[Principal | None, str]:
        """Who asks, and what says so: `token`, `cookie`, `nothing` (nothing is needed), or "" for nobody."""
        secret = _secret(connection)
        if secret and (found := self._tokens.check(secret)) is not None:
            return found, "token"
        if self._is_open:
            return self._without_token(connection), "nothing"
        value = cookie_value(connection.headers.get("cookie", ""))
        if value and not secret and (found := self._tokens.of_session(self._sessions.token_id(value))) is not None:
            return found, "cookie"
        return None, ""

    @property
    def _is_open(self) -> bool:
        """Whether nobody needs a token: none was ever made, and only this machine comes in, or all may."""
        return not self._tokens.is_used and (is_loopback(self._settings.host) or self._settings.insecure)

    def _without_token(self, connection: HTTPConnection) -> Principal:
        name = _host_name(connection.headers.get("host", ""))
        is_forwarded = any(header in connection.headers for header in _FORWARDED)
        is_near = is_loopback(self._settings.host) or is_loopback(address(connection.scope))
        if is_near and is_loopback(name) and not is_forwarded:
            return LOCAL
        if self._settings.insecure:
            return ANYONE
        if is_forwarded:
            message = "this came through a proxy, and there is no token; make one: zhiyin token add NAME"
            raise Refusal(403, "proxy_without_token", message)
        message = f"as long as there is no token this service answers to localhost only, not to '{name[:80]}'"
        raise Refusal(403, "wrong_host", f"{message}; make a token: zhiyin token add NAME")

    def _check_rate(self, key: str) -> None:
        wait_s = self._limits.requests.take(key)
        if wait_s:
            message = f"more than {self._settings.limits.requests_per_minute} requests a minute; wait {wait_s:.1f} s"
            raise Refusal(429, "rate_limit", message, retry_after_s=wait_s)

    def _check_origin(self, connection: HTTPConnection, *, is_ambient: bool) -> None:
        """A browser says from which page it asks; foreign ones get no WebSocket and change nothing in a user's name."""
        scope, headers = connection.scope, connection.headers
        is_unsafe = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if not is_unsafe or not (is_ambient or scope["type"] == "websocket" or scope["path"] in _OPEN):
            return
        origin = headers.get("origin", "")
        if origin and not _is_own(origin, headers.get("host", ""), self._settings.origins):
            message = f"pages of {origin[:80]!r} may not use this service; whoever runs it can allow them (origins)"
            raise Refusal(403, "foreign_origin", message)
        if not origin and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise Refusal(403, "foreign_origin", "pages of other sites may not use this service")

    async def _login(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        scope, query = connection.scope, connection.query_params
        method, path = scope["method"], scope["path"]
        if path == "/login.css":
            await _answer(send, 200, CSS.encode(), {"content-type": "text/css; charset=utf-8"})
            return
        if path == "/logout" and method == "POST":
            self._sessions.end(cookie_value(connection.headers.get("cookie", "")))
            await _redirect(send, "/login", {"set-cookie": set_cookie("", is_https=is_https(scope))})
            return
        if path == "/login" and method in ("GET", "HEAD", "POST"):
            code = language(query.get("lang", ""), connection.headers.get("accept-language", ""))
            if method == "POST":
                await self._sign_in(connection, code, receive, send)
            elif self._is_open:
                await _redirect(send, "/")
            else:
                await _answer(send, 200, page(code, local_path(query.get("next", "/"))), _HTML)
            return
        raise Refusal(405, "method", f"{method} is not for {path}; send POST to leave, GET to see the page")

    async def _sign_in(self, connection: HTTPConnection, code: str, receive: Receive, send: Send) -> None:
        fields = parse_qs((await read_small(receive, _MAX_LOGIN_BYTES)).decode("utf-8", "replace"))
        next_path = local_path(fields.get("next", ["/"])[0])
        wait_s = self._limits.logins.take(address(connection.scope))
        if wait_s:
            headers = _HTML | {"retry-after": str(int(wait_s) + 1)}
            await _answer(send, 429, page(code, next_path, "many"), headers)
            return
        found = self._tokens.check(fields.get("token", [""])[0].strip())
        if found is None:
            await _answer(send, 401, page(code, next_path, "wrong"), _HTML)
            return
        connection.scope["state"]["principal"] = found
        cookie = set_cookie(self._sessions.begin(found.token_id), is_https=is_https(connection.scope))
        await _redirect(send, next_path, {"set-cookie": cookie})


def _secret(connection: HTTPConnection) -> str:
    """The token a request carries, or ""."""
    kind, _, secret = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    for name in connection.scope.get("subprotocols", ()):
        if name.startswith(TOKEN_SUBPROTOCOL):
            return str(name.removeprefix(TOKEN_SUBPROTOCOL))
    return ""


def _is_page(connection: HTTPConnection) -> bool:
    """Whether a person looks at the answer, who can be led to the login page."""
    scope = connection.scope
    is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
    is_api = scope["path"].startswith(("/api/", "/v1/", "/metrics", "/openapi.json"))
    return is_read and not is_api and "text/html" in connection.headers.get("accept", "")


def _host_name(host: str) -> str:
    """Of a `Host` header, without its port; "" if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # half an IPv6 address
        return ""


def _is_own(origin: str, host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a page came from here or from where it may. TLS may end before us: schemes are not compared."""
    if origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
        own = urlsplit(f"{parts.scheme}://{host}")
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        return bool(parts.hostname) and (parts.hostname, parts.port or usual) == (own.hostname, own.port or usual)
    except ValueError:  # a port that is no number
        return False


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    every = {**headers, "content-length": str(len(body))}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in every.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def _redirect(send: Send, where: str, headers: dict[str, str] | None = None) -> None:
    await _answer(send, 303, b"", {"location": where, "cache-control": "no-store", **(headers or {})})


async def _refuse(scope: Scope, receive: Receive, send: Send, error: Refusal) -> None:
    if scope["type"] == "http":
        await refusal.answer(error, send, close=is_large(scope))
    elif "websocket.http.response" in scope.get("extensions", {}):
        await receive()  # websocket.connect
        await refusal.answer(error, send, prefix="websocket.")
    else:
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
