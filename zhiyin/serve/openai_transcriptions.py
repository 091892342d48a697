"""OpenAI's audio routes: transcriptions in all their formats, whole or as they come, and translations.

Conventions: the request and event types of OpenAI's Python client (`openai/types/audio`).
"""

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field, ValidationError

from zhiyin import ask, write
from zhiyin.audio.vad import Thresholds
from zhiyin.config import build
from zhiyin.result import Result, Segment
from zhiyin.serve import asking, form, openai_formats
from zhiyin.serve.job import Job, Wish
from zhiyin.serve.openai_formats import Diarized, Transcription, Verbose
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service, TheService
from zhiyin.serve.uploads import Upload, receive
from zhiyin.tasks.parse import join_words

Formats = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]

router = APIRouter(prefix="/v1/audio", tags=["openai"])


class TranslationForm(BaseModel, extra="ignore"):
    """What OpenAI's clients send for a translation."""

    model: str = Field("", max_length=200, description="Our model, or whisper-1 and OpenAI's other names for it.")
    prompt: str = Field("", description="Names in it, separated by commas, become hotwords; sentences are not used.")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = Field("json", description="Of the answer.")
    temperature: float = Field(0.0, ge=0, le=2, description="Decoding is greedy; another value is noted, not used.")


class TranscriptionForm(BaseModel, extra="ignore"):
    """What OpenAI's clients send for a transcription."""

    model: str = Field("", max_length=200, description="Our model, or whisper-1 and OpenAI's other names for it.")
    language: str = Field("", max_length=20, description="Code of the language that is spoken.")
    languages: list[str] = Field([], description="Languages that may be spoken; the model must know each.")
    prompt: str = Field("", description="Names in it, separated by commas, become hotwords; sentences are not used.")
    keywords: list[str] = Field([], description="Names likely to be said (hotwords).")
    response_format: Formats = Field("json", description="Of the answer.")
    timestamp_granularities: list[Literal["word", "segment"]] = Field([], description="Times in verbose_json.")
    temperature: float = Field(0.0, ge=0, le=2, description="Decoding is greedy; another value is noted, not used.")
    chunking_strategy: str = Field("", description="auto, or JSON of a server_vad object; see docs/api.md.")
    include: list[str] = Field([], description="logprobs are not given here.")
    known_speaker_names: list[str] = Field([], description="Voices are not compared here.")
    known_speaker_references: list[str] = Field([], description="Voices are not compared here.")
    stream: bool = Field(False, description="Answer with server-sent events, as segments become final.")


@dataclass(frozen=True)
class _Asked:
    """How the answer is to look, and what is to be said of the request."""

    format: str
    granularities: Sequence[str]
    language: str
    notes: tuple[str, ...]
    task: str = "transcribe"


@router.post(
    "/transcriptions",
    summary="Transcribe a recording",
    response_model=Transcription | Verbose | Diarized,
    openapi_extra=form.body(TranscriptionForm),
)
async def transcriptions(request: Request, service: TheService) -> Response:
    """OpenAI's transcription. With `stream` the answer is `text/event-stream`: `transcript.text.delta` for each final
    segment (`transcript.text.segment` for diarized_json), then `transcript.text.done` with the text and the usage. The
    formats text, srt and vtt answer as plain text. The job is in the history; its id is in `X-Job-Id`."""
    user = asking.admitted(request, service)
    async with receive(request, service, user) as sent:
        given = form.read(TranscriptionForm, _with_chunking(sent.fields))
        wish, asked = _wish(given, sent.upload, service)
        wish = await asking.checked(wish, service)
        job = await asking.submitted(sent.upload, wish, service, user=user, mode="api")
    request.state.audit_object = job.id
    if given.stream:
        return await asking.streamed(_events(job, asked, service), job, service, request)
    done = await asking.finished(job, service, request)
    return _answer(asking.result_of(done), asked, job.id)


