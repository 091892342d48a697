"""A worker by itself: what it tells of its model, a device that fails under it, a server that is gone."""

import hashlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.dispatching import SAMPLES
from zhiyin.serve.channel import Channel
from zhiyin.serve.worker import MAX_CALLS, SMALL_MODEL_BYTES, model_hash, threads_for
from zhiyin.serve.worker_runs import options_of

LOAD = {
    "do": "load",
    "model": "",
    "device": "cpu",
    "backend": "auto",
    "dtype": "auto",
    "allow_fallback": False,
    "threads": 1,
    "workers": 1,
}
OPTIONS: dict[str, Any] = {
    "instruction": None,
    "language": None,
    "into": None,
    "hotwords": [],
    "speakers": False,
    "itn": None,
    "written": True,
    "template": None,
    "channels": "mix",
}


class Process:
    """A worker and our end of its channel."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "zhiyin.serve.worker", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
        self.channel = Channel(self.socket)

    def until(self, what: str) -> dict[str, Any]:
        """What it says next of a kind."""
        while (message := self.channel.receive()) is not None:
            if message[0]["say"] == what and message[0].get("state") != "loading":
                return message[0]
        raise AssertionError("it has ended")

    def job(self, id: str, audio: Path) -> None:
        """Give it a recording."""
        order = {"owner": "anna", "name": audio.name, "journal": "", "tasks": ["asr"], "longest_s": 1000.0}
        self.channel.send({"do": "job", "id": id, "audio": str(audio), "options": OPTIONS, **order})


@pytest.fixture
def worker() -> Iterator[Process]:
    """A worker that is ended."""
    one = Process()
    yield one
    one.socket.close()
    assert one.process.stderr is not None
    one.process.stderr.close()
    one.process.wait(10)


def test_a_worker_says_what_it_has(worker: Process, repository: Path) -> None:
    worker.job("early", SAMPLES / "digits-1.flac")
    assert worker.until("end") == {"say": "end", "id": "early", "unloaded": True}
    worker.channel.send({**LOAD, "model": "nowhere"})
    failed = worker.until("state")
    assert failed["state"] == "failed" and "nowhere" in failed["error"]
    worker.channel.send(LOAD)
    ready = worker.until("state")
    record = repository / "zhiyin" / "pocket" / "bundle" / "bundle.json"
    assert ready["state"] == "ready" and ready["model_hash"] == hashlib.sha256(record.read_bytes()).hexdigest()
    assert ready["spec"]["name"] == "pocket" and ready["device"] == "cpu (asked for)" and ready["memory_bytes"] > 50e6
    worker.job("one", SAMPLES / "digits-1.flac")
    end = worker.until("end")
    assert end["result"]["text"] == "four one seven two nine" and end["result"]["source"] == "digits-1.flac"
    worker.channel.send({"do": "cancel", "id": "one"})  # it is over
    worker.channel.send({"do": "audio", "id": "no stream"}, b"1234")
    worker.channel.send({"do": "measure"})
    assert worker.until("memory")["memory_bytes"] > 50e6


def test_it_ends_with_its_server_and_not_by_signals_to_the_group(worker: Process) -> None:
    worker.channel.send(LOAD)
    worker.until("state")
    for number in (signal.SIGINT, signal.SIGTERM):
        worker.process.send_signal(number)
    worker.channel.send({"do": "measure"})
    assert worker.until("memory"), "the server lets it end its work"
    worker.socket.close()
    assert worker.process.wait(10) == 0


def test_a_device_that_fails_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'zhiyin.serve.worker' in ' '.join(sys.orig_argv):\n"
        "    from zhiyin.serve import engine\n"
        "    def hear(*given): raise RuntimeError('device lost\\nat stream 3')\n"
        "    engine.hear.hear = hear\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Process()
    with worker.socket:
        worker.channel.send(LOAD)
        worker.until("state")
        worker.job("one", SAMPLES / "digits-1.flac")
        assert worker.until("end")["lost"] == "the worker's device failed (device lost at stream 3)"
        assert worker.channel.receive() is None
    assert worker.process.stderr is not None
    with worker.process.stderr as told:
        assert "device lost" in told.read()
    assert worker.process.wait(10) == 1


def test_threads_and_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads_for(1 << 20, 0, 1) == (1, MAX_CALLS) and threads_for(1 << 20, 2, 1) == (1, 2)
    assert threads_for(1 << 20, 0, 8) == (1, 1)
    large = SMALL_MODEL_BYTES + 1
    assert [threads_for(large, *one) for one in ((0, 1), (6, 1), (0, 2))] == [(None, 1), (6, 1), (4, 1)]
    (tmp_path / "a").write_bytes(b"1")
    first = model_hash(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    assert model_hash(tmp_path) != first


def test_equal_hotwords_are_one_list() -> None:
    first, second = (options_of({**OPTIONS, "hotwords": ["Ascend", "昇腾 3"]}) for _ in range(2))
    assert first.hotwords is second.hotwords and not options_of(OPTIONS).hotwords
