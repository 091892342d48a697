"""Who is let in, from where, and with which headers: the real middlewares before a small application."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.serve.gates import HERE, Small, client, small
from zhiyin.errors import UserError
from zhiyin.serve import security
from zhiyin.serve.login import COOKIE
from zhiyin.serve.settings import Limits, Settings

LIVE = "ws://127.0.0.1:7860/api/live"
FOREIGN = {"Origin": "https://evil.example"}


@pytest.fixture
def service(tmp_path: Path) -> Small:
    return small(tmp_path / "data")


@pytest.fixture
def wide(tmp_path: Path) -> Small:
    """Reachable from elsewhere, so that nobody comes in without a token."""
    return small(tmp_path / "data", host="0.0.0.0")


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def error(answer: Any) -> dict[str, Any]:
    """The error of an answer; it has exactly the four fields of OpenAI's."""
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"} and "\n" not in found["message"]
    return found


def test_without_any_token_this_machine_is_the_administrator(service: Small) -> None:
    for name in ("127.0.0.1:7860", "localhost:7860", "[::1]:7860", "localhost"):
        here = client(service, f"http://{name}")
        assert here.get("/api/whoami").json() == {"name": "local", "role": "admin"}
    with_any_key = client(service).get("/api/whoami", headers=bearer("sk-none"))  # OpenAI's clients always send one
    assert with_any_key.json()["name"] == "local"


@pytest.mark.parametrize("host", ["evil.example:7860", "192.168.1.5", "127.0.0.1.evil.example", "", "[::1"])
def test_a_rebound_name_is_not_this_machine(service: Small, host: str) -> None:
    answer = client(service).get("/api/whoami", headers={"Host": host})
    assert answer.status_code == 403 and error(answer)["code"] == "wrong_host"


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_a_proxy_needs_a_token(service: Small, header: str) -> None:
    answer = client(service).get("/api/whoami", headers={header: "203.0.113.9"})
    assert answer.status_code == 403 and error(answer)["code"] == "proxy_without_token"


def test_tokens(service: Small) -> None:
    user, admin = service.tokens.add("ann"), service.tokens.add("boss", "admin")
    here = client(service)
    assert here.get("/api/whoami", headers=bearer(user)).json() == {"name": "ann", "role": "user"}
    assert here.get("/api/whoami", headers=bearer(admin)).json() == {"name": "boss", "role": "admin"}
    for wrong in ({}, bearer("zy_wrong"), bearer(user[:-1]), bearer(user.lower()), {"Authorization": user}):
        refused = here.get("/api/whoami", headers=wrong)
        assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
        assert error(refused)["type"] == "authentication_error"
    assert here.post("/api/reset", headers=bearer(user)).status_code == 403
    assert here.post("/api/reset", headers=bearer(admin)).status_code == 200
    (ann,) = [token for token in service.tokens.list() if token.name == "ann"]
    assert service.tokens.revoke(ann.id) and here.get("/api/whoami", headers=bearer(user)).status_code == 401


def test_also_when_all_are_revoked_a_token_is_needed(service: Small) -> None:
    service.tokens.add("ann")
    assert service.tokens.revoke(service.tokens.list()[0].id)
    assert client(service).get("/api/whoami").status_code == 401


