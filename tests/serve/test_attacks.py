"""Attacks on the real `zhiyin serve`. After each it still answers, and nothing is left open or lying about."""

import base64
import csv
import io
import itertools
import json
import os
import socket
import struct
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from tests.serve.process import Process, serving
from zhiyin.serve import database
from zhiyin.serve.settings import Settings, folders
from zhiyin.serve.tokens import Tokens

pytestmark = pytest.mark.slow
UPLOAD_BYTES, AUDIO_S, STALL_S, RATE = 4 << 20, 60, 1.5, 1000
NAMES = ("ann", "bob", "boss", "flood", "guess")
Field = dict[str, str]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tokens of some users, and where the data is."""
    data = tmp_path_factory.mktemp("attacked") / "data"
    settings = Settings(data=data)
    engine = database.open(database.url(settings, folders(settings)))
    tokens = Tokens(engine)
    made = {name: tokens.add(name, "admin" if name == "boss" else "user") for name in NAMES}
    engine.dispose()
    return {**made, "data": str(data)}


@pytest.fixture(scope="module")
def service(secrets: dict[str, str]) -> Iterator[Process]:
    """One service for all of them, with limits that are reached soon."""
    limits = {"upload_bytes": UPLOAD_BYTES, "audio_s": AUDIO_S, "upload_stall_s": STALL_S, "requests_per_minute": RATE}
    words = [word for name, value in limits.items() for word in ("--limit", f"{name}={value}")]
    with serving(Path(secrets["data"]), *words, "--threads", "1", "--trusted-proxy", "127.0.0.1") as one:
        yield one
        assert not [line for line in one.records() if line["level"] in ("error", "critical")], one.lines
        everything = "\n".join(one.lines) + "".join(path.read_text() for path in (one.data / "audit").iterdir())
        assert not [name for name in NAMES if secrets[name] in everything], "a token was written down"
        assert "injected" not in everything, "what a client typed was written down"


@pytest.fixture(autouse=True)
def calm(service: Process) -> Iterator[None]:
    """What holds before each attack holds after it: it answers, and has as many connections and parts as before."""
    before = sockets(service)
    yield
    until_s = time.monotonic() + 15
    while (sockets(service) > before or service.parts()) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not service.parts() and sockets(service) <= before
    assert service.process.poll() is None and httpx.get(service.url + "/healthz").status_code == 200
    while sockets(service) > before and time.monotonic() < until_s:
        time.sleep(0.01)


def sockets(service: Process) -> int:
    """Connections the server has open."""
    folder, found = f"/proc/{service.process.pid}/fd", 0
    for name in os.listdir(folder):
        try:
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


@pytest.fixture(scope="module")
def speech(repository: Path) -> bytes:
    return (repository / "samples" / "digits-1.flac").read_bytes()


def raw(service: Process, timeout_s: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=timeout_s)


def head(service: Process, method: str, path: str, token: str, *more: str) -> bytes:
    host = service.url.removeprefix("http://")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token}", *more, "", ""]
    return "\r\n".join(lines).encode()


def job(client: httpx.Client, speech: bytes, name: str = "a.flac", **fields: str) -> httpx.Response:
    return client.post("/api/jobs", data=fields, files={"file": (name, speech)})


def finished(client: httpx.Client, id: str) -> dict[str, Any]:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        found: dict[str, Any] = client.get(f"/api/jobs/{id}").json()
        if found["state"] not in ("queued", "running"):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def operations(service: Process, token: str) -> list[tuple[str, str]]:
    """Every method and path of the OpenAPI document."""
    with service.client(token) as client:
        paths = client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, item in paths.items() for method in item if method != "parameters"]


def test_without_a_valid_token_no_route_answers(service: Process, secrets: dict[str, str]) -> None:
    every = operations(service, secrets["boss"])
    assert len(every) > 25
    hidden = [("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/"), ("GET", "/api/models"), ("POST", "/api/x")]
    with httpx.Client(base_url=service.url) as client:
        for method, path in every + hidden:
            for header in ({}, {"Authorization": "Bearer zy_" + "A" * 32}):
                answer = client.request(method, path.replace("{", "").replace("}", ""), headers=header)
                expected = 200 if path in ("/healthz", "/readyz") else 401
                assert answer.status_code == expected, (method, path, header)


def test_what_is_somebody_else_s_is_not_there(service: Process, secrets: dict[str, str], speech: bytes) -> None:
    """Every route with an id gives the other user the same 404 as an id that nobody has."""
    with service.client(secrets["bob"]) as bob, service.client(secrets["ann"]) as ann:
        id = job(bob, speech, batch="bobs").json()["id"]
        assert finished(bob, id)["state"] == "done"
        assert bob.put("/api/hotwords/mine", json={"text": "zhiyin"}).status_code == 200
        with_id = [(m, p) for m, p in operations(service, secrets["boss"]) if "{id}" in p and p.startswith("/api/")]
        assert len(with_id) >= 11
        bodies = {"PATCH": {"edited": "mine now"}}
        for method, path in with_id:
            seen = [ann.request(method, path.format(id=one), json=bodies.get(method)) for one in (id, "0" * 32)]
            assert [answer.status_code for answer in seen] == [404, 404], (method, path)
            texts = [answer.text.replace(id, "?").replace("0" * 32, "?") for answer in seen]
            assert texts[0] == texts[1]
        for path in ("/api/history/delete", "/api/history/undo"):
            assert ann.post(path, json={"ids": [id]}).json() == {"changed": 0}
        assert id not in ann.get("/api/history", params={"limit": 500}).text
        assert id not in ann.get("/api/jobs", params={"batch": "bobs"}).text
        for wish in ({"ids": id}, {}, {"batch": "bobs"}):
            for kind in ("csv", "json", "srt"):
                assert id.encode() not in ann.get("/api/history/export", params={"format": kind, **wish}).content
        assert ann.get("/api/hotwords/mine").status_code == 404 and ann.get("/api/hotwords").json()["lists"] == []
        with service.client(secrets["boss"]) as boss:
            assert boss.get(f"/api/history/{id}").status_code == 200
        assert bob.get(f"/api/history/{id}").json()["edited"] is None
        for path in ("/api/device/load", "/api/device/unload", "/api/device/reset", "/api/models/unload"):
            assert ann.post(path, json={"model": "x"}).status_code == 403


def test_behind_a_trusted_proxy(service: Process, secrets: dict[str, str]) -> None:
    """Its word counts for the address in the audit log and for https; a cookie is then for https alone."""
    proxy = {"X-Forwarded-For": "203.0.113.77", "X-Forwarded-Proto": "https", "Host": "speech.example"}
    with httpx.Client(base_url=service.url) as client:
        done = client.post(
            "/login", data={"token": secrets["ann"]}, headers=proxy | {"Origin": "https://speech.example"}
        )
        assert done.status_code == 303 and "Secure" in done.headers["set-cookie"]
        assert "strict-transport-security" in done.headers
        foreign = client.post(
            "/login", data={"token": secrets["ann"]}, headers=proxy | {"Origin": "https://evil.example"}
        )
        assert foreign.status_code == 403
    text = "".join(path.read_text() for path in sorted((service.data / "audit").iterdir()))
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["result"] for line in lines if line["address"] == "203.0.113.77"] == ["303", "403"]


PATHS = [
    "../../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\x",
    "a/../../b",
    "\x00x",
    "CON",
    "~root/x",
    "file:///etc/passwd",
]
SQL = [
    "' OR 1=1 --",
    '"; DROP TABLE jobs; --',
    "x') UNION SELECT hash FROM tokens --",
    "%",
    "_",
    'a" NEAR "b',
    "*",
    "^",
]
HTML = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{7*7}}",
    "\u202egpj.exe",
]
CELLS = ["=cmd|'/c calc'!A1", "+1+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"]
OTHER = ["", " ", "\ud800", "\U0010ffff", "a" * 60_000, "\n\r\nX-Injected: 1", "%00", "${jndi:ldap://x}", "{0}", "%s%n"]
EVERY = [f"{text}injected" if text.strip() else text for text in (*PATHS, *SQL, *HTML, *CELLS, *OTHER)]


def multipart(fields: Field, name: str, data: bytes) -> tuple[bytes, str]:
    """A body as an attacker writes it: names and values as they are."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    last = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    text = "".join(parts) + last
    return text.encode("utf-8", "surrogatepass") + data + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def test_every_text_field_takes_anything(service: Process, secrets: dict[str, str], speech: bytes) -> None:
    """A hostile text in each field of an upload: refused with a reason, or kept as text; never a fault or a path."""
    names = (
        "tasks",
        "instruction",
        "language",
        "into",
        "hotwords",
        "hotword_list",
        "template",
        "batch",
        "model",
        "mode",
    )
    with service.client(secrets["ann"]) as client:

        def send(case: tuple[str, str]) -> tuple[str, str, httpx.Response]:
            field, text = case
            name = text if field == "file name" else "a.flac"
            body, kind = multipart({} if field == "file name" else {field: text}, name, speech)
            return field, text, client.post("/api/jobs", content=body, headers={"Content-Type": kind})

        fields = (*names, "file name")
        cases = [(fields[number % len(fields)], text) for number, text in enumerate(EVERY)]  # each text somewhere
        cases += [(field, EVERY[number * 5 % len(EVERY)]) for number, field in enumerate(fields)]
        cases += [("file name", text) for text in (*PATHS, *CELLS, *HTML[:2])] + [
            ("hotwords", SQL[1]),
            ("batch", CELLS[0]),
        ]
        with ThreadPoolExecutor(4) as pool:
            for field, text, answer in pool.map(send, cases):
                assert answer.status_code in (202, 400, 404, 413, 422), (field, text, answer.text)
                assert answer.headers["content-type"] == "application/json" and "x-injected" not in answer.headers
        kept = {
            path.relative_to(service.data / "audio") for path in (service.data / "audio").rglob("*") if path.is_file()
        }
        assert kept and all(len(path.parts) == 2 and len(path.stem) == 32 for path in kept)
        assert all(path.suffix in (".flac", "") or path.suffix[1:].isalnum() for path in kept)
        rows = client.get("/api/history", params={"limit": 500}).json()["rows"]
        assert {row["user"] for row in rows} == {"ann"} and CELLS[1] in {row["file_name"] for row in rows}


