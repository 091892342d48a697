"""What runs in threads of a worker: one recording, or one live stream; both hear through the engine."""

import logging
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.ask import Options
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.vad import Thresholds
from zhiyin.audio.windows import Window
from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.hear import Hints
from zhiyin.live.events import Event, to_dict
from zhiyin.live.session import LiveSession, Settings
from zhiyin.live.work import Work
from zhiyin.pipeline import understand
from zhiyin.result import Segment
from zhiyin.runtime.load import Loaded
from zhiyin.serve.engine import Cancelled, Engine, NotHeard
from zhiyin.tasks.families import Asked
from zhiyin.text import hotword_list
from zhiyin.text.hotword_list import HotwordList

Say = Callable[[dict[str, Any]], None]

FAULT = "a fault in zhiyin itself"  # errors that nobody who asked can mend begin with it
REPORT_EVERY_S = 0.25  # a message to the server each time costs both sides

_log = logging.getLogger(__name__)


class JobRun:
    """One recording, from its file to its result."""

    def __init__(self, order: dict[str, Any], engine: Engine, say: Say) -> None:
        """Args:
        order: the server's message: ``id owner audio name journal tasks options longest_s``.
        engine: hears its windows.
        say: sends messages to the server.
        """
        self._order, self._engine, self._say = order, engine, say
        self._recording = engine.open(order["owner"])
        self._unsaid: list[Segment] = []
        self._said_s = time.monotonic()
        self._until_s = 0.0

    def cancel(self) -> None:
        """Let it end soon."""
        self._engine.cancel(self._recording)

    def run(self) -> bool:
        """Do it and say how it ended; returns whether the model still answers."""
        end, is_sound = self._end()
        self._engine.close_recording(self._recording)
        self._say({"say": "end", "id": self._order["id"], **end})
        return is_sound

    def _end(self) -> tuple[dict[str, Any], bool]:
        order = self._order
        try:
            result = understand(
                order["audio"],
                order["tasks"] or None,
                model=self._engine.model,
                options=options_of(order["options"]),
                journal=order["journal"] or None,
                on_segment=lambda segment: self._unsaid.append(segment),
                on_audio=self._check,
                hear=self._hear,
            )
            return {"result": replace(result, source=order["name"]).to_dict()}, True
        except Cancelled:
            return {"cancelled": True}, True
        except NotHeard as error:
            return self._not_heard(error)
        except UserError as error:
            return {"error": self._plain(str(error))}, True
        except Exception as error:
            _log.exception("job %s", order["id"])
            return {"error": self._plain(f"{FAULT}: {type(error).__name__}: {error}; see the log of the service")}, True

    def _not_heard(self, error: NotHeard) -> tuple[dict[str, Any], bool]:
        """The recording is at fault where the model still hears another one."""
        cause = error.__cause__
        _log.error("job %s: the model failed", order_id := self._order["id"], exc_info=cause)
        if not self._engine.is_sound():
            return {"lost": f"the worker's device failed ({_line(cause)})", "id": order_id}, False
        if isinstance(cause, UserError):
            return {"error": self._plain(str(cause))}, True
        return {
            "error": self._plain(f"{FAULT}: {type(cause).__name__}: {_line(cause)}; see the log of the service")
        }, True

    def _hear(self, windows: Sequence[Window], asked: Asked, model: Loaded, hints: Hints | None) -> list[Segment]:
        heard = self._recording.hear(windows, asked, model, hints)
        self._until_s = windows[-1].end_s
        if time.monotonic() - self._said_s >= REPORT_EVERY_S:
            self._said_s = time.monotonic()
            segments, self._unsaid = [asdict(segment) for segment in self._unsaid], []
            self._say({"say": "progress", "id": self._order["id"], "until_s": self._until_s, "segments": segments})
        return heard

    def _check(self, read_s: float) -> None:
        longest_s = self._order["longest_s"]
        if self._recording.is_cancelled:
            raise Cancelled
        if read_s > longest_s:
            raise UserError(
                f"recording {self._order['name']}: it is longer than {longest_s:.0f} s, the most this service takes; "
                "cut it into parts"
            )

    def _plain(self, message: str) -> str:
        """One line without paths of the server."""
        for path, name in ((self._order["audio"], self._order["name"]), (self._order["journal"], "of the job")):
            if path:
                message = message.replace(path, name).replace(Path(path).name, name)
        return " ".join(message.split())


