"""`zhiyin serve` itself in a process of its own, as a person starts it; for tests that stop, kill and attack it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 90.0


class Process:
    """A running service. `lines` is what it has said on standard error so far."""

    def __init__(self, data: Path, *words: str, ready: bool = True, prelude: str = "") -> None:
        """Start it and wait until it answers, with `ready` until its model is loaded; `prelude` is run before."""
        self.data, self.lines = data, list[str]()
        code = f"{prelude}\nfrom zhiyin.cli import main\nmain()"
        command = [sys.executable, "-c", code, "serve", "--data", str(data), "--port", "0", "--no-page", *words]
        own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "default"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=own)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._address()
        self.wait("/readyz" if ready else "/healthz")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def _address(self) -> str:
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            found = re.search(r"^zhiyin: address +(\S+)", "\n".join(self.lines), re.MULTILINE)
            if found:
                return found[1].replace("0.0.0.0", "127.0.0.1")
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(self.lines)

    def wait(self, path: str) -> None:
        """Until this address answers 200."""
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            assert self.process.poll() is None, self.lines
            try:
                if httpx.get(self.url + path, timeout=5, verify=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"{path} never answered 200; {self.lines[-20:]}")

    def client(self, token: str = "", **given: Any) -> httpx.Client:
        """A client of it."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **given)

    def records(self) -> list[dict[str, Any]]:
        """The JSON lines of its log."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def open_files(self) -> int:
        """How many files, sockets and pipes the server has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def parts(self) -> list[str]:
        """Recordings that are arriving, or were left behind."""
        return sorted(path.name for path in (self.data / "uploads").iterdir())

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def serving(data: Path, *words: str, ready: bool = True, prelude: str = "") -> Iterator[Process]:
    """A service that runs within the block."""
    one = Process(data, *words, ready=ready, prelude=prelude)
    try:
        yield one
    finally:
        one.end(signal.SIGKILL)
