"""What a live session leaves behind: its audio as FLAC, written while it comes, and a result like a recording's.

Beside audio that is still coming lies whose it is, so that what a killed service had heard becomes a job at its next
start. Shapes: `T` samples.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.pipeline import vote
from zhiyin.result import Result, Segment
from zhiyin.segments import rounded
from zhiyin.serve.child import WorkerState
from zhiyin.serve.job import Mode, Wish
from zhiyin.serve.service import Service
from zhiyin.serve.settings import Folders
from zhiyin.tasks.parse import join_words

MODE: Mode = "live"
_PART, _FACTS = ".flac.part", ".live.json"
_FULL_SCALE = 32768
_CHECK_S = 10.0  # so often the disk is looked at


@dataclass(frozen=True)
class Kept:
    """A recording that was kept; `path` is relative to the folder of recordings, empty where nothing was kept."""

    path: str = ""
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Owner:
    """Whose audio it is, and what was asked of it."""

    user: str
    name: str
    wish: Wish


class Recorder:
    """Writes the audio of one session; where the disk cannot take it, it stops and `note` says so. Not for the loop."""

    def __init__(self, id: str, owner: Owner, folders: Folders, free_bytes: int) -> None:
        """Nothing is written before the first samples.

        Args:
            id: of the session in the history, which names the file.
            owner: whose it is.
            folders: of the installation.
            free_bytes: is left free on the disk.
        """
        self._part, self._place = folders.uploads / f"{id}{_PART}", _place(id)
        self._facts = folders.uploads / f"{id}{_FACTS}"
        self._audio, self._owner, self._free_bytes = folders.audio, owner, free_bytes
        self._file: soundfile.SoundFile | None = None
        self._checked_s = -_CHECK_S
        self._samples = 0
        self.note = ""

    def write(self, samples_T: Float32) -> None:
        """Add samples; 16-bit ones come out as they came."""
        if self.note or not len(samples_T):
            return
        try:
            self._check_space()
            if self._file is None:
                self._facts.write_text(json.dumps(asdict(self._owner)), encoding="utf-8")
                os.close(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                self._file = soundfile.SoundFile(self._part, "w", SAMPLE_RATE_HZ, 1, "PCM_16", format="FLAC")
            scaled_T = np.rint(samples_T * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE - 1)
            self._file.write(scaled_T.astype(np.int16))
        except (OSError, soundfile.LibsndfileError) as error:
            self._failed(error)
        self._samples += len(samples_T)

    def finish(self) -> Kept:
        """Close the recording; it still lies where it came, until the session is in the history: then `keep` it."""
        if self._file is None:
            return Kept()
        try:
            self._file.close()
            self._file = None
            return _kept(self._part, self._place)
        except (OSError, soundfile.LibsndfileError) as error:
            self._failed(error)
            return Kept()

    def keep(self) -> None:
        """Put the recording where recordings are; after a crash before it, the start of the service does it."""
        if self._part.exists():
            (self._audio / self._place).parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(self._part, self._audio / self._place)
        self._facts.unlink(missing_ok=True)

    def drop(self) -> None:
        """Leave nothing on the disk."""
        if self._file is not None:
            with suppress(soundfile.LibsndfileError):  # the disk is full: what it still held is not wanted
                self._file.close()
            self._file = None
        self._part.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> None:
        self.note = f"the audio was not kept: {getattr(error, 'strerror', '') or error}"
        self.drop()

    def _check_space(self) -> None:
        now_s = self._samples / SAMPLE_RATE_HZ
        if now_s - self._checked_s >= _CHECK_S:
            self._checked_s = now_s
            facts = os.statvfs(self._part.parent)
            if facts.f_bavail * facts.f_frsize < self._free_bytes:
                raise OSError(28, "the disk of the service is full")


def recover(service: Service) -> int:
    """Make jobs of what a killed service had heard of its live sessions; returns how many.

    To be called before the start of the dispatcher, and before `uploads.recover`, which removes what belongs to nobody.
    """
    made = 0
    for facts in service.folders.uploads.glob(f"*{_FACTS}"):
        id = facts.name.removesuffix(_FACTS)
        part = facts.with_name(f"{id}{_PART}")
        if part.exists() and service.jobs.get(id, None) is None and (owner := _read(facts)) is not None:
            kept = _kept(part, _place(id))
            service.jobs.add(
                id=id,
                user=owner.user,
                mode=MODE,
                file_name=owner.name,
                audio=kept.path,
                sha256=kept.sha256,
                bytes=kept.bytes,
                wish=owner.wish,
            )
            made += 1  # its audio is moved with that of all jobs
        facts.unlink()
    return made


def _read(facts: Path) -> Owner | None:
    try:
        return build(Owner, json.loads(facts.read_text(encoding="utf-8")), "a live session")
    except (ValueError, UserError):  # the service was killed while it wrote this
        return None


def _place(id: str) -> Path:
    return Path(id[-2:]) / f"{id}.flac"


def _kept(part: Path, place: Path) -> Kept:
    digest = hashlib.sha256()
    with part.open("rb") as file:
        os.fsync(file.fileno())
        while piece := file.read(1 << 20):
            digest.update(piece)
        return Kept(place.as_posix(), digest.hexdigest(), file.tell())


def result(
    segments: Sequence[Segment],
    wish: Wish,
    worker: WorkerState | None,
    *,
    source: str,
    duration_s: float,
    processing_s: float,
    notes: Sequence[str],
) -> Result:
    """A session as the result of a recording.

    Args:
        segments: the final ones, in order.
        wish: what was asked.
        worker: that understood it; None where nothing was sent to one.
        source: name of the session.
        duration_s: of its audio.
        processing_s: time the model was busy with it.
        notes: what the user should know.
    """
    return Result(
        source=source,
        duration_s=rounded(duration_s),
        tasks=wish.tasks or ("asr",),
        text=join_words(one.text for one in segments),
        labels=vote(segments),
        answer=join_words(one.answer for one in segments),
        translation=join_words(one.translation for one in segments),
        segments=tuple(segments),
        unparsed=tuple(piece for one in segments for piece in one.unparsed),
        into=wish.into,
        model="" if worker is None else worker.model,
        backend="" if worker is None else worker.backend,
        device="" if worker is None else worker.device,
        precision="" if worker is None else worker.precision,
        processing_s=rounded(processing_s),
        notes=tuple(notes),
        written=join_words(one.written for one in segments),
    )
