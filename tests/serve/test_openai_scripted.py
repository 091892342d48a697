"""OpenAI's routes before a scripted model: translations, spoken questions, streams, failures."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile

from tests.fake_model import fake_model
from tests.serve.scripted import Served, serving
from tests.serve.server import SAMPLES
from zhiyin.serve.asking import from_prompt

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # of the client: translations
WORDS = SAMPLES / "words-1.flac"
RECORDING = {"file": ("words-1.flac", WORDS.read_bytes())}


def say(asked: str, number: int, seconds: float) -> str:
    """Of the model: an answer, a translation, or a transcript that tells the window."""
    if "<sttc>" in asked:
        return "noon"
    if "<ast>" in asked:
        return "good day"
    if "how" in asked:  # a request in plain language
        return "<asr><ser>one<happy>"
    return ("one", "two", "three", "four")[number % 4]


WORDS_KNOWN = ["one two three four good day noon how does she feel <happy>"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = fake_model(say, WORDS_KNOWN, max_window_s=4.0)
    with serving(tmp_path_factory.mktemp("scripted") / "data", model, limits={"jobs": 3}) as one:
        yield one


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings with silence between them: three windows."""
    pieces = []
    for name in ("words-1.flac", "words-2.flac", "words-3.flac"):
        samples, rate = soundfile.read(SAMPLES / name)
        pieces += [samples, np.zeros(2 * rate)]
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.concatenate(pieces), rate)
    return path


def part(file: Path) -> dict:
    data = base64.b64encode(file.read_bytes()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def test_a_translation_in_every_format(client: openai.OpenAI) -> None:
    def ask(kind: str):
        return client.audio.translations.create(file=WORDS, model="whisper-1", response_format=kind)

    assert ask("json").text == "good day"
    assert ask("text") == "good day\n"
    assert ask("srt").endswith("good day\n")
    assert "good day" in ask("vtt") and ask("vtt").startswith("WEBVTT")
    verbose = ask("verbose_json")
    assert verbose.text == "good day" and [part.text for part in verbose.segments] == ["good day"]
    assert verbose.task == "translate" and verbose.language == "en"


def test_a_spoken_question_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": [part(WORDS)]}])
    assert answer.choices[0].message.content == "noon" and answer.choices[0].finish_reason == "stop"
    chunks = list(
        client.chat.completions.create(model="fake", messages=[{"role": "user", "content": [part(WORDS)]}], stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "noon"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.model for chunk in chunks} == {"fake"}


def test_a_request_beside_the_recording(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": [{"type": "text", "text": "how does she feel"}, part(WORDS)]},
    ]
    answer = client.chat.completions.create(model="whisper-1", messages=messages)
    assert answer.choices[0].message.content == "one\nemotion: happy"
    assert answer.notes == ["1 messages before the last one of the user were not used"]


def audio(data: str) -> list:
    return [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]}]


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([{"role": "user", "content": "hello"}], "no_audio"),
        ([{"role": "assistant", "content": "hello"}], "no_audio"),
        ([{"role": "user", "content": [part(WORDS), part(WORDS)]}], "two_files"),
        (audio("%%%"), "invalid_value"),
        (audio(""), "empty_file"),
        (audio("AAAA"), "unreadable_audio"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}], "invalid_value"),
        ([], "invalid_value"),
    ],
)
def test_chats_that_hold_no_recording(client: openai.OpenAI, messages: list, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as seen:
        client.chat.completions.create(model="fake", messages=messages)
    assert seen.value.code == code


def test_events_come_while_it_is_understood(served: Served, long: Path) -> None:
    served.scripted.let_go.clear()
    deltas = []
    with httpx.stream(
        "POST",
        f"{served.url}/v1/audio/transcriptions",
        files={"file": long.read_bytes()},
        data={"stream": "true"},
        timeout=30,
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                deltas.append(event.get("delta", ""))
                if len(deltas) == 3:  # all words are here before the job is done
                    served.scripted.let_go.set()
    assert "".join(deltas) == event["text"] and len(event["text"].split()) == 3 and len(deltas) == 4


def test_a_client_that_goes_away_cancels_its_job(served: Served, long: Path) -> None:
    for data in ({"stream": "true"}, {}):
        served.scripted.let_go.clear()
        before = len(served.scripted.cancelled)
        with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=1.0) as client:
            client.post(f"{served.url}/v1/audio/transcriptions", files={"file": long.read_bytes()}, data=data)
        until_s = time.monotonic() + 5
        while len(served.scripted.cancelled) == before and time.monotonic() < until_s:
            time.sleep(0.02)
        served.scripted.let_go.set()
        assert len(served.scripted.cancelled) == before + 1
        row = httpx.get(f"{served.url}/api/jobs/{served.scripted.cancelled[-1]}").json()
        assert row["state"] == "cancelled"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("cannot read long.wav: it holds no audio samples", 400, "cannot_understand"),
        ("a fault in zhiyin itself (KeyError('x')); report it", 500, "internal_error"),
        ("the worker ended 3 times while it was understood", 503, "worker_lost"),
    ],
)
def test_what_failed_has_its_status(served: Served, fault: str, status: int, code: str) -> None:
    served.scripted.fault = fault
    try:
        for data in ({}, {"stream": "true"}):
            answer = httpx.post(f"{served.url}/v1/audio/transcriptions", files=RECORDING, data=data)
            assert answer.status_code == status and answer.json()["error"]["code"] == code
            assert fault in answer.json()["error"]["message"]
    finally:
        served.scripted.fault = ""


def test_nobody_waits_for_a_worker_that_is_not_there(served: Served) -> None:
    served.scripted.problem = "auto: the model did not load"
    try:
        answer = httpx.post(f"{served.url}/v1/audio/transcriptions", files=RECORDING)
        assert answer.status_code == 503 and "did not load" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) > 0
        assert httpx.get(f"{served.url}/readyz").status_code == 503
        assert httpx.get(f"{served.url}/healthz").status_code == 200
    finally:
        served.scripted.problem = ""


def test_a_full_queue_says_when_to_come_back(served: Served) -> None:
    served.scripted.let_go.clear()
    try:
        for _ in range(3):
            assert httpx.post(f"{served.url}/api/jobs", files=RECORDING).status_code == 202
        full = httpx.post(f"{served.url}/v1/audio/transcriptions", files=RECORDING)
        assert full.status_code == 503 and full.json()["error"]["code"] == "queue_full"
        assert int(full.headers["retry-after"]) > 0
    finally:
        served.scripted.let_go.set()


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("", ()),
        ("Anna, Zhiyin", ("Anna", "Zhiyin")),
        ("Glossary: Anna Maria, Zhiyin.", ("Glossary", "Anna Maria", "Zhiyin")),
        ("知音，通义千问、华为。今天我们开会讨论预算的问题", ("知音", "通义千问", "华为")),
        ("We talked about it and went home afterwards.", ()),
        ("<script>, [x], a|b", ()),
        ("version 99.5, Anna", ("Anna",)),  # a weight that no hotword has
        ("... , ---", ()),
    ],
)
def test_names_in_a_prompt(prompt: str, names: tuple[str, ...]) -> None:
    found, notes = from_prompt(prompt)
    assert found == names
    assert bool(notes) == bool(prompt)
