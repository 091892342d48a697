"""The engine: what it hears is what is heard alone, everybody gets his turn, and nobody pays for another's fault."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.ask import Options
from zhiyin.audio.windows import Window
from zhiyin.errors import UserError
from zhiyin.hear import Hints
from zhiyin.live.work import Work
from zhiyin.pipeline import understand
from zhiyin.result import Segment
from zhiyin.runtime.load import Loaded, load
from zhiyin.serve import engine as engine_module
from zhiyin.serve.engine import MAX_BATCH_S, MAX_WINDOWS, Cancelled, Engine, NotHeard, Recording
from zhiyin.tasks import table
from zhiyin.tasks.families import Asked

ASR = Asked(tasks=table.select("asr"))


@pytest.fixture(scope="module")
def pocket() -> Loaded:
    """The small model; two engines may use it one after the other."""
    return load(None, threads=1)


@pytest.fixture
def engine(pocket: Loaded) -> Iterator[Engine]:
    """An engine with the small model and one computing thread."""
    one = Engine(lambda: pocket, threads=1, on_batch=lambda size: None)
    yield one
    one.close()


class Ears:
    """Takes the place of `hear.hear`: notes what is heard together, one batch each time the test allows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_free: bool = False) -> None:
        self.batches: list[list[Window]] = []
        self.began = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.is_free = is_free
        self.fault: Callable[[Window], bool] = lambda window: False
        monkeypatch.setattr(engine_module.hear, "hear", self.hear)

    def hear(self, windows: Sequence[Window], asked: Asked, model: Any, hints: Hints | None = None) -> list[Segment]:
        """Says of each window where it begins."""
        self.batches.append(list(windows))
        self.began.release()
        if not self.is_free:
            assert self.allowed.acquire(timeout=20)
        if any(self.fault(window) for window in windows):
            raise RuntimeError("broken")
        return [Segment(one.start_s, one.end_s, text=f"{one.start_s:g}") for one in windows]

    def next(self) -> list[Window]:
        """Wait until a batch is being heard, and let it end; returns it."""
        assert self.began.acquire(timeout=20)
        batch = self.batches[-1]
        self.allowed.release()
        return batch


def window(start_s: float, length_s: float) -> Window:
    """A window of silence."""
    return Window(start_s, np.zeros(round(length_s * 16000), np.float32))


def hears(engine: Engine, recording: Recording, windows: Sequence[Window], asked: Asked = ASR) -> "threading.Thread":
    """A thread that hears windows and keeps what comes of it."""

    def run() -> None:
        try:
            thread.found = recording.hear(windows, asked, engine.model, None)  # type: ignore[attr-defined]
        except (Cancelled, NotHeard) as error:
            thread.found = error  # type: ignore[attr-defined]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def until_waiting(engine: Engine, count: int) -> None:
    """Wait until so many calls wait."""
    for _ in range(2000):
        if len(engine._calls) + len(engine._live) >= count:
            return
        time.sleep(0.005)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize(("tasks", "threads"), [("asr", 4), ("asr,sgc", 1), ("srwt,ved", 4)])
def test_many_at_once_are_understood_as_one_by_one(repository: Path, pocket: Loaded, tasks: str, threads: int) -> None:
    files = sorted((repository / "samples").glob("*.flac"))
    alone = [understand(file, tasks, model=pocket) for file in files]
    sizes: list[int] = []
    engine = Engine(lambda: pocket, threads=threads, on_batch=sizes.append)

    def one(file: Path) -> Any:
        recording = engine.open(file.name)
        try:
            return understand(file, tasks, model=engine.model, hear=recording.hear)
        finally:
            engine.close_recording(recording)

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(one, files * 2))
    engine.close()
    for found, wanted in zip(together, alone * 2, strict=True):
        assert (found.text, found.labels) == (wanted.text, wanted.labels) and found.text
        assert [replace(one, confidence=None) for one in found.segments] == [
            replace(one, confidence=None) for one in wanted.segments
        ]
    assert sum(sizes) == 2 * len(files) and max(sizes) > 1, "nothing was heard together"


def test_two_hours_do_not_hold_up_two_seconds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(monkeypatch)
    long = engine.open("anna")
    hours = [window(15.0 * i, 15.0) for i in range(480)]
    first = hears(engine, long, hours)
    for _ in range(5):
        ears.next()
    assert ears.began.acquire(timeout=20)
    between_s = sum(one.end_s - one.start_s for one in ears.batches[-1])
    second = hears(engine, engine.open("anna"), [window(9000.0, 2.0)])  # even of the same user
    until_waiting(engine, 2)
    ears.allowed.release()
    while (batch := ears.next())[0].start_s != 9000.0:
        between_s += sum(one.end_s - one.start_s for one in batch)
    second.join(10)
    assert between_s <= 2 * MAX_BATCH_S, "a batch that had begun, and at most one more"
    engine.cancel(long)
    ears.is_free = True
    ears.allowed.release(50)
    first.join(10)