class StreamRun:
    """One live stream, from its samples to its events."""

    def __init__(self, order: dict[str, Any], engine: Engine, say: Say) -> None:
        """Args:
        order: the server's message: ``id tasks options settings``.
        engine: hears its windows.
        say: sends messages to the server.

        Raises:
            UserError: the model cannot do what is asked.
        """
        self._id, self._engine, self._say = order["id"], engine, say
        self._session = LiveSession(
            engine.model,
            order["tasks"] or None,
            options=options_of(order["options"]),
            settings=None if order["settings"] is None else build(Settings, order["settings"], "live settings"),
            compute=self._compute,
        )
        self._given: queue.SimpleQueue[Float32 | str] = queue.SimpleQueue()
        self._waited_s = 0.0
        self._is_dropped = False

    def give(self, body: bytes) -> None:
        """More samples, float32 little-endian."""
        self._given.put(np.frombuffer(body, "<f4").astype(np.float32))

    def do(self, what: str) -> None:
        """``flush``: end what is open; ``finish``: that, and end; ``close``: end now."""
        self._is_dropped = self._is_dropped or what == "close"
        self._given.put(what)

    def run(self) -> bool:
        """Do it and say how it ended; returns whether the model still answers."""
        error, is_sound = "", True
        try:
            while not self._is_dropped and self._next():
                pass
        except Cancelled:
            error = "the worker was stopped; connect again"
        except NotHeard as failed:
            _log.error("live stream %s: the model failed", self._id, exc_info=failed.__cause__)
            is_sound = self._engine.is_sound()
            error = f"{FAULT}: {_line(failed.__cause__)}" if is_sound else "the worker's device failed; connect again"
        except UserError as wrong:
            error = str(wrong)
        except Exception as fault:
            _log.exception("live stream %s", self._id)
            error = f"{FAULT}: {type(fault).__name__}; see the log of the service"
        self._say({"say": "closed", "id": self._id, "error": error, "processing_s": round(self._waited_s, 3)})
        return is_sound

    def _next(self) -> bool:
        """Whether the stream goes on after what was given next; samples that wait already are taken together."""
        given = self._given.get()
        pieces: list[Float32] = []
        what = ""
        while not what:
            if isinstance(given, str):
                what = given
                break
            pieces.append(given)
            if self._given.empty() or sum(map(len, pieces)) >= SAMPLE_RATE_HZ:
                break
            given = self._given.get()
        if pieces:
            samples_T = np.concatenate(pieces)
            self._tell(self._session.push(samples_T), fed=len(samples_T))
        if what in ("flush", "finish"):
            self._tell(self._session.finish(), flushed=what == "flush")
        return what in ("", "flush")

    def _compute(self, works: Sequence[Work]) -> list[Segment]:
        if self._is_dropped:
            raise Cancelled
        began_s = time.perf_counter()
        heard = self._engine.compute(works)
        self._waited_s += time.perf_counter() - began_s
        return heard

    def _tell(self, events: Iterable[Event], *, fed: int = 0, flushed: bool = False) -> None:
        records = [to_dict(event) for event in events]
        if flushed:
            records.append({"event": "flushed"})
        self._say({"say": "events", "id": self._id, "events": records, "fed": fed})


def options_of(record: dict[str, Any]) -> Options:
    """Options from a message; equal hotwords become one list, so that equal requests can be heard together."""
    hotwords = _hotwords(tuple(record["hotwords"])) if record["hotwords"] else HotwordList()
    vad = Thresholds(**record["vad"]) if record.get("vad") else None
    return Options(**{**record, "hotwords": hotwords, "vad": vad})


@lru_cache(maxsize=64)
def _hotwords(entries: tuple[str, ...]) -> HotwordList:
    return hotword_list.read(entries)


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
