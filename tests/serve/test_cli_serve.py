"""`zhiyin serve` and `zhiyin token`: settings, what is said, how it starts, refuses and stops."""

import dataclasses
import fcntl
import importlib.util
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from tests.serve.process import Process, serving
from tests.test_cli import Outcome, command
from zhiyin import cli_serve
from zhiyin.errors import UserError
from zhiyin.serve import database, logs, run
from zhiyin.serve.settings import Limits, Settings, folders
from zhiyin.serve.tokens import Tokens


@pytest.fixture
def zhiyin(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process."""
    return lambda *words: command(capsys, *map(str, words))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, zhiyin: Any) -> Any:
    """The settings that a command line comes to."""
    found: list[Settings] = []
    monkeypatch.setattr(run, "serve", found.append)

    def ask(*words: object) -> Settings:
        outcome = zhiyin("serve", *words)
        assert outcome == Outcome(0, "", "")
        return found.pop()

    return ask


EVERY_FLAG = {
    "data": ("--data", "/tmp/x", Path("/tmp/x")),
    "db": ("--db", "postgresql://u@h/n", "postgresql://u@h/n"),
    "host": ("--host", "::1", "::1"),
    "port": ("--port", "0", 0),
    "model": ("--model", "m", "m"),
    "devices": ("--device", "cpu", ("cpu",)),
    "backend": ("--backend", "onnx", "onnx"),
    "threads": ("--threads", "3", 3),
    "dtype": ("--dtype", "float32", "float32"),
    "allow_fallback": ("--allow-fallback", "", True),
    "insecure": ("--insecure", "", True),
    "page": ("--no-page", "", False),
    "trusted_proxies": ("--trusted-proxy", "10.0.0.1", ("10.0.0.1",)),
    "origins": ("--origin", "https://a.example", ("https://a.example",)),
    "keep_days": ("--keep-days", "30", 30),
    "keep_deleted_days": ("--keep-deleted-days", "3", 3),
    "keep_audio": ("--no-keep-audio", "", False),
    "audit_days": ("--audit-days", "365", 365),
    "idle_unload_s": ("--idle-unload", "600", 600.0),
    "slots": ("--slots", "4", 4),
    "attempts": ("--attempts", "5", 5),
    "drain_s": ("--drain", "1.5", 1.5),
}


def test_every_setting_has_a_flag(given: Any) -> None:
    """Each flag changes its own setting and no other."""
    plain = given("--data", "/tmp/plain")
    assert plain == Settings(data=Path("/tmp/plain"))
    known = {field.name for field in dataclasses.fields(Settings)}
    assert known - set(EVERY_FLAG) == {"limits", "tls_cert", "tls_key"}
    for name, (flag, word, value) in EVERY_FLAG.items():
        found = given("--data", "/tmp/plain", flag, *([word] if word else []))
        assert found == dataclasses.replace(plain, **{name: value}), name
    pair = given("--tls-cert", "c.pem", "--tls-key", "k.pem", "--device", "cpu", "--device", "cuda:1")
    assert (pair.tls_cert, pair.tls_key, pair.devices) == ("c.pem", "k.pem", ("cpu", "cuda:1"))


def test_a_file_and_flags_over_it(given: Any, tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('data = "/srv/z"\nport = 1\ndevices = ["cpu"]\n[limits]\njobs = 7\nupload_bytes = 5\n')
    found = given("--config", file, "--port", 2, "--limit", "jobs=8", "--limit", "audio_s=1.5")
    assert found.port == 2 and found.data == Path("/srv/z") and found.devices == ("cpu",)
    assert found.limits == Limits(jobs=8, upload_bytes=5, audio_s=1.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "jobs"], "--limit 'jobs': write NAME=NUMBER"),
        (["--limit", "job=3"], "did you mean 'jobs'"),
        (["--limit", "jobs=1.5"], "limits: jobs: int was expected"),
        (["--tls-cert", "x"], "belong together"),
        (["--config", "/nowhere/serve.toml"], "cannot be read"),
        (["--port", "70000"], "ports go from 0"),
    ],
)
def test_what_is_wrong_is_one_line(zhiyin: Any, words: list[str], said: str) -> None:
    outcome = zhiyin("serve", *words)
    assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1 and outcome.out == ""


def test_without_the_extra(zhiyin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("fastapi", "gradio") else real(name))
    for words in (["serve"], ["token", "list"]):
        outcome = zhiyin(*words)
        assert outcome == Outcome(
            2, "", "zhiyin: the service needs fastapi; install the extra: pip install 'zhiyin[serve]'\n"
        )
    monkeypatch.setattr(cli_serve, "NEEDED", ())
    assert "needs gradio; install" in zhiyin("serve", "--data", "/tmp/x").err


def test_help_and_wrong_settings_need_no_extra() -> None:
    """In an interpreter where none of it can be imported."""
    code = (
        "import sys\n"
        f"for name in {(*cli_serve.NEEDED, *cli_serve.NEEDED_BY_PAGE)!r}: sys.modules[name] = None\n"
        "from zhiyin.cli import main\nmain(sys.argv[1:])"
    )
    for words, code_expected in ((["serve", "--help"], 0), (["token", "--help"], 0)):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == code_expected and "Usage" in done.stdout, done.stderr


def test_tokens(zhiyin: Any, tmp_path: Path) -> None:
    where = ("--data", tmp_path / "data")
    made = zhiyin("token", "add", "王芳", *where)
    assert made.code == 0 and re.fullmatch(r"zy_[\w-]{32}\n", made.out) and "王芳 (user)" in made.err
    boss = zhiyin("token", "add", "boss", "--role", "admin", *where)
    rows = zhiyin("token", "list", *where).out.splitlines()
    assert len(rows) == 3 and rows[1].endswith("王芳") and "admin" in rows[2]
    assert made.out.strip() not in "\n".join(rows)
    raw = (tmp_path / "data" / "history.db").read_bytes()
    assert made.out.strip().encode() not in raw and boss.out.strip()[3:].encode() not in raw
    id = rows[1].split()[0]
    gone = zhiyin("token", "revoke", id, *where)
    assert gone.code == 0 and gone.out == ""
    again = zhiyin("token", "revoke", id, *where)
    assert again.code == 2 and "no live one with this id" in again.err
    assert zhiyin("token", "list", *where).out.splitlines()[1].count("20") >= 2
    wrong = zhiyin("token", "add", "a b", *where)
    assert wrong.code == 2 and "a name has 1 to 64" in wrong.err
    assert "known: user admin" in zhiyin("token", "add", "a", "--role", "root", *where).err


def test_when_a_token_was_last_used(engine: Engine) -> None:
    """On every database."""
    server, shell = Tokens(engine), Tokens(engine)
    secret = server.add("ann")
    assert not server.has_news and shell.list()[0].last_used_at is None
    assert server.check(secret) and server.has_news
    server.note()
    assert shell.list()[0].last_used_at is not None and not server.has_news
    assert server.check(secret) and not server.has_news  # once a minute is enough
    assert shell.revoke(shell.list()[0].id) and server.check(secret)  # not noticed yet
    server.refresh()
    assert server.check(secret) is None and server.is_used and not server.has_live


def test_addresses() -> None:
    with run.listen("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(UserError, match=r"cannot be taken \(address already in use\); give another"):
            run.listen("127.0.0.1", port).__enter__()
    with pytest.raises(UserError, match=r"not known here|cannot be taken"):
        run.listen("203.0.113.1", 0).__enter__()
    with pytest.raises(UserError, match="not known here"):
        run.listen("no such host", 0).__enter__()
    with run.listen("[::1]", 0) as six:
        assert six.family == socket.AF_INET6


def certificate(folder: Path, name: str) -> tuple[str, str]:
    """A new certificate of 127.0.0.1 and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    subject = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *words.split(), *subject], check=True, capture_output=True)
    return str(cert), str(key)