def test_batches_are_of_like_lengths_and_equal_requests(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(monkeypatch)
    other = Asked(tasks=table.select("asr,sgc"))
    gate = hears(engine, engine.open("gate"), [window(0.0, 1.0)])
    assert ears.began.acquire(timeout=20)  # while it is heard the others gather
    lengths = [1.0, 1.5, 2.5, 4.0, 6.0, 14.0, 15.0, 1.2]
    calls = [(engine.open(str(i)), window(100 * i + 100, s), other if i % 2 else ASR) for i, s in enumerate(lengths)]
    threads = [hears(engine, recording, [one], asked) for recording, one, asked in calls]
    many = hears(engine, engine.open("many"), [window(2000.0 + i, 1.0) for i in range(40)])
    until_waiting(engine, 9)
    ears.is_free = True
    ears.allowed.release(99)
    for thread in (gate, many, *threads):
        thread.join(20)
    kinds = {one.start_s: asked for _, one, asked in calls}
    for batch in ears.batches:
        seconds = [one.end_s - one.start_s for one in batch]
        assert max(seconds) <= 2 * seconds[0] and seconds[0] <= 2 * min(seconds)
        assert len({kinds.get(one.start_s, ASR) == ASR for one in batch}) == 1
        assert len(batch) <= MAX_WINDOWS and sum(seconds) <= MAX_BATCH_S
    assert [one.text for one in many.found] == [f"{2000 + i}" for i in range(40)]  # type: ignore[attr-defined]


def test_users_take_turns_however_many_recordings_they_have(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(monkeypatch)
    gate = hears(engine, engine.open("gate"), [window(0.0, 15.0)])
    assert ears.began.acquire(timeout=20)
    anna = [hears(engine, engine.open("anna"), [window(1000.0 + 15 * i, 15.0) for i in range(8)]) for _ in range(10)]
    ben = hears(engine, engine.open("ben"), [window(100.0 + 15 * i, 15.0) for i in range(8)])
    until_waiting(engine, 11)
    ears.allowed.release()
    heard = {"anna": 0, "ben": 0}
    while heard["ben"] < 8:
        for one in ears.next():
            heard["ben" if one.start_s < 1000.0 else "anna"] += 1
    assert heard["anna"] <= 10, f"{heard}: half of the time is his"
    ears.is_free = True
    ears.allowed.release(99)
    for thread in (gate, ben, *anna):
        thread.join(20)


def test_live_streams_come_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(monkeypatch)
    noise_T = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32) * np.repeat([1, 0.01] * 10, 1600)
    recording = hears(engine, engine.open("anna"), [window(15.0 * i, 15.0) for i in range(40)])
    assert ears.began.acquire(timeout=20)
    works = [Work(Window(9000.0 + i, noise_T.astype(np.float32)), ASR, None, 9002.0, is_final=i == 1) for i in (0, 1)]
    found: list[list[Segment]] = []
    streams = [threading.Thread(target=lambda one=one: found.append(engine.compute([one]))) for one in works]
    for stream in streams:
        stream.start()
    until_waiting(engine, 3)
    ears.allowed.release()
    assert [one.start_s for one in ears.next()] == [9001.0, 9000.0], "both together, what ends a segment first"
    for stream in streams:
        stream.join(10)
    assert sorted(one[0].start_s for one in found) == [9000.0, 9001.0]
    ears.is_free = True
    ears.allowed.release(99)
    recording.join(20)


def test_a_fault_stays_with_its_recording(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(monkeypatch, is_free=True)
    ears.fault = lambda one: one.start_s == 3.0
    with ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(lambda i: hears(engine, engine.open("anna"), [window(float(i), 1.0)]), range(8)))
    for thread in threads:
        thread.join(10)
    found = [thread.found for thread in threads]  # type: ignore[attr-defined]
    assert isinstance(found[3], NotHeard) and str(found[3].__cause__) == "broken"
    assert [one[0].text for i, one in enumerate(found) if i != 3] == ["0", "1", "2", "4", "5", "6", "7"]
    assert engine.is_sound()
    ears.fault = lambda one: True
    assert not engine.is_sound()


def test_who_is_cancelled_waits_no_longer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(monkeypatch)
    running, waiting = engine.open("anna"), engine.open("ben")
    first = hears(engine, running, [window(0.0, 1.0)])
    assert ears.began.acquire(timeout=20)
    second = hears(engine, waiting, [window(5.0, 1.0)])
    until_waiting(engine, 1)
    engine.cancel(waiting)
    second.join(10)
    assert isinstance(second.found, Cancelled)  # type: ignore[attr-defined]
    engine.cancel(running)
    ears.allowed.release()
    first.join(10)
    assert isinstance(first.found, Cancelled)  # type: ignore[attr-defined]
    with pytest.raises(Cancelled):
        waiting.hear([window(0.0, 1.0)], ASR, engine.model, None)
    assert len(ears.batches) == 1, "what was cancelled is not heard"
    engine.close_recording(running)
    engine.close_recording(waiting)
    assert not engine._owners and not engine._calls, "nothing stays of them"


def test_closing_lets_everybody_go(pocket: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(lambda: pocket, threads=2, on_batch=lambda size: None)
    ears = Ears(monkeypatch)
    threads = [hears(engine, engine.open("anna"), [window(float(i), 1.0)]) for i in range(6)]
    assert ears.began.acquire(timeout=20)
    ears.allowed.release(2)
    ears.is_free = True
    engine.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_model_that_does_not_load_is_said() -> None:
    with pytest.raises(UserError, match="nowhere"):
        Engine(lambda: load("nowhere"), threads=1, on_batch=lambda size: None)


def test_hotwords_reach_what_is_heard_together(repository: Path, pocket: Loaded) -> None:
    options = Options(hotwords=("Seven Tunes",), written=True)
    alone = understand(repository / "samples" / "digits-1.flac", "asr", model=pocket, options=options)
    engine = Engine(lambda: pocket, threads=1, on_batch=lambda size: None)
    recording = engine.open("anna")
    found = understand(
        repository / "samples" / "digits-1.flac", "asr", model=pocket, options=options, hear=recording.hear
    )
    engine.close()
    assert replace(found, processing_s=0) == replace(alone, processing_s=0)
