"""`/v1/realtime`, spoken by the client `openai`: items, their order, commits, formats."""

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from openai.resources.realtime.realtime import RealtimeConnection

import zhiyin
from tests.serve.live_speech import heard, pcm16, stream, truth
from tests.serve.live_streams import Streams, serving
from zhiyin.serve.service import Service

# openai 3.54 opens its connections in the way that websockets 17.1 calls deprecated
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")

QUERY = {"intent": "transcription"}
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


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


@pytest.fixture
def client(running: tuple[str, Service]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"http://{running[0]}/v1", max_retries=0) as made:
        yield made


def send(connection: Any, audio: bytes, piece: int = 4800) -> None:
    """0.1 s of 24 kHz at a time."""
    for at in range(0, len(audio), piece):
        connection.input_audio_buffer.append(audio=base64.b64encode(audio[at : at + piece]).decode())


def until(connection: Any, kind: str, count: int = 1) -> list[Any]:
    """Events up to the last of so many of a kind; an error ends the test."""
    events = []
    while sum(event.type == kind for event in events) < count:
        event = connection.recv()
        assert event.type != "error", event
        events.append(event)
    return events


def update(connection: RealtimeConnection, **heard_as: Any) -> Any:
    """Change settings and read what is in effect."""
    connection.session.update(session={"type": "transcription", "audio": {"input": heard_as}})
    return until(connection, "session.updated")[-1].session.audio.input


def transcripts(events: list[Any]) -> list[str]:
    return [event.transcript for event in events if event.type == COMPLETED]


def deltas(events: list[Any], item_id: str) -> str:
    return "".join(event.delta for event in events if event.type == DELTA and event.item_id == item_id)


def stored(service: Service, name: str) -> Any:
    """The session in the history; it gets there after the connection has ended."""
    for _ in range(1000):
        jobs = [job for job in service.jobs.recent(None) if name in job.file_name]
        if jobs and (service.folders.audio / jobs[0].audio).is_file():  # it is moved there just after
            return service.jobs.get(jobs[0].id, None)
        time.sleep(0.02)
    raise AssertionError(f"{name} is not in the history")


def test_items_of_speech(client: openai.OpenAI, running: tuple[str, Service], pocket: zhiyin.Model) -> None:
    """Three sentences: three items in the order OpenAI sends, each with the text the live engine gives."""
    names = ("digits-1", "words-3", "digits-4")
    samples_T = stream(*names)
    with client.realtime.connect(extra_query=QUERY) as connection:
        created = connection.recv()
        assert created.type == "session.created" and created.session.type == "transcription"
        name = created.session.id
        send(connection, pcm16(samples_T, 24_000))
        events = until(connection, COMPLETED, 3)
    segments = heard(pocket, samples_T)
    assert transcripts(events) == [one.written for one in segments]
    ids = [event.item_id for event in events if event.type == COMPLETED]
    assert [deltas(events, id) for id in ids] == [one.text for one in segments] == [truth()[one] for one in names]
    for number, id in enumerate(ids):
        own = [event for event in events if getattr(event, "item_id", None) == id or _item_id(event) == id]
        kinds = list(dict.fromkeys(event.type.rpartition(".")[2] for event in own if event.type != DELTA))
        assert kinds == ["speech_started", "speech_stopped", "committed", "added", "done", "completed"]
        committed = next(event for event in own if event.type == "input_audio_buffer.committed")
        assert committed.previous_item_id == (ids[number - 1] if number else None)
        started, stopped = own[0], next(event for event in own if event.type.endswith("speech_stopped"))
        assert abs(started.audio_start_ms - 1000 * segments[number].start_s) <= 50
        assert abs(stopped.audio_end_ms - 1000 * segments[number].end_s) <= 50
        usage = own[-1].usage
        assert usage.type == "duration"
        assert abs(usage.seconds - (segments[number].end_s - segments[number].start_s)) < 0.1
    assert len({event.event_id for event in events}) == len(events)
    job = stored(running[1], name)
    assert job.text.split() == " ".join(truth()[one] for one in names).split() or job.text.startswith(
        truth()["digits-1"]
    )
    assert (job.mode, job.state, job.user, job.model) == ("live", "done", "local", "pocket")


def _item_id(event: Any) -> str | None:
    return getattr(getattr(event, "item", None), "id", None)


