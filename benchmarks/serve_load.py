"""`zhiyin serve` under load: are all answered, does it stay awake, does its memory grow?

    python benchmarks/serve_load.py [--uploads 200] [--requests 1000] [--tiny 10000]

Starts the service itself, with a data folder of its own, and drives it over HTTP:

- uploads: so many recordings at once, each on a connection of its own; every one is answered with its text, or with
  429 or 503 by the stated limits;
- awake: while the worker is busy, `/healthz` is asked every 10 ms from another process;
- memory: so many requests one after another, each another length; resident memory of the server and its workers after
  every one, a line fitted as in many_files.py (slope of ten blocks' means, 95 % interval);
- tiny: so many requests of one user in one minute; the limit answers 429, another user is served meanwhile.

On Linux, since memory is read from /proc. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from many_files import slope
from measure import SAMPLES, ZHIYIN

RATE_HZ = 16_000
BLOCK_BYTES = 1 << 16

# Asks /healthz every 10 ms until its standard input ends; prints the times in milliseconds.
PROBE = """
import http.client, json, select, sys, time
host, times = sys.argv[1], []
while not select.select([sys.stdin], [], [], 0.01)[0]:
    began = time.perf_counter()
    asked = http.client.HTTPConnection(host, timeout=60)
    asked.request("GET", "/healthz")
    assert asked.getresponse().status == 200
    asked.close()
    times.append((time.perf_counter() - began) * 1000)
