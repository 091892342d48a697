"""The server's side of one worker: its process, what it says of itself, and what it was given to do.

A worker that ends is started again, after a pause that doubles while nothing gets done.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from zhiyin.runtime.base import ModelSpec
from zhiyin.serve.channel import AsyncChannel, Broken
from zhiyin.serve.job import Job

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 30.0
LOAD_AGAIN_S = 30.0  # a model that did not load may be there later: a disk that was not mounted, a full device
KILL_AFTER_S = 5.0
SILENT_S = 120.0  # a process that has not answered for so long hangs

# numpy's small products gain nothing from threads, and those of many recordings would be in each other's way; glibc
# gives each of many threads an arena of its own: measured with 16 recordings at once, 205 MB instead of 172 MB
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerState:
    """What is known of a worker.

    Attributes:
        asked: device that was asked for.
        device: where the model really runs, with the reason; empty while there is none.
        backend: how the model is executed.
        model: its name.
        model_hash: of its files.
        precision: of its weights.
        tasks: task ids it can do.
        languages: ISO codes.
        state: ``loading``, ``ready``, ``failed`` (no model), ``unloaded`` or ``lost`` (the process ended).
        error: why it failed or was lost.
        memory_bytes: of the process; None while it is not known.
        device_memory: bytes used by all, and in total, of a device that tells.
        busy: recordings it works on.
        streams: live streams it works on.
        slots: recordings it works on at once.
        pid: of the process.
        spec: what the model says of itself.
    """

    asked: str
    slots: int
    device: str = ""
    backend: str = ""
    model: str = ""
    model_hash: str = ""
    precision: str = ""
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    state: str = "loading"
    error: str = ""
    memory_bytes: int | None = None
    device_memory: tuple[int, int] | None = None
    busy: int = 0
    streams: int = 0
    pid: int = 0
    spec: ModelSpec | None = None


class Stream(Protocol):
    """A live stream, as far as its worker is concerned."""

    def take(self, message: dict[str, Any]) -> None:
        """What the worker says of it."""

    def lose(self, why: str) -> None:
        """The worker is gone."""


class Child:
    """A worker; used in the event loop alone.

    Attributes:
        jobs: what it works on, by id.
        streams: live streams it works on, by id.
        is_alone: it is given nothing beside what it has.
    """

    def __init__(
        self,
        asked: str,
        slots: int,
        *,
        load_order: Callable[[str], dict[str, Any]],
        on_message: Callable[["Child", dict[str, Any]], None],
        on_lost: Callable[["Child", str], None],
    ) -> None:
        """A worker that is not started yet.

        Args:
            asked: the device.
            slots: recordings it works on at once.
            load_order: what to say to have the model loaded on a device.
            on_message: called with what it says, but for its state.
            on_lost: called when the process has ended, with the reason; `jobs` and `streams` are what it had.
        """
        self._load_order, self._on_message, self._on_lost = load_order, on_message, on_lost
        self._state = WorkerState(asked, slots)
        self.jobs: dict[str, Job] = {}
        self.streams: dict[str, Stream] = {}
        self.is_alone = False
        self.changed = asyncio.Event()  # of the state
        self._channel: AsyncChannel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s = FIRST_PAUSE_S
        self._again: asyncio.TimerHandle | None = None
        self._heard_s = 0.0

    @property
    def state(self) -> WorkerState:
        """As it is now."""
        return replace(self._state, busy=len(self.jobs), streams=len(self.streams))

    @property
    def model_hash(self) -> str:
        """Of the files of its model."""
        return self._state.model_hash

    @property
    def has_model(self) -> bool:
        """Whether it can work."""
        return self._state.state == "ready"

    @property
    def is_ready(self) -> bool:
        """Whether it takes work."""
        return self.has_model and not self.is_alone

    def load(self) -> None:
        """Have the model loaded."""
        self.order("load")

    def order(self, what: str) -> None:
        """``load``, ``unload`` or ``reset``."""
        if what != "unload":
            self._set(state="loading", error="")
        self.send({**self._load_order(self._state.asked), "do": what})

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Tell it something; a process that is gone does not hear it."""
        if self._channel is not None:
            self._channel.send(header, body)

    async def drain(self) -> None:
        """Wait while it is slow to listen."""
        if self._channel is not None:
            await self._channel.drain()

    def check(self) -> None:
        """Ask for its memory figures, and kill it where it has not answered for long."""
        if self._process is not None and asyncio.get_running_loop().time() - self._heard_s > SILENT_S:
            _log.error("the worker on %s does not answer; it is killed", self._state.asked)
            self._process.kill()
        self.send({"do": "measure"})

    def succeeded(self) -> None:
        """Something got done: the next time it ends it is started again quickly."""
        self._pause_s = FIRST_PAUSE_S

    async def keep(self) -> None:
        """Start it, listen to it, and start it again when it has ended; until cancelled."""
        while True:
            why = await self._live()
            self._set(state="lost", error=why, pid=0, device="", memory_bytes=None, device_memory=None)
            _log.error("%s; it is started again in %.1f s", why, self._pause_s)
            self._on_lost(self, why)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)

    async def stop(self) -> None:
        """End the process; it ends by itself when the channel closes, and is killed where it does not."""
        if self._again is not None:
            self._again.cancel()
        if self._channel is not None:
            self._channel.close()
        process, self._process, self._channel = self._process, None, None
        if process is not None:
            await asyncio.to_thread(_end, process)

    async def _live(self) -> str:
        """One life of the process; returns how it ended."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            # not in a thread, where a process could be begun that nobody knows any more; it takes a millisecond or two
            self._process = process = _spawn(theirs)
            self._channel = await AsyncChannel.over(ours)
        except OSError as error:
            ours.close()
            return f"the worker on {self._state.asked} cannot be started ({error})"
        except asyncio.CancelledError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._heard_s = loop.time()
        self._set(pid=process.pid)
        self.load()
        why = ""
        try:
            while (message := await self._channel.receive()) is not None:
                self._heard_s = loop.time()
                self._take(message[0])
        except Exception as error:
            if not isinstance(error, Broken):
                _log.exception("a message of the worker on %s", self._state.asked)
            why = f" ({error})"
            process.kill()
        finally:
            if self._channel is not None:
                self._channel.close()
                self._channel = None
        code = await asyncio.to_thread(_end, process)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"the worker on {self._state.asked} {how}{why}"

    def _take(self, message: dict[str, Any]) -> None:
        what = message["say"]
        if what == "memory":
            self._set_memory(message)
            self._on_message(self, message)
        elif what != "state":
            self._on_message(self, message)
        elif message["state"] == "ready":
            spec = ModelSpec.from_record(message["spec"], "worker")
            self._set(
                state="ready",
                error="",
                device=message["device"],
                backend=message["backend"],
                model=spec.name,
                model_hash=message["model_hash"],
                precision=spec.precision,
                tasks=spec.tasks,
                languages=spec.languages,
                spec=spec,
            )
            self._set_memory(message)
            self._on_message(self, message)
        else:
            self._set(state=message["state"], error=message.get("error", ""), device="", device_memory=None)
            if message["state"] == "failed":
                _log.error("the worker on %s has no model: %s", self._state.asked, message["error"])
                self._again = asyncio.get_running_loop().call_later(LOAD_AGAIN_S, self._load_again)
            self._on_message(self, message)

    def _load_again(self) -> None:
        if self._state.state == "failed":
            self.load()

    def _set_memory(self, message: dict[str, Any]) -> None:
        device = message["device_memory"]
        self._set(memory_bytes=message["memory_bytes"], device_memory=(device[0], device[1]) if device else None)

    def _set(self, **facts: Any) -> None:
        self._state = replace(self._state, **facts)
        self.changed.set()
        self.changed = asyncio.Event()


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process; it gets its end of the channel and nothing else of ours."""
    number = theirs.fileno()
    return subprocess.Popen(
        [sys.executable, "-m", "zhiyin.serve.worker", str(number)],
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
        env={**_ENVIRONMENT, **os.environ},
    )


def _end(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
