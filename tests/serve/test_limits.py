"""What one user and all may take; rates by a clock of the test, the rest on a real database."""

import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serve.gates import Small, small
from zhiyin.serve.job import Wish
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.limits import Allowance, Rate
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.settings import Limits


class Clock:
    """Seconds that pass when told."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def passes(limits: Allowance, name: str) -> None:
    """Somebody gets a place, and gives it back."""
    with limits.admit(name):
        pass


def allowance(tmp_path: Path, **given: Any) -> tuple[Allowance, Jobs, Small]:
    service = small(tmp_path / "data", limits=Limits(**given))
    jobs = Jobs(service.tokens._engine)
    return service.limits, jobs, service


def add(jobs: Jobs, user: str, *, size: int = 10, duration_s: float = 1.0) -> str:
    wish = Wish(tasks=("asr",))
    given = {"mode": "api", "file_name": "a.wav", "audio": "", "sha256": "0" * 64, "duration_s": duration_s}
    return jobs.add(user=user, bytes=size, wish=wish, **given).id  # type: ignore[arg-type]


def refused(call: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        call()
    return found.value


def test_rate_against_a_count_of_every_minute() -> None:
    """Brute force: however requests come, in no minute are more let through than twice the limit, and in the long run
    as many as the limit says."""
    clock = Clock()
    rate, passed = Rate(60, clock), []
    for step in range(6000):
        clock.now_s = step * 0.1
        if not rate.take("ann"):
            passed.append(clock.now_s)
    assert all(sum(1 for t in passed if s <= t < s + 60) <= 120 for s in range(540))
    assert abs(len(passed) - (60 + 600)) <= 1


def test_rate_says_when_it_may() -> None:
    clock = Clock()
    rate = Rate(6, clock)
    assert [rate.take("a") for _ in range(6)] == [0.0] * 6
    wait_s = rate.take("a")
    assert wait_s == pytest.approx(10.0)
    clock.now_s = wait_s - 0.01
    assert rate.take("a") > 0
    clock.now_s = wait_s + 1e-6
    assert rate.take("a") == 0.0 and rate.take("b") == 0.0
    assert Rate(0).take("a") == 0.0


def test_rate_forgets_whom_it_has_not_seen() -> None:
    clock = Clock()
    rate = Rate(1, clock)
    for number in range(25_000):
        rate.take(f"address {number}")
    assert len(rate._buckets) == 10_000


def test_jobs_of_one_user_and_of_all(tmp_path: Path) -> None:
    limits, jobs, _ = allowance(tmp_path, jobs=4, jobs_per_user=3)
    ids = [add(jobs, "ann") for _ in range(3)]
    too_many = refused(lambda: passes(limits, "ann"))
    assert too_many.status == 429 and too_many.code == "too_many_jobs" and too_many.headers()["Retry-After"] == "5"
    passes(limits, "bob")
    add(jobs, "bob")
    assert refused(lambda: passes(limits, "bob")).status == 503
    jobs.claim(ids[0])
    assert refused(lambda: passes(limits, "bob")).status == 503  # running ones count
    jobs.cancel(ids[0])
    passes(limits, "bob")
    passes(limits, "ann")


def test_recordings_that_are_arriving_hold_their_places(tmp_path: Path) -> None:
    limits, _, _ = allowance(tmp_path, jobs=5, jobs_per_user=3)
    held = [limits.admit("ann") for _ in range(3)]
    assert refused(lambda: limits.admit("ann")).status == 429
    with limits.admit("bob"), limits.admit("bob"):
        assert refused(lambda: limits.admit("bob")).status == 503
    with held[0]:
        pass
    held[0].__exit__()  # once more changes nothing
    limits.admit("ann").__exit__()
    assert limits._coming == {"ann": 2}
    for place in held[1:]:
        place.__exit__()
    assert limits._coming == {}


def test_many_threads_never_pass_the_limit(tmp_path: Path) -> None:
    limits, _, _ = allowance(tmp_path, jobs=50, jobs_per_user=7)
    got: list[Any] = []

    def knock() -> None:
        with suppress(Refusal):
            got.append(limits.admit("ann"))

    threads = [threading.Thread(target=knock) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 7


def test_a_day(tmp_path: Path) -> None:
    limits, jobs, _ = allowance(tmp_path, bytes_per_day=100, audio_s_per_day=50.0)
    add(jobs, "ann", size=99, duration_s=1)
    passes(limits, "ann")
    job = add(jobs, "ann", size=1, duration_s=1)
    over = refused(lambda: passes(limits, "ann"))
    assert over.status == 429 and "100 bytes today" in str(over) and 0 < int(over.headers()["Retry-After"]) <= 86400
    jobs.cancel(job)
    assert refused(lambda: passes(limits, "ann")).status == 429
    add(jobs, "bob", size=1, duration_s=50)
    assert "50 s of audio" in str(refused(lambda: passes(limits, "bob")))


def test_streams(tmp_path: Path) -> None:
    limits, _, _ = allowance(tmp_path, live_streams=3, live_streams_per_user=2)
    with limits.live("ann"), limits.live("ann"):
        assert refused(limits.live("ann").__enter__).status == 429
        with limits.live("bob"):
            assert refused(limits.live("bob").__enter__).status == 503
        with pytest.raises(KeyError), limits.live("bob"):
            raise KeyError
    assert limits._live == {}


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, _, service = allowance(tmp_path, free_bytes=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000, total=0, used=0))
    limits.check_space(4000)
    full = refused(lambda: limits.check_space(4001))
    assert full.status == 507 and full.body()["error"]["type"] == "server_error"
    monkeypatch.undo()
    none = Allowance(
        replace(service.settings.limits, free_bytes=1 << 60), service.tokens._engine, None, service.folders
    )  # type: ignore[arg-type]
    assert refused(none.check_space).status == 507  # as the real disk says
