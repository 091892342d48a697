"""Both live sockets of the whole service: a worker process, the history over HTTP, tokens."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.serve.live_speech import pcm16, stream, truth
from tests.serve.server import Server
from zhiyin.serve import database
from zhiyin.serve.settings import Settings, folders
from zhiyin.serve.tokens import Tokens

# openai 3.54 opens its connections in the way that websockets 17.1 calls deprecated
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")

QUERY = {"intent": "transcription"}


def row(server: Server, name: str) -> dict[str, Any]:
    """A session in the history, with everything."""
    with server.client() as client:
        for _ in range(250):
            for one in client.get("/api/history", params={"mode": "live"}).json()["rows"]:
                if name in one["file_name"]:
                    found: dict[str, Any] = client.get(f"/api/history/{one['id']}").json()
                    return found
            time.sleep(0.02)
    raise AssertionError(f"{name} is not in the history")


def test_several_clients_of_openai(server: Server) -> None:
    """Four asynchronous clients at once through one worker process: each gets its own sentence."""
    names = ("digits-1", "words-3", "digits-2", "words-1")

    async def speak(client: openai.AsyncOpenAI, name: str) -> tuple[str, str]:
        text = ""
        async with client.realtime.connect(extra_query=QUERY) as connection:
            audio = pcm16(stream(name), 24_000)
            for at in range(0, len(audio), 4800):
                await connection.input_audio_buffer.append(audio=base64.b64encode(audio[at : at + 4800]).decode())
            async for event in connection:
                if event.type == "session.created":
                    id = event.session.id  # type: ignore[union-attr]
                if event.type == "conversation.item.input_audio_transcription.delta":
                    text += event.delta or ""
                if event.type == "conversation.item.input_audio_transcription.completed":
                    break
        return text, str(id)

    async def all_of_them() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1") as client:
            return await asyncio.gather(*(speak(client, name) for name in names))

    for name, (text, id) in zip(names, asyncio.run(all_of_them()), strict=True):
        assert text == truth()[name]
        kept = row(server, id)
        assert (kept["text"], kept["state"], kept["mode"]) == (truth()[name], "done", "live")


def test_a_session_of_the_page(server: Server) -> None:
    """Its row can be found, read and heard again, and nothing of it stays with the worker."""
    with connect(f"{server.url.replace('http', 'ws')}/api/live") as connection:
        connection.send(json.dumps({"name": "晨会 live page", "tasks": "asr"}))
        assert json.loads(connection.recv(60)) == {"event": "opened"}
        connection.send(pcm16(stream("words-4")))
        connection.send(json.dumps({"event": "finish"}))
        events = [json.loads(text) for text in connection]
    assert [event["segment"]["text"] for event in events if event["event"] == "final"] == [truth()["words-4"]]
    kept = row(server, "晨会 live page")
    assert kept["id"] == events[-1]["id"] and kept["text"] == truth()["words-4"]
    with server.client() as client:
        audio = client.get(f"/api/history/{kept['id']}/audio")
        assert audio.status_code == 200 and audio.content[:4] == b"fLaC"
        for _ in range(100):
            workers = client.get("/api/device").json()["workers"]
            if not any(worker["streams"] for worker in workers):
                break
            time.sleep(0.02)
        assert not any(worker["streams"] for worker in workers)


def test_a_token_is_needed_where_there_is_one(tmp_path: Path) -> None:
    """Without one, or with a wrong one, no connection; sessions belong to whoever brought the token."""
    secret = _made_token(tmp_path / "data")
    server = Server(tmp_path / "data", {})
    server.start(is_ready=False)  # nothing is understood here
    try:
        address = server.url.replace("http", "ws")
        for headers in ({}, {"Authorization": "Bearer zy_wrong"}):
            for path in ("/api/live", "/v1/realtime"):
                with pytest.raises(InvalidStatus) as refused:
                    connect(address + path, additional_headers=headers).__enter__()
                assert refused.value.response.status_code == 401
        client = openai.OpenAI(api_key=secret, base_url=f"{server.url}/v1")
        with client, client.realtime.connect(extra_query=QUERY) as connection:
            assert connection.recv().type == "session.created"
        offered = ["realtime", f"openai-insecure-api-key.{secret}"]
        with connect(f"{address}/v1/realtime?intent=transcription", subprotocols=offered) as browser:  # type: ignore[arg-type]
            assert browser.subprotocol == "realtime"
            assert json.loads(browser.recv(10))["type"] == "session.created"
    finally:
        server.stop()


def _made_token(data: Path) -> str:
    settings = Settings(data=data)
    engine = database.open(database.url(settings, folders(settings)))
    try:
        return Tokens(engine).add("speaker", "user")
    finally:
        engine.dispose()
