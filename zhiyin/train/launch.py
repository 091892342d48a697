"""Starts the processes of a run on this machine and ends them together. No torch: the starter does not train."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence

_PARENT = "ZHIYIN_TRAIN_PARENT"
_PORTS = (20_000, 32_000)  # below those that systems give away by themselves


def launch(count: int, command: Sequence[str]) -> int:
    """Run `command` in `count` processes of this machine and return the exit code; one that fails ends the others.

    Only the first one's standard output is shown. They meet at a port of this machine; MASTER_PORT names another.
    """
    port = _PORTS[0] + os.getpid() % (_PORTS[1] - _PORTS[0])  # another one for each run on this machine
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(port)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
        _PARENT: str(os.getpid()),
    }
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            out = None if rank == 0 else subprocess.DEVNULL
            running.append(subprocess.Popen(command, env={**os.environ, **common, **own}, stdout=out))
        codes: list[int | None] = [None]
        while None in codes and not any(codes):
            time.sleep(0.1)
            codes = [process.poll() for process in running]
        return next((code for code in codes if code), 0)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def end_with_parent() -> None:
    """Have this process end when `launch`, which started it, is killed: nobody would stop it then."""
    parent = int(os.environ.get(_PARENT, "0"))
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
