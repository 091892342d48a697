"""What browsers may do with our answers: security headers of every response; other sites may read none of them."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SELF_ONLY = "frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
CSP_API = "default-src 'none'; frame-ancestors 'none'"
CSP_LOGIN = f"default-src 'none'; style-src 'self'; img-src data:; {_SELF_ONLY}"
# Gradio starts from inline scripts, builds handlers from text, and shows what it recorded from blobs.
CSP_PAGE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    f"worker-src 'self' blob:; {_SELF_ONLY}"
)
_API = ("/api/", "/v1/", "/metrics", "/healthz", "/readyz", "/openapi.json")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer browsers give our own forms the origin "null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
}


class SafeHeaders:
    """What browsers may do with our answers; and nothing that lets other sites read them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = _HEADERS | {"content-security-policy": _policy(scope["path"])}
        if is_https(scope):
            own["strict-transport-security"] = "max-age=31536000"

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                raw = [
                    pair for pair in message.get("headers", ()) if not pair[0].lower().startswith(b"access-control-")
                ]
                headers = MutableHeaders(raw=raw)
                for name, value in own.items():
                    if name != "content-security-policy" or name not in headers:  # a route may be stricter
                        headers[name] = value
                if "cache-control" not in headers and (scope["path"].startswith(_API) or scope["path"] == "/login"):
                    headers["cache-control"] = "no-store"
                message = {**message, "headers": headers.raw}
            await send(message)

        await self._app(scope, receive, safe)


def is_https(scope: Scope) -> bool:
    """Whether the client speaks TLS, to us or to a proxy that we believe."""
    return scope.get("scheme") in ("https", "wss")


def _policy(path: str) -> str:
    if path.startswith(_API):
        return CSP_API
    return CSP_LOGIN if path in ("/login", "/login.css", "/logout") else CSP_PAGE
