"""A worker: a process of its own with one model on one device, that does what the server tells it.

``python -m zhiyin.serve.worker FD`` is started by `serve.child`; FD is its end of a pair of sockets. When the other end
is closed, for whatever reason, the worker ends at once: a server that was killed leaves none behind. What it was
working on stands in journals.
"""

import contextlib
import ctypes
import gc
import hashlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.runtime import bundle, device_state, store
from zhiyin.runtime.load import POCKET, Loaded, load
from zhiyin.serve.channel import Broken, Channel
from zhiyin.serve.engine import Engine
from zhiyin.serve.worker_runs import FAULT, JobRun, StreamRun

# Graphs this small gain next to nothing from several threads, but two of them run side by side at full speed: measured
# with the pocket model on two cores, 8.2 ms a window with one thread, 6.9 ms with two, 3.9 ms as two calls at once.
SMALL_MODEL_BYTES = 64 << 20
MAX_CALLS = 4  # at once
NICER = 5  # than the server, whose event loop must answer at once while all cores compute
SWITCH_S = 0.001  # of Python threads: who computes must not wait 5 ms for those that read recordings

_log = logging.getLogger(__name__)


class Worker:
    """The state of the process: a model that is loaded or not, recordings and streams that are worked on."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._jobs: dict[str, JobRun] = {}
        self._streams: dict[str, StreamRun] = {}
        self._batches: list[int] = []
        self._model_orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def run(self) -> None:
        """Take messages until the server is gone."""
        threading.Thread(target=self._keep_model, name="model", daemon=True).start()
        while (message := self._channel.receive()) is not None:
            self._take(*message)

    def _take(self, order: dict[str, Any], body: bytes) -> None:
        what, key = order["do"], str(order.get("id", ""))
        if what == "job":
            self._begin_job(order)
        elif what == "live":
            self._begin_stream(order)
        elif what in ("load", "unload", "reset"):
            self._model_orders.put(order)
        elif what == "measure":
            self._say({"say": "memory", **self._memory()})
        elif what == "cancel":
            if key in self._jobs:
                self._jobs[key].cancel()
        elif key in self._streams:  # samples and the like for one that has ended are dropped
            if what == "audio":
                self._streams[key].give(body)
            else:
                self._streams[key].do(what)

    def _begin_job(self, order: dict[str, Any]) -> None:
        key = order["id"]
        if self._engine is None:
            self._say({"say": "end", "id": key, "unloaded": True})
            return
        self._jobs[key] = JobRun(order, self._engine, self._say)
        threading.Thread(target=self._run, args=(self._jobs, key), name=f"job-{key}", daemon=True).start()

    def _begin_stream(self, order: dict[str, Any]) -> None:
        key = order["id"]
        try:
            if self._engine is None:
                raise UserError("the model is not loaded; try again in a moment")
            self._streams[key] = StreamRun(order, self._engine, self._say)
        except UserError as error:
            self._say({"say": "refused", "id": key, "error": str(error)})
            return
        self._say({"say": "opened", "id": key})
        threading.Thread(target=self._run, args=(self._streams, key), name=f"live-{key}", daemon=True).start()

    def _run(self, runs: dict[str, JobRun] | dict[str, StreamRun], key: str) -> None:
        try:
            is_sound = runs[key].run()
        finally:
            runs.pop(key, None)
        if not is_sound:
            _log.error("the device does not answer; the worker ends and is started again")
            os._exit(1)

    def _say(self, message: dict[str, Any]) -> None:
        with self._lock:
            batches, self._batches = self._batches, []
        try:
            self._channel.send({**message, "batches": batches} if batches else message)
        except UserError as error:  # too long
            self._channel.send({"say": "end", "id": message["id"], "error": f"result: {error}"})
        except OSError:  # the server is gone
            os._exit(0)

    def _count_batch(self, size: int) -> None:
        with self._lock:
            self._batches.append(size)

    def _keep_model(self) -> None:
        """Load and unload, one after the other, in a thread that may wait."""
        while True:
            order = self._model_orders.get()
            try:
                if order["do"] == "load":
                    self._say({"say": "state", "state": "loading"})
                    self._unload()
                    self._load(order)
                elif order["do"] == "unload":
                    self._unload()
                    self._say({"say": "state", "state": "unloaded"})
                else:
                    self._reset(order)
            except UserError as error:
                self._say({"say": "state", "state": "failed", "error": str(error)})
            except Exception as error:
                _log.exception("%s", order["do"])
                self._say({"say": "state", "state": "failed", "error": f"{FAULT}: {type(error).__name__}: {error}"})

    def _load(self, order: dict[str, Any]) -> None:
        name = order["model"] or POCKET
        graph_threads, calls = threads_for(_stored_bytes(name), order["threads"], order["workers"])

        def open_model() -> Loaded:
            return load(
                name,
                device=order["device"],
                backend=order["backend"],
                threads=graph_threads,
                dtype=order["dtype"],
                allow_fallback=order["allow_fallback"],
            )

        engine = Engine(open_model, threads=calls, on_batch=self._count_batch)
        facts = _facts(engine.model)
        self._engine = engine
        self._say({"say": "state", "state": "ready", **facts, **self._memory()})

    def _unload(self) -> None:
        if self._engine is None:
            return
        device = self._engine.model.backend.device.name
        engine, self._engine = self._engine, None
        engine.close()
        del engine
        _give_back(device)

    def _reset(self, order: dict[str, Any]) -> None:
        """Everything off the device, its counters anew, the model on it again."""
        device = self._engine.model.backend.device.name if self._engine is not None else "cpu"
        self._say({"say": "state", "state": "loading"})
        self._unload()
        with contextlib.suppress(ImportError):
            device_state.reset(device)
        self._load(order)

    def _memory(self) -> dict[str, Any]:
        """Bytes of this process, and of its device where that tells."""
        found: dict[str, Any] = {"memory_bytes": device_state.memory("cpu").used_bytes, "device_memory": None}
        engine = self._engine
        if engine is None or engine.model.backend.device.name == "cpu":
            return found
        with contextlib.suppress(ImportError, RuntimeError):
            memory = device_state.memory(engine.model.backend.device.name)
            if memory.total_bytes is not None and memory.free_bytes is not None:
                found["device_memory"] = [memory.total_bytes - memory.free_bytes, memory.total_bytes]
        return found


def threads_for(stored_bytes: int, threads: int, workers: int) -> tuple[int | None, int]:
    """Threads of each graph, None for what the runtime chooses, and how many calls of the model run at once on a CPU.

    Args:
        stored_bytes: of the model's files.
        threads: that this worker is allowed; 0 is its share of the cores.
        workers: that share the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = threads or max(1, cores // workers)
    if stored_bytes <= SMALL_MODEL_BYTES:
        return 1, min(share, MAX_CALLS)
    return (share if threads or workers > 1 else None), 1


def model_hash(folder: Path) -> str:
    """SHA-256 of the file that holds the hashes of all others, where there is one; else of all files."""
    for name in (bundle.RECORD, store.MANIFEST):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()


def _facts(model: Loaded) -> dict[str, Any]:
    return {
        "spec": model.backend.spec.to_record(),
        "model_hash": model_hash(Path(model.source)),
        "device": str(model.backend.device),
        "backend": model.backend.name,
    }


def _stored_bytes(model: str) -> int:
    """Of a model's files, by its name; 0 where it is not there, which `load` says better."""
    folder = Path(model) if Path(model).is_dir() else None
    if folder is None:
        with contextlib.suppress(UserError):
            folder = store.find(model)
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) if folder else 0


def _give_back(device: str) -> None:
    gc.collect()
    with contextlib.suppress(ImportError):  # a device that is used without torch
        device_state.release(device)
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """Entry point of the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they reach the server too, which ends its workers when it is done
    os.nice(NICER)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(process)d %(message)s")
    sys.setswitchinterval(SWITCH_S)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.setblocking(True)
    try:
        Worker(Channel(connection)).run()
    except Broken:
        _log.exception("the server's messages cannot be read")
    os._exit(0)


if __name__ == "__main__":
    main()
