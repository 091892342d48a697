"""Logs: one JSON object a line on standard error, each with the id of the request it belongs to.

Never in them: what was said or written (transcripts, prompts, names of files, query strings) and secrets. Fields:
`time` (UTC), `level`, `logger`, `message`, `request_id`, and what the line is about.
"""

import json
import logging
import queue
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime, timezone
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

request_id: ContextVar[str] = ContextVar("zhiyin_request_id", default="")

_FIELDS = "zhiyin_fields"
_WAITING_LINES = 10_000
_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}  # some readers end a line there


class JsonLines(logging.Formatter):
    """A record as one line of JSON, whatever stands in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        known = request_id.get()
        if known:
            line["request_id"] = known
        line |= getattr(record, _FIELDS, {})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = type(record.exc_info[1]).__name__
            line["traceback"] = "".join(_frames(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=False, default=str).translate(_BREAKS)


def _frames(error: BaseException) -> list[str]:
    """Where it happened, with causes. Messages of exceptions are left out: they may hold what a person said or sent."""
    lines = []
    seen: BaseException | None = error
    while seen is not None:
        lines += [f"{type(seen).__module__}.{type(seen).__qualname__}\n", *traceback.format_tb(seen.__traceback__)]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return lines


class _Waiting(QueueHandler):
    """Lines wait for a thread that writes them: a reader of our log that is slow stops nobody, and loses lines."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """What does not fit is dropped."""
        with suppress(queue.Full):
            self.queue.put_nowait(record)


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> Callable[[], None]:
    """Everything that logs in this process writes such lines; call it once, before the server starts.

    Returns:
        What writes the lines that still wait; call it at the end.
    """
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_WAITING_LINES)
    handler = _Waiting(waiting)
    handler.setFormatter(JsonLines())  # in the thread that logs, which knows the request
    writer = QueueListener(waiting, logging.StreamHandler(stream or sys.stderr))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("zhiyin").setLevel(level)
    logging.captureWarnings(True)
    writer.start()
    return writer.stop


def say(logger: logging.Logger, level: int, message: str, error: BaseException | None = None, **fields: object) -> None:
    """A line with fields; values are text, numbers or truth, never content."""
    logger.log(level, message, exc_info=error, extra={_FIELDS: fields})
