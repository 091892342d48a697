"""`/v1/realtime` where something is wrong: messages, their order, limits, a client that leaves, a model that fails."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import zhiyin
from tests.serve.live_speech import pcm16, stream
from tests.serve.live_streams import Streams, serving
from zhiyin.errors import UserError
from zhiyin.serve import realtime
from zhiyin.serve.dispatch import Busy
from zhiyin.serve.job import Job
from zhiyin.serve.service import Service
from zhiyin.serve.socket import FAULT, LATER, MAX_MESSAGE_BYTES, WRONG

PATH = "/v1/realtime?intent=transcription"


@pytest.fixture(scope="module")
def streams() -> Streams:
    return Streams(zhiyin.load(threads=1).loaded)


@pytest.fixture(scope="module")
def running(streams: Streams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    with serving(tmp_path_factory.mktemp("live"), streams) as found:
        yield found


def opened(address: str, path: str = PATH, **given: Any) -> ClientConnection:
    return connect(f"ws://{address}{path}", max_size=None, **given)


def read(connection: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(connection.recv(20))
    return found


def append(audio: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()})


def until(connection: ClientConnection, kind: str) -> dict[str, Any]:
    while (event := read(connection))["type"] != kind:
        assert event["type"] != "error", event
    return event


def close_code(connection: ClientConnection) -> int:
    """How the server closes; what it says before is read over."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            connection.recv(20)
    assert closed.value.rcvd is not None
    return int(closed.value.rcvd.code)


def settled(running: tuple[str, Service], streams: Streams) -> list[Job]:
    """The newest sessions, once no stream is open and no place is taken any more."""
    service = running[1]
    for _ in range(1000):
        if not streams.open_count and not service.limits._live:
            return service.jobs.recent(None)
        time.sleep(0.02)
    raise AssertionError(f"{streams.open_count} streams open, places {service.limits._live}")


WRONG_MESSAGES: list[tuple[str | bytes, str]] = [
    ("", "invalid_json"),
    ("{", "invalid_json"),
    ("[]", "invalid_json"),
    ("null", "invalid_json"),
    ('"session.update"', "invalid_json"),
    ('{"type": NaN}', "invalid_json"),
    ('{"type": "session.update", "session": {"type": "\\ud800"}}', "invalid_json"),
    ("[" * 100_000, "invalid_json"),
    ('{"a":' * 50_000, "invalid_json"),
    (b"\x00\x01\x02", "invalid_message"),
    (b"", "invalid_message"),
    ("{}", "unknown_event"),
    ('{"type": 7}', "unknown_event"),
    ('{"type": null}', "unknown_event"),
    ('{"type": {"a": 1}}', "unknown_event"),
    ('{"type": "response.create"}', "unknown_event"),
    ('{"type": "conversation.item.create", "item": {}}', "unknown_event"),
    ('{"type": "session.update"}', "missing_parameter"),
    ('{"type": "session.update", "session": []}', "missing_parameter"),
    ('{"type": "session.update", "session": {"type": "realtime"}}', "invalid_value"),
    ('{"type": "session.update", "session": {"voice": "alloy"}}', "unknown_parameter"),
    ('{"type": "input_audio_buffer.append"}', "missing_parameter"),
    ('{"type": "input_audio_buffer.append", "audio": 7}', "missing_parameter"),
    ('{"type": "input_audio_buffer.append", "audio": "!!!"}', "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "AAAAA"}', "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "知音"}', "invalid_value"),
    ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
]


def test_wrong_messages(running: tuple[str, Service], streams: Streams) -> None:
    """Each is answered by one error in one line that names the message; the connection goes on."""
    with opened(running[0]) as connection:
        read(connection)
        for message, code in WRONG_MESSAGES:
            connection.send(message)
            told = read(connection)
            assert (told["type"], told["error"]["code"]) == ("error", code), (message[:80], told)
            assert told["error"]["type"] == "invalid_request_error" and "\n" not in told["error"]["message"]
        connection.send('{"type": "response.create", "event_id": "mine-1"}')
        assert read(connection)["error"]["event_id"] == "mine-1"
        connection.send('{"type": "session.update", "session": {"type": "transcription"}}')
        assert read(connection)["type"] == "session.updated"
    assert not settled(running, streams), "nothing was heard, so there is nothing to keep"


