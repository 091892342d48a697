"""The audit log: who did what, never what was said; and the JSON lines of the log."""

import io
import json
import logging
import os
import resource
import subprocess
import sys
import threading
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from tests.serve.gates import client, small
from zhiyin.serve import logs
from zhiyin.serve.audit import Audit
from zhiyin.serve.settings import Folders, Settings, folders


@pytest.fixture
def places(tmp_path: Path) -> Folders:
    return folders(Settings(data=tmp_path / "data"))


def write(audit: Audit, **given: str) -> None:
    audit.write(**({"user": "ann", "address": "::1", "action": "POST /api/jobs", "object": "ab12"} | given))


def records(places: Folders) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(places.audit.iterdir()) for line in path.read_text().splitlines()]


def test_a_line(places: Folders) -> None:
    audit = Audit(places, 180)
    write(audit, result="201", request_id="r-1")
    audit.close()
    (line,) = records(places)
    assert list(line) == ["time", "request_id", "user", "address", "action", "object", "result"]
    assert line["user"] == "ann" and line["result"] == "201" and line["request_id"] == "r-1"
    assert abs(datetime.fromisoformat(line["time"]) - datetime.now(timezone.utc)) < timedelta(minutes=1)
    (path,) = places.audit.iterdir()
    assert path.name == f"audit-{datetime.now(timezone.utc).date()}.jsonl" and path.stat().st_mode & 0o777 == 0o600


def test_what_a_person_typed_cannot_be_an_object(places: Folders) -> None:
    audit = Audit(places, 180)
    for text in ('a"\n{"user": "boss"}', "他说的话\x00", "../../etc/passwd", "a,b-c"):
        write(audit, object=text, user="王\n芳")
    assert [line["object"] for line in records(places)] == ["a?user?:?boss?", "?", "..?..?etc?passwd", "a,b-c"]
    write(audit, object="x" * 500_000)
    assert len(records(places)[-1]["object"]) == 33_000


def test_old_files_go_and_others_stay(places: Folders) -> None:
    today = datetime.now(timezone.utc).date()
    for days in (0, 1, 179, 180, 181, 400):
        (places.audit / f"audit-{today - timedelta(days=days)}.jsonl").write_text("{}\n")
    (places.audit / "audit-old.jsonl").write_text("{}\n")
    (places.audit / "notes.txt").write_text("")
    write(Audit(places, 180))
    kept = {path.name for path in places.audit.iterdir()}
    assert kept == {f"audit-{today - timedelta(days=d)}.jsonl" for d in (0, 1, 179, 180)} | {
        "audit-old.jsonl",
        "notes.txt",
    }
    write(Audit(places, 0))
    assert {path.name for path in places.audit.iterdir()} == kept


def test_a_new_day_is_a_new_file(places: Folders) -> None:
    audit = Audit(places, 180)
    audit._append(date(2026, 1, 31), b'{"day": 1}\n')
    audit._append(date(2026, 1, 31), b'{"day": 1}\n')
    audit._append(date(2026, 2, 1), b'{"day": 2}\n')
    assert [r["day"] for r in records(places)] == [1, 1, 2] and len(list(places.audit.iterdir())) == 2


def test_many_threads_and_two_processes_write_whole_lines(places: Folders) -> None:
    audits = (Audit(places, 180), Audit(places, 180))  # of two processes: two descriptors
    threads = [threading.Thread(target=lambda a=a: [write(a) for _ in range(200)]) for a in audits for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records(places)) == 1600


FULL = """
import resource, signal, sys
from pathlib import Path
from zhiyin.serve import logs
from zhiyin.serve.audit import Audit
from zhiyin.serve.settings import Settings, folders
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
flush = logs.configure()
lost = []
audit = Audit(folders(Settings(data=Path(sys.argv[1]))), 180, lambda: lost.append(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(20):
    audit.write(user="ann", address="::1", action="POST /api/jobs", object=str(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
audit.write(user="ann", address="::1", action="POST /api/jobs", object="after")
flush()
print(len(lost))
"""


