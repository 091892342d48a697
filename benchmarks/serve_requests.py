"""Short requests over HTTP: one at a time, many at once, and a simple server beside it.

    python benchmarks/serve_requests.py [--requests 256] [--at-once 32] [--model DIR]

starts `zhiyin serve`, and then a server of the pattern of FunASR's and others (one process whose handler decodes its
request itself, one after the other, without a queue, history, users or batches), and posts the samples to both: one at
a time on one connection, then so many at once. Prints wall and CPU time per request, of the server and of its workers.
The client's own CPU time (a few tenths of a millisecond a request) is part of the wall time.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import SAMPLES
from serve_load import _descendants, running

BOUNDARY = "zhiyin-benchmark"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

SIMPLE = """
import socket, sys, uvicorn
from fastapi import FastAPI, UploadFile
from zhiyin.ask import Options
from zhiyin.pipeline import understand
from zhiyin.runtime.load import load

model = load(sys.argv[1] or None)
app = FastAPI()

@app.post("/v1/audio/transcriptions")
async def transcribe(file: UploadFile):
    result = understand(await file.read(), "asr", model=model, options=Options(written=True))
    return {"text": result.written or result.text}

listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen(64)
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])
"""


def body(recording: bytes) -> bytes:
    """What a client sends."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--{BOUNDARY}\r\n'
    head += 'Content-Disposition: form-data; name="file"; filename="a.flac"\r\nContent-Type: audio/flac\r\n\r\n'
    return head.encode() + recording + f"\r\n--{BOUNDARY}--\r\n".encode()


async def post(url: str, token: str, bodies: list[bytes], at_once: int) -> list[str]:
    """All of them, on so many connections; the texts in order."""
    host, port = url.partition("//")[2].split(":")
    left, texts = list(range(len(bodies)))[::-1], [""] * len(bodies)
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while left:
            number = left.pop()
            writer.write(f"{head}Content-Length: {len(bodies[number])}\r\n\r\n".encode() + bodies[number])
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            assert answer.startswith(b"HTTP/1.1 200") and length, answer
            texts[number] = json.loads(await reader.readexactly(int(length[1])))["text"]
        writer.close()

    await asyncio.gather(*(connection() for _ in range(at_once)))
    return texts


def cpu_s(pids: list[int]) -> float:
    """CPU time of processes."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) * TICK_S


def measure(name: str, send: Callable[[int, int], list[str]], pid: int, counts: list[tuple[int, int]]) -> list[str]:
    """Print what requests cost for each (connections, requests); the texts of the last."""
    send(8, 32)  # warm
    texts: list[str] = []
    for at_once, requests in counts:
        others = list(_descendants(pid))
        began = time.perf_counter(), cpu_s([pid]), cpu_s(others)
        texts = send(at_once, requests)
        ended = time.perf_counter(), cpu_s([pid]), cpu_s(others)
        wall, server, workers = ((after - before) * 1000 / requests for after, before in zip(ended, began, strict=True))
        print(f"{name:16} {at_once:9} {wall:9.1f} {server:13.1f} {workers:13.1f}", flush=True)
    return texts


@contextmanager
def simple(model: str) -> Iterator[tuple[str, int]]:
    """The simple server: its address and process."""
    with subprocess.Popen([sys.executable, "-c", SIMPLE, model], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid
        finally:
            process.kill()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--model", default="", help="a folder; by default pocket")
    args = parser.parse_args()
    bodies = [body(path.read_bytes()) for path in sorted(SAMPLES.glob("*.flac"))]
    counts = [(1, max(8, args.requests // 4)), (args.at_once, args.requests)]
    print(f"{'':16} {'at once':>9} {'wall ms':>9} {'server CPU ms':>13} {'worker CPU ms':>13}")

    def sender(url: str, token: str) -> Callable[[int, int], list[str]]:
        return lambda at_once, n: asyncio.run(post(url, token, [bodies[i % len(bodies)] for i in range(n)], at_once))

    with running(["--model", args.model] if args.model else []) as service:
        ours = measure("zhiyin serve", sender(service.url, service.tokens[0]), service.process.pid, counts)
    with simple(args.model) as (url, pid):
        theirs = measure("one decode each", sender(url, "none"), pid, counts)
    assert ours == theirs, "not the same texts"


if __name__ == "__main__":
    main()