def test_nothing_but_health_and_login_is_open(wide: Small) -> None:
    here = client(wide)
    assert here.get("/healthz").status_code == 200 and here.get("/login").status_code == 200
    assert here.get("/login.css").headers["content-type"] == "text/css; charset=utf-8"
    for method, path in (
        ("GET", "/api/whoami"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("GET", "/zh/"),
        ("GET", "/healthz/../api/whoami"),
        ("GET", "/healthz/"),
        ("GET", "//api/whoami"),
        ("OPTIONS", "/api/whoami"),
        ("POST", "/api/history/delete"),
        ("DELETE", "/"),
    ):
        assert here.request(method, path).status_code == 401, (method, path)


def test_a_person_is_led_to_the_login_page_and_back(wide: Small) -> None:
    secret = wide.tokens.add("ann")
    here = client(wide, "http://srv.example:7860")
    html = {"Accept": "text/html,*/*", "Accept-Language": "zh-CN,en;q=0.5"}
    led = here.get("/zh/?a=1&b=2", headers=html)
    assert led.status_code == 303 and led.headers["location"] == "/login?next=/zh/%3Fa%3D1%26b%3D2"
    shown = here.get(led.headers["location"], headers=html)
    assert '<html lang="zh">' in shown.text and 'name="next" value="/zh/?a=1&amp;b=2"' in shown.text
    assert "src=" not in shown.text and "//" not in shown.text.replace("<!DOCTYPE", "")
    wrong = here.post("/login?lang=zh", data={"token": "zy_no", "next": "/zh/"})
    assert wrong.status_code == 401 and "令牌无效" in wrong.text and "set-cookie" not in wrong.headers
    done = here.post("/login", data={"token": f" {secret} ", "next": "/zh/?a=1&b=2"})
    assert done.status_code == 303 and done.headers["location"] == "/zh/?a=1&b=2"
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and "Secure" not in cookie
    assert secret not in cookie and secret[3:] not in cookie
    assert here.get("/api/whoami").json()["name"] == "ann"
    assert here.get("/api/whoami", headers=bearer("zy_wrong")).status_code == 401  # what was said counts
    kept = here.cookies[COOKIE]
    assert here.post("/logout").status_code == 303 and here.get("/api/whoami").status_code == 401
    here.cookies.set(COOKIE, kept)
    assert here.get("/api/whoami").status_code == 401


def test_a_cookie_lives_as_long_as_its_token_and_its_time(wide: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    wide.tokens.add("boss")
    secret = wide.tokens.add("ann")
    here = client(wide, "https://srv.example")
    cookie = here.post("/login", data={"token": secret}).headers["set-cookie"]
    assert "Secure" in cookie
    assert here.get("/api/whoami").json()["name"] == "ann"
    again = client(wide, "https://srv.example")  # a restart: the key stays
    value = here.cookies[COOKIE]
    other = value[:-1] + ("1" if value[-1] == "0" else "0")
    for sent, status in ((value, 200), (other, 401), (value.replace(".", "..", 1), 401), ("é", 401)):
        assert again.get("/api/whoami", headers={"Cookie": f"{COOKIE}={sent}".encode()}).status_code == status
    (ann,) = [token for token in wide.tokens.list() if token.name == "ann"]
    wide.tokens.revoke(ann.id)
    assert again.get("/api/whoami", headers={"Cookie": f"{COOKIE}={value}"}).status_code == 401


def test_the_key_of_sessions_is_secret(wide: Small) -> None:
    client(wide)
    path = wide.settings.data / "session.key"
    assert path.stat().st_mode & 0o777 == 0o600 and len(path.read_bytes()) == 32
    assert [p.name for p in wide.settings.data.iterdir() if p.name.startswith(".session")] == []


@pytest.mark.parametrize(
    "wish",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nX: y", "/\u202e"],
)
def test_login_leads_nowhere_else(wide: Small, wish: str) -> None:
    secret = wide.tokens.add("ann")
    here = client(wide, "http://srv.example:7860")
    done = here.post("/login", data={"token": secret, "next": wish})
    assert done.status_code == 303 and done.headers["location"] == "/"
    shown = here.get("/login", params={"next": wish + '"><script>alert(1)</script>'}).text
    assert "<script>" not in shown and "evil" not in shown


def test_guessing_is_slow(wide: Small) -> None:
    here = client(wide)
    answers = [here.post("/login", data={"token": f"zy_{n}"}).status_code for n in range(12)]
    assert answers == [401] * 10 + [429] * 2
    assert here.post("/login", content="token=" + "x" * 100_000).status_code == 429
    assert here.put("/login").status_code == 405


def test_pages_of_others_change_nothing(service: Small) -> None:
    here = client(service)
    for headers in (FOREIGN, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://127.0.0.1:1"}):
        refused = here.post("/api/history/delete", json={"a": 1}, headers=headers)
        assert refused.status_code == 403 and error(refused)["code"] == "foreign_origin", headers
    for headers in ({"Origin": HERE}, {"Sec-Fetch-Site": "same-origin"}, {}):
        assert here.post("/api/history/delete", json={"a": 1}, headers=headers).status_code == 200
    secret = service.tokens.add("ann")
    by_token = here.post("/api/history/delete", json={"a": 1}, headers=FOREIGN | bearer(secret))
    assert by_token.status_code == 200  # no browser adds a token by itself
    by_cookie = client(service)
    by_cookie.post("/login", data={"token": secret})
    assert by_cookie.post("/api/history/delete", json={}, headers=FOREIGN).status_code == 403
    assert by_cookie.post("/login", data={"token": secret}, headers=FOREIGN).status_code == 403


def test_allowed_origins(tmp_path: Path) -> None:
    service = small(tmp_path / "data", origins=("https://intranet.example",))
    here = client(service)
    for origin, status in (
        ("https://intranet.example", 200),
        ("http://intranet.example", 403),
        ("https://intranet.example:444", 403),
        ("https://intranet.example.evil", 403),
        ("http://127.0.0.1:port", 403),
    ):
        assert here.post("/api/history/delete", json={}, headers={"Origin": origin}).status_code == status, origin


def test_sockets(service: Small) -> None:
    here = client(service)
    with here.websocket_connect(LIVE) as socket:
        assert socket.receive_json() == {"name": "local"}
    with here.websocket_connect(LIVE, headers={"Origin": HERE}) as socket:
        assert socket.receive_json() == {"name": "local"}
    with pytest.raises(Exception) as refused, here.websocket_connect(LIVE, headers=FOREIGN):
        pass
    assert_refused(refused.value, 403)
    secret = service.tokens.add("ann")
    names = ["realtime", f"openai-insecure-api-key.{secret}"]
    with here.websocket_connect(LIVE, subprotocols=names) as socket:
        assert socket.receive_json() == {"name": "ann"}
    with here.websocket_connect(LIVE, headers=bearer(secret)) as socket:
        assert socket.receive_json() == {"name": "ann"}
    with pytest.raises(Exception) as refused, here.websocket_connect(LIVE):
        pass
    assert_refused(refused.value, 401)
    with pytest.raises(Exception) as refused, here.websocket_connect(LIVE, headers=FOREIGN | bearer(secret)):
        pass
    assert_refused(refused.value, 403)


def assert_refused(error: BaseException, status: int) -> None:
    """The handshake was answered with a status, or the socket closed before it was opened."""
    found = getattr(error, "status_code", None)
    assert found == status or (isinstance(error, WebSocketDisconnect) and error.code == 1008)


def test_too_many_requests_of_one_user_only(tmp_path: Path) -> None:
    service = small(tmp_path / "data", host="0.0.0.0", limits=Limits(requests_per_minute=5))
    ann, bob = service.tokens.add("ann"), service.tokens.add("bob")
    here = client(service)
    answers = [here.get("/api/whoami", headers=bearer(ann)) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert error(answers[-1])["type"] == "rate_limit_error" and 1 <= int(answers[-1].headers["Retry-After"]) <= 12
    assert here.get("/api/whoami", headers=bearer(bob)).status_code == 200
    without = [here.get("/api/whoami").status_code for _ in range(7)]
    assert without == [401] * 5 + [429] * 2
    assert {here.get("/healthz").status_code for _ in range(20)} == {200}


def test_insecure_lets_everybody_in_but_not_as_administrator(tmp_path: Path) -> None:
    service = small(tmp_path / "data", host="0.0.0.0", insecure=True)
    there = TestClient(client(service).app, base_url="http://srv.example:7860", client=("203.0.113.5", 5))
    assert there.get("/api/whoami").json() == {"name": "anyone", "role": "user"}
    near = TestClient(client(service).app, base_url=HERE, client=("127.0.0.1", 5))
    assert near.get("/api/whoami").json() == {"name": "local", "role": "admin"}
    through = near.get("/api/whoami", headers={"X-Forwarded-For": "203.0.113.5"})
    assert through.json()["role"] == "user"
    service.tokens.add("ann")
    assert there.get("/api/whoami").status_code == 401  # who made a token wants it asked for


@pytest.mark.parametrize(
    ("given", "is_refused"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "127.0.0.2"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "192.168.0.4"}, True),
        ({"host": "srv.example"}, True),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"trusted_proxies": ("127.0.0.1",)}, True),
    ],
)
def test_binding(tmp_path: Path, given: dict[str, Any], is_refused: bool) -> None:
    settings = Settings(data=tmp_path, **given)
    security.check_binding(settings, True)
    if is_refused:
        with pytest.raises(UserError, match=r"there is no token; make a token first .* or say --insecure"):
            security.check_binding(settings, False)
    else:
        security.check_binding(settings, False)


