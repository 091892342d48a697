"""A real server for tests: uvicorn in a process of its own, a data folder of its own, the pocket model.

`running` starts one with settings of its own; the fixture `server` is one that all tests share, which change nothing in
it but their own jobs. As a program this file is that server process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "samples"
START_S = 90.0


class Server:
    """A server process; `url` is where it listens."""

    def __init__(self, data: Path, settings: Mapping[str, Any]) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        self._settings = {"page": False, "threads": 1, **settings, "data": str(data)}
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self, *, is_ready: bool = True) -> None:
        """Start the process and wait until it answers, with `is_ready` until its model is loaded."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(self._settings)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log.read_text()[-4000:]
        self.url = f"http://127.0.0.1:{int(line)}"
        self.wait("/readyz" if is_ready else "/healthz")

    def wait(self, path: str) -> None:
        """Until this address answers 200."""
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            assert self._process is not None and self._process.poll() is None, self.log.read_text()[-4000:]
            try:
                if httpx.get(self.url + path, timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer within {START_S} s; {self.log.read_text()[-4000:]}")

    def client(self, token: str = "") -> httpx.Client:
        """A client of it."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @property
    def pid(self) -> int:
        """Of the server process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As `kill -9`: nothing is put away."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As systemd stops it; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[Server]:
    """A server that runs within the block; settings as in a settings file, e.g. ``limits={"jobs": 3}``."""
    server = Server(data, settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that only use it, without tokens: everybody is the administrator `local`."""
    with running(tmp_path_factory.mktemp("service") / "data") as one:
        yield one


def main() -> None:
    """Serve with the settings of the only argument, on a free port that is written to standard output."""
    import uvicorn

    from zhiyin.serve import app, settings
    from zhiyin.serve.socket import MAX_MESSAGE_BYTES, PONG_S

    given = json.loads(sys.argv[1])
    application = app.create(settings.read(None, given))
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", given.get("port", 0)))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(
        application,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_timeout=PONG_S,
        timeout_graceful_shutdown=10,
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
