"""Throughput of the workers behind `zhiyin serve`: short recordings one at a time, many at once, and another way.

    python benchmarks/serve_throughput.py [--tasks asr] [--requests 128] [--alone 16] [--at-once 32] [--model DIR]
        [--memory 600]

prints, for the pocket model (or another) on this machine,

- *one decode each*: the pattern of simple servers (FunASR's among them): one process takes requests from a queue and
  understands one after the other with all threads, without a database, without batching;
- *one at a time*: our dispatcher, a client that sends the next recording when it has the last one's answer;
- *at once*: our dispatcher, so many recordings in flight all the time;

each with wall time and CPU time of both processes per recording; and, with ``--memory``, the memory of both processes
while so many recordings go through, and its slope. Uploading and HTTP are not part of it. All three understand the same
recordings with the same result, which is checked.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import soundfile

from zhiyin.runtime import device_state
from zhiyin.serve import database
from zhiyin.serve.bookkeeper import Bookkeeper
from zhiyin.serve.dispatch import Dispatcher
from zhiyin.serve.job import Job, Wish
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.observer import Unobserved
from zhiyin.serve.settings import Settings, folders

TICK_S = 1 / os.sysconf("SC_CLK_TCK")

SIMPLE = """
import json, sys
from zhiyin.pipeline import understand
from zhiyin.ask import Options
from zhiyin.runtime.load import load
model = load(sys.argv[3] or None)
understand(sys.argv[1], sys.argv[2], model=model)
print("ready", flush=True)
for line in sys.stdin:
    result = understand(line.strip(), sys.argv[2], model=model, options=Options(written=True))
    print(json.dumps(result.to_dict()), flush=True)
"""


@dataclass(frozen=True)
class Row:
    """What one way costs per recording, in milliseconds."""

    name: str
    wall_ms: float
    server_ms: float
    worker_ms: float
    batch: float


class Batches(Unobserved):
    """Counts what is heard together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch(self, size: int) -> None:
        """See `Observer`."""
        self.sizes.append(size)