def test_a_full_disk_loses_no_line_in_silence(tmp_path: Path) -> None:
    """Files may have 1000 bytes: what does not fit is in the log instead, and what comes later is readable."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "data")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = next((tmp_path / "data" / "audit").iterdir()).read_text()
    whole = []
    for line in text.splitlines():
        try:
            whole.append(json.loads(line)["object"])
        except json.JSONDecodeError:
            continue  # the one that was cut
    logged = [json.loads(line)["audit"]["object"] for line in done.stderr.splitlines()]
    assert whole[-1] == "after" and len(logged) == int(done.stdout)
    assert set(whole) | set(logged) == {str(n) for n in range(20)} | {"after"} and logged


def test_what_is_audited(tmp_path: Path) -> None:
    service = small(tmp_path / "data", host="0.0.0.0")
    secret = service.tokens.add("ann")
    here = client(service)
    key = {"Authorization": f"Bearer {secret}"}
    here.get("/healthz")
    here.get("/api/whoami", headers=key)  # looks at nothing of value
    here.get("/api/history/ab12?text=病人", headers=key)
    here.post("/api/history/delete", json={"text": "geheim"}, headers=key)
    here.get("/api/whoami")
    here.post("/login", data={"token": secret})
    client(service).post("/login", data={"token": "zy_wrong"})
    here.post("/api/reset", headers=key)
    with here.websocket_connect("ws://127.0.0.1/api/live", headers=key) as socket:
        socket.receive_json()
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()
    lines = [json.loads(line) for line in service.lines()]
    assert [(line["user"], line["action"], line["object"], line["result"]) for line in lines] == [
        ("ann", "GET /api/history/{id}", "ab12", "200"),
        ("ann", "POST /api/history/delete", "made-1", "200"),
        ("", "GET unmatched", "", "401"),
        ("ann", "POST /login", "", "303"),
        ("", "POST /login", "", "401"),
        ("ann", "POST /api/reset", "", "403"),
        ("ann", "WEBSOCKET /api/live", "", "101"),
        ("ann", "WEBSOCKET /api/live", "stored-1", "101"),
    ]
    text = "\n".join(service.lines())
    assert secret not in text and "病人" not in text and "geheim" not in text and "zy_" not in text
    assert {line["address"] for line in lines} == {"testclient"} and all(line["request_id"] for line in lines)


def test_whoever_knocks_all_the_time_does_not_fill_the_disk(tmp_path: Path) -> None:
    service = small(tmp_path / "data", host="0.0.0.0")
    here = client(service)
    assert {here.get("/api/whoami").status_code for _ in range(200)} == {401}
    assert 60 <= len(service.lines()) <= 70


def test_log_lines(tmp_path: Path) -> None:
    service, stream = small(tmp_path / "data"), io.StringIO()
    root, old, level = logging.getLogger(), list(logging.getLogger().handlers), logging.getLogger().level
    try:
        flush = logs.configure(stream)
        here = client(service)
        here.get("/api/history/ab12?text=病人", headers={"X-Request-Id": "r-7"})
        here.get("/api/fault")
        here.get("/healthz")
        logging.getLogger("some.library").warning("odd \u2028 %s", "line\nbreak")
        flush()
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = old
        root.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 4  # health is quiet
    first, trace, fault, other = lines
    assert first["request_id"] == "r-7" and first["route"] == "/api/history/{id}" and first["status"] == 200
    assert first["user"] == "local" and first["level"] == "info" and first["seconds"] >= 0
    assert trace["error"] == "RuntimeError" and "gates.py" in trace["traceback"] and fault["status"] == 500
    assert trace["request_id"] == fault["request_id"] != "r-7" and "request_id" not in other
    text = stream.getvalue()
    assert "transcripta secret" not in text and "病人" not in text and "ab12" not in text


def test_nothing_is_left_open(places: Folders) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(10):
        audit = Audit(places, 180)
        write(audit)
        audit.close()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
    assert not before or len(os.listdir("/proc/self/fd")) == before