print(json.dumps(times))
"""


class Service:
    """A running service, with tokens of two users."""

    def __init__(self, process: subprocess.Popen[str], url: str, tokens: list[str]) -> None:
        self.process, self.url, self.tokens = process, url, tokens

    def headers(self, user: int = 0) -> dict[str, str]:
        """What says who asks."""
        return {"Authorization": f"Bearer {self.tokens[user]}"}

    def own_mb(self) -> float:
        """Memory of the server and of all processes it has started that no file stands behind."""
        kilobytes = 0
        for pid in [self.process.pid, *_descendants(self.process.pid)]:
            kilobytes += int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
        return kilobytes / 1024


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for word in path.read_text().split():
            yield int(word)
            yield from _descendants(int(word))


@contextmanager
def running(words: list[str]) -> Iterator[Service]:
    """A service that is ready, in a folder that goes away."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".serve_load.") as folder:
        data = ["--data", f"{folder}/data"]
        add = [*ZHIYIN, "token", "add"]
        tokens = [
            subprocess.run([*add, name, *data], capture_output=True, text=True, check=True).stdout.strip()
            for name in ("ann", "bob")
        ]
        log = Path(folder) / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [*ZHIYIN, "serve", *data, "--port", "0", "--no-page", *words], stderr=errors, text=True
            )
        try:
            while not (found := re.search(r"address +(\S+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            while httpx.get(found[1] + "/readyz").status_code != 200:
                time.sleep(0.1)
            yield Service(process, found[1], tokens)
        finally:
            process.terminate()
            process.wait(120)


def recordings(count: int, seconds: tuple[float, float]) -> list[bytes]:
    """Recordings of other lengths, cut from our samples."""
    rng = random.Random(7)
    spoken = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.flac"))]
    spoken = [one_T for one_T in spoken if one_T.ndim == 1]
    made = []
    for _ in range(count):
        joined_T = np.concatenate([rng.choice(spoken) for _ in range(8)])
        size = round(rng.uniform(*seconds) * RATE_HZ)
        start = rng.randrange(max(1, len(joined_T) - size))
        with tempfile.NamedTemporaryFile(suffix=".flac") as file:
            soundfile.write(file.name, joined_T[start : start + size], RATE_HZ)
            made.append(Path(file.name).read_bytes())
    return made


async def _upload(client: httpx.AsyncClient, service: Service, data: bytes) -> tuple[int, float, str]:
    began_s = time.perf_counter()
    files = {"file": ("a.flac", data)}
    answer = await client.post(
        "/v1/audio/transcriptions", data={"model": "whisper-1"}, files=files, headers=service.headers()
    )
    text = answer.json()["text"] if answer.status_code == 200 else answer.text
    return answer.status_code, time.perf_counter() - began_s, text


def uploads(service: Service, count: int) -> dict[str, Any]:
    """All at once, while /healthz is watched."""
    made = recordings(count, (1.0, 8.0))

    async def run() -> list[Any]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=service.url, timeout=600, limits=limits) as client:
            return await asyncio.gather(*(_upload(client, service, data) for data in made), return_exceptions=True)

    host = service.url.partition("//")[2]
    probe = subprocess.Popen(
        [sys.executable, "-c", PROBE, host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    began_s = time.perf_counter()
    answers = asyncio.run(run())
    wall_s = time.perf_counter() - began_s
    awake_ms = json.loads(probe.communicate("end\n")[0])
    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    statuses = Counter(str(answer[0]) for answer in answers if not isinstance(answer, BaseException))
    seconds = sorted(answer[1] for answer in answers if not isinstance(answer, BaseException))
    return {
        "uploads": count,
        "answers": dict(statuses),
        "lost": len(lost),
        "with text": sum(bool(a[2].strip()) for a in answers if not isinstance(a, BaseException) and a[0] == 200),
        "wall s": round(wall_s, 1),
        "p50 s": round(float(np.percentile(seconds, 50)), 2),
        "p99 s": round(float(np.percentile(seconds, 99)), 2),
        "healthz asked": len(awake_ms),
        "healthz p50 ms": round(float(np.percentile(awake_ms, 50)), 1),
        "healthz p99 ms": round(float(np.percentile(awake_ms, 99)), 1),
        "healthz worst ms": round(max(awake_ms), 1),
    }


def memory(service: Service, count: int) -> dict[str, Any]:
    """One request after another, twice as many as count: the caches of the database fill first."""
    made, held = recordings(50, (0.5, 8.0)), []
    with httpx.Client(base_url=service.url, timeout=600, headers=service.headers()) as client:
        for number in range(2 * count):
            files = {"file": ("a.flac", made[number % len(made)])}
            answer = client.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files=files)
            assert answer.status_code == 200, answer.text
            held.append(service.own_mb())
    grown, width = slope(np.array(held[count:])) if count >= 100 else (float("nan"), float("nan"))
    return {
        "requests": count,
        "first MB": round(held[count], 1),
        "last MB": round(held[-1], 1),
        "growth KB each": round(grown * 1024, 2),
        "95 % interval": round(width * 1024, 2),
    }


def tiny(service: Service, count: int) -> dict[str, Any]:
    """As fast as ten connections carry them; another user asks meanwhile."""
    host, port = service.url.partition("//")[2].split(":")
    one = f"GET /api/device HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {service.tokens[1]}\r\n\r\n".encode()

    async def flood(share: int) -> Counter[str]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(one * share)
        found, rest = Counter[str](), b""
        while sum(found.values()) < share and (part := await reader.read(BLOCK_BYTES)):
            rest += part
            starts = [match.start() for match in re.finditer(rb"HTTP/1\.1 (\d\d\d) ", rest)]
            found.update(rest[at + 9 : at + 12].decode() for at in starts)
            rest = rest[starts[-1] + 12 :] if starts else rest[-16:]
        writer.close()
        return found

    async def run() -> tuple[list[Counter[str]], list[float]]:
        floods = asyncio.gather(*(flood(count // 10) for _ in range(10)))
        other = []
        async with httpx.AsyncClient(base_url=service.url, timeout=600, headers=service.headers()) as client:
            while not floods.done():
                began_s = time.perf_counter()
                assert (await client.get("/api/device")).status_code == 200
                other.append(time.perf_counter() - began_s)
                await asyncio.sleep(0.05)
        return await floods, other

    began_s = time.perf_counter()
    floods, other = asyncio.run(run())
    answers: Counter[str] = sum(floods, Counter())
    return {
        "tiny requests": count,
        "answers": dict(answers),
        "wall s": round(time.perf_counter() - began_s, 1),
        "another user, worst ms": round(max(other) * 1000, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=200)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tiny", type=int, default=10_000)
    options, words = parser.parse_known_args()
    found: dict[str, dict[str, Any]] = {}
    with running(words) as service:
        for name, measure, count in (
            ("uploads", uploads, options.uploads),
            ("memory", memory, options.requests),
            ("tiny", tiny, options.tiny),
        ):
            if count:
                found[name] = measure(service, count)
                print(f"| {name} | |\n|---|--:|")
                print("\n".join(f"| {key} | {value} |" for key, value in found[name].items()) + "\n", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