def test_items_between_commits(client: openai.OpenAI) -> None:
    """Without turn detection nothing is completed before the client commits, and the second item knows only its own."""
    with client.realtime.connect(extra_query=QUERY) as connection:
        until(connection, "session.created")
        assert update(connection, turn_detection=None).turn_detection is None
        found = []
        for name in ("words-1", "digits-2"):
            samples_T = stream(name)
            send(connection, pcm16(samples_T, 24_000))
            connection.input_audio_buffer.commit()
            events = until(connection, COMPLETED)
            assert not [event.type for event in events if "speech" in event.type]
            kinds = [event.type.rpartition(".")[2] for event in events if event.type != DELTA]
            assert kinds == ["committed", "added", "done", "completed"]
            assert deltas(events, events[-1].item_id) == truth()[name]
            assert abs(events[-1].usage.seconds - len(samples_T) / 16_000) < 0.05
            found.append(events[-1])
    assert [one.transcript for one in found] == [truth()["words-1"], "6083"]
    assert found[0].item_id != found[1].item_id


def test_a_commit_ends_speech_that_goes_on(client: openai.OpenAI) -> None:
    """With turn detection too; and what is committed is not completed twice."""
    speech_T = stream("digits-1")[: round(1.6 * 16_000)]  # breaks off inside
    with client.realtime.connect(extra_query=QUERY) as connection:
        until(connection, "session.created")
        send(connection, pcm16(speech_T, 24_000))
        until(connection, "input_audio_buffer.speech_started")
        connection.input_audio_buffer.commit()
        first = until(connection, COMPLETED)
        send(connection, pcm16(stream("digits-4"), 24_000))
        second = until(connection, COMPLETED)
    assert transcripts(first)[0] and transcripts(second) == ["841"]
    assert [event.type for event in [*first, *second] if event.type.endswith("committed")] == [
        "input_audio_buffer.committed"
    ] * 2


def test_clear_forgets(client: openai.OpenAI) -> None:
    with client.realtime.connect(extra_query=QUERY) as connection:
        until(connection, "session.created")
        update(connection, turn_detection=None)
        send(connection, pcm16(stream("digits-1"), 24_000))
        connection.input_audio_buffer.clear()
        until(connection, "input_audio_buffer.cleared")
        connection.input_audio_buffer.commit()
        refused = connection.recv()
        assert refused.type == "error" and refused.error.code == "input_audio_buffer_commit_empty"
        send(connection, pcm16(stream("words-2"), 24_000))
        connection.input_audio_buffer.commit()  # what is committed is completed all the same
        send(connection, pcm16(stream("digits-1"), 24_000))
        connection.input_audio_buffer.clear()
        events = until(connection, "input_audio_buffer.cleared")
        assert transcripts(events) == [truth()["words-2"]]


@pytest.mark.parametrize(
    ("kind", "rate_hz"), [("audio/pcm", 16_000), ("audio/pcm", 48_000), ("audio/pcmu", 8_000), ("audio/pcma", 8_000)]
)
def test_formats(client: openai.OpenAI, running: tuple[str, Service], kind: str, rate_hz: int) -> None:
    """What is kept is what was sent: to the last bit at 16 kHz, as the law says for G.711."""
    samples_T = stream("digits-3")
    audio = pcm16(samples_T, rate_hz)
    if kind != "audio/pcm":
        audio = g711(np.frombuffer(audio, "<i2"), kind)
    with client.realtime.connect(extra_query=QUERY) as connection:
        name = until(connection, "session.created")[-1].session.id
        format = {"type": kind, "rate": rate_hz} if kind == "audio/pcm" else {"type": kind}
        shown = update(connection, format=format).format
        assert shown.type == kind and (kind != "audio/pcm" or shown.rate == rate_hz)
        send(connection, audio, piece=3333)  # cuts samples in two
        text = transcripts(until(connection, COMPLETED))[0]
    job = stored(running[1], name)
    kept_T, kept_hz = soundfile.read(running[1].folders.audio / job.audio, dtype="int16")
    assert kept_hz == 16_000 and abs(job.duration_s - len(kept_T) / 16_000) < 0.001
    wanted_T = np.frombuffer(pcm16(samples_T), "<i2")
    if rate_hz == 16_000:
        assert np.array_equal(kept_T, wanted_T)
    else:
        length = min(len(kept_T), len(wanted_T))
        assert abs(len(kept_T) - len(wanted_T)) < 100
        assert np.corrcoef(kept_T[:length], wanted_T[:length])[0, 1] > 0.8
    if kind == "audio/pcm":
        assert text == "955108"


