"""A dispatcher with a real database and real workers, and recordings for it."""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from zhiyin.serve import database
from zhiyin.serve.dispatch import Dispatcher
from zhiyin.serve.job import Job, Wish
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.observer import Observer
from zhiyin.serve.settings import Folders, Limits, Settings, folders

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


class Bench:
    """One service without its routes."""

    def __init__(self, settings: Settings, observe: Observer | None = None) -> None:
        self.settings = settings
        self.folders: Folders = folders(settings)
        self.jobs = Jobs(database.open(database.url(settings, self.folders)))
        self.dispatcher = Dispatcher(settings, self.jobs, observe)

    def add(self, audio: Path, *, user: str = "anna", tasks: tuple[str, ...] = ("asr",), **wish: Any) -> Job:
        """A job in the database, its recording in the folder of the service."""
        name = f"{uuid.uuid4().hex}{audio.suffix}"
        if audio.is_file():
            shutil.copy(audio, self.folders.audio / name)
        return self.jobs.add(
            user=user, mode="api", file_name=audio.name, audio=name, sha256="", bytes=1, wish=Wish(tasks, **wish)
        )

    def submit(self, audio: Path, **given: Any) -> Job:
        """The same, given to the workers."""
        job = self.add(audio, **given)
        self.dispatcher.submit(job)
        return job

    async def understand(self, audio: Path, **given: Any) -> Job:
        """The same, done."""
        return await self.dispatcher.wait(self.submit(audio, **given).id)

    def left(self) -> list[str]:
        """Journals that still lie about."""
        return sorted(path.name for path in self.folders.journals.iterdir())


@asynccontextmanager
async def running(data: Path, *, observe: Observer | None = None, **given: Any) -> AsyncIterator[Bench]:
    """A service that runs; its workers are still loading."""
    limits = Limits(**given.pop("limits", {}))
    bench = Bench(Settings(**{"data": data, "drain_s": 10.0, "limits": limits, **given}), observe)
    await bench.dispatcher.start()
    try:
        yield bench
    finally:
        await bench.dispatcher.stop()


async def until(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something."""
    ends_s = asyncio.get_running_loop().time() + timeout_s
    while not is_so():
        assert asyncio.get_running_loop().time() < ends_s, "it did not come"
        await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    """kill -9."""
    os.kill(pid, 9)


def long_recording(folder: Path, seconds: float) -> Path:
    """The samples again and again, with pauses."""
    path = folder / f"long-{seconds:g}.wav"
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < seconds * 16000:
        for file in sorted(SAMPLES.glob("*.flac")):
            pieces += [soundfile.read(file, dtype="float32")[0], np.zeros(8000, np.float32)]
    soundfile.write(path, np.concatenate(pieces), 16000)
    return path
