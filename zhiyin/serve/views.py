"""What routes answer with, described field by field for the OpenAPI page."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from zhiyin.serve.job import Job, State


class View(BaseModel):
    """Read from dataclasses."""

    model_config = ConfigDict(from_attributes=True)


class ErrorBody(View):
    """What went wrong."""

    message: str = Field(description="One line: what was seen, what is allowed, what to do next.")
    type: str = Field(description="Kind of error, as OpenAI names them, e.g. invalid_request_error.")
    param: str | None = Field(description="The field that is wrong, if one is.")
    code: str | None = Field(description="One word for programs, e.g. audio_too_long.")


class Error(View):
    """Every error of every route has this shape."""

    error: ErrorBody = Field(description="What went wrong.")


class WordView(View):
    """A word with its times."""

    text: str = Field(description="The word as it was spoken.")
    start_s: float = Field(description="Where it begins in the recording, in seconds.")
    end_s: float = Field(description="Where it ends.")
    source: str = Field(description="Where the times come from: model, ctc or vad.")


class TurnView(View):
    """What one speaker said without a break."""

    speaker: str = Field(description="A name within its segment, e.g. Speaker 1; empty where none was given.")
    text: str = Field(description="What was said.")
    written: str = Field("", description="The same in written form, where that was asked.")


class RewriteView(View):
    """A piece of a text that is written otherwise than it was spoken."""

    spoken_start: int = Field(description="First character of it in text.")
    spoken_end: int = Field(description="First character after it in text.")
    written_start: int = Field(description="First character of it in written.")
    written_end: int = Field(description="First character after it in written.")


class CorrectionView(View):
    """A hotword put right."""

    start: int = Field(description="First character of it in text.")
    end: int = Field(description="First character after it in text.")
    heard: str = Field(description="What the model said there.")
    became: str = Field(description="What stands there now.")
    by: str = Field(description="sound, or pair for a pair wrong => right.")
    score: float = Field(description="How alike both sound, 0 to 1.")


class SegmentView(View):
    """A timed piece of the recording and all that was understood of it."""

    start_s: float = Field(description="Where it begins in the recording, in seconds.")
    end_s: float = Field(description="Where it ends.")
    text: str = Field("", description="Transcript, as it was spoken.")
    words: list[WordView] = Field([], description="Words with times, where srwt was asked.")
    labels: dict[str, str] = Field({}, description="Task id -> label.")
    answer: str = Field("", description="Text answer, where sttc was asked.")
    translation: str = Field("", description="Translation, where ast was asked.")
    tasks: list[str] = Field([], description="Task ids that this segment answers.")
    unparsed: list[str] = Field([], description="Pieces of the model's reply that fit no task; never guessed at.")
    guards: list[str] = Field([], description="What guards did to the text, e.g. repetition cut.")
    turns: list[TurnView] = Field([], description="Who said what, where speakers were asked.")
    language: str = Field("", description="Language the model says it heard, where it says so.")
    written: str = Field("", description="Text in written form: numbers in figures.")
    written_spans: list[RewriteView] = Field([], description="Pieces of text that are written otherwise.")
    corrections: list[CorrectionView] = Field([], description="Hotwords put right in text.")
    channel: int | None = Field(None, description="Channel of the recording, from 0, where they were kept apart.")
    confidence: float | None = Field(None, description="Mean probability of the tokens that say it, 0 to 1.")


class ResultView(View):
    """Everything understood of one recording: the JSON of the command line."""

    source: str = Field(description="Name of the file.")
    duration_s: float = Field(description="Length of the audio that was decoded, in seconds.")
    tasks: list[str] = Field(description="Task ids that were asked or, for a request in plain language, understood.")
    text: str = Field("", description="Transcript of all segments, as it was spoken.")
    labels: dict[str, str] = Field({}, description="Task id -> label of the whole recording.")
    answer: str = Field("", description="Text answers of all segments.")
    translation: str = Field("", description="Translations of all segments.")
    segments: list[SegmentView] = Field([], description="Timed pieces, in order.")
    unparsed: list[str] = Field([], description="Unparsed pieces of all segments.")
    instruction: str = Field("", description="The request in plain language, if there was one.")
    into: str = Field("", description="Language that was asked to translate into.")
    model: str = Field("", description="Name of the model that answered.")
    family: str = Field("", description="Family of the model, which decides how it is asked.")
    template: str = Field("", description="Prompt template, where the family has several.")
    backend: str = Field("", description="How the model was executed, e.g. onnx.")
    device: str = Field("", description="Where it really ran, with the reason.")
    precision: str = Field("", description="Number format of the weights.")
    processing_s: float = Field(0.0, description="Wall time spent on this recording, in seconds.")
    notes: list[str] = Field([], description="What the user should know, e.g. no speech found.")
    written: str = Field("", description="The transcript in written form, where that was asked.")


class WishView(View):
    """What was asked of a recording."""

    tasks: list[str] = Field(description="Task ids; none: the transcript.")
    instruction: str = Field(description="A request in plain language instead of tasks.")
    language: str = Field(description="Code of the language that is spoken; empty: not said.")
    into: str = Field(description="Code of the language to translate into.")
    hotwords: list[str] = Field(description="Names and terms that are likely to be said.")
    speakers: bool = Field(description="Whether to say who speaks.")
    itn: bool | None = Field(description="What the model was told of numbers; null: nothing.")
    written: bool = Field(description="Whether the transcript is given in written form too.")
    template: str = Field(description="Prompt template of the model's family.")
    channels: str = Field(description="mix: channels are averaged; split: each is understood by itself.")
    model: str = Field(description="Model that was asked for; empty: the one that is loaded.")


class JobView(View):
    """A job, which is a row of the history from the moment it is accepted."""

    id: str = Field(description="Of the job; ids sort by time.")
    created_at: datetime = Field(description="When it was accepted, UTC.")
    user: str = Field(description="Whose it is.")
    mode: str = Field(description="upload, microphone, batch, live, api or chat.")
    batch: str = Field(description="Name of the batch it belongs to; empty: none.")
    file_name: str = Field(description="Name of the recording, as its owner calls it.")
    sha256: str = Field(description="Of the recording's bytes.")
    has_audio: bool = Field(description="Whether the recording is still there.")
    bytes: int = Field(description="Size of the recording.")
    duration_s: float = Field(description="Length of the recording in seconds; 0 while it is not known.")
    wish: WishView = Field(description="What was asked.")
    state: State = Field(description="queued, running, done, failed or cancelled.")
    attempts: int = Field(description="How often it was begun.")
    progress_s: float = Field(description="Seconds of the recording that are understood.")
    started_at: datetime | None = Field(description="When it was begun, UTC.")
    finished_at: datetime | None = Field(description="When it ended, UTC.")
    model: str = Field(description="Model that answered.")
    model_hash: str = Field(description="Which weights that were.")
    backend: str = Field(description="How the model was executed.")
    device: str = Field(description="Where it really ran, with the reason.")
    precision: str = Field(description="Number format of the weights.")
    text: str = Field(description="Transcript, as it was spoken.")
    written: str = Field(description="Transcript in written form.")
    edited: str | None = Field(description="Transcript as a person put it right; null: nobody did.")
    labels: dict[str, str] = Field(description="Task id -> label of the whole recording.")
    answer: str = Field(description="Text answer.")
    translation: str = Field(description="Translation.")
    processing_s: float = Field(description="Seconds of work.")
    real_time_factor: float = Field(description="Seconds of work for each second of audio.")
    error: str = Field(description="Why it failed; empty otherwise.")
    deleted_at: datetime | None = Field(description="When it was deleted; it can be brought back until it is purged.")


class JobDetail(JobView):
    """A job with everything that was understood."""

    segments: list[SegmentView] = Field(description="Timed pieces, in order.")
    notes: list[str] = Field(description="What the user should know of the result.")


class JobList(View):
    """Jobs, newest first."""

    jobs: list[JobView] = Field(description="The jobs.")


class HistoryPage(View):
    """A page of the history."""

    rows: list[JobView] = Field(description="The rows of this page.")
    next: str = Field(description="Give it as `after` for the next page; empty: this is the last.")
    total: int | None = Field(description="How many rows fit the filters; null where counting was not worth it.")


def job_view(job: Job) -> JobView:
    """A job as lists show it."""
    return JobView.model_validate(_plain(job))


def job_detail(job: Job) -> JobDetail:
    """A job with its segments."""
    return JobDetail.model_validate(
        {**_plain(job), "segments": job.segments or [], "notes": (job.result or {}).get("notes", [])}
    )


def _plain(job: Job) -> dict[str, Any]:
    shown = {name: getattr(job, name) for name in JobView.model_fields if name != "has_audio"}
    return {**shown, "has_audio": bool(job.audio), "labels": job.labels or {}}
