"""`/api/understand` and `/api/jobs` of a running server: the command line's answers, progress, cancelling, retrying."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tests.fake_model import fake_model
from tests.serve.scripted import Served, serving
from tests.serve.server import SAMPLES, Server
from zhiyin.cli import app

WORDS = SAMPLES / "words-1.flac"
NOT_THE_SAME = ("processing_s", "source")


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as one:
        yield one


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "data", fake_model("one")) as one:
        yield one


def ended(client: httpx.Client, id: str) -> dict:
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        job = client.get(f"/api/jobs/{id}").json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def events(client: httpx.Client, id: str, mark: str = "") -> list[tuple[str, dict]]:
    found, last = [], ""
    with client.stream("GET", f"/api/jobs/{id}/events", headers={"Last-Event-ID": mark} if mark else {}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            last = line[4:] if line.startswith("id: ") else last
            if line.startswith("data: "):
                found.append((last, json.loads(line[6:])))
    return found


def by_command(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["understand", str(WORDS), "--threads", "1", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([], {}),
        (["--task", "srwt,sgc"], {"tasks": "srwt,sgc"}),
        (["--ask", "Is it a man or a woman?"], {"instruction": "Is it a man or a woman?"}),
        (["--hotwords", "open file => Anna", "--language", "en"], {"hotwords": "open file => Anna", "language": "en"}),
        (["--no-itn"], {"itn": "false"}),
    ],
)
def test_the_answer_is_that_of_the_command_line(client: httpx.Client, options: list[str], fields: dict) -> None:
    answer = client.post("/api/understand", files={"file": ("words-1.flac", WORDS.read_bytes())}, data=fields)
    assert answer.status_code == 200
    ours, theirs = answer.json(), json.loads(by_command("--format", "json", *options))
    assert ours["source"] == "words-1.flac" and list(ours) == list(theirs)
    assert {k: v for k, v in ours.items() if k not in NOT_THE_SAME} == {
        k: v for k, v in theirs.items() if k not in NOT_THE_SAME
    }


@pytest.mark.parametrize("format", ["txt", "srt", "vtt", "tsv"])
def test_other_formats_too(client: httpx.Client, format: str) -> None:
    answer = client.post("/api/understand", files={"file": WORDS.read_bytes()}, data={"format": format, "tasks": "asr"})
    no_itn = ["--itn"] if format == "tsv" else []
    assert answer.text == by_command("--format", format, *no_itn)
    id = answer.headers["x-job-id"]
    assert client.get(f"/api/jobs/{id}/result?format={format}").text == answer.text


def test_a_job_from_beginning_to_end(client: httpx.Client) -> None:
    sent = client.post(
        "/api/jobs", files={"file": ("喂.flac", WORDS.read_bytes())}, data={"tasks": "asr,sgc", "batch": "b1"}
    )
    assert sent.status_code == 202
    job = sent.json()
    assert job["state"] in ("queued", "running") and job["user"] == "local" and job["wish"]["tasks"] == ["asr", "sgc"]
    told = [event for _, event in events(client, job["id"])]
    assert told[-1] == {"event": "state", "state": "done"} or told[-1]["state"] == "done"
    assert [event["segment"]["text"] for event in told if event["event"] == "segment"] == ["project open file"]
    done = ended(client, job["id"])
    assert done["text"] == "project open file" and done["labels"] == {"sgc": "female"}
    assert done["device"].startswith("cpu") and done["model"] == "pocket" and len(done["model_hash"]) == 64
    assert [one["id"] for one in client.get("/api/jobs?batch=b1").json()["jobs"]] == [job["id"]]
    assert client.get("/api/jobs?batch=b1&state=failed").json()["jobs"] == []
    result = client.get(f"/api/jobs/{job['id']}/result").json()
    assert result["source"] == "喂.flac" and result["segments"][0]["labels"] == {"sgc": "female"}
    assert client.post(f"/api/jobs/{job['id']}/cancel").status_code == 409
    assert client.post(f"/api/jobs/{job['id']}/retry").status_code == 409


def test_events_go_on_where_they_broke_off(client: httpx.Client, tmp_path: Path) -> None:
    samples, rate = soundfile.read(WORDS)
    soundfile.write(tmp_path / "long.wav", np.concatenate([samples, np.zeros(20 * rate)] * 3), rate)
    job = client.post("/api/jobs", files={"file": (tmp_path / "long.wav").read_bytes()}).json()
    told = events(client, job["id"])
    marks = [mark for mark, event in told if event["event"] == "segment"]
    assert marks == ["1", "2", "3"]
    for mark in ("1", "2", "3"):
        again = events(client, job["id"], mark)
        assert [one for one in again if one[1]["event"] == "segment"] == [
            one for one in told if one[1]["event"] == "segment" and int(one[0]) > int(mark)
        ]
        assert again[-1][1]["state"] == "done"
    for wrong in ("x", "-1", "9" * 5000, "１"):
        with client.stream("GET", f"/api/jobs/{job['id']}/events", headers={"Last-Event-ID": wrong.encode()}) as answer:
            assert answer.status_code == 200


def test_cancelling_and_trying_again(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:
        served.scripted.let_go.clear()
        job = client.post("/api/jobs", files={"file": WORDS.read_bytes()}).json()
        assert client.get(f"/api/jobs/{job['id']}/result").status_code == 409
        cancelled = client.post(f"/api/jobs/{job['id']}/cancel")
        assert cancelled.status_code == 200 and cancelled.json()["state"] == "cancelled"
        assert client.post(f"/api/jobs/{job['id']}/cancel").status_code == 409
        served.scripted.let_go.set()
        again = client.post(f"/api/jobs/{job['id']}/retry")
        assert again.status_code == 202 and again.json()["attempts"] == 0
        assert ended(client, job["id"])["text"] == "one"
        served.scripted.fault = "cannot do it"
        failed = client.post("/api/jobs", files={"file": WORDS.read_bytes()}).json()
        assert ended(client, failed["id"])["error"] == "cannot do it"
        assert "cannot do it" in client.get(f"/api/jobs/{failed['id']}/result").json()["error"]["message"]
        for stored in (served.data / "audio").glob(f"*/{failed['id']}*"):
            stored.unlink()
        gone = client.post(f"/api/jobs/{failed['id']}/retry")
        assert gone.status_code == 409 and gone.json()["error"]["code"] == "no_audio"


def test_progress_is_told_before_the_end(served: Served) -> None:
    served.scripted.let_go.clear()
    with httpx.Client(base_url=served.url) as client:
        job = client.post("/api/jobs", files={"file": WORDS.read_bytes()}).json()
        with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: ") and "segment" in line)
            assert json.loads(next(lines)[6:])["segment"]["text"] == "one"
        assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "running"
        served.scripted.let_go.set()


@pytest.mark.parametrize("id", ["0" * 32, "x", "../../etc/passwd", "%00", "' OR 1=1 --", "é" * 40])
def test_ids_that_are_none(client: httpx.Client, id: str) -> None:
    for path in (f"/api/jobs/{id}", f"/api/jobs/{id}/events", f"/api/jobs/{id}/result", f"/api/history/{id}/audio"):
        assert client.get(path).status_code == 404


def test_addresses_that_are_none(client: httpx.Client) -> None:
    missing = client.get("/api/nothing")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "no_such_route"
    wrong = client.put("/api/jobs")
    assert wrong.status_code == 405 and set(wrong.headers["allow"].split(", ")) >= {"GET", "POST"}
    assert "possible" in wrong.json()["error"]["message"]
    assert client.get("/v1/audio/transcriptions").status_code == 405


def test_the_others_jobs_are_not_there(tmp_path: Path) -> None:
    with serving(tmp_path / "data", fake_model("one")) as served:
        tokens = served.tokens
        secrets = {name: tokens.add(name, role) for name, role in (("anna", "user"), ("bob", "user"), ("eva", "admin"))}
        clients = {
            name: httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {secret}"})
            for name, secret in secrets.items()
        }
        id = clients["anna"].post("/api/jobs", files={"file": WORDS.read_bytes()}).json()["id"]
        ended(clients["anna"], id)
        tries = [("GET", "", None), ("GET", "/events", None), ("GET", "/result", None), ("POST", "/cancel", None)]
        tries += [("POST", "/retry", None)]
        for method, path, body in tries:
            assert clients["bob"].request(method, f"/api/jobs/{id}{path}", json=body).status_code == 404
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/audio", None),
            ("GET", "/result", None),
            ("GET", "/peaks", None),
            ("PATCH", "", {"edited": "mine"}),
            ("DELETE", "", None),
        ):
            assert clients["bob"].request(method, f"/api/history/{id}{path}", json=body).status_code == 404
        bob = clients["bob"]
        assert bob.get("/api/jobs").json()["jobs"] == [] and bob.get("/api/history").json()["rows"] == []
        assert bob.get("/api/history?user=anna").status_code == 403 == bob.get("/api/history?user=*").status_code
        assert bob.post("/api/history/delete", json={"ids": [id]}).json() == {"changed": 0}
        assert id not in bob.get(f"/api/history/export?format=json&ids={id}").text
        assert clients["eva"].get(f"/api/jobs/{id}").json()["user"] == "anna"
        assert [row["id"] for row in clients["eva"].get("/api/history?user=*").json()["rows"]] == [id]
        assert bob.post("/api/device/unload").status_code == 403
        assert clients["eva"].post("/api/device/unload").status_code == 200 and served.scripted.admin == ["unload"]
        for client in clients.values():
            client.close()
