"""A job: a recording, what was asked of it, and what came of that; and how it is read from the tables."""

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, select

from zhiyin.ask import MIX, Options
from zhiyin.audio.vad import Thresholds
from zhiyin.serve.schema import JOB_TEXTS, JOBS

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "done", "failed", "cancelled")
OPEN: tuple[State, ...] = ("queued", "running")
Mode = Literal["upload", "microphone", "batch", "live", "api", "chat"]
MODES: tuple[Mode, ...] = ("upload", "microphone", "batch", "live", "api", "chat")

_ID = re.compile(r"[0-9a-f]{32}")
APART = ("itn", "hotwords")  # of a wish: they have columns of their own


@dataclass(frozen=True)
class Wish:
    """What is asked of a recording; kept with the job as JSON.

    Attributes:
        tasks: task ids; none of them, and no instruction, is the transcript.
        instruction: a request in plain language instead of tasks.
        language: code of the language that is spoken.
        into: code of the language to translate into.
        hotwords: entries as `text.hotword_list.read` takes them, never a file.
        speakers: whether to say who speaks.
        itn: whether the model is asked for written form; None leaves it to the model.
        written: give the transcript in written form too.
        template: one of the prompt templates of the model's family.
        channels: ``mix`` or ``split``.
        vad: thresholds of the speech detector, where a client brings its own.
        model: name of the model; empty: the one that is loaded.
    """

    tasks: tuple[str, ...] = ()
    instruction: str = ""
    language: str = ""
    into: str = ""
    hotwords: tuple[str, ...] = ()
    speakers: bool = False
    itn: bool | None = None
    written: bool = True
    template: str = ""
    channels: str = MIX
    vad: Thresholds | None = None
    model: str = ""

    def options(self) -> Options:
        """The same for `zhiyin.ask`."""
        return Options(
            instruction=self.instruction or None,
            language=self.language or None,
            into=self.into or None,
            hotwords=self.hotwords,
            speakers=self.speakers,
            itn=self.itn,
            written=self.written,
            template=self.template or None,
            channels=self.channels,
            vad=self.vad,
        )


@dataclass(frozen=True)
class Job:
    """A recording, what was asked, and what came of it.

    Attributes:
        id: 32 hexadecimal digits that sort by time.
        created_at: when it was accepted; all times have a zone, UTC.
        user: whose it is.
        mode: how it came, see `MODES`.
        batch: name of the batch it came with.
        file_name: as the user calls it; never a path of ours.
        sha256: of the recording's bytes.
        audio: path under the audio folder; empty when it is kept no more.
        bytes: size of the recording.
        duration_s: of the decoded audio, as far as it is known.
        wish: what was asked.
        tasks: task ids that were asked or, for an instruction, understood.
        language: that was asked, or that the model heard most of, where it says so.
        state: see `STATES`.
        attempts: how often it was begun.
        progress_s: up to which time of the recording it is understood.
        started_at: when it was begun last.
        finished_at: when it was done, failed or cancelled.
        model: name of the model that answered.
        model_hash: of its files.
        backend: how the model was executed.
        device: where it really ran.
        precision: of the weights.
        text: transcript as it was spoken.
        written: transcript in written form, where that was asked.
        edited: what a person made of it; None where nobody did.
        labels: task id -> label of the whole recording.
        answer: text answers.
        translation: translations.
        segments: timed pieces, as in docs/result.md; empty in pages and lists.
        result: the whole result, as in docs/result.md; empty in pages and lists, and where there is none.
        processing_s: time it took.
        real_time_factor: `processing_s` by `duration_s`; 0 where one is not known.
        error: why it failed, one line.
        edited_at: when `edited` was changed last.
        deleted_at: when it was put away; it can be taken back until it is purged.
    """

    id: str
    created_at: datetime
    user: str
    mode: str
    batch: str
    file_name: str
    sha256: str
    audio: str
    bytes: int
    duration_s: float
    wish: Wish
    tasks: tuple[str, ...]
    language: str
    state: str
    attempts: int
    progress_s: float
    started_at: datetime | None
    finished_at: datetime | None
    model: str
    model_hash: str
    backend: str
    device: str
    precision: str
    text: str
    written: str
    edited: str | None
    labels: Mapping[str, str]
    answer: str
    translation: str
    processing_s: float
    real_time_factor: float
    error: str
    edited_at: datetime | None
    deleted_at: datetime | None
    segments: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)


BRIEF = (
    *(column for column in JOBS.columns if column.name != "number"),
    *(column for column in JOB_TEXTS.columns if column.name not in ("number", "segments", "result")),
)
WHOLE = (*BRIEF, JOB_TEXTS.c.segments, JOB_TEXTS.c.result)


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(timezone.utc)


def new_id() -> str:
    """A name for a job that sorts by time; a UUID of version 7 without its dashes (RFC 9562, method 3 of 6.2)."""
    ms, rest_ns = divmod(time.time_ns(), 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    tail = secrets.randbits(62) | (0b10 << 62)
    return f"{(ms << 16 | 7 << 12 | fraction) << 64 | tail:032x}"


def is_id(given: str) -> bool:
    """Whether this could be the name of a job."""
    return _ID.fullmatch(given) is not None


def whole(columns: tuple[ColumnElement[Any], ...] = WHOLE) -> Select[Any]:
    """Jobs with their texts; the columns are `BRIEF` or `WHOLE`."""
    return select(*columns).select_from(JOBS.join(JOB_TEXTS, JOB_TEXTS.c.number == JOBS.c.number))


def job_of(row: Row[Any]) -> Job:
    """A job from a row of `whole`."""
    facts = dict(row._mapping)
    itn, hotwords = facts.pop("itn"), facts.pop("hotwords")
    wish = facts["wish"]
    vad = Thresholds(**wish["vad"]) if wish.get("vad") else None
    given = {"tasks": tuple(wish["tasks"]), "itn": itn, "hotwords": tuple(hotwords), "vad": vad}
    facts["wish"] = Wish(**{**wish, **given})
    facts["tasks"] = tuple(facts["tasks"].split())
    if facts.get("result"):
        facts["result"] = {**facts["result"], "segments": facts["segments"]}
    return Job(**facts)
