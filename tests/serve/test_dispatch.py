"""Jobs through real workers: done, refused, cancelled; whose turn it is; live streams; changing the model."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.serve.dispatching import SAMPLES, Bench, long_recording, running, until
from zhiyin.errors import UserError
from zhiyin.pipeline import understand
from zhiyin.runtime.load import load
from zhiyin.serve.dispatch import Busy, WorkerState
from zhiyin.serve.job import Job, Wish


def test_jobs_are_done_as_the_command_line_does_them(tmp_path: Path) -> None:
    files = sorted(SAMPLES.glob("*.flac"))
    model = load(None, threads=1)
    wanted = {file.name: understand(file, "asr,sgc", model=model) for file in files}

    class Counts:
        def __init__(self) -> None:
            self.batches: list[int] = []
            self.done: list[Job] = []
            self.depths: list[int] = []
            self.first_s: list[float] = []

        def job_done(self, job: Job) -> None:
            self.done.append(job)

        def batch(self, size: int) -> None:
            self.batches.append(size)

        def queue(self, depth: int) -> None:
            self.depths.append(depth)

        def first_text(self, kind: str, seconds: float) -> None:
            self.first_s.append(seconds)

    counts = Counts()

    async def main() -> None:
        async with running(tmp_path, observe=counts, slots=4) as bench:
            assert [one.state for one in bench.dispatcher.workers()] == ["loading"] and bench.dispatcher.problem == ""
            jobs = [bench.submit(file, tasks=("asr", "sgc")) for file in files * 2]
            for job in await asyncio.gather(*(bench.dispatcher.wait(job.id) for job in jobs)):
                right = wanted[job.file_name]
                assert (job.state, job.text, job.labels) == ("done", right.text, right.labels)
                assert job.result["source"] == job.file_name and job.segments[0]["start_s"] == right.segments[0].start_s
            assert sum(counts.batches) == 2 * len(files) and len(counts.done) == len(counts.first_s) == 2 * len(files)
            assert max(counts.depths) >= 8 and counts.depths[-1] == 0
            (state,) = bench.dispatcher.workers()
            assert (state.state, state.model, state.busy, state.streams) == ("ready", "pocket", 0, 0)
            assert state.memory_bytes and state.memory_bytes > 50e6 and "asr" in state.tasks and state.device
            assert bench.dispatcher.is_ready and bench.left() == []
            stored = bench.jobs.get(jobs[0].id, None)
            assert stored is not None and stored.model_hash == state.model_hash and len(stored.model_hash) == 64
            assert stored.attempts == 1 and stored.device == state.device

    asyncio.run(main())


def test_what_cannot_be_done_fails_with_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(100))
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), 16000)
    sample = SAMPLES / "digits-1.flac"

    async def main() -> None:
        async with running(tmp_path / "data", limits={"audio_s": 20.0}) as bench:
            cases: list[tuple[Path, dict[str, Any], str]] = [
                (tmp_path / "not there.wav", {}, "not there.wav"),
                (broken, {}, "broken.wav"),
                (empty, {}, "no audio"),
                (sample, {"tasks": ("ast",)}, "ast"),
                (sample, {"hotwords": ("a" * 200,)}, "hotwords"),
                (long_recording(tmp_path, 30.0), {}, "longer than 20 s"),
            ]
            for audio, given, said in cases:
                job = await bench.understand(audio, **given)
                assert job.state == "failed" and said in job.error, job.error
                assert "\n" not in job.error and str(tmp_path) not in job.error and "Traceback" not in job.error
                assert not job.error.startswith(("a fault", "the worker"))
            assert (await bench.understand(sample)).state == "done", "and goes on"
            assert bench.left() == []

    asyncio.run(main())


def test_recordings_are_not_kept_where_that_is_set(tmp_path: Path) -> None:
    """One that failed is: it can be tried again."""
    sample = SAMPLES / "digits-1.flac"
    broken = tmp_path / "broken.flac"
    broken.write_bytes(b"no audio at all")

    async def one(file: Path, **settings: Any) -> tuple[Job, Path]:
        async with running(tmp_path / "data", **settings) as bench:
            given = bench.submit(file)
            return await bench.dispatcher.wait(given.id), bench.folders.audio / given.audio

    async def main() -> None:
        kept, first = await one(sample)
        assert kept.audio and first.exists()
        gone, path = await one(sample, keep_audio=False)
        assert gone.state == "done" and gone.text and gone.audio == "" and not path.exists()
        assert not first.exists()  # what was kept before goes at the start
        failed, path = await one(broken, keep_audio=False)
        assert failed.state == "failed" and failed.audio and path.exists()

    asyncio.run(main())


def test_events_tell_everything_also_to_who_comes_late(tmp_path: Path) -> None:
    audio = long_recording(tmp_path, 250.0)

    async def follow(bench: Bench, id: str) -> list[dict[str, Any]]:
        return [event async for event in bench.dispatcher.events(id)]

    async def main() -> None:
        async with running(tmp_path / "data") as bench:
            id = bench.submit(audio).id
            early = asyncio.create_task(follow(bench, id))
            async for event in bench.dispatcher.events(id):
                if event["event"] == "progress":
                    break
            late = await follow(bench, id)
            job = await bench.dispatcher.wait(id)
            told = await early
            assert told[0] == {"event": "state", "state": "queued"} and told[1]["state"] == "running"
            assert late[0] == {"event": "state", "state": "running"}
            assert told[-1] == late[-1] == {"event": "state", "state": "done"}
            for events in (told, late):
                segments = [event["segment"] for event in events if event["event"] == "segment"]
                assert [one["start_s"] for one in segments] == [one["start_s"] for one in job.segments]
                untils = [event["until_s"] for event in events if event["event"] == "progress"]
                assert untils == sorted(untils) and 0 < untils[0] < job.duration_s
            assert await follow(bench, id) == [{"event": "state", "state": "done"}], "of one that is over"
            for ask in (bench.dispatcher.wait, bench.dispatcher.cancel):
                if ask == bench.dispatcher.cancel:
                    assert not await ask(id) and not await ask("0" * 32)
            with pytest.raises(UserError, match="no job"):
                await bench.dispatcher.wait("0" * 32)

    asyncio.run(main())


def test_cancelled_jobs_end_at_once_and_free_their_place(tmp_path: Path) -> None:
    audio = long_recording(tmp_path, 240.0)

    async def main() -> None:
        async with running(tmp_path / "data", slots=1) as bench:
            first, second = bench.submit(audio), bench.submit(audio)
            async for event in bench.dispatcher.events(first.id):
                if event["event"] == "progress":
                    break
            third = bench.submit(SAMPLES / "digits-1.flac")
            assert await bench.dispatcher.cancel(second.id), "one that waits"
            assert await bench.dispatcher.cancel(first.id), "one that runs"
            assert (await bench.dispatcher.wait(first.id)).state == "cancelled"
            assert (await bench.dispatcher.wait(second.id)).state == "cancelled"
            assert (await bench.dispatcher.wait(third.id)).state == "done"
            await until(lambda: bench.left() == [] and bench.dispatcher.workers()[0].busy == 0)
            stored = bench.jobs.get(first.id, None)
            assert stored is not None and stored.state == "cancelled" and not stored.segments
            assert not await bench.dispatcher.cancel(first.id)

    asyncio.run(main())


def test_no_user_is_shut_out(tmp_path: Path) -> None:
    audio = long_recording(tmp_path, 240.0)

    async def main() -> None:
        async with running(tmp_path / "data", slots=2) as bench:
            many = [bench.submit(audio, user="anna") for _ in range(4)]
            await until(lambda: bench.dispatcher.workers()[0].busy == 2)
            few = [bench.submit(SAMPLES / "digits-1.flac", user=name) for name in ("ben", "cleo")]
            for job in await asyncio.gather(*(bench.dispatcher.wait(job.id) for job in few)):
                assert job.state == "done"
            states = [bench.jobs.get(job.id, None).state for job in many]  # type: ignore[union-attr]
            assert states == ["running", "running", "queued", "queued"], "theirs came later and were done sooner"
            for job in many:
                await bench.dispatcher.cancel(job.id)

    asyncio.run(main())


def test_live_streams(tmp_path: Path) -> None:
    samples_T, _ = soundfile.read(SAMPLES / "digits-1.flac", dtype="float32")
    pieces = [samples_T, np.zeros(16000, np.float32)]

    async def stream(bench: Bench, tasks: tuple[str, ...] = ("asr",)) -> list[dict[str, Any]]:
        live = await bench.dispatcher.open_live(Wish(tasks))
        assert live.worker.model == "pocket"
        events = []

        async def read() -> None:
            async for event in live.events():
                events.append(event)

        reading = asyncio.create_task(read())
        for piece in pieces:
            for start in range(0, len(piece), 1600):
                await live.send(piece[start : start + 1600].tobytes())
        await live.flush()
        await until(lambda: any(event["event"] == "flushed" for event in events))
        await live.send(samples_T.tobytes())
        await live.finish()
        await asyncio.wait_for(reading, 20)
        return events

    async def main() -> None:
        async with running(tmp_path, limits={"live_streams": 4}) as bench:
            for events in await asyncio.gather(*(stream(bench) for _ in range(4))):
                finals = [event["segment"] for event in events if event["event"] == "final"]
                assert [one["text"] for one in finals] == ["four one seven two nine"] * 2
                assert finals[1]["start_s"] > len(np.concatenate(pieces)) / 16000 - 0.5, "times of the stream"
                assert events[-1]["event"] == "closed" and events[-1]["processing_s"] > 0
                json.dumps(events)
            with pytest.raises(UserError, match="ast"):
                await bench.dispatcher.open_live(Wish(("ast",)))
            open_now = [await bench.dispatcher.open_live(Wish()) for _ in range(4)]
            with pytest.raises(Busy, match="4 live streams"):
                await bench.dispatcher.open_live(Wish())
            for live in open_now:
                await live.close()
            await until(lambda: bench.dispatcher.workers()[0].streams == 0)
            assert await stream(bench)

    asyncio.run(main())


def freed_bytes(now: WorkerState, before: WorkerState) -> int:
    """How much smaller a worker is."""
    assert now.memory_bytes is not None and before.memory_bytes is not None
    return before.memory_bytes - now.memory_bytes


def test_a_model_is_changed_unloaded_and_loaded_again(tmp_path: Path, repository: Path) -> None:
    sample = SAMPLES / "words-1.flac"
    bundle = repository / "zhiyin" / "pocket" / "bundle"

    async def main() -> None:
        async with running(tmp_path, idle_unload_s=0.4) as bench:
            assert (await bench.understand(sample)).state == "done"
            loaded = bench.dispatcher.workers()[0]
            await until(lambda: bench.dispatcher.workers()[0].state == "unloaded")
            assert bench.dispatcher.is_ready, "it takes work"
            await until(lambda: freed_bytes(bench.dispatcher.workers()[0], loaded) > 10 << 20)
            assert (await bench.understand(sample)).state == "done"
            await bench.dispatcher.load(str(bundle))
            assert bench.dispatcher.workers()[0].model_hash == loaded.model_hash
            with pytest.raises(UserError, match="nowhere"):
                await bench.dispatcher.load("nowhere")
            await until(lambda: bench.dispatcher.workers()[0].state == "ready")
            await bench.dispatcher.reset()
            job = bench.submit(sample)
            assert (await bench.dispatcher.wait(job.id)).text == "project open file"
            await bench.dispatcher.unload()
            assert bench.dispatcher.workers()[0].state == "unloaded"
            live = await bench.dispatcher.open_live(Wish())
            with pytest.raises(UserError, match="being worked on"):
                bench.dispatcher._crew._settings = replace(bench.settings, drain_s=0.0)
                await bench.dispatcher.unload()
            await live.close()

    asyncio.run(main())


def test_several_workers_share_the_work(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, devices=("cpu", "cpu"), slots=2) as bench:
            await until(lambda: [one.state for one in bench.dispatcher.workers()] == ["ready", "ready"])
            audio = long_recording(tmp_path, 40.0)
            jobs = [bench.submit(audio) for _ in range(4)]
            await until(lambda: [one.busy for one in bench.dispatcher.workers()] == [2, 2])
            done = await asyncio.gather(*(bench.dispatcher.wait(job.id) for job in jobs))
            assert len({job.text for job in done}) == 1 and {job.state for job in done} == {"done"}
            pids = {one.pid for one in bench.dispatcher.workers()}
            assert len(pids) == 2

    asyncio.run(main())