def test_every_filter_takes_anything(service: Process, secrets: dict[str, str]) -> None:
    filters = (
        "text",
        "state",
        "mode",
        "language",
        "model",
        "device",
        "label",
        "batch",
        "since",
        "until",
        "after",
        "order",
    )
    with service.client(secrets["ann"]) as client:
        everybody = client.get("/api/history", params={"text": SQL[0]}).json()
        assert everybody["rows"] == []  # looked for, not run
        cases = [(f, t) for n, f in enumerate(filters) for t in (*SQL, *EVERY[n :: len(filters)]) if len(t) < 5000]
        for name, text in cases:
            query = {name: text.encode("utf-8", "surrogatepass")}
            answer = client.get("/api/history", params=query)
            assert answer.status_code in (200, 400, 404, 422), (name, text, answer.text)
            if answer.status_code == 200:
                assert {row["user"] for row in answer.json()["rows"]} <= {"ann"}, (name, text)
        for text in (*PATHS, *SQL, *HTML):
            quoted = "".join(f"%{byte:02x}" for byte in text.encode())
            for path in (f"/api/history/{quoted}", f"/api/jobs/{quoted}/events", f"/api/hotwords/{quoted}"):
                assert client.get(path).status_code in (400, 404), path
            assert client.get(f"/api/history/{quoted}/audio").status_code == 404
        for header in (
            "Range",
            "Last-Event-ID",
            "If-Range",
            "Accept-Language",
            "Cookie",
            "Content-Type",
            "X-Request-Id",
        ):
            for value in (
                "9" * 5000,
                "bytes=-1--5",
                "bytes=99999999999999999999-",
                "zh;q=;;,",
                "\xff\xfe",
                "a=b;zhiyin_session=a.b",
            ):
                answer = client.get("/api/jobs/" + "0" * 32 + "/events", headers={header: value.encode("latin-1")})
                assert answer.status_code in (400, 404), (header, value)


