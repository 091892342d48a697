"""`/api/history`, hotword lists, speech, devices and the pages about the API, of a running server."""

import csv
import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from tests.fake_model import fake_model
from tests.serve.scripted import Served, serving
from tests.serve.server import SAMPLES, Server
from zhiyin.audio import vad
from zhiyin.audio.io import open_recording
from zhiyin.result import Correction, Result, Rewrite, Segment, Turn, Word
from zhiyin.serve import views

WORDS = SAMPLES / "words-1.flac"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("history") / "data", fake_model("one")) as one:
        yield one


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=20) as one:
        yield one


def add(client: httpx.Client, name: str, **fields: str) -> str:
    """A job that is done; its id."""
    answer = client.post("/api/understand", files={"file": (name, WORDS.read_bytes())}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-job-id"]


def test_rows_are_found_page_by_page(client: httpx.Client) -> None:
    ids = [add(client, f"page {n} 会议.flac") for n in range(5)]
    first = client.get("/api/history", params={"text": "会议", "limit": 2}).json()
    second = client.get("/api/history", params={"text": "会议", "limit": 2, "after": first["next"]}).json()
    third = client.get("/api/history", params={"text": "会议", "limit": 2, "after": second["next"]}).json()
    assert [row["id"] for page in (first, second, third) for row in page["rows"]] == ids[::-1]
    assert first["total"] == 5 and third["next"] == ""
    oldest = client.get("/api/history", params={"text": "会议", "order": "oldest", "limit": 1}).json()
    assert oldest["rows"][0]["id"] == ids[0]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"state": "done"}, True),
        ({"state": "failed"}, False),
        ({"mode": "api"}, True),
        ({"mode": "live"}, False),
        ({"task": "asr"}, True),
        ({"task": "ser"}, False),
        ({"language": "zh"}, False),
        ({"model": "fake"}, True),
        ({"model": "pocket"}, False),
        ({"since": "2020-01-01"}, True),
        ({"until": "2020-01-01T00:00:00Z"}, False),
        ({"label": "happy"}, False),
        ({"deleted": "true"}, False),
        ({"user": "local"}, True),
        ({"user": "*"}, True),
        ({"user": "nobody"}, False),
    ],
)
def test_filters(client: httpx.Client, filters: dict, found: bool) -> None:
    id = add(client, "filtered.flac", tasks="asr")
    rows = client.get("/api/history", params={"text": "filtered", **filters}).json()["rows"]
    assert (id in [row["id"] for row in rows]) is found


@pytest.mark.parametrize(
    "filters", [{"limit": "0"}, {"limit": "x"}, {"order": "up"}, {"since": "soon"}, {"nothing": "1"}, {"after": "x"}]
)
def test_filters_that_make_no_sense(client: httpx.Client, filters: dict) -> None:
    answer = client.get("/api/history", params=filters)
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_a_text_put_right_deleted_and_brought_back(client: httpx.Client) -> None:
    id = add(client, "edit.flac")
    assert client.get(f"/api/history/{id}").json()["edited"] is None
    edited = client.patch(f"/api/history/{id}", json={"edited": "eins, zwei"}).json()
    assert edited["edited"] == "eins, zwei" and edited["text"] == "one"
    assert [row["id"] for row in client.get("/api/history?text=zwei").json()["rows"]] == [id]
    assert client.delete(f"/api/history/{id}").json() == {"changed": 1}
    assert client.get("/api/history?text=zwei").json()["rows"] == []
    assert [row["id"] for row in client.get("/api/history?text=zwei&deleted=true").json()["rows"]] == [id]
    assert client.post("/api/history/undo", json={"ids": [id, "0" * 32]}).json() == {"changed": 1}
    assert client.post("/api/history/delete", json={"ids": [id]}).json() == {"changed": 1}
    assert client.post("/api/history/undo", json={"ids": [id]}).json() == {"changed": 1}
    assert client.patch(f"/api/history/{id}", json={"edited": None}).json()["edited"] is None
    assert client.patch(f"/api/history/{id}", json={"text": "x"}).status_code == 400
    assert client.post("/api/history/undo", json={"ids": []}).status_code == 400