def test_certificates(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    other = certificate(tmp_path, "two")[1]
    run.check_tls(Settings(data=tmp_path, tls_cert=cert, tls_key=key))
    for wrong_cert, wrong_key, said in (
        (cert, other, "no pair in PEM"),
        (key, key, "no pair in PEM"),
        (cert, str(tmp_path / "none"), "cannot be read"),
    ):
        with pytest.raises(UserError, match=said):
            run.check_tls(Settings(data=tmp_path, tls_cert=wrong_cert, tls_key=wrong_key))


def test_it_starts_serves_and_drains(tmp_path: Path, repository: Path) -> None:
    """One life: TLS, a token from another process, a request that is under way when SIGTERM comes, exit code 0."""
    cert, key = certificate(tmp_path, "one")
    settings = Settings(data=tmp_path / "data")
    engine = database.open(database.url(settings, folders(settings)))
    secret = Tokens(engine).add("ann")
    words = ("--host", "0.0.0.0", "--tls-cert", cert, "--tls-key", key, "--drain", "20")
    with serving(tmp_path / "data", *words) as service:
        said = [line for line in service.lines if line.startswith("zhiyin: ")]
        assert "(a token is needed)" in said[0] and "https://" in said[0] and f"data     {tmp_path}" in said[2]
        assert "pocket" in said[3] and "device auto" in said[3]
        trust = ssl.create_default_context(cafile=cert)
        with service.client(secret, verify=trust) as client:
            assert httpx.get(service.url + "/api/jobs", verify=trust).status_code == 401
            later = Tokens(engine).add("bob")
            time.sleep(1.1)
            headers = {"Authorization": f"Bearer {later}"}
            assert httpx.get(service.url + "/api/jobs", verify=trust, headers=headers).status_code == 200
            speech = (repository / "samples" / "digits-1.flac").read_bytes()
            answers: list[httpx.Response] = []

            def ask() -> None:
                fields = {"model": "whisper-1"}
                answers.append(client.post("/v1/audio/transcriptions", data=fields, files={"file": ("a.flac", speech)}))

            thread = threading.Thread(target=ask)
            thread.start()
            while not any(service.data.glob("audio/*/*")) and not any(service.data.glob("uploads/*")):
                time.sleep(0.001)
            assert service.end(signal.SIGTERM) == 0
            thread.join()
        assert answers[0].status_code == 200 and answers[0].json()["text"].strip()
        assert any("stopping when" in line for line in service.lines)
        assert not [line for line in service.records() if line["level"] in ("error", "critical")], service.lines
    engine.dispose()


def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """While a client keeps a request open for ever; its worker goes with it."""
    with serving(tmp_path / "data", "--drain", "60") as service:
        workers = children(service.process.pid)
        with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))) as held:
            kind = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n"
            held.sendall(b"POST /api/understand HTTP/1.1\r\nHost: 127.0.0.1\r\n" + kind + b"\r\n--x\r\n")
            time.sleep(0.3)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert service.process.poll() is None
            began_s = time.monotonic()
            assert service.end(signal.SIGTERM) == 128 + signal.SIGTERM, service.lines
            assert time.monotonic() - began_s < 5
    until_s = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert workers and not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def test_who_may_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token on a wide address, on a busy port, and beside another one with the same data."""
    monkeypatch.setattr(logs, "configure", lambda: lambda: None)
    new = Settings(data=tmp_path / "new", port=0, page=False)
    with pytest.raises(UserError, match="there is no token; make a token first"):
        run.serve(dataclasses.replace(new, host="0.0.0.0"))
    with run.listen("127.0.0.1", 0) as busy, pytest.raises(UserError, match="cannot be taken"):
        run.serve(dataclasses.replace(new, port=busy.getsockname()[1]))
    with (tmp_path / "new" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another zhiyin serve uses it"):
            run.serve(new)


def test_a_head_that_never_ends(tmp_path: Path) -> None:
    """The connection is closed; others are served meanwhile. The time is shortened in the server, not the code."""
    prelude = "import zhiyin.serve.run as r; r.HEADERS_S = 1.0"
    with serving(tmp_path / "data", ready=False, prelude=prelude) as service:
        port = int(service.url.rpartition(":")[2])
        for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: 127"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
                if first:  # a whole request, then half of one
                    slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    assert b"200 OK" in slow.recv(65536)
                    slow.sendall(first)
                assert httpx.get(service.url + "/healthz").status_code == 200
                began_s = time.monotonic()
                rest = b""
                while part := slow.recv(65536):
                    rest += part
                assert 0.3 < time.monotonic() - began_s < 6 and b"HTTP" not in rest
        assert isinstance(service, Process)
