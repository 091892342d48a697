"""What arrives: caps on bytes and seconds, clients that stall, drip or leave, names that are no paths, broken forms."""

import asyncio
import hashlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from tests.fake_model import fake_model
from tests.serve.scripted import Served, serving
from tests.serve.server import SAMPLES
from zhiyin.errors import UserError
from zhiyin.serve import app as application
from zhiyin.serve import database, settings
from zhiyin.serve.job import Wish, new_id
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.uploads import shown_name

WORDS = (SAMPLES / "words-1.flac").read_bytes()
LIMITS = {"upload_bytes": 200_000, "audio_s": 20.0, "upload_stall_s": 0.5, "upload_bytes_per_s": 2000.0}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("uploads") / "data", fake_model("one"), limits=LIMITS) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_stays(served: Served) -> Iterator[None]:
    """After every test: nothing half-written, and every recording belongs to a job."""
    yield
    until_s = time.monotonic() + 5
    while any((served.data / "uploads").iterdir()) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not list((served.data / "uploads").iterdir())
    jobs = httpx.get(f"{served.url}/api/jobs?limit=1000").json()["jobs"]
    stored = {path.stem for path in (served.data / "audio").glob("*/*")}
    assert stored == {job["id"] for job in jobs}


def send(served: Served, data: bytes, name: str = "a.wav", **fields: str) -> httpx.Response:
    return httpx.post(f"{served.url}/api/jobs", files={"file": (name, data)}, data=fields, timeout=30)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def raw(served: Served, body: bytes, kind: str = "multipart/form-data; boundary=x", length: int | None = None) -> bytes:
    """The answer to a request written by hand, which may be shorter than it says."""
    host, port = served.url.removeprefix("http://").split(":")
    said = len(body) if length is None else length
    head = f"POST /api/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {kind}\r\nContent-Length: {said}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + body)
        answer = b""
        while not answer.endswith(b"}") and (piece := connection.recv(65536)):
            answer += piece
    return answer


def flac_of_hours(path: Path) -> None:
    """Silence compresses to next to nothing: hours in a hundred kilobytes, and the header does not say how many."""
    block = np.zeros(16_000 * 600, np.int16)
    with soundfile.SoundFile(path, "w", 4000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(4):  # 2.7 hours
            file.write(block)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the count of samples in STREAMINFO, 36 bits: not known
    data[22:26] = bytes(4)
    path.write_bytes(data)


def test_what_is_kept_is_what_was_sent(served: Served) -> None:
    job = send(served, WORDS, "会议 1.flac").json()
    assert job["file_name"] == "会议 1.flac" and job["bytes"] == len(WORDS) and job["mode"] == "upload"
    assert job["sha256"] == hashlib.sha256(WORDS).hexdigest()
    assert job["duration_s"] == 1.944
    (stored,) = (served.data / "audio").glob(f"*/{job['id']}.flac")
    assert stored.read_bytes() == WORDS and stored.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "..\\..\\boot.ini",
        "/etc/shadow",
        "a\x00b.wav",
        "con.wav\r\nX: y",
        "=cmd|'/c calc'!A1",
        "x" * 5000,
    ],
)  # fmt: skip
def test_names_are_never_paths(served: Served, name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "%0D").replace("\n", "%0A")
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'.encode()
    answer = raw(served, head + WORDS + b"\r\n--x--\r\n")
    status, _, rest = answer.partition(b"\r\n")
    if b" 202 " not in status:
        assert b" 400 " in status  # a zero byte in a header
        return
    job = json.loads(rest.partition(b"\r\n\r\n")[2])
    assert not set("/\\\r\n\x00") & set(job["file_name"]) and 0 < len(job["file_name"]) <= 200
    (stored,) = (served.data / "audio").glob(f"*/{job['id']}*")
    assert stored.resolve().is_relative_to(served.data)


def test_shown_names() -> None:
    assert shown_name("a/b\\c.wav") == "c.wav" and shown_name("") == shown_name("/") == "upload"
    assert shown_name("长" * 300 + ".flac").endswith(".flac")


def test_too_many_bytes(served: Served) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 200_001, np.uint8).tobytes()
    assert code(send(served, noise)) == (413, "upload_too_big")
    assert b" 413 " in raw(served, b"", length=5 << 30)  # 5 GB that are only announced


def test_bytes_without_a_length(served: Served) -> None:
    """A chunked body of no announced end is cut at the cap."""

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(10_000):
            yield bytes(65536)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx.post(f"{served.url}/api/jobs", content=endless(), headers=headers, timeout=30)
    except httpx.TransportError:
        return  # closed while it still sent
    assert code(answer) == (413, "upload_too_big")


def test_too_many_seconds(served: Served, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(16_000 * 21, np.int16), 16_000)
    assert code(send(served, (tmp_path / "long.flac").read_bytes(), "long.flac")) == (413, "audio_too_long")


def test_a_file_that_unfolds_to_hours_costs_little(served: Served, tmp_path: Path) -> None:
    flac_of_hours(tmp_path / "bomb.flac")
    data = (tmp_path / "bomb.flac").read_bytes()
    assert len(data) < LIMITS["upload_bytes"]
    began_s = time.monotonic()
    assert code(send(served, data, "bomb.flac")) == (413, "audio_too_long")
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"\x00" * 10_000, b"#!/bin/sh\nrm -rf /\n" * 99, WORDS[:50], b"<html>" * 2000, b"ID3" + bytes(5000)],
)
def test_what_is_no_audio(served: Served, data: bytes) -> None:
    answer = send(served, data)
    assert (answer.status_code == 400 and "the upload" in answer.text) or "empty" in answer.text
    assert str(served.data) not in answer.text


