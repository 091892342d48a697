"""What may happen to a server: it is killed at any moment, its disk is full, its database is locked.

Afterwards nothing that was accepted is lost, nothing half-done lies about, and it serves.
"""

import os
import signal
import socket
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

import zhiyin
from tests.serve.process import Process, serving

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def short(repository: Path) -> bytes:
    return (repository / "samples" / "digits-1.flac").read_bytes()


@pytest.fixture(scope="module")
def long(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Minutes of speech, so that there is time to kill whoever works on it."""
    speech_T, rate_hz = soundfile.read(repository / "samples" / "digits-1.flac", dtype="float32")
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, np.tile(speech_T, 90), rate_hz)
    return path.read_bytes()


def send(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/api/jobs", files={"file": ("a.flac", data)})


def state_of(client: httpx.Client, id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/jobs/{id}").json()
    return found


def ended(client: httpx.Client, id: str) -> dict[str, Any]:
    until_s = time.monotonic() + 90
    while (found := state_of(client, id))["state"] in ("queued", "running") and time.monotonic() < until_s:
        time.sleep(0.05)
    return found


def half_an_upload(service: Process) -> httpx.Client:
    """A client in the middle of its recording; kept open by a thread."""
    client = service.client()

    def parts() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="half.wav"\r\n\r\n' + b"\x00" * (3 << 20)
        while service.process.poll() is None:
            time.sleep(0.05)
            yield b"\x00" * 4096

    def run() -> None:
        with suppress(httpx.HTTPError):
            client.post("/api/jobs", content=parts(), headers={"Content-Type": "multipart/form-data; boundary=x"})

    threading.Thread(target=run, daemon=True).start()
    return client


def recordings(data: Path) -> set[str]:
    """Ids whose recordings are kept."""
    return {path.stem for path in (data / "audio").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_killed_in_upload_in_decode_and_in_database_writes(tmp_path: Path, short: bytes, long: bytes) -> None:
    """kill -9 while one recording arrives, a long one is decoded, and others are just being accepted."""
    data, accepted, lock = tmp_path / "data", [], threading.Lock()
    (tmp_path / "long.flac").write_bytes(long)
    whole = zhiyin.load(threads=1).understand(tmp_path / "long.flac").text
    with serving(data) as service:
        half = half_an_upload(service)
        with service.client() as client:
            big = send(client, long).json()["id"]

            def keep_sending() -> None:
                with suppress(httpx.HTTPError), service.client() as own:
                    while True:
                        answer = send(own, short)
                        if answer.status_code == 202:
                            with lock:
                                accepted.append(answer.json()["id"])

            senders = [threading.Thread(target=keep_sending) for _ in range(3)]
            for sender in senders:
                sender.start()
            until_s = time.monotonic() + 60
            while time.monotonic() < until_s:
                seen = state_of(client, big)
                if len(accepted) >= 8 and seen["state"] != "queued" and service.parts():
                    break
                time.sleep(0.01)
            assert seen["state"] == "running", "it must be killed while it works on it"
            service.end(signal.SIGKILL)
        for sender in senders:
            sender.join(30)
        half.close()
    database = sqlite3.connect(data / "history.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    with serving(data) as service, service.client() as client:
        assert service.parts() == []
        assert (data / "journals").is_dir()
        found = ended(client, big)
        assert found["state"] == "done" and found["attempts"] == 2 and found["duration_s"] > 150
        assert found["text"] == whole  # as if nothing had happened
        for id in accepted:  # whoever was told 202 gets a result
            one = ended(client, id)
            assert one["state"] == "done" and one["attempts"] in (1, 2), one
        rows = client.get("/api/history", params={"limit": 500}).json()["rows"]
        assert {*accepted, big} <= {row["id"] for row in rows} and len(rows) <= len(accepted) + 1 + 3
        for row in rows:  # those that nobody was told of were accepted, too
            assert ended(client, row["id"])["state"] == "done"
        assert recordings(data) == {row["id"] for row in rows}
        assert not any((data / "journals").iterdir()) and not service.parts()
        assert service.end(signal.SIGTERM) == 0


FULL_AND_IMPATIENT = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
import zhiyin.serve.database as database
database.open.__kwdefaults__["wait_s"] = 1.0
"""


@pytest.mark.slow
def test_a_full_disk_and_a_locked_database(tmp_path: Path, short: bytes) -> None:
    """No file may be larger than a megabyte, as on a full disk; and somebody else holds the database for a while."""
    data = tmp_path / "data"
    with serving(data, "--limit", "live_streams=2", prelude=FULL_AND_IMPATIENT) as service, service.client() as client:
        first = send(client, short).json()["id"]
        assert ended(client, first)["state"] == "done"
        before = len(os.listdir(f"/proc/{service.process.pid}/fd"))

        noise = np.random.default_rng(1).standard_normal(2 << 20).astype(np.float32) / 10
        path = tmp_path / "noise.wav"
        soundfile.write(path, noise, RATE_HZ)
        full = send(client, path.read_bytes())
        assert full.status_code == 507 and full.json()["error"]["type"] == "server_error", full.text
        assert service.parts() == [] and recordings(data) == {first}
        assert client.get("/healthz").status_code == 200

        holder = sqlite3.connect(data / "history.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        locked = send(client, short)
        assert locked.status_code == 503 and int(locked.headers["Retry-After"]) > 0, locked.text
        assert 0.5 < time.monotonic() - began_s < 20
        assert client.get("/healthz").status_code == 200
        assert client.get(f"/api/jobs/{first}").json()["state"] == "done"  # reading goes on
        assert client.post("/api/history/delete", json={"ids": [first]}).status_code == 503
        assert service.parts() == [] and recordings(data) == {first}
        holder.execute("ROLLBACK")
        holder.close()

        last = send(client, short).json()["id"]
        assert ended(client, last)["state"] == "done" and recordings(data) == {first, last}
        until_s = time.monotonic() + 10
        while len(os.listdir(f"/proc/{service.process.pid}/fd")) > before + 12 and time.monotonic() < until_s:
            time.sleep(0.1)
        assert len(os.listdir(f"/proc/{service.process.pid}/fd")) <= before + 12  # connections of the database stay


@pytest.mark.slow
def test_no_space_left_by_the_limit(tmp_path: Path, short: bytes) -> None:
    """`free_bytes` above what the disk has: every recording is refused before it is read, the rest is served."""
    with (
        serving(tmp_path / "data", "--limit", f"free_bytes={1 << 60}", ready=False) as service,
        service.client() as client,
    ):
        for path, field in (("/api/jobs", {}), ("/v1/audio/transcriptions", {"model": "whisper-1"})):
            refused = client.post(path, data=field, files={"file": ("a.flac", short)})
            assert refused.status_code == 507 and "Retry-After" in refused.headers
        assert service.parts() == [] and client.get("/api/history").json()["rows"] == []


def test_clients_that_leave(tmp_path: Path, server: Any, short: bytes) -> None:
    """In the middle of an upload, of an event stream and of an answer; their parts go and others are served."""
    port = int(server.url.rpartition(":")[2])
    with server.client() as client:
        id = send(client, short).json()["id"]
        start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + b"\x00" * 200_000
        heads = [
            b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 900000\r\n\r\n" + start,
            f"GET /api/jobs/{id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(),
            b"GET /api/history?limit=100 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        ]
        for head in heads * 5:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head)
        until_s = time.monotonic() + 20
        while any((server.data / "uploads").iterdir()) and time.monotonic() < until_s:
            time.sleep(0.05)
        assert not any((server.data / "uploads").iterdir())
        assert ended(client, id)["state"] == "done" and client.get("/healthz").status_code == 200