@router.post(
    "/translations",
    summary="Translate a recording into English",
    response_model=Transcription | Verbose,
    openapi_extra=form.body(TranslationForm),
)
async def translations(request: Request, service: TheService) -> Response:
    """OpenAI's translation, into English; 400 from a model that does not translate, with what it does."""
    user = asking.admitted(request, service)
    async with receive(request, service, user) as sent:
        given = form.read(TranslationForm, sent.fields)
        keywords, notes = asking.from_prompt(given.prompt)
        model = asking.model_of(given.model, service)
        wish = Wish(tasks=("ast",), into=_english(service), hotwords=keywords, model=model)
        wish = await asking.checked(wish, service)
        job = await asking.submitted(sent.upload, wish, service, user=user, mode="api")
    request.state.audit_object = job.id
    done = await asking.finished(job, service, request)
    asked = _Asked(given.response_format, (), "en", (*notes, *_of_temperature(given.temperature)), "translate")
    return _answer(openai_formats.as_translation(asking.result_of(done)), asked, job.id)


def _english(service: Service) -> str:
    """The language to translate into, where a model must be told."""
    return "en" if any("en" in ask.family_of(spec).into for spec in asking.specs(service)) else ""


def _with_chunking(fields: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """OpenAI's client sends an object as ``chunking_strategy[type]`` and so on; it becomes one field of JSON."""
    inside = {
        found[1]: values[0]
        for name, values in fields.items()
        if (found := re.fullmatch(r"chunking_strategy\[(\w+)\]", name))
    }
    rest = {name: values for name, values in fields.items() if not name.startswith("chunking_strategy[")}
    return {**rest, "chunking_strategy": (json.dumps(inside),)} if inside else rest


def _wish(given: TranscriptionForm, upload: Upload, service: Service) -> tuple[Wish, _Asked]:
    """What the form asks for, and how to answer.

    Raises:
        Refusal: it contradicts itself, or asks for what is never known here.
    """
    _refuse_unknowable(given)
    wants_words = "word" in given.timestamp_granularities
    names, notes = asking.from_prompt(given.prompt)
    languages = list(dict.fromkeys([given.language, *given.languages])) if given.language else given.languages
    wish = Wish(
        tasks=("srwt",) if wants_words else ("asr",),
        language=languages[0] if len(languages) == 1 else "",
        hotwords=(*asking.words(given.keywords), *names),
        vad=_of_chunking(given.chunking_strategy),
        model=asking.model_of(given.model, service),
    )
    if given.response_format == "diarized_json":
        wish, more = _with_speakers(wish, upload, service)
        notes += more
    notes += (*_of_languages(languages, service), *_of_temperature(given.temperature))
    return wish, _Asked(given.response_format, given.timestamp_granularities, wish.language, notes)


def _refuse_unknowable(given: TranscriptionForm) -> None:
    if given.timestamp_granularities and given.response_format != "verbose_json":
        said = "timestamp_granularities belong to response_format verbose_json; set it, or leave them out"
        raise Refusal(400, "invalid_value", said, param="timestamp_granularities")
    if given.include:
        said = "include: log probabilities of tokens are not given here; verbose_json has avg_logprob of each segment"
        raise Refusal(400, "unsupported_value", said, param="include")
    if given.known_speaker_names or given.known_speaker_references:
        said = "known speakers: voices are not compared here; send a recording with a channel for each speaker"
        raise Refusal(400, "unsupported_value", said, param="known_speaker_names")


def _with_speakers(wish: Wish, upload: Upload, service: Service) -> tuple[Wish, tuple[str, ...]]:
    """Speakers by channels where the recording has several, else by the model where it tells them apart."""
    if upload.channels > 1:
        letters = ", ".join(f"{openai_formats.letter(n)} is channel {n}" for n in range(upload.channels))
        return replace(wish, channels="split"), (f"speakers are channels: {letters}",)
    if any("speakers" in ask.family_of(spec).options for spec in asking.specs(service)):
        return replace(wish, speakers=True), ()
    said = (
        "diarized_json: the recording has one channel, and the model does not tell speakers apart; "
        "send a channel for each speaker, or ask for verbose_json"
    )
    raise Refusal(400, "unsupported_value", said, param="response_format")


def _of_languages(languages: Sequence[str], service: Service) -> tuple[str, ...]:
    if len(languages) < 2:
        return ()
    for spec in asking.specs(service):
        unknown = [code for code in languages if spec.languages and code not in spec.languages]
        if unknown:
            said = (
                f"model '{spec.name}' does not know language '{unknown[0][:20]}'; languages: {' '.join(spec.languages)}"
            )
            raise Refusal(400, "invalid_value", said, param="languages")
    return (f"languages: {' '.join(languages)} were checked; the model hears by itself which is spoken",)


class _Vad(BaseModel, extra="forbid"):
    type: Literal["server_vad"]
    prefix_padding_ms: int = Field(60, ge=0, le=10_000)
    silence_duration_ms: int = Field(200, ge=120, le=60_000)
    threshold: float = Field(0.4, ge=0.05, le=0.9)


def _of_chunking(given: str) -> Thresholds | None:
    """Recordings are always cut where nobody speaks; a client may say when that is.

    Speech ends 0.15 below the threshold and must get 0.2 above it once, as in the service's own thresholds; padding is
    at most half of the silence.
    """
    if given in ("", "auto"):
        return None
    try:
        asked = _Vad.model_validate_json(given)
    except ValidationError as error:
        said = f"chunking_strategy is auto or a server_vad object: {form.refusal(error.errors()[0])}"
        raise Refusal(400, "invalid_value", said, param="chunking_strategy") from None
    silence_s = asked.silence_duration_ms / 1000
    return Thresholds(
        start=asked.threshold,
        end=max(asked.threshold - 0.15, asked.threshold / 2),
        peak=min(asked.threshold + 0.2, 0.95),
        min_silence_s=silence_s,
        pad_s=min(asked.prefix_padding_ms / 1000, silence_s / 2),
    )


def _of_temperature(given: float) -> tuple[str, ...]:
    return (f"temperature {given:g} was not used: decoding is greedy",) if given else ()


def _answer(result: Result, asked: _Asked, id: str) -> Response:
    headers = {"X-Job-Id": id}
    if asked.format == "text":
        return PlainTextResponse(f"{result.written or result.text}\n", headers=headers)
    if asked.format in ("srt", "vtt"):
        return PlainTextResponse(write.FORMATS[asked.format](result), headers=headers)
    return JSONResponse(openai_formats.dumped(_view(result, asked)), headers=headers)


def _view(result: Result, asked: _Asked) -> openai_formats.View:
    if asked.format == "verbose_json":
        return openai_formats.verbose(result, asked.granularities, asked.language, asked.notes, asked.task)
    if asked.format == "diarized_json":
        return openai_formats.diarized(result, asked.notes)
    return openai_formats.transcription(result, asked.notes)


async def _events(job: Job, asked: _Asked, service: Service) -> AsyncGenerator[dict[str, Any], None]:
    """OpenAI's events of a job.

    Raises:
        Refusal: it failed, or was cancelled.
    """
    shown, said, number = "", list[str](), 0
    async with aclosing(service.dispatcher.events(job.id)) as happening:
        async for event in happening:
            if event["event"] != "segment":
                continue
            segment = build(Segment, event["segment"], "a segment")
            said.append(openai_formats.said(segment))
            if asked.format == "diarized_json":
                for one in openai_formats.by_speaker([segment]):
                    yield one.model_copy(update={"id": f"seg_{number}"}).model_dump()
                    number += 1
            delta, shown = asking.added(shown, join_words(said))
            if delta:
                yield {"type": "transcript.text.delta", "delta": delta}
    result = asking.result_of(asking.ended_well(await service.dispatcher.wait(job.id)))
    text = result.written or result.text
    delta, _ = asking.added(shown, text)
    if delta:
        yield {"type": "transcript.text.delta", "delta": delta}
    yield {"type": "transcript.text.done", "text": text, "usage": openai_formats.usage(result).model_dump()}
