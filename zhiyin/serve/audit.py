"""Who did what, when and from where: one JSON object a line, one file a day, kept as long as rules ask for.

Fields: `time` (UTC), `request_id`, `user`, `address`, `action`, `object` (ids only), `result`. Never text of
transcripts, requests or names of files: what a person can have typed is not written here. Lines are appended whole by
one system call; files are readable by the service alone.

A line that cannot be written (a full disk) is logged instead, and counted: the service goes on.
"""

import errno
import json
import logging
import os
import re
import threading
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone

from zhiyin.serve import logs
from zhiyin.serve.settings import Folders

_LOG = logging.getLogger("zhiyin.audit")
_FILE = re.compile(r"audit-(\d{4}-\d\d-\d\d)\.jsonl")
_NOT_ID = re.compile(r"[^\w.@+:,-]+", re.ASCII)
MAX_OBJECT = 33 * 1000  # so many ids of 32 characters


class Audit:
    """Appends to the files of a folder; safe between threads and processes."""

    def __init__(self, folders: Folders, days: int, failed: Callable[[], None] = lambda: None) -> None:
        """Files older than `days` are removed (0: never); `failed` is called for each line that cannot be written."""
        self._folder, self._days, self._failed = folders.audit, days, failed
        self._lock, self._descriptor, self._day, self._is_cut = threading.Lock(), -1, "", False

    def write(
        self, *, user: str, address: str, action: str, object: str = "", result: str = "ok", request_id: str = ""
    ) -> None:
        """One line. `object` is an id, or ids with commas; whatever else it holds is replaced."""
        now = datetime.now(timezone.utc)
        line = {
            "time": now.isoformat(timespec="milliseconds"),
            "request_id": request_id or logs.request_id.get(),
            "user": user,
            "address": address,
            "action": action,
            "object": _NOT_ID.sub("?", object)[:MAX_OBJECT],
            "result": result,
        }
        try:
            self._append(now.date(), (json.dumps(line, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            self._failed()
            logs.say(_LOG, logging.ERROR, "audit line could not be written", audit=line, reason=error.strerror)

    def close(self) -> None:
        """Close the file of the day."""
        with self._lock:
            self._close()

    def _append(self, today: date, data: bytes) -> None:
        with self._lock:
            if self._day != today.isoformat():
                self._close()
                path = self._folder / f"audit-{today.isoformat()}.jsonl"
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                self._day = today.isoformat()
                self._remove_old(today)
            whole = b"\n" + data if self._is_cut else data  # what follows a line that was cut can be read
            written = os.write(self._descriptor, whole)
            self._is_cut = written != len(whole)
            if self._is_cut:
                raise OSError(errno.ENOSPC, "no space for a whole line")

    def _remove_old(self, today: date) -> None:
        if self._days > 0:
            oldest = (today - timedelta(days=self._days)).isoformat()
            for path in self._folder.iterdir():
                named = _FILE.fullmatch(path.name)
                if named and named[1] < oldest:
                    path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._day = -1, ""
