"""Latency of live streams through a running service, many at once.

    taskset -c 0,1 python benchmarks/serve_live.py PACK [--streams 16] [--seconds 120] [--threads 1]

PACK is the folder of the speech pack. Each stream is a client of `/api/live` of its own that sends blocks of 64 ms when
their last sample is due, in real time, and notes when each event arrives: what a user of the page would see, with
everything between (the network of this machine, the server's loop, the worker's batches). All begin within a second.
The streams are made as in benchmarks/live.py, of the same recordings, each in an order of its own; latencies are
counted in the same way, so that the two tables can be laid side by side. --streams 1 shows what the service itself
costs.

A service is started for the run, in a folder that is removed; --address measures one that runs and asks for no token.
Prints a Markdown table, word errors beside those of the same recordings offline, and what it cost in CPU time, which
says on a busy machine too how many streams there could be.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from live import ROWS, Clip, Heard, clips, errors, finals_text, latencies, of_clip
from measure import ZHIYIN
from websockets.asyncio.client import connect

import zhiyin
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.config import build
from zhiyin.live.events import Event, Final, Partial
from zhiyin.result import Segment
from zhiyin.text.score import words

BLOCK_S = 0.064
PAUSE_S = (0.8, 2.0)
NOISE = 10 ** (-70 / 20)
START_S = 60.0


@dataclass(frozen=True)
class Stream:
    """What one client says, and when."""

    placed: list[Clip]
    samples_T: Float32


def stream(known: list[Clip], seconds: float, seed: int) -> Stream:
    """Clips in an order of its own, with pauses, about so long."""
    rng = np.random.default_rng(seed)
    pieces: list[Float32] = []
    placed: list[Clip] = []
    length = 0
    for number in rng.permutation(len(known)):
        one = known[number]
        pause_T = (NOISE * rng.standard_normal(int(rng.uniform(*PAUSE_S) * SAMPLE_RATE_HZ))).astype(np.float32)
        start_s = (length + len(pause_T)) / SAMPLE_RATE_HZ
        if start_s > seconds:
            break
        ends = [None if at_s is None else at_s - one.start_s + start_s for at_s in (one.first_end_s, one.last_end_s)]
        placed.append(replace(one, start_s=start_s, first_end_s=ends[0], last_end_s=ends[1]))
        pieces += [pause_T, one.samples_T]
        length += len(pause_T) + len(one.samples_T)
    return Stream(placed, np.concatenate([*pieces, np.zeros(2 * SAMPLE_RATE_HZ, np.float32)]))


async def speak(address: str, own: Stream, wait_s: float) -> list[Heard]:
    """Send a stream in real time; events with the time they came, on the clock of the stream."""
    await asyncio.sleep(wait_s)
    audio = (own.samples_T * 32767).round().clip(-32768, 32767).astype("<i2").tobytes()
    block = round(BLOCK_S * SAMPLE_RATE_HZ) * 2
    heard: list[Heard] = []
    async with connect(f"ws://{address}/api/live", max_size=None) as socket:
        await socket.send("{}")
        assert json.loads(await socket.recv())["event"] == "opened"
        began_s = time.perf_counter()

        async def listen() -> None:
            async for text in socket:
                at_s = time.perf_counter() - began_s
                told = json.loads(text)
                assert "error" not in told, told
                if (event := event_of(told)) is not None:
                    heard.append(Heard(event, at_s))

        listening = asyncio.ensure_future(listen())
        for at in range(0, len(audio), block):
            due_s = (at + block) / 2 / SAMPLE_RATE_HZ
            await asyncio.sleep(max(0.0, due_s - (time.perf_counter() - began_s)))
            await socket.send(audio[at : at + block])
        await socket.send(json.dumps({"event": "finish"}))
        await listening
    return heard


def event_of(told: dict[str, object]) -> Event | None:
    """The events that are measured."""
    if told["event"] == "partial":
        return build(Partial, {name: value for name, value in told.items() if name != "event"}, "partial")
    if told["event"] == "final":
        return Final(build(Segment, told["segment"], "segment"), float(str(told["stream_s"])))
    return None


async def all_of_them(address: str, streams: list[Stream]) -> list[list[Heard]]:
    """Every stream through the service, begun within a second."""
    waits_s = np.random.default_rng(0).uniform(0, 1, len(streams))
    return list(await asyncio.gather(*(speak(address, *both) for both in zip(streams, waits_s, strict=True))))


@contextmanager
def service(threads: int, model: str | None) -> Iterator[tuple[str, int]]:
    """A service of its own, when the model is loaded; its address and process."""
    import httpx

    with tempfile.TemporaryDirectory() as folder:
        command = [*ZHIYIN, "serve", "--port", "0", "--data", folder, "--no-page", "--threads", str(threads)]
        log = Path(folder) / "log"
        with log.open("w") as errors_file:
            process = subprocess.Popen(
                [*command, *(["--model", model] if model else [])],
                stderr=errors_file,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        try:
            until_s = time.monotonic() + START_S
            while time.monotonic() < until_s and process.poll() is None:
                found = re.search(r"http://(127\.0\.0\.1:\d+)", log.read_text())
                try:
                    if found and httpx.get(f"http://{found[1]}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            else:
                raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")
            yield found[1], process.pid
        finally:
            process.terminate()
            process.wait(30)


def cpu_s(pid: int) -> tuple[float, ...]:
    """CPU seconds of the server, and of its workers."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    workers = [worker for thread in threads for worker in thread.read_text().split()]
    spent = []
    for one in (str(pid), *workers):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        spent.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))  # utime and stime of proc(5)
    return spent[0], sum(spent[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--split", default="dev,test")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each stream")
    parser.add_argument("--threads", type=int, default=1, help="of the worker")
    parser.add_argument("--model")
    parser.add_argument("--address", help="of a service that runs and asks for no token")
    given = parser.parse_args()
    known, _ = clips(given.pack, given.split.split(","), 0)
    streams = [stream(known, given.seconds, seed) for seed in range(given.streams)]
    if given.address:
        heard = asyncio.run(all_of_them(given.address, streams))
        spent_s: tuple[float, ...] = ()
    else:
        with service(given.threads, given.model) as (address, pid):
            asyncio.run(all_of_them(address, [stream(known, 4.0, 99)]))  # the first of everything is slow
            before_s = cpu_s(pid)
            heard = asyncio.run(all_of_them(address, streams))
            spent_s = tuple(after - before for after, before in zip(cpu_s(pid), before_s, strict=True))
    pairs = [(clip, of_clip(clip, said)) for own, said in zip(streams, heard, strict=True) for clip in own.placed]
    rows = [latencies(clip, said) for clip, said in pairs if clip.first_end_s is not None]
    seconds = sum(len(own.samples_T) for own in streams) / SAMPLE_RATE_HZ
    print(
        f"{given.streams} streams at once, {len(pairs)} recordings, {seconds:.0f} s of audio, blocks of {BLOCK_S:g} s\n"
    )
    print("| ms after the end of the word | p50 | p95 | worst | none |\n|---|--:|--:|--:|--:|")
    for column, name in enumerate(ROWS):
        values = [1000 * row[column] for row in rows if row[column] is not None]
        p50, p95 = np.quantile(values, [0.5, 0.95])
        print(f"| {name} | {p50:.0f} | {p95:.0f} | {max(values):.0f} | {len(rows) - len(values)} |")
    model = zhiyin.load(given.model, threads=given.threads)
    live = errors([clip for clip, _ in pairs], [finals_text(said) for _, said in pairs])
    texts = {id(clip.samples_T): model.understand(clip.samples_T).text for clip, _ in pairs}
    offline = errors([clip for clip, _ in pairs], [texts[id(clip.samples_T)] for clip, _ in pairs])
    count = sum(len(words(clip.text)) for clip, _ in pairs)
    print(f"\nword errors of {count}: live {live} ({100 * live / count:.1f} %), offline {offline}", end=" ")
    print(f"({100 * offline / count:.1f} %)")
    if spent_s:
        server, worker = (1000 * one / seconds for one in spent_s)
        print(f"ms of CPU for each second of audio: server {server:.1f}, worker {worker:.1f}")


if __name__ == "__main__":
    main()