def test_exports_are_harmless(service: Process, secrets: dict[str, str], speech: bytes) -> None:
    """No cell is a formula, no name in the archive leads out of it."""
    with service.client(secrets["boss"]) as client:
        ids = []
        for name in (*CELLS, *PATHS[:5]):
            body, kind = multipart({"batch": "hostile"}, name, speech)
            sent = client.post("/api/jobs", content=body, headers={"Content-Type": kind})
            ids += [sent.json()["id"]] if sent.status_code == 202 else []
        assert len(ids) > 8
        for id in ids:
            assert finished(client, id)["state"] == "done"
        assert client.patch(f"/api/history/{ids[0]}", json={"edited": CELLS[0]}).status_code == 200
        table = client.get("/api/history/export", params={"format": "csv", "batch": "hostile"})
        rows = list(csv.reader(io.StringIO(table.content.decode("utf-8-sig"))))
        assert len(rows) == 1 + len(ids)
        cells = [cell for row in rows for cell in row]
        assert any("cmd|" in cell for cell in cells)
        assert not [cell for cell in cells if cell[:1] in tuple("=+@\t\r") or (cell[:1] == "-" and cell[1:2] != "")]
        packed = client.get("/api/history/export", params={"format": "srt", "batch": "hostile"}).content
        names = zipfile.ZipFile(io.BytesIO(packed)).namelist()
        assert len(names) == len(set(names)) == len(ids)
        assert not [n for n in names if n.startswith(("/", "\\")) or ".." in n.split("/") or "\\" in n or "\x00" in n]
        audio = client.get(f"/api/history/{ids[0]}/audio")
        assert audio.content == speech and "sandbox" in audio.headers["content-security-policy"]