def test_headers(service: Small) -> None:
    here = client(service)
    api, page, login = here.get("/api/stream"), here.get("/zh/"), here.get("/login?x", headers={"Accept": "text/html"})
    for answer in (api, page, login, here.get("/nothing"), here.get("/api/fault")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY" and answer.headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "strict-transport-security" not in answer.headers and answer.headers["x-request-id"]
    assert api.headers["content-security-policy"].startswith("default-src 'none'")
    assert api.headers["cache-control"] == "no-store" and "http" not in page.headers["content-security-policy"]
    assert "microphone=(self)" in page.headers["permissions-policy"]
    assert "strict-transport-security" in client(service, "https://localhost").get("/zh/").headers


def test_cors_is_off(service: Small) -> None:
    headers = FOREIGN | {"Access-Control-Request-Method": "POST"}
    preflight = client(service).options("/api/history/delete", headers=headers)
    assert preflight.status_code >= 400 and not [n for n in preflight.headers if n.startswith("access-control-")]


def test_a_fault_says_nothing_but_its_id(service: Small, capfd: pytest.CaptureFixture[str]) -> None:
    answer = client(service).get("/api/fault", headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 500 and error(answer)["code"] == "internal_error"
    assert "abc-1" in answer.text and "transcript" not in answer.text and answer.headers["x-request-id"] == "abc-1"
    odd = client(service).get("/api/whoami", headers={"X-Request-Id": "a b\\n"}).headers["x-request-id"]
    assert len(odd) == 32


def test_bodies_are_bounded(service: Small) -> None:
    here = client(service)
    large = here.post("/api/history/delete", content=b'{"a": "' + b"x" * (5 << 20) + b'"}')
    assert large.status_code == 413 and error(large)["type"] == "invalid_request_error"

    def parts() -> Any:
        yield b'{"a": "'
        for _ in range(6):
            yield b"x" * (1 << 20)
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    assert here.post("/api/history/delete", content=parts(), headers=headers).status_code == 413


def test_a_body_that_drips_is_left(tmp_path: Path) -> None:
    """Driven as ASGI, with a client that sends a byte and then nothing."""
    service = small(tmp_path / "data", limits=Limits(upload_stall_s=0.2))
    app, sent = client(service).app, []

    async def run() -> None:
        queue = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> dict[str, Any]:
            if queue:
                return queue.pop()
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/history/delete",
            "raw_path": b"/api/history/delete",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 7860),
        }
        await app(scope, receive, send)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["message"].startswith("the body of this request came too slowly")
