"""How much one user, and all of them, may take: requests a minute, jobs, bytes and seconds a day, streams, the disk.

Requests and streams are counted in memory; jobs and what was sent today are read from the database, so that a restart
forgets nothing. Whatever is too much is a `Refusal` that says when to try again.
"""

import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

from sqlalchemy import Engine

from zhiyin.serve.jobs import Jobs
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.settings import Folders, Limits

LOGINS_PER_MINUTE = 10  # of one address
_KEPT_BUCKETS = 10_000
_RETRY_JOBS_S = 5.0


class Rate:
    """Token buckets: each key may have `per_minute` at once, and as many in every minute that follows."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._per_s, self._clock = float(per_minute), per_minute / 60.0, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> what is left, and when that was

    def take(self, key: str) -> float:
        """0 if it may be done now, else the seconds after which it may. Without a limit always 0."""
        if not self._size:
            return 0.0
        now = self._clock()
        left, then = self._buckets.pop(key, (self._size, now))
        left = min(self._size, left + (now - then) * self._per_s)
        self._buckets[key] = (left - 1.0 if left >= 1.0 else left, now)
        while len(self._buckets) > _KEPT_BUCKETS:  # the one not seen for longest; it is full or nearly
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1.0 else (1.0 - left) / self._per_s


class Place:
    """A job's place in the queue, held from before its recording arrives until it is in the database."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *error: object) -> None:
        self._release()


class Allowance:
    """The limits of one service, and what is used of them; safe between threads."""

    def __init__(self, limits: Limits, engine: Engine, jobs: Jobs, folders: Folders) -> None:
        self._limits, self._jobs, self._folders = limits, jobs, folders
        self._lock = threading.Lock()
        self._coming: dict[str, int] = {}  # jobs whose recordings are still arriving
        self._live: dict[str, int] = {}
        self.requests = Rate(limits.requests_per_minute)
        self.logins = Rate(LOGINS_PER_MINUTE)

    def check_space(self, bytes_to_come: int = 0) -> None:
        """Raises 507 if the disk would hold less than `Limits.free_bytes` free after so many more bytes."""
        if free_bytes(self._folders) - bytes_to_come < self._limits.free_bytes:
            message = "the disk of the service is full; remove recordings from the history, or ask whoever runs it"
            raise Refusal(507, "no_space", message, retry_after_s=60)

    def admit(self, name: str) -> Place:
        """A place for one more job, to be held until the job is in the database. Asks the database: not in the loop.

        Raises:
            Refusal: 503, all places are taken; 429, all of this user's are, or what one may send in a day was sent.
        """
        all_jobs, own_jobs = self._jobs.open_of(name)
        self.check_day(name)
        limits = self._limits
        with self._lock:
            if all_jobs + sum(self._coming.values()) >= limits.jobs:
                message = f"all {limits.jobs} places for jobs are taken; try again in a few seconds"
                raise Refusal(503, "queue_full", message, retry_after_s=_RETRY_JOBS_S)
            if own_jobs + self._coming.get(name, 0) >= limits.jobs_per_user:
                message = f"{limits.jobs_per_user} of your jobs wait or run, which is the limit; wait for one to end"
                raise Refusal(429, "too_many_jobs", message, retry_after_s=_RETRY_JOBS_S)
            self._coming[name] = self._coming.get(name, 0) + 1
        return Place(_once(lambda: self._left(self._coming, name)))

    @contextmanager
    def live(self, name: str) -> Iterator[None]:
        """A live stream's place for as long as the block runs.

        Raises:
            Refusal: 503, all are taken; 429, all of this user's are.
        """
        limits = self._limits
        with self._lock:
            if sum(self._live.values()) >= limits.live_streams:
                message = f"all {limits.live_streams} live streams are taken; try again later"
                raise Refusal(503, "streams_full", message, retry_after_s=_RETRY_JOBS_S)
            if self._live.get(name, 0) >= limits.live_streams_per_user:
                message = f"{limits.live_streams_per_user} live streams of yours are open, which is the limit; end one"
                raise Refusal(429, "too_many_streams", message, retry_after_s=_RETRY_JOBS_S)
            self._live[name] = self._live.get(name, 0) + 1
        try:
            yield
        finally:
            self._left(self._live, name)

    def _left(self, counts: dict[str, int], name: str) -> None:
        with self._lock:
            counts[name] -= 1
            if not counts[name]:
                del counts[name]

    def check_day(self, name: str) -> None:
        """Raises 429 if a user has sent what one may in a day (of UTC); what was deleted from the history counts on."""
        limits = self._limits
        if not limits.bytes_per_day and not limits.audio_s_per_day:
            return
        now = datetime.now(timezone.utc)
        began = now.replace(hour=0, minute=0, second=0, microsecond=0)
        used = self._jobs.usage(name, began)
        over = ""
        if limits.bytes_per_day and used.bytes >= limits.bytes_per_day:
            over = f"{limits.bytes_per_day} bytes"
        elif limits.audio_s_per_day and used.audio_s >= limits.audio_s_per_day:
            over = f"{limits.audio_s_per_day:g} s of audio"
        if over:
            wait_s = (began + timedelta(days=1) - now).total_seconds()
            raise Refusal(429, "day_limit", f"you have sent {over} today, which is the limit", retry_after_s=wait_s)


def free_bytes(folders: Folders) -> int:
    """What the disk of the data still holds for us."""
    return shutil.disk_usage(os.fspath(folders.data)).free


def _once(release: Callable[[], None]) -> Callable[[], None]:
    """However often it is called."""
    lock = threading.Lock()

    def first() -> None:
        if lock.acquire(blocking=False):
            release()

    return first