WISHES: list[tuple[dict[str, Any], str]] = [
    ({"model": "gpt-5"}, "model_not_found"),
    ({"language": "klingon"}, "cannot_do_that"),
    ({"keywords": ["<script>"]}, "cannot_do_that"),
    ({"keywords": ["x" * 500]}, "cannot_do_that"),
    ({"keywords": ["/etc/passwd", "../../notes.txt"]}, ""),  # words like others: no file is read
]


@pytest.mark.parametrize(("wish", "code"), WISHES)
def test_wishes_are_checked_before_audio(running: tuple[str, Service], wish: dict[str, Any], code: str) -> None:
    with opened(running[0]) as connection:
        before = read(connection)["session"]
        update = {"type": "transcription", "audio": {"input": {"transcription": wish}}}
        connection.send(json.dumps({"type": "session.update", "session": update}))
        told = read(connection)
        assert told.get("error", {}).get("code", "") == code, told
        if code:
            connection.send('{"type": "session.update", "session": {}}')
            assert read(connection)["session"] == before, "a wish that is refused changes nothing"


@pytest.mark.parametrize(
    ("path", "code"),
    [("/v1/realtime?intent=conversation", "invalid_value"), (f"{PATH}&model=gpt-realtime", "model_not_found")],
)
def test_addresses(running: tuple[str, Service], path: str, code: str) -> None:
    with opened(running[0], path) as connection:
        assert read(connection)["error"]["code"] == code
        assert close_code(connection) == WRONG


def test_a_header_is_no_audio(running: tuple[str, Service], repository: Path) -> None:
    with opened(running[0]) as connection:
        read(connection)
        connection.send(append((repository / "samples" / "digits-1.flac").read_bytes()))
        told = read(connection)
        assert told["error"]["code"] == "invalid_value" and "header of a recording" in told["error"]["message"]


def test_a_message_that_is_too_long(running: tuple[str, Service], streams: Streams) -> None:
    with opened(running[0]) as connection:
        read(connection)
        connection.send("x" * (MAX_MESSAGE_BYTES + 1))
        assert close_code(connection) == 1009
    settled(running, streams)


def test_many_wrong_messages_end_it(running: tuple[str, Service]) -> None:
    with opened(running[0]) as connection:
        read(connection)
        for _ in range(realtime.MAX_ERRORS):
            connection.send("{")
        assert close_code(connection) == WRONG


