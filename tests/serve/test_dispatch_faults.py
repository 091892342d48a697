"""What dies in the middle: workers, the server, devices, models, the database. Nothing is lost, nobody else pays."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.serve.dispatching import SAMPLES, Bench, is_running, kill, long_recording, running, until
from zhiyin.config import build
from zhiyin.pipeline import understand
from zhiyin.result import Result
from zhiyin.runtime.load import load
from zhiyin.serve import child as child_module
from zhiyin.serve import crew as crew_module
from zhiyin.serve.database import Unavailable
from zhiyin.serve.job import Wish


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has ended is started again soon."""
    monkeypatch.setattr(child_module, "FIRST_PAUSE_S", 0.05)


def plain(result: Result) -> Result:
    """Without what another run has otherwise."""
    return replace(result, source="", processing_s=0.0, notes=())


async def until_heard(bench: Bench, id: str) -> None:
    """Wait until a part of a recording stands in its journal."""
    journal = bench.folders.journals / f"{id}.jsonl"
    await until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2)


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    audio = long_recording(tmp_path, 240.0)
    undisturbed = understand(audio, "asr", model=load(None, threads=1))

    async def main() -> None:
        async with running(tmp_path / "data") as bench:
            id, other = bench.submit(audio).id, bench.submit(audio, user="ben").id
            live = await bench.dispatcher.open_live(Wish())
            events = [event async for event in _after_kill(bench, id, live)]
            assert events == [events[0]] and events[0]["event"] == "error" and "signal 9" in events[0]["message"]
            for one in (id, other):
                job = await bench.dispatcher.wait(one)
                assert job.state == "done" and job.attempts == 2
                found = build(Result, job.result, "job")
                assert plain(found) == replace(plain(undisturbed), written=found.written, segments=found.segments)
                assert [(s.start_s, s.end_s, s.text) for s in found.segments] == [
                    (s.start_s, s.end_s, s.text) for s in undisturbed.segments
                ]
            first = await bench.dispatcher.wait(id)
            assert any("an earlier run had heard" in note for note in first.result["notes"]), "the journal was used"
            assert bench.left() == [] and bench.dispatcher.is_ready

    async def _after_kill(bench: Bench, id: str, live: Any) -> Any:
        await until_heard(bench, id)
        kill(bench.dispatcher.workers()[0].pid)
        async for event in live.events():
            yield event

    asyncio.run(main())


def test_a_recording_that_kills_workers_fails_alone(tmp_path: Path, poison: Path) -> None:
    async def main() -> None:
        async with running(tmp_path / "data", attempts=3) as bench:
            bad = bench.submit(poison)
            good = [bench.submit(long_recording(tmp_path, 60.0), user="ben") for _ in range(3)]
            failed = await bench.dispatcher.wait(bad.id)
            assert failed.state == "failed" and failed.attempts == 3
            assert failed.error.startswith("the worker ended 3 times") and "\n" not in failed.error
            done = await asyncio.gather(*(bench.dispatcher.wait(job.id) for job in good))
            assert [job.state for job in done] == ["done"] * 3
            assert (await bench.understand(SAMPLES / "digits-1.flac")).state == "done"

    asyncio.run(main())


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recording under which a worker dies without a word, as in a fault of a library."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'zhiyin.serve.worker' in ' '.join(sys.orig_argv):\n"
        "    from zhiyin.serve import worker_runs\n"
        "    real = worker_runs.understand\n"
        "    def understand(path, *given, **named):\n"
        "        return os.kill(os.getpid(), 11) if path.endswith('.poison') else real(path, *given, **named)\n"
        "    worker_runs.understand = understand\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    path = tmp_path / "recording.poison"
    path.write_bytes(b"x")
    yield path


def test_a_model_that_does_not_load_is_said_and_jobs_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOAD_AGAIN_S", 0.3)
    model = tmp_path / "model"

    async def main() -> None:
        async with running(tmp_path / "data", model=str(model)) as bench:
            job = bench.submit(SAMPLES / "digits-1.flac")
            await until(lambda: bench.dispatcher.workers()[0].state == "failed")
            assert "model" in bench.dispatcher.problem and not bench.dispatcher.is_ready
            stored = bench.jobs.get(job.id, None)
            assert stored is not None and stored.state == "queued"
            model.symlink_to(Path(child_module.__file__).parents[1] / "pocket" / "bundle")
            assert (await bench.dispatcher.wait(job.id)).state == "done", "it is there now"

    asyncio.run(main())