def cpu_s(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def simple(files: list[Path], tasks: str, model: str) -> tuple[Row, list[str]]:
    """One process that understands one recording after the other."""
    command = [sys.executable, "-c", SIMPLE, str(files[0]), tasks, model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        own_s, its_s, began_s = time.process_time(), cpu_s(process.pid), time.perf_counter()
        process.stdin.write("".join(f"{file}\n" for file in files))  # all wait at once
        process.stdin.close()
        texts = [json.loads(process.stdout.readline())["text"] for _ in files]
        wall_s = time.perf_counter() - began_s
        row = Row("one decode each", *_ms(files, wall_s, time.process_time() - own_s, cpu_s(process.pid) - its_s), 1.0)
    return row, texts


class Service:
    """The dispatcher and its worker."""

    def __init__(self, data: Path, threads: int, model: str) -> None:
        self.settings = Settings(data=data, threads=threads, model=model)
        self.folders = folders(self.settings)
        self.jobs = Jobs(database.open(database.url(self.settings, self.folders)))
        self.batches = Batches()
        self.books = Bookkeeper(self.jobs, self.folders.journals)
        self.dispatcher = Dispatcher(self.settings, self.jobs, self.batches, self.books)
        self.lengths_s: dict[str, float] = {}

    def take(self, file: Path) -> None:
        """Lay a recording into the folder of the service."""
        shutil.copy(file, self.folders.audio / file.name)
        self.lengths_s[file.name] = soundfile.info(file).duration

    async def understand(self, file: Path, tasks: str) -> Job:
        """One recording that lies in the folder of the service."""
        wish = Wish(tasks=tuple(tasks.split(",")))
        facts: dict[str, Any] = {"file_name": file.name, "audio": file.name, "duration_s": self.lengths_s[file.name]}
        job = await self.books.once(
            partial(self.jobs.add, user="bench", mode="api", sha256="", bytes=1, wish=wish, **facts)
        )
        self.dispatcher.submit(job)
        return await self.dispatcher.wait(job.id)

    async def measure(self, name: str, files: list[Path], work: Callable[[], Awaitable[list[str]]]) -> Row:
        """Wall and CPU time of some work."""
        pid = self.dispatcher.workers()[0].pid
        self.batches.sizes.clear()
        own_s, its_s, began_s = time.process_time(), cpu_s(pid), time.perf_counter()
        await work()
        wall_s = time.perf_counter() - began_s
        times = _ms(files, wall_s, time.process_time() - own_s, cpu_s(pid) - its_s)
        return Row(name, *times, statistics.mean(self.batches.sizes))


async def ours(
    files: list[Path], alone: list[Path], args: argparse.Namespace, data: Path
) -> tuple[list[Row], list[list[str]]]:
    """One at a time, and many at once."""
    service = Service(data, args.threads, args.model)
    for file in set(files):
        service.take(file)
    await service.dispatcher.start()
    try:
        await asyncio.gather(*(service.understand(file, args.tasks) for file in files[:16]))  # warm
        texts: list[list[str]] = [[], []]

        async def one_at_a_time() -> list[str]:
            texts[0] = [(await service.understand(file, args.tasks)).text for file in alone]
            return texts[0]

        async def at_once() -> list[str]:
            places = asyncio.Semaphore(args.at_once)

            async def one(file: Path) -> str:
                async with places:
                    return (await service.understand(file, args.tasks)).text

            texts[1] = list(await asyncio.gather(*(one(file) for file in files)))
            return texts[1]

        rows = [
            await service.measure("one at a time", alone, one_at_a_time),
            await service.measure(f"{args.at_once} at once", files, at_once),
        ]
        if args.memory:
            await slope(service, files, args)
        return rows, texts
    finally:
        await service.dispatcher.stop()


async def slope(service: Service, files: list[Path], args: argparse.Namespace) -> None:
    """Memory while recordings go through; the second half counts, for buffers grow to their size in the first."""
    pid = service.dispatcher.workers()[0].pid
    seen: list[tuple[int, int, int]] = []
    for done in range(0, args.memory, args.at_once):
        chosen = [files[(done + i) % len(files)] for i in range(args.at_once)]
        await asyncio.gather(*(service.understand(file, args.tasks) for file in chosen))
        seen.append((done + args.at_once, device_state.memory("cpu").used_bytes or 0, _resident(pid)))
    half = seen[len(seen) // 2 :]
    for place, name in ((1, "server"), (2, "worker")):
        fit = statistics.linear_regression([one[0] for one in half], [one[place] for one in half])
        first, last = seen[0][place] / 2**20, seen[-1][place] / 2**20
        print(
            f"memory of the {name}: {first:.1f} MiB after {seen[0][0]} recordings, {last:.1f} MiB after "
            f"{seen[-1][0]}; slope of the second half {fit.slope / 1024:.2f} KiB per recording"
        )


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _ms(files: list[Path], wall_s: float, server_s: float, worker_s: float) -> tuple[float, float, float]:
    each = 1000 / len(files)
    return wall_s * each, server_s * each, worker_s * each


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="asr")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--alone", type=int, default=0, help="recordings of the first two ways; by default as many")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--memory", type=int, default=0, help="recordings to watch the memory over")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--model", default="", help="a folder; by default pocket")
    samples = Path(__file__).resolve().parent.parent / "samples"
    parser.add_argument("--files", default=str(samples / "*.flac"))
    args = parser.parse_args()
    found = [Path(name) for name in sorted(glob(args.files))]
    files = [found[i % len(found)] for i in range(args.requests)]
    alone = files[: args.alone or len(files)]
    reference, texts = simple(alone, args.tasks, args.model)
    data = Path(tempfile.mkdtemp(prefix="zhiyin-bench-"))
    try:
        rows, own_texts = asyncio.run(ours(files, alone, args, data))
    finally:
        shutil.rmtree(data)
    assert [own_texts[0], own_texts[1][: len(alone)]] == [texts, texts], "not the same texts"
    print(f"tasks {args.tasks}, {args.requests} recordings, milliseconds per recording")
    print(f"{'':16} {'wall':>7} {'server CPU':>11} {'worker CPU':>11} {'mean batch':>11}")
    for row in (reference, *rows):
        print(f"{row.name:16} {row.wall_ms:7.1f} {row.server_ms:11.1f} {row.worker_ms:11.1f} {row.batch:11.1f}")
    fast = rows[1].wall_ms
    print(f"at once against one at a time: {rows[0].wall_ms / fast:.2f} times the throughput")
    print(f"at once against one decode each: {reference.wall_ms / fast:.2f} times the throughput")


if __name__ == "__main__":
    main()