@pytest.mark.parametrize("kind", ["says so", "chunked", "lies"])
@pytest.mark.parametrize("path", ["/api/jobs", "/v1/audio/transcriptions", "/api/history/delete"])
def test_five_gigabytes(service: Process, secrets: dict[str, str], kind: str, path: str) -> None:
    """It is refused as soon as it is known, and the connection ends soon; a limit's worth of it is kept until then."""
    is_json = path == "/api/history/delete"
    form = f"Content-Type: {'application/json' if is_json else 'multipart/form-data; boundary=x'}"
    lengths = {
        "says so": f"Content-Length: {5 << 30}",
        "chunked": "Transfer-Encoding: chunked",
        "lies": "Content-Length: 9",
    }
    block = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + b"\x00" * (1 << 20)
    piece = f"{len(block):x}\r\n".encode() + block + b"\r\n" if kind == "chunked" else block
    with raw(service) as connection:
        connection.sendall(head(service, "POST", path, secrets["ann"], form, lengths[kind]))
        answers: list[bytes] = []
        reader = threading.Thread(target=lambda: answers.append(_until_closed(connection)))
        reader.start()
        began_s, sent, largest = time.monotonic(), 0, 0
        with suppress(OSError):
            while sent < 5 << 30 and reader.is_alive() and time.monotonic() - began_s < 20:
                connection.sendall(piece)
                sent += len(piece)
                largest = max(largest, sum(part.stat().st_size for part in (service.data / "uploads").iterdir()))
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        reader.join(20)
    assert time.monotonic() - began_s < 15 and largest <= UPLOAD_BYTES + (1 << 20)
    expected = (b"400", b"413", b"415", b"") if kind == "lies" else (b"413", b"")  # nothing: it was reset meanwhile
    assert answers[0][9:12] in expected, answers[0][:300]


def _until_closed(connection: socket.socket) -> bytes:
    found = b""
    with suppress(OSError):
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize("path", ["/api/jobs", "/api/history/delete"])
def test_one_byte_a_second(service: Process, secrets: dict[str, str], path: str) -> None:
    """Ended by the server after about `upload_stall_s`, with 408 or a closed connection."""
    kind = "multipart/form-data; boundary=x" if path == "/api/jobs" else "application/json"
    with raw(service) as connection:
        more = (f"Content-Type: {kind}", "Content-Length: 100000")
        connection.sendall(head(service, "POST", path, secrets["ann"], *more))
        connection.settimeout(0.4)
        began_s, answer = time.monotonic(), b""
        for byte in itertools.cycle(b"--x\r\n"):
            try:
                connection.sendall(bytes([byte]))
                answer = connection.recv(65536)
                break
            except TimeoutError:
                assert time.monotonic() - began_s < 15, "it waits for ever"
            except ConnectionError:
                break
        assert answer[9:12] in (b"408", b""), answer[:200]
        assert time.monotonic() - began_s >= STALL_S * 0.9