@pytest.mark.parametrize("path", ["/v1/realtime?intent=transcription", "/api/live"])
def test_pages_of_others_get_no_connection(running: tuple[str, Service], path: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        opened(running[0], path, origin="https://evil.example")
    assert refused.value.response.status_code == 403


def test_a_client_that_vanishes(running: tuple[str, Service], streams: Streams) -> None:
    """In the middle of speech, without a word of goodbye: what was heard is in the history, the place is free."""
    with opened(running[0]) as connection:
        name = read(connection)["session"]["id"]
        connection.send(append(pcm16(stream("digits-1", "words-1")[: 5 * 16_000], 24_000)))
        until(connection, "conversation.item.input_audio_transcription.completed")
        connection.socket.shutdown(socket.SHUT_RDWR)
    job = next(one for one in settled(running, streams) if name in one.file_name)
    assert job.text.startswith("four one seven two nine project open")
    assert abs(job.duration_s - 5) < 0.01 and (running[1].folders.audio / job.audio).stat().st_size == job.bytes


def test_half_a_message_and_gone(running: tuple[str, Service], streams: Streams) -> None:
    """A frame that announces more than it brings."""
    with opened(running[0]) as connection:
        read(connection)
        connection.socket.sendall(b"\x81\xfe\x01\x00\x00\x00\x00\x00" + b"{" * 20)
        connection.socket.shutdown(socket.SHUT_RDWR)
    settled(running, streams)


def test_as_many_as_are_allowed(tmp_path: Path, streams: Streams) -> None:
    with serving(tmp_path, streams, live_streams=2, live_streams_per_user=1) as (address, service):
        with opened(address) as first:
            assert read(first)["type"] == "session.created"
            for path in (PATH, "/api/live"):
                with opened(address, path) as second:
                    told = read(second)
                    assert told["error"]["code"] == "too_many_streams"
                    assert told["error"]["type"] == "rate_limit_error" and close_code(second) == LATER
        for _ in range(1000):
            if not service.limits._live:
                break
            time.sleep(0.02)
        with opened(address) as third:
            assert read(third)["type"] == "session.created"


@pytest.mark.parametrize(("kind", "is_ready", "code"), [(Busy, True, "streams_full"), (UserError, False, "not_ready")])
def test_no_stream_is_free(
    running: tuple[str, Service], streams: Streams, kind: type[UserError], is_ready: bool, code: str
) -> None:
    streams.refuse, streams.is_ready = kind("no stream is free; try again later"), is_ready
    try:
        with opened(running[0]) as connection:
            read(connection)
            connection.send(append(bytes(4800)))
            assert read(connection)["error"]["code"] == code
            assert close_code(connection) == LATER
    finally:
        streams.refuse, streams.is_ready = None, True


def test_a_model_that_fails(running: tuple[str, Service], streams: Streams) -> None:
    """The item is reported as failed, then the connection ends; what was heard before is kept, with a note."""
    with opened(running[0]) as connection:
        name = read(connection)["session"]["id"]
        connection.send(append(pcm16(stream("digits-1"), 24_000)))
        until(connection, "conversation.item.input_audio_transcription.completed")
        audio = pcm16(stream("words-1"), 24_000)
        connection.send(append(audio[:38_400]))
        until(connection, "input_audio_buffer.speech_started")
        streams.engine.error = MemoryError("out of memory")
        try:
            connection.send(append(audio[38_400:]))
            failed = until(connection, "conversation.item.input_audio_transcription.failed")
            assert failed["error"]["code"] == "stream_lost" and "\n" not in failed["error"]["message"]
            assert read(connection)["type"] == "error"
            assert close_code(connection) == FAULT
        finally:
            streams.engine.error = None
    found = next(one for one in settled(running, streams) if name in one.file_name)
    job = running[1].jobs.get(found.id, None)
    assert job is not None and job.text == "four one seven two nine"
    assert any("broken after" in note for note in job.result["notes"])


def test_a_session_that_is_too_long(tmp_path: Path, streams: Streams) -> None:
    with serving(tmp_path, streams, audio_s=1.0) as (address, _), opened(address) as connection:
        read(connection)
        for _ in range(4):
            connection.send(append(bytes(24_000)))
        while (told := read(connection))["type"] != "error":
            pass
        assert told["error"]["code"] == "session_too_long" and close_code(connection) == WRONG


def test_silence_of_the_client(running: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech that breaks off with the stream is completed after a stall; a client that says nothing more is let go."""
    monkeypatch.setattr(realtime, "STALL_S", 0.2)
    monkeypatch.setattr(realtime, "IDLE_S", 1.0)
    with opened(running[0]) as connection:
        read(connection)
        connection.send(append(pcm16(stream("digits-1")[: round(1.7 * 16_000)], 24_000)))
        assert until(connection, "conversation.item.input_audio_transcription.completed")["transcript"].startswith(
            "417"
        )
        assert read(connection)["error"]["code"] == "idle"
        assert close_code(connection) == WRONG


def test_the_disk_is_full(tmp_path: Path, streams: Streams) -> None:
    """The text is kept, and says that the audio was not."""
    with serving(tmp_path, streams, free_bytes=1 << 60) as (address, service):
        with opened(address) as connection:
            name = read(connection)["session"]["id"]
            connection.send(append(pcm16(stream("digits-4"), 24_000)))
            until(connection, "conversation.item.input_audio_transcription.completed")
        found = next(one for one in settled((address, service), streams) if name in one.file_name)
        job = service.jobs.get(found.id, None)
        assert job is not None and job.text == "eight four one" and not job.audio
        assert any("the disk of the service is full" in note for note in job.result["notes"])
        assert not list(service.folders.uploads.iterdir())


def test_the_server_stops_while_somebody_listens(tmp_path: Path, streams: Streams) -> None:
    with contextlib.ExitStack() as stack:
        with serving(tmp_path, streams) as (address, _):
            connection = stack.enter_context(opened(address))
            read(connection)
            connection.send(append(pcm16(stream("digits-2"), 24_000)))
            until(connection, "conversation.item.input_audio_transcription.completed")
            closing = threading.Thread(target=close_code, args=(connection,))
            closing.start()
        closing.join(10)
    with serving(tmp_path, streams) as (_, again):  # another look at the same folder
        assert [job.text for job in again.jobs.recent(None)] == ["six zero eight three"]
