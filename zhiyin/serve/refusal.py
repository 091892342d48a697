"""What a client is told when something is refused: one shape for every route, that of OpenAI's errors.

`{"error": {"message", "type", "param", "code"}}`; its clients raise the matching exception by the status, and wait as
long as `Retry-After` says before they try again.
"""

import json
import math
from typing import Any

from starlette.types import Send

from zhiyin.errors import UserError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(UserError):
    """A request that is not carried out; the message is one line for the person, and says what to do next.

    Attributes:
        status: of HTTP.
        code: one word for programs, e.g. `invalid_token`.
        param: the field that is wrong, if one is.
        retry_after_s: when it may work, 0: trying again does not help.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s

    def body(self) -> dict[str, Any]:
        """The answer as OpenAI's clients read it."""
        return body(self.status, str(self), code=self.code, param=self.param)

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, and what 401 needs."""
        headers = {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))} if self.retry_after_s > 0 else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def body(status: int, message: str, *, code: str = "", param: str = "") -> dict[str, Any]:
    """The one shape of errors."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param or None, "code": code or None}}


async def answer(refusal: Refusal, send: Send, *, close: bool = False, prefix: str = "") -> None:
    """A refusal as a whole response, for what stands outside of the routes.

    Args:
        refusal: what to say.
        send: of ASGI.
        close: end the connection, for what still comes on it is not wanted.
        prefix: `websocket.` for the answer to a handshake.
    """
    data = json.dumps(refusal.body(), ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **refusal.headers()}
    headers |= {"Connection": "close"} if close else {}
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": f"{prefix}http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": f"{prefix}http.response.body", "body": data})