def test_a_wav_that_lies_about_its_length(served: Served) -> None:
    samples = np.zeros(16_000, "<i2").tobytes()
    most = 0xFFFFFFF0
    layout = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    head = (
        b"RIFF"
        + struct.pack("<I", most)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + layout
        + b"data"
        + struct.pack("<I", most)
    )
    job = send(served, head + samples).json()
    assert job["duration_s"] == pytest.approx(1.0)


def test_a_client_that_stalls(served: Served) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    began_s = time.monotonic()
    answer = raw(served, head + WORDS[:1000], length=50_000)
    assert b" 408 " in answer and b"upload_stalled" in answer and time.monotonic() - began_s < 5


def test_a_client_that_drips(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /api/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    with socket.create_connection((host, int(port)), timeout=0.05) as connection:
        connection.sendall(f"{head}Content-Length: 90000\r\n\r\n{part}".encode())
        until_s, answer = time.monotonic() + 10, b""
        while not answer and time.monotonic() < until_s:
            connection.sendall(b"R")  # a byte every twentieth of a second
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
        connection.settimeout(5)
        while not answer.endswith(b"}") and (piece := connection.recv(65536)):
            answer += piece
    assert b" 408 " in answer and b"upload_too_slow" in answer


def test_a_client_that_leaves(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /api/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"{head}Content-Length: 90000\r\n\r\n{part}".encode() + WORDS[:9000])
    assert httpx.get(f"{served.url}/healthz").status_code == 200  # what it left is looked at by `nothing_stays`


FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n' + WORDS + b"\r\n"
FIELD = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
END = b"--x--\r\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", b"broken_form"),
        (b"hello", b"broken_form"),
        (FILE, b"broken_form"),  # no end
        (FIELD % (b"tasks", b"asr") + END, b"no_file"),
        (FILE + FILE + END, b"two_files"),
        (FILE.replace(b'"file"', b'"photo"') + END, b"unknown_file"),
        (FILE + FIELD % (b"task", b"asr") + END, b"did you mean 'tasks'"),
        (FILE + FIELD % (b"tasks", b"asr") * 2 + END, b"field_twice"),
        (FILE + FIELD % (b"tasks", b"\xff\xfe") + END, b"not_utf8"),
        (FILE + FIELD % (b"tasks", b"asrr") + END, b"did you mean 'asr'"),
        (FILE + FIELD % (b"channels", b"left") + END, b"'mix' or 'split'"),
        (FILE + FIELD % (b"itn", b"perhaps") + END, b"valid boolean"),
        (FILE + FIELD % (b"hotwords", b"a,<b>") + END, b"meaning in prompts"),
        (FILE + FIELD % (b"hotwords", b"y" * (1 << 20)) + END, b"fields_too_big"),
        (FILE + FIELD % (b"hotword_list", b"none") + END, b"no_such_list"),
        (FILE + FIELD % (b"language", b"xx") + FIELD % (b"into", b"'; DROP TABLE jobs;--") + END, b"cannot"),
        (FIELD % (b"batch", b"b") * 1001 + FILE + END, b"too_many_fields"),
        (b"--x\r\n" + b"A: b\r\n" * 100_000 + b"\r\n", b"error"),
    ],
)
def test_forms_that_do_not_fit(served: Served, body: bytes, said: bytes) -> None:
    answer = raw(served, body)
    assert said in answer, answer[-500:]
    assert b" 400 " in answer[:40] or b" 413 " in answer[:40] or b" 404 " in answer[:40]


def test_other_bodies(served: Served) -> None:
    assert b"not_multipart" in raw(served, b"{}", "application/json")
    assert b"not_multipart" in raw(served, b"{}", "multipart/form-data")
    assert b" 415 " in raw(served, WORDS, "audio/flac")


def test_a_hotword_field_is_no_file_name(served: Served, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("password\n")
    job = send(served, WORDS, hotwords=str(tmp_path / "secret.txt")).json()
    assert job["wish"]["hotwords"] == [str(tmp_path / "secret.txt")]  # a word like any other


def test_what_a_killed_server_left(tmp_path: Path) -> None:
    """A recording whose job is in the database moves to its place; all else that was arriving goes."""
    data = tmp_path / "data"
    chosen = settings.read(None, {"data": str(data), "page": False})
    places = settings.folders(chosen)
    engine = database.open(database.url(chosen, places))
    id, other = new_id(), new_id()
    given = {
        "user": "local",
        "mode": "upload",
        "file_name": "a.flac",
        "sha256": "",
        "bytes": len(WORDS),
        "wish": Wish(),
    }
    Jobs(engine).add(id=id, audio=f"{id[-2:]}/{id}.flac", **given)  # killed before its recording was moved
    engine.dispose()
    (places.uploads / f"{id}.part.flac").write_bytes(WORDS)
    (places.uploads / f"{other}.part").write_bytes(WORDS[:1000])
    (places.uploads / "strange").write_bytes(b"")
    with serving(data, fake_model("one")) as served:
        assert not list(places.uploads.iterdir())
        assert httpx.get(f"{served.url}/api/history/{id}/audio").content == WORDS
    assert len(list(places.audio.glob("*/*"))) == 1


def test_one_server_for_each_data_folder(served: Served) -> None:
    other = application.create(settings.read(None, {"data": str(served.data), "page": False}))

    async def start() -> None:
        async with other.router.lifespan_context(other):
            pass

    with pytest.raises(UserError, match="another zhiyin serve uses it"):
        asyncio.run(start())
    other.state.zhiyin.engine.dispose()