def g711(samples_T: np.ndarray, kind: str) -> bytes:
    """16-bit samples in the laws of ITU-T G.711: the code whose value, by the tables of the standard, is nearest."""
    codes = np.arange(256)
    if kind == "audio/pcmu":
        plain = ~codes & 0xFF
        values = (((plain & 0x0F) << 3) + 0x84 << (plain >> 4 & 7)) - 0x84
        values = np.where(plain & 0x80, -values, values)
    else:
        plain = codes ^ 0x55
        exponent, mantissa = plain >> 4 & 7, (plain & 0x0F) << 4
        values = np.where(exponent, mantissa + 0x108 << np.maximum(exponent - 1, 0), mantissa + 8)
        values = np.where(plain & 0x80, values, -values)
    order = np.argsort(values, kind="stable")
    borders = (values[order][1:] + values[order][:-1]) / 2
    return order[np.searchsorted(borders, samples_T)].astype(np.uint8).tobytes()


def test_the_older_beta(client: openai.OpenAI) -> None:
    """The flat shape of settings, and the item event of that time."""
    address = str(client.base_url).replace("http:", "ws:")  # by itself it would ask for TLS
    with client.copy(websocket_base_url=address).beta.realtime.connect(
        model="whisper-1", extra_query=QUERY
    ) as connection:
        assert connection.recv().type == "transcription_session.created"
        settings = {"language": "en", "prompt": "zhiyin, wifi"}
        connection.transcription_session.update(
            session={"input_audio_format": "pcm16", "input_audio_transcription": settings, "turn_detection": None}
        )
        told = connection.recv()
        assert told.type == "transcription_session.updated" and told.session.input_audio_format == "pcm16"
        send(connection, pcm16(stream("words-1"), 24_000))
        connection.input_audio_buffer.commit()
        events = until(connection, COMPLETED)
    assert transcripts(events) == [truth()["words-1"]]
    assert [event.type for event in events if event.type.startswith("conversation.item.c")] == [
        "conversation.item.created"
    ]


def test_wishes_reach_the_model(client: openai.OpenAI, streams: Streams) -> None:
    """Also those that come while somebody speaks: a new stream, whose times go on."""
    with client.realtime.connect(extra_query=QUERY) as connection:
        until(connection, "session.created")
        update(
            connection,
            transcription={
                "model": "gpt-4o-transcribe",
                "language": "en",
                "keywords": ["知音"],
                "prompt": "Zhiyin, wifi",
            },
            turn_detection={"type": "server_vad", "silence_duration_ms": 500},
        )
        send(connection, pcm16(stream("digits-4"), 24_000))
        before = until(connection, COMPLETED)
        update(connection, transcription={"language": None, "keywords": [], "prompt": ""})
        send(connection, pcm16(stream("words-3"), 24_000))
        after = until(connection, COMPLETED)
    (first, how), (second, _) = streams.opened[-2:]
    assert (first.language, first.hotwords, how.hangover_s) == ("en", ("知音", "Zhiyin", "wifi"), 0.5)
    assert (second.language, second.hotwords) == ("", ())
    assert transcripts(before) == ["841"] and transcripts(after) == [truth()["words-3"]]
    assert after[0].type.endswith("speech_started") and after[0].audio_start_ms > before[-1].usage.seconds * 1000 + 1000


def test_streams_do_not_mix(client: openai.OpenAI) -> None:
    """Four at once, each with a sentence of its own."""
    names = ("digits-1", "words-3", "digits-2", "words-1")
    texts: dict[str, str] = {}

    def speak(name: str) -> None:
        with client.realtime.connect(extra_query=QUERY) as connection:
            until(connection, "session.created")
            send(connection, pcm16(stream(name), 24_000), piece=2400)
            events = until(connection, COMPLETED)
            texts[name] = deltas(events, events[-1].item_id)

    threads = [threading.Thread(target=speak, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == {name: truth()[name] for name in names}


def test_nothing_is_left_open(running: tuple[str, Service], streams: Streams) -> None:
    """After all these connections; the place of each is free, and no file lies about."""
    for _ in range(1000):
        if not streams.open_count and not running[1].limits._live:
            break
        time.sleep(0.02)
    assert streams.open_count == 0 and not running[1].limits._live
    assert not list(running[1].folders.uploads.iterdir())
    kept: list[Path] = [path for path in running[1].folders.audio.rglob("*") if path.is_file()]
    assert {path.stem for path in kept} == {job.id for job in running[1].jobs.recent(None)}