def test_taking_it_home(client: httpx.Client) -> None:
    ids = [add(client, name) for name in ("=HYPERLINK(1) 导出.flac", "导出 2.flac")]
    rows = list(csv.reader(io.StringIO(client.get("/api/history/export?text=导出").content.decode("utf-8-sig"))))
    assert len(rows) == 3 and any(cell.startswith("'=HYPERLINK") for row in rows for cell in row)
    documents = client.get("/api/history/export?text=导出&format=json&order=oldest").json()
    assert [one["id"] for one in documents] == ids and documents[0]["result"]["segments"]
    picked = client.get(f"/api/history/export?format=srt&ids={ids[1]}")
    assert "attachment" in picked.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(picked.content)) as archive:
        (name,) = archive.namelist()
        assert archive.read(name).decode().rstrip().endswith("one") and "/" not in name


def test_the_recording_comes_back_whole_and_in_parts(client: httpx.Client) -> None:
    id, data = add(client, "private.flac"), WORDS.read_bytes()
    whole = client.get(f"/api/history/{id}/audio")
    assert whole.content == data and whole.headers["content-type"] in ("audio/flac", "audio/x-flac")
    assert whole.headers["x-content-type-options"] == "nosniff" and "private" not in str(whole.headers)
    part = client.get(f"/api/history/{id}/audio", headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == data[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"
    end = client.get(f"/api/history/{id}/audio", headers={"Range": "bytes=-10"})
    assert end.status_code == 206 and end.content == data[-10:]
    assert client.get(f"/api/history/{id}/audio", headers={"Range": f"bytes={len(data)}-"}).status_code == 416
    page = add(client, "page.html")
    assert client.get(f"/api/history/{page}/audio").headers["content-type"] == "application/octet-stream"


def test_the_outline_of_a_recording(client: httpx.Client) -> None:
    samples, rate = soundfile.read(WORDS)
    found = client.get(f"/api/history/{add(client, 'a.flac')}/peaks?points=20").json()
    assert found["duration_s"] == pytest.approx(len(samples) / rate, abs=0.01) and len(found["peaks"]) == 20
    assert max(high for _, high in found["peaks"]) == pytest.approx(samples.max(), abs=0.05)
    assert min(low for low, _ in found["peaks"]) == pytest.approx(samples.min(), abs=0.05)


def test_speech_is_found_as_the_detector_finds_it(client: httpx.Client, tmp_path: Path) -> None:
    samples, rate = soundfile.read(WORDS)
    soundfile.write(tmp_path / "two.wav", np.concatenate([samples, np.zeros(2 * rate), samples]), rate)
    data = {"start": "0.5", "end": "0.3", "min_silence_s": "0.3", "points": "10"}
    found = client.post("/api/vad", files={"file": (tmp_path / "two.wav").read_bytes()}, data=data).json()
    thresholds = vad.Thresholds(start=0.5, end=0.3, min_silence_s=0.3)
    truth = list(vad.spans(open_recording(tmp_path / "two.wav").blocks(), thresholds=thresholds))
    assert len(truth) >= 2 and len(found["peaks"]) == 10
    assert [(one["start_s"], one["end_s"]) for one in found["spans"]] == [
        (pytest.approx(span.start_s, abs=1e-3), pytest.approx(span.end_s, abs=1e-3)) for span in truth
    ]
    assert client.get("/api/history?text=two").json()["rows"] == []
    for wrong in ({"start": "0.2", "end": "0.4"}, {"pad_s": "9"}, {"start": "nan"}, {"peak": "2"}):
        answer = client.post("/api/vad", files={"file": WORDS.read_bytes()}, data=wrong)
        assert answer.status_code == 400, wrong


def test_hotword_lists(client: httpx.Client) -> None:
    assert client.put("/api/hotwords/our names", json={"text": "知音\n智音 => 知音\n"}).json()["num_rules"] == 1
    assert [one["name"] for one in client.get("/api/hotwords").json()["lists"]] == ["our names"]
    assert "智音" in client.get("/api/hotwords/our names").json()["text"]
    id = add(client, "a.flac", hotword_list="our names", hotwords="Anna，Bob")
    assert client.get(f"/api/jobs/{id}").json()["wish"]["hotwords"] == ["Anna", "Bob", "知音", "智音 => 知音"]
    assert client.put("/api/hotwords/x", json={"text": "<bad>"}).status_code == 400
    assert client.delete("/api/hotwords/our names").status_code == 204
    for answer in (client.get("/api/hotwords/our names"), client.delete("/api/hotwords/our names")):
        assert answer.status_code == 404


def test_devices(served: Served, client: httpx.Client) -> None:
    (worker,) = client.get("/api/device").json()["workers"]
    assert worker["model"] == "fake" and worker["state"] == "ready"
    assert client.post("/api/device/load", json={"model": "other"}).status_code == 200
    client.post("/api/device/unload")
    client.post("/api/device/reset")
    assert served.scripted.admin == ["load other", "unload", "reset"]
    system = client.get("/api/system").json()
    assert system["jobs_open"] == 0 and system["disk_free_bytes"] > 0 and "fastapi" in system["parts"]


def test_devices_of_a_real_worker(server: Server) -> None:
    with server.client() as client:
        (worker,) = client.get("/api/device").json()["workers"]
        assert worker["device"].startswith("cpu (auto") and worker["tasks"] == ["asr", "srwt", "ved", "sgc"]
        assert worker["memory_bytes"] > 10 * 2**20 and worker["pid"] != server.pid
        assert client.get("/readyz").json() == {"status": "ok"} == client.get("/healthz").json()


def test_the_views_have_every_field_of_the_result() -> None:
    pairs = [(views.ResultView, Result), (views.SegmentView, Segment), (views.WordView, Word), (views.TurnView, Turn)]
    pairs += [(views.RewriteView, Rewrite), (views.CorrectionView, Correction)]
    for view, kind in pairs:
        assert list(view.model_fields) == list(kind.__dataclass_fields__), view


def described(schema: Any, where: str) -> Iterator[str]:
    """Every property without a description."""
    if isinstance(schema, dict):
        for name, one in schema.get("properties", {}).items() if isinstance(schema.get("properties"), dict) else ():
            if not one.get("description") and "$ref" not in one:
                yield f"{where}.{name}"
        for name, one in schema.items():
            yield from described(one, f"{where}.{name}")
    elif isinstance(schema, list):
        for number, one in enumerate(schema):
            yield from described(one, f"{where}[{number}]")


def test_everything_is_described(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert not list(described(document, ""))
    bare = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not operation.get("summary") or not operation.get("description") or "422" in operation["responses"]:
                bare.append(f"{method} {path}")
            for one in operation.get("parameters", []):
                if one["in"] != "path" and not (one.get("description") or one["schema"].get("description")):
                    bare.append(f"{method} {path}: {one['name']}")
    assert not bare
    known = set(document["components"]["schemas"])
    assert set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))) <= known
    wanted = [
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/chat/completions",
        "/v1/models",
        "/api/understand",
    ]
    wanted += [
        "/api/jobs/{id}/events",
        "/api/history/export",
        "/api/hotwords/{name}",
        "/api/vad",
        "/healthz",
        "/metrics",
    ]
    assert set(wanted) <= set(document["paths"])


def test_the_page_about_the_api_needs_nobody_else(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    found: list[str] = []

    class Look(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend([tag, *(value or "" for name, value in attrs if name in ("src", "href"))])

    Look().feed(page.text)
    assert not {"script", "img", "link", "iframe"} & set(found)
    assert not [one for one in found if "://" in one or one.startswith("//")]
    document = client.get("/openapi.json").json()
    for path in document["paths"]:
        assert path in page.text
    assert "timestamp_granularities[]" in page.text and "Where it begins in the recording" in page.text


def test_health_does_not_wait_for_the_database(client: httpx.Client, served: Served) -> None:
    import sqlite3

    with sqlite3.connect(served.data / "history.db") as held:
        held.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        assert client.get("/healthz").status_code == 200 and time.monotonic() - began_s < 2
        held.rollback()
    held.close()
