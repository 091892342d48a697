"""The way in for browsers: a page that asks for a token, and the session cookie that follows.

The cookie holds no token: it names one, and until when, under a signature whose key lies beside the data. It ends with
its time, with its token, and at logout. The page is plain HTML with one style sheet, and asks nothing of anybody.
"""

import hashlib
import hmac
import html
import os
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import quote

COOKIE = "zhiyin_session"
SESSION_S = 12 * 3600
KEY_BYTES = 32
_KEPT_ENDED = 10_000

CSS = """
body { font: 16px/1.5 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; margin: 0; color: #1c1c1c;
  background: #f4f4f2; display: grid; place-items: center; min-height: 100vh; }
main { background: #fff; border: 1px solid #d8d8d4; border-radius: 8px; padding: 2rem; width: min(22rem, 84vw); }
h1 { font-size: 1.3rem; margin: 0 0 1rem; }
label { display: block; margin-bottom: .3rem; }
input, button { font: inherit; box-sizing: border-box; width: 100%; padding: .5rem .6rem; border-radius: 5px; }
input { border: 1px solid #8a8a86; }
button { margin-top: 1rem; border: 0; background: #1d4f91; color: #fff; cursor: pointer; }
:focus-visible { outline: 3px solid #e0a030; outline-offset: 2px; }
.wrong { color: #9b1c1c; }
p { margin: .8rem 0 0; font-size: .9rem; }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #eee; } main { background: #242424; border-color: #444; }
  .wrong { color: #ff8f8f; } a { color: #9dc1f5; } input { background: #181818; color: #eee; } }
"""

_WORDS = {
    "en": {
        "title": "zhiyin: sign in",
        "label": "Token",
        "go": "Sign in",
        "wrong": "This token is not valid. Ask whoever runs this service for one.",
        "many": "Too many attempts. Wait a minute and try again.",
        "hint": "Tokens are made by whoever runs this service: zhiyin token add NAME",
        "other": "中文",
        "other_code": "zh",
    },
    "zh": {
        "title": "知音：登录",
        "label": "令牌",
        "go": "登录",
        "wrong": "令牌无效。请向本服务的管理员索取。",
        "many": "尝试次数过多，请一分钟后再试。",
        "hint": "令牌由管理员生成：zhiyin token add 姓名",
        "other": "English",
        "other_code": "en",
    },
}

_PAGE = """<!DOCTYPE html>
<html lang="{code}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="stylesheet" href="/login.css"><link rel="icon" href="data:,"></head>
<body><main><h1>{title}</h1>
<form method="post" action="/login?lang={code}">
<input type="hidden" name="next" value="{next}">
<label for="token">{label}</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus{described}>
{note}<button type="submit">{go}</button></form>
<p>{hint}</p><p><a href="/login?lang={other_code}&amp;next={next_query}" lang="{other_code}">{other}</a></p>
</main></body></html>
"""


def language(asked: str, accept: str) -> str:
    """`zh` or `en`: the one asked for, else whichever stands first in `Accept-Language`, else `en`."""
    if asked in _WORDS:
        return asked
    for part in accept.lower().split(","):
        code = part.strip()[:2]
        if code in _WORDS:
            return code
    return "en"


def page(code: str, next_path: str, problem: str = "") -> bytes:
    """The page in a language; `problem` is "", `wrong` or `many`."""
    words = _WORDS[code]
    note = f'<p class="wrong" role="alert" id="problem">{words[problem]}</p>' if problem else ""
    described = ' aria-describedby="problem" aria-invalid="true"' if problem else ""
    query = quote(next_path, safe="/")
    filled = {"code": code, "next": html.escape(next_path), "next_query": query, "note": note, "described": described}
    return _PAGE.format(**filled, **{name: words[name] for name in words}).encode()


def local_path(wish: str) -> str:
    """Where to go after signing in: a path of this server, whatever was asked."""
    is_ours = wish.startswith("/") and not wish.startswith(("//", "/\\")) and wish.isprintable() and wish.isascii()
    return wish if is_ours and "\\" not in wish and len(wish) <= 2000 else "/"


class Sessions:
    """Signs and reads session cookies."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._ended: dict[str, None] = {}  # of those that were logged out before their time, the newest

    def begin(self, token_id: str) -> str:
        """The value of a new cookie."""
        text = f"{token_id}.{int(time.time()) + SESSION_S}.{secrets.token_hex(8)}"
        return f"{text}.{self._sign(text)}"

    def token_id(self, value: str) -> str:
        """Which token a cookie names; "" if it was not made here, is over or was ended."""
        text, _, signature = value.rpartition(".")
        if not hmac.compare_digest(self._sign(text).encode(), signature.encode("utf-8", "replace")):
            return ""
        token_id, until, _ = text.split(".")
        return token_id if int(until) > time.time() and text not in self._ended else ""

    def end(self, value: str) -> None:
        """Whoever still has this cookie is out."""
        if self.token_id(value):
            self._ended[value.rpartition(".")[0]] = None
            while len(self._ended) > _KEPT_ENDED:
                del self._ended[next(iter(self._ended))]

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def cookie_value(header: str) -> str:
    """The session of a `Cookie` header, or ""."""
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def set_cookie(value: str, *, is_https: bool) -> str:
    """The `Set-Cookie` header of a session; an empty value takes it away."""
    age = SESSION_S if value else 0
    secure = "; Secure" if is_https else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"


def read_key(data: Path) -> bytes:
    """The key of an installation; made at its first start, readable by its owner only."""
    path = data / "session.key"
    if not path.exists():
        beside = path.with_name(f".session.key.{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(beside, path)  # whole or not at all; of two starts at once the first one's stays
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    return path.read_bytes()