def test_thousands_of_tiny_requests(service: Process, secrets: dict[str, str]) -> None:
    """Of one user's, those over the limit get 429 with a time to wait; others are served meanwhile.

    benchmarks/serve_load.py sends 10,000.
    """
    one, count = head(service, "GET", "/api/device", secrets["flood"]), 200

    def flood(_: int) -> bytes:
        found = b""
        with raw(service, 60) as connection:
            connection.sendall(one * count)
            while found.count(b"HTTP/1.1 ") < count or not found.endswith(b"}"):
                part = connection.recv(1 << 16)
                if not part:
                    break
                found += part
        return found

    began_s = time.monotonic()
    with ThreadPoolExecutor(10) as pool, service.client(secrets["bob"]) as other:
        waiting = [pool.submit(flood, number) for number in range(10)]
        assert other.get("/api/jobs", params={"limit": 1}).status_code == 200
        answers = b"".join(one.result() for one in waiting)
    passed = RATE + (time.monotonic() - began_s) * RATE / 60
    counts = Counter(answers[at + 9 : at + 12] for at in _all(answers, b"HTTP/1.1 "))
    assert set(counts) == {b"200", b"429"} and sum(counts.values()) == 10 * count
    assert RATE <= counts[b"200"] <= passed + 1 and answers.lower().count(b"retry-after: ") == counts[b"429"]
    with service.client(secrets["boss"]) as client:
        assert 'status="429"' in client.get("/metrics").text


def _all(data: bytes, what: bytes) -> Iterator[int]:
    at = data.find(what)
    while at >= 0:
        yield at
        at = data.find(what, at + 1)


def flac_of_days() -> bytes:
    """A short FLAC whose header says 2**36 - 1 samples: 49 days."""
    held = io.BytesIO()
    soundfile.write(held, np.zeros(16_000, np.float32), 16_000, format="FLAC")
    data = bytearray(held.getvalue())
    data[21] |= 0x0F  # total samples: 36 bits that end the fixed fields of STREAMINFO (RFC 9639, section 8.2)
    data[22:26] = b"\xff" * 4
    return bytes(data)


def flac_bomb() -> bytes:
    """Half an hour of silence in some kilobytes."""
    held = io.BytesIO()
    with soundfile.SoundFile(held, "w", 16_000, 1, format="FLAC") as file:
        for _ in range(30):
            file.write(np.zeros(60 * 16_000, np.float32))
    return held.getvalue()


def wav_of_days() -> bytes:
    """A WAV whose header says four gigabytes at 8000 bytes a second."""
    form = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", 2**32 - 9)
    return b"RIFF" + struct.pack("<I", 2**32 - 1) + chunks + b"\x80" * 8000


@pytest.mark.parametrize("make", [flac_of_days, flac_bomb, wav_of_days], ids=lambda make: make.__name__)
def test_audio_of_days(service: Process, secrets: dict[str, str], make: Any) -> None:
    """Refused in bounded time, or, where only the header lies, taken for what it is."""
    data = make()
    assert len(data) < UPLOAD_BYTES
    began_s = time.monotonic()
    with service.client(secrets["ann"]) as client:
        answer = job(client, data, f"{make.__name__}.bin")
        assert time.monotonic() - began_s < 20
        if answer.status_code == 202:
            assert make is not flac_bomb
            done = finished(client, answer.json()["id"])
            assert done["state"] in ("done", "failed") and done["duration_s"] <= AUDIO_S
        else:
            assert answer.status_code in (400, 413) and "\n" not in answer.json()["error"]["message"]
        inside = base64.b64encode(data).decode()
        part = {"type": "input_audio", "input_audio": {"data": inside, "format": "flac"}}
        wish = {"model": "pocket", "messages": [{"role": "user", "content": [part]}]}
        if make is flac_bomb:
            assert client.post("/v1/chat/completions", json=wish).status_code in (400, 413)


def frame(
    opcode: int, data: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0, length: int = -1
) -> bytes:
    """A WebSocket frame, right or wrong (RFC 6455, section 5.2)."""
    size = len(data) if length < 0 else length
    first = bytes([(fin << 7) | (reserved << 4) | opcode])
    bit = 0x80 if masked else 0
    if size < 126:
        sized = bytes([bit | size])
    elif size < 65536:
        sized = bytes([bit | 126]) + struct.pack(">H", size)
    else:
        sized = bytes([bit | 127]) + struct.pack(">Q", size)
    return first + sized + (b"\x00" * 4 if masked else b"") + data