def test_a_worker_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "TICK_S", 0.1)

    async def main() -> None:
        async with running(tmp_path / "data") as bench:
            await until(lambda: bench.dispatcher.is_ready)
            pid = bench.dispatcher.workers()[0].pid
            os.kill(pid, signal.SIGSTOP)
            job = bench.submit(SAMPLES / "digits-1.flac")
            with monkeypatch.context() as impatient:
                impatient.setattr(child_module, "SILENT_S", 1.0)
                await until(lambda: not is_running(pid))
            assert (await bench.dispatcher.wait(job.id)).state == "done"

    asyncio.run(main())


def test_a_database_that_is_locked_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path / "data") as bench:
            faults = {"claim": 2, "finish": 3}

            def failing(name: str) -> Any:
                real = getattr(bench.jobs, name)

                def call(*given: Any) -> Any:
                    if faults[name]:
                        faults[name] -= 1
                        raise Unavailable("locked", "somebody else writes")
                    return real(*given)

                return call

            for name in faults:
                monkeypatch.setattr(bench.jobs, name, failing(name))
            job = await bench.understand(SAMPLES / "digits-1.flac")
            assert job.state == "done" and job.text and faults == {"claim": 0, "finish": 0}

    asyncio.run(main())


def test_a_stop_lets_jobs_end_or_queues_them_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path / "data", drain_s=20.0) as bench:
            quick = bench.submit(SAMPLES / "digits-1.flac")
            await until(lambda: bench.dispatcher.workers()[0].busy == 1)
        ended = bench.jobs.get(quick.id, None)
        assert ended is not None and ended.state == "done"

        audio = long_recording(tmp_path, 240.0)
        async with running(tmp_path / "data", drain_s=0.0) as bench:
            slow = bench.submit(audio)
            await until_heard(bench, slow.id)
            waiting = asyncio.create_task(bench.dispatcher.wait(slow.id))
            pid = bench.dispatcher.workers()[0].pid
            await asyncio.sleep(0)
        assert not is_running(pid)
        with pytest.raises(Exception, match="being stopped"):
            await waiting
        left = bench.jobs.get(slow.id, None)
        assert left is not None and left.state == "queued"
        async with running(tmp_path / "data") as bench:
            done = await bench.dispatcher.wait(slow.id)
            assert done.state == "done" and any("an earlier run" in note for note in done.result["notes"])

    asyncio.run(main())


SERVER = """
import asyncio, sys
from pathlib import Path
from tests.serve.dispatching import running, until

async def main(data, audio):
    async with running(Path(data)) as bench:
        job = bench.submit(Path(audio))
        await until(lambda: (bench.folders.journals / f"{job.id}.jsonl").exists())
        print(job.id, bench.dispatcher.workers()[0].pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_server_that_is_killed_leaves_no_orphan_and_goes_on(tmp_path: Path, repository: Path) -> None:
    audio = long_recording(tmp_path, 240.0)
    command = [sys.executable, "-c", SERVER, str(tmp_path / "data"), str(audio)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        id, pid = server.stdout.readline().split()
        server.kill()

    async def main() -> None:
        await until(lambda: not is_running(int(pid)), 10)
        async with running(tmp_path / "data") as bench:
            job = await bench.dispatcher.wait(id)
            assert job.state == "done" and job.attempts == 2
            assert any("an earlier run" in note for note in job.result["notes"])
        again = bench.add(SAMPLES / "digits-1.flac")
        for _ in range(2):
            assert bench.jobs.claim(again.id) and bench.jobs.requeue(again.id)
        assert bench.jobs.claim(again.id)
        async with running(tmp_path / "data") as bench:
            given_up = await bench.dispatcher.wait(again.id)
            assert given_up.state == "failed" and "ended 3 times" in given_up.error

    asyncio.run(main())
