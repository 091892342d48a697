"""Looks at recordings before they become jobs: their length, outline and speech, in child processes.

A file that kills its decoder costs one child, a file that decodes to days costs a bounded time, and the event loop only
waits.
"""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.serve.refusal import Refusal

CHILDREN = 2  # for lengths, and as many for outlines and speech, which take longer
COUNT_S = 5.0  # of work on one length; longer recordings are accepted and counted while they are understood
GRACE_S = 20.0  # start of a child included
LOOK_S = 300.0
LOOK_LIMIT_S = 4 * 3600.0  # of audio
_MAX_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Length:
    """Of a recording: seconds decoded, whether that is all of it, and its channels."""

    duration_s: float
    is_whole: bool
    channels: int


class Recordings:
    """A few children, each with one recording at a time; they start when they are needed."""

    def __init__(self, children: int = CHILDREN) -> None:
        self._counters = _Pool(children)
        self._lookers = _Pool(children)

    async def length(self, path: Path, limit_s: float) -> Length:
        """How long a recording is; of one longer than `limit_s`, how much of it was decoded until that was known.

        Raises:
            Refusal: it cannot be decoded.
        """
        wish = {"do": "count", "path": str(path), "limit_s": limit_s, "budget_s": COUNT_S}
        return Length(**await self._counters.ask(wish, COUNT_S + GRACE_S))

    async def look(self, path: Path, points: int, thresholds: dict[str, float] | None = None) -> dict[str, Any]:
        """Outline and speech; see `recordings_child.look`.

        Raises:
            Refusal: it cannot be decoded, or takes too long.
        """
        wish = {"do": "look", "path": str(path), "points": points, "thresholds": thresholds, "limit_s": LOOK_LIMIT_S}
        return await self._lookers.ask(wish, LOOK_S)

    async def close(self) -> None:
        """End the children."""
        await self._counters.close()
        await self._lookers.close()


class _Pool:
    def __init__(self, children: int) -> None:
        self._children = children
        self._idle: list[Process] = []
        self._places: asyncio.Semaphore | None = None

    async def ask(self, wish: dict[str, Any], within_s: float) -> dict[str, Any]:
        async with self._child() as child:
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(json.dumps(wish).encode() + b"\n")
                line = await asyncio.wait_for(child.stdout.readline(), within_s)
            except (asyncio.TimeoutError, ConnectionError):
                line = b""
            if not line.endswith(b"\n"):  # it died, or hangs
                raise Refusal(400, "unreadable_audio", "cannot read the upload: its decoder gave up; send it as WAV")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Refusal(400, "unreadable_audio", answer["error"], param="file")
        return answer

    async def close(self) -> None:
        while self._idle:
            await _end(self._idle.pop())

    @contextlib.asynccontextmanager
    async def _child(self) -> AsyncIterator[Process]:
        """A child for one question; one that did not answer it, for whatever reason, is not used again."""
        if self._places is None:  # belongs to the loop that asks
            self._places = asyncio.Semaphore(self._children)
        async with self._places:
            child = self._idle.pop() if self._idle else await _start()
            try:
                yield child
            except BaseException:
                await _end(child)
                raise
            self._idle.append(child)


async def _start() -> Process:
    arguments = (sys.executable, "-m", "zhiyin.serve.recordings_child")
    return await asyncio.create_subprocess_exec(
        *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_MAX_LINE_BYTES
    )


async def _end(child: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()