FRAMES = {
    "not masked": frame(1, b"{}", masked=False),
    "reserved bits": frame(1, b"{}", reserved=5),
    "unknown opcode": frame(7, b"x"),
    "no text": frame(1, b"\xff\xfe\xfd"),
    "a long ping": frame(9, b"x" * 200),
    "half a ping": frame(9, b"x", fin=False),
    "a continuation of nothing": frame(0, b"x"),
    "eight exabytes": frame(2, b"", length=2**63 - 1),
    "the sign bit": frame(2, b"", length=2**63),
    "five megabytes": frame(2, b"\x00" * (5 << 20)),
    "close code 1": frame(8, b"\x00\x01"),
    "a close of one byte": frame(8, b"\x03"),
    "noise": bytes(range(256)) * 40,
    "json that is none": frame(1, b"{" * 10_000),
    "deep json": frame(1, b"[" * 100_000),
    "odd samples": frame(1, b"{}") + frame(2, b"\x00" * 1001) + frame(2, b"\xff"),
    "a number too large": frame(1, b'{"sample_rate_hz": 1e999}'),
    "many digits": frame(1, b'{"sample_rate_hz": ' + b"9" * 5000 + b"}"),
}


@pytest.mark.parametrize("path", ["/api/live", "/v1/realtime?intent=transcription"])
def test_malformed_frames(service: Process, secrets: dict[str, str], path: str) -> None:
    """The connection is closed, or an error is said on it; places of streams come back."""
    more = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    for name, data in FRAMES.items():
        with raw(service) as connection:
            connection.sendall(head(service, "GET", path, secrets["bob"], *more, key))
            opened = connection.recv(65536)
            assert opened.startswith(b"HTTP/1.1 101"), (name, opened[:300])
            try:
                connection.sendall(data)
                connection.settimeout(1.0)
                while connection.recv(65536):
                    pass
            except (TimeoutError, ConnectionError):
                pass
        assert httpx.get(service.url + "/healthz").status_code == 200, name
    for wrong in (more[:2], (*more[:2], "Sec-WebSocket-Version: 99"), more):  # no key, no version, another one
        with raw(service) as connection:
            connection.sendall(head(service, "GET", path, secrets["bob"], *wrong))
            assert connection.recv(65536).startswith(b"HTTP/1.1 4"), wrong
    for origin in ("https://evil.example", "null"):
        with raw(service) as connection:
            connection.sendall(head(service, "GET", path, secrets["bob"], *more, key, f"Origin: {origin}"))
            assert connection.recv(65536).startswith(b"HTTP/1.1 403"), origin


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
        b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["tls", "version", "zero byte", "headers", "path", "smuggling", "negative", "two lengths", "http/2"],
)
def test_no_http(service: Process, data: bytes) -> None:
    with raw(service) as connection:
        try:
            connection.sendall(data)
            answer = connection.recv(65536)
        except ConnectionError:
            answer = b""
        assert answer[9:12] in (b"", b"400", b"401", b"413", b"414", b"431", b"505"), answer[:200]


def test_the_openapi_document_holds(service: Process, secrets: dict[str, str]) -> None:
    """schemathesis: made-up requests to every operation; none is answered with 5xx but for what limits say."""
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    schema = schemathesis.openapi.from_dict(json.loads(httpx_get(service, secrets["boss"], "/openapi.json")))
    wrong: list[str] = []
    client = service.client(secrets["boss"])
    names = [result.ok() for result in schema.get_all_operations()]
    assert len(names) > 25
    for operation in names:
        if operation.path in ("/api/device/reset", "/api/device/unload", "/api/device/load"):
            continue  # they do what they say; test_faults asks them

        @hypothesis.settings(
            max_examples=6,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            given = case.as_transport_kwargs(base_url=service.url)
            given = {
                name: value
                for name, value in given.items()
                if name in ("method", "url", "params", "headers", "json", "data", "files")
            }
            answer = httpx_any(client, given)
            if answer is not None and answer.status_code >= 500 and answer.status_code not in (503, 507):
                wrong.append(f"{given['method']} {given['url']} {answer.status_code} {answer.text[:200]}")

        ask()
    client.close()
    assert not wrong, wrong


def httpx_get(service: Process, token: str, path: str) -> str:
    with service.client(token) as client:
        return client.get(path).text


def httpx_any(client: httpx.Client, given: dict[str, Any]) -> httpx.Response | None:
    """Send what schemathesis made for `requests`; what is no request at all is left out."""
    headers = {name: value for name, value in (given.get("headers") or {}).items() if name.lower() != "authorization"}
    data, rest = given.get("data"), {name: given.get(name) for name in ("params", "json", "files")}
    body: dict[str, Any] = {"content": data} if isinstance(data, bytes | str) else {}
    try:
        with client.stream(given["method"], given["url"], headers=headers, **rest, **body) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                answer.read()
            return answer
    except (UnicodeError, ValueError, TypeError, AttributeError, httpx.HTTPError):
        return None
