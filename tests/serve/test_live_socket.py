"""`/api/live`: what the page says and is told, what is kept, and everything that can be wrong."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import zhiyin
from tests.serve.live_speech import heard, pcm16, stream, truth
from tests.serve.live_streams import Streams, serving
from zhiyin.serve import live_socket
from zhiyin.serve.job import Job
from zhiyin.serve.service import Service
from zhiyin.serve.socket import FAULT, WRONG

FINISH = json.dumps({"event": "finish"})


@pytest.fixture(scope="module")
def pocket() -> zhiyin.Model:
    return zhiyin.load(threads=1)


@pytest.fixture(scope="module")
def streams(pocket: zhiyin.Model) -> Streams:
    return Streams(pocket.loaded)


@pytest.fixture(scope="module")
def running(streams: Streams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    with serving(tmp_path_factory.mktemp("live"), streams) as found:
        yield found


def opened(address: str) -> ClientConnection:
    return connect(f"ws://{address}/api/live", max_size=None)


def said(connection: ClientConnection) -> list[dict[str, Any]]:
    """Everything up to the end of the connection."""
    found = []
    try:
        while True:
            found.append(json.loads(connection.recv(20)))
    except ConnectionClosed:
        return found


def session(address: str, audio: bytes, piece: int = 2048, **wishes: Any) -> list[dict[str, Any]]:
    """A whole session, as fast as it goes."""
    with opened(address) as connection:
        connection.send(json.dumps(wishes))
        for at in range(0, len(audio), piece):
            connection.send(audio[at : at + piece])
        connection.send(FINISH)
        return said(connection)


def finals(events: list[dict[str, Any]]) -> list[str]:
    return [event["segment"]["text"] for event in events if event.get("event") == "final"]


def settled(service: Service, streams: Streams) -> None:
    for _ in range(1000):
        if not streams.open_count and not service.limits._live:
            return
        time.sleep(0.02)
    raise AssertionError(f"{streams.open_count} streams open, places {service.limits._live}")


def last(service: Service) -> Job:
    found = service.jobs.get(service.jobs.recent(None)[0].id, None)
    assert found is not None
    return found


def test_a_session(running: tuple[str, Service], pocket: zhiyin.Model, streams: Streams) -> None:
    """Events in order, the text of the live engine, and a row of the history with the audio to the last bit."""
    address, service = running
    samples_T = stream("digits-1", "words-3")
    events = session(address, pcm16(samples_T), name="早会", tasks="asr")
    assert events[0] == {"event": "opened"}
    wanted = heard(pocket, samples_T)
    assert finals(events) == [one.text for one in wanted] == [truth()["digits-1"], truth()["words-3"]]
    kinds = [event["event"] for event in events[1:-1] if event["event"] != "partial"]
    assert kinds == ["speech_started", "speech_ended", "final"] * 2
    committed = ""
    for event in events[1:-1]:
        if event["event"] == "partial":
            assert event["committed"].startswith(committed)
            committed = event["committed"]
        if event["event"] == "final":
            assert event["segment"]["text"].startswith(committed)
            committed = ""
    closed = events[-1]
    assert closed["event"] == "closed" and abs(closed["duration_s"] - len(samples_T) / 16_000) < 0.001
    job = last(service)
    assert (job.id, job.mode, job.file_name, job.state) == (closed["id"], "live", "早会", "done")
    assert job.text == f"{truth()['digits-1']}{truth()['words-3']}" and job.written == "41729北京语音识别"
    assert [one["text"] for one in job.segments] == finals(events)
    assert job.model == "pocket" and job.model_hash and job.precision and job.device and job.real_time_factor > 0
    path = service.folders.audio / job.audio
    assert path.stat().st_mode & 0o077 == 0 and job.audio.startswith(f"{job.id[-2:]}/")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job.sha256
    kept_T, _ = soundfile.read(path, dtype="int16")
    assert np.array_equal(kept_T, np.frombuffer(pcm16(samples_T), "<i2"))
    audited = [path.read_text() for path in service.folders.audit.iterdir()]
    assert any(job.id in text for text in audited) and not any("four one" in text or "早会" in text for text in audited)
    assert 'zhiyin_first_text_seconds_count{kind="live"}' in service.metrics.text().decode()
    found_again = [segment.text for segment in pocket.understand(path).segments]
    assert found_again == finals(events)
    settled(service, streams)


def test_wishes(running: tuple[str, Service], streams: Streams) -> None:
    wishes = {"tasks": "asr,sgc", "language": "en", "hotwords": "知音, wifi\n北京", "itn": False}
    events = session(running[0], pcm16(stream("digits-4"), 48_000), sample_rate_hz=48_000, **wishes)
    assert finals(events) == [truth()["digits-4"]]
    segment = next(event["segment"] for event in events if event["event"] == "final")
    assert segment["labels"].keys() == {"sgc"} and not segment["written"]
    wish = streams.opened[-1][0]
    assert (wish.tasks, wish.language, wish.hotwords, wish.written) == (
        ("asr", "sgc"),
        "en",
        ("知音", "wifi", "北京"),
        False,
    )
    assert last(running[1]).labels.keys() == {"sgc"}
    listed = session(running[0], b"", tasks=["asr"], hotwords=["wifi"], format="g711_alaw", sample_rate_hz=8000)
    assert [event["event"] for event in listed] == ["opened", "closed"] and listed[-1]["id"] is None


def test_a_pause_ends_the_segment(running: tuple[str, Service]) -> None:
    samples_T = stream("digits-1")[: round(1.7 * 16_000)]
    with opened(running[0]) as connection:
        connection.send("{}")
        connection.send(pcm16(samples_T))
        connection.send(json.dumps({"event": "pause"}))
        while (event := json.loads(connection.recv(20)))["event"] != "final":
            pass
        assert event["segment"]["text"].startswith("four one seven")
        connection.send(pcm16(stream("words-2")))
        connection.send(FINISH)
        rest = said(connection)
    assert finals(rest) == [truth()["words-2"]]
    start_s = next(event["start_s"] for event in rest if event["event"] == "speech_started")
    assert start_s > 1.7


def test_a_client_that_vanishes(running: tuple[str, Service], streams: Streams) -> None:
    """What was heard is kept, also the words that were open."""
    with opened(running[0]) as connection:
        connection.send(json.dumps({"name": "vanished"}))
        connection.send(pcm16(stream("digits-3")[: round(2.2 * 16_000)]))
        while json.loads(connection.recv(20))["event"] != "partial":
            pass
        connection.socket.shutdown(socket.SHUT_RDWR)
    settled(running[1], streams)
    job = last(running[1])
    assert job.file_name == "vanished" and job.text.startswith("nine five five one") and job.audio


WRONG_OPENINGS: list[str | bytes] = [
    b"\x00\x00",
    "",
    "[]",
    "{",
    '{"tasks": 7}',
    '{"tasks": ["asrr"]}',
    '{"tasks": ["sttc", "ast"]}',
    '{"language": "klingon"}',
    '{"language": ["en"]}',
    '{"hotwords": ["<b>"]}',
    '{"hotwords": [1]}',
    '{"itn": "no"}',
    '{"format": "mp3"}',
    '{"format": 16}',
    '{"sample_rate_hz": 0}',
    '{"sample_rate_hz": -16000}',
    '{"sample_rate_hz": 1e300}',
    '{"sample_rate_hz": 16000.5}',
    '{"sample_rate_hz": true}',
    '{"sample_rate_hz": 99999999999999999999}',
    '{"name": "' + "x" * 300 + '"}',
    '{"nmae": "typo"}',
    '{"name": "\\ud800"}',
]


@pytest.mark.parametrize("message", WRONG_OPENINGS)
def test_wrong_openings(running: tuple[str, Service], message: str | bytes) -> None:
    """One error in the shape of all errors, in one line, and the connection ends."""
    with opened(running[0]) as connection:
        connection.send(message)
        (told,) = said(connection)
        assert told.keys() == {"error"} and told["error"].keys() == {"message", "type", "param", "code"}
        assert told["error"]["type"] == "invalid_request_error" and "\n" not in told["error"]["message"]
        assert len(told["error"]["message"]) <= 600
        assert connection.close_code == WRONG


@pytest.mark.parametrize("message", ["{", "[]", "{}", '{"event": 7}', '{"event": "stop"}', '{"tasks": "asr"}'])
def test_wrong_messages_later(running: tuple[str, Service], message: str) -> None:
    """What was heard before is kept."""
    with opened(running[0]) as connection:
        connection.send(json.dumps({"name": "wrong later"}))
        connection.send(pcm16(stream("words-2")))
        connection.send(message)
        told = said(connection)
        assert "error" in told[-1] and connection.close_code == WRONG
        assert finals(told) == [truth()["words-2"]]
    for _ in range(1000):
        if (job := last(running[1])).file_name == "wrong later":
            break
        time.sleep(0.02)
    assert job.text == truth()["words-2"]


def test_names_are_only_names(running: tuple[str, Service]) -> None:
    for name in ("../../etc/passwd", "<script>alert(1)</script>", "'; DROP TABLE jobs; --", "a\u0000b\nc\u202e"):
        session(running[0], bytes(3200), name=name)
        job = last(running[1])
        assert job.file_name == " ".join(name.replace("\u0000", " ").replace("\u202e", " ").split())
        assert job.audio == f"{job.id[-2:]}/{job.id}.flac"


def test_a_model_that_fails(running: tuple[str, Service], streams: Streams) -> None:
    streams.engine.error = MemoryError("out of memory")
    try:
        with opened(running[0]) as connection:
            connection.send("{}")
            connection.send(pcm16(stream("words-1")))
            told = said(connection)
            assert told[-1]["error"]["code"] == "stream_lost" and connection.close_code == FAULT
    finally:
        streams.engine.error = None
    settled(running[1], streams)


def test_silence_of_the_client(running: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_socket, "STALL_S", 0.2)
    monkeypatch.setattr(live_socket, "IDLE_S", 1.0)
    with opened(running[0]) as connection:
        connection.send("{}")
        connection.send(pcm16(stream("digits-1")[: round(1.7 * 16_000)]))
        told = said(connection)
    assert finals(told)[0].startswith("four one seven") and told[-1]["event"] == "closed" and told[-1]["id"]
    monkeypatch.setattr(live_socket, "OPENING_S", 0.2)
    with opened(running[0]) as connection:
        assert said(connection)[0]["error"]["code"] == "no_opening"


def test_without_audio_in_the_history(tmp_path: Path, streams: Streams) -> None:
    with serving(tmp_path, streams, keep_audio=False) as (address, service):
        session(address, pcm16(stream("digits-4")))
        job = last(service)
        assert job.text == truth()["digits-4"] and (job.audio, job.bytes, job.sha256) == ("", 0, "")
        assert not any(path.is_file() for path in service.folders.audio.rglob("*"))


def test_streams_do_not_mix(running: tuple[str, Service], streams: Streams) -> None:
    names = ("digits-1", "words-3", "digits-2", "words-4", "words-1", "digits-4")
    texts: dict[str, list[str]] = {}

    def speak(name: str) -> None:
        texts[name] = finals(session(running[0], pcm16(stream(name)), name=name))

    threads = [threading.Thread(target=speak, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == {name: [truth()[name]] for name in names}
    rows = {job.file_name: job.text for job in running[1].jobs.recent(None)[: len(names)]}
    assert rows == {name: truth()[name] for name in names}
    settled(running[1], streams)


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.text(max_size=20),
        st.sampled_from([FINISH, '{"event": "pause"}', "{}", '{"event": null}', '{"event": "finish", "x": 1}']),
    ),
    max_size=6,
)


@settings(max_examples=20)
@given(MESSAGES)
def test_any_messages(running: tuple[str, Service], messages: list[str | bytes]) -> None:
    """Whatever comes: answers are JSON, and the connection ends with a code of ours, never by a fault."""
    with opened(running[0]) as connection:
        try:
            for message in messages:
                connection.send(message)
            connection.send(FINISH)
            connection.send(FINISH)
        except ConnectionClosed:
            pass
        told = said(connection)
    assert connection.close_code in (1000, WRONG) and told
    assert all("error" in event or "event" in event for event in told)


def test_nothing_is_left(running: tuple[str, Service], streams: Streams) -> None:
    """After all these: no stream, no place, no file that belongs to no row."""
    settled(running[1], streams)
    assert not list(running[1].folders.uploads.iterdir())
    kept = {path.stem for path in running[1].folders.audio.rglob("*") if path.is_file()}
    assert kept == {job.id for job in running[1].jobs.recent(None, limit=1000) if job.audio}
