"""`/v1/chat/completions` with `input_audio`: a spoken question, or any request in plain language about a recording."""

import base64
import binascii
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError

from zhiyin import write
from zhiyin.result import Result
from zhiyin.serve import asking, form, uploads
from zhiyin.serve.job import Job, Wish
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service, TheService
from zhiyin.serve.views import View
from zhiyin.tasks.parse import join_words

router = APIRouter(prefix="/v1", tags=["openai"])


class AudioData(BaseModel, extra="ignore"):
    """A recording inside the request."""

    data: str = Field(description="The file, in base64.")
    format: Literal["wav", "mp3", "flac", "ogg", "opus", "m4a", "mp4", "webm", "aac", "pcm"] = Field(
        default="wav", description="What it is; pcm is 16 bit, 16 kHz, one channel."
    )


class AudioPart(BaseModel, extra="ignore"):
    """A recording as a part of a message."""

    type: Literal["input_audio"] = Field(description="Always input_audio.")
    input_audio: AudioData = Field(description="The recording.")


class TextPart(BaseModel, extra="ignore"):
    """A text as a part of a message."""

    type: Literal["text"] = Field(description="Always text.")
    text: str = Field(max_length=100_000, description="A request in plain language about the recording.")


Part = Annotated[AudioPart | TextPart, Field(discriminator="type")]


class ChatMessage(BaseModel, extra="ignore"):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="Who says it.")
    content: str | list[Part] = Field(description="A text, or parts of which one is a recording.")


class ChatWish(BaseModel, extra="ignore"):
    """What OpenAI's clients send."""

    model: str = Field(default="", max_length=200, description="Our model, or one of OpenAI's names for it.")
    messages: list[ChatMessage] = Field(min_length=1, max_length=100, description="The last one of the user counts.")
    stream: bool = Field(default=False, description="Answer with server-sent events.")
    n: int = Field(default=1, ge=1, le=1, description="One answer is given.")


class Reply(View):
    """The answer as a message."""

    role: Literal["assistant"] = Field(default="assistant", description="Always assistant.")
    content: str = Field(description="The answer; what else was understood stands on lines of its own.")
    refusal: str | None = Field(default=None, description="Never given here.")


class Choice(View):
    """The one answer."""

    index: int = Field(default=0, description="Always 0.")
    message: Reply = Field(description="The answer.")
    finish_reason: Literal["stop"] = Field(default="stop", description="Always stop.")
    logprobs: None = Field(default=None, description="Not given here.")


class Completion(View):
    """A chat completion."""

    id: str = Field(description="chatcmpl- and the id of the job.")
    object: Literal["chat.completion"] = Field(default="chat.completion", description="Always this.")
    created: int = Field(description="When, in seconds since 1970.")
    model: str = Field(description="Model that answered.")
    choices: list[Choice] = Field(description="The one answer.")
    notes: list[str] = Field(default=[], description="Not OpenAI's: what the user should know.")


@router.post(
    "/chat/completions",
    summary="Answer a spoken question, or a request about a recording",
    response_model=Completion,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatWish"}}},
        }
    },
)
async def completions(request: Request, service: TheService) -> Response:
    """A recording alone is a spoken question, and is answered in text. With a text beside it, the text is the request,
    e.g. `what did she say, and how does she feel?`. One recording a request, in the last message of the user; messages
    before it are not used, the notes say so. 400 from a model that cannot do it, with what it can."""
    user = asking.admitted(request, service)
    given = await to_thread.run_sync(_read, await request.body())
    instruction, recording, notes = _question(given)
    wish = Wish(
        tasks=() if instruction else ("sttc",), instruction=instruction, model=asking.model_of(given.model, service)
    )
    wish = await asking.checked(wish, service)
    with await to_thread.run_sync(service.limits.admit, user):
        data = await to_thread.run_sync(_decoded, recording.data)
        upload = await uploads.from_bytes(data, f"audio.{recording.format}", service)
        job = await asking.submitted(upload, wish, service, user=user, mode="chat")
    request.state.audit_object = job.id
    if given.stream:
        return await asking.streamed(_chunks(job, service), job, service, request, end="[DONE]")
    done = await asking.finished(job, service, request)
    result = asking.result_of(done)
    answer = Completion(
        id=f"chatcmpl-{job.id}",
        created=int(job.created_at.timestamp()),
        model=result.model,
        choices=[Choice(message=Reply(content=said(result)))],
        notes=[*notes, *result.notes],
    )
    return JSONResponse(answer.model_dump(), headers={"X-Job-Id": job.id})


def schemas() -> dict[str, Any]:
    """What the body looks like, for the OpenAPI document: it is read in a thread, not by FastAPI."""
    whole = ChatWish.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**whole.pop("$defs"), "ChatWish": whole}


def said(result: Result) -> str:
    """What is answered: the answer of the model, else everything that was understood."""
    return result.answer or write.txt(result).rstrip("\n")


def _read(body: bytes) -> ChatWish:
    try:
        return ChatWish.model_validate_json(body)
    except ValidationError as error:
        raise form.refusal(error.errors()[0]) from None


def _question(given: ChatWish) -> tuple[str, AudioData, list[str]]:
    """The request in plain language, which may be empty, the recording, and what is to be said of the rest.

    Raises:
        Refusal: there is not exactly one recording in the last message of the user.
    """
    users = [message for message in given.messages if message.role == "user"]
    last = users[-1] if users else ChatMessage(role="user", content="")
    parts = [TextPart(type="text", text=last.content)] if isinstance(last.content, str) else last.content
    recordings = [part.input_audio for part in parts if isinstance(part, AudioPart)]
    if len(recordings) != 1:
        message = "send exactly one recording, as a part input_audio of the last message of the user"
        raise Refusal(400, "no_audio" if not recordings else "two_files", message, param="messages")
    instruction = " ".join(part.text.strip() for part in parts if isinstance(part, TextPart)).strip()
    rest = len(given.messages) - 1
    notes = [f"{rest} messages before the last one of the user were not used"] if rest else []
    return instruction, recordings[0], notes


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            400, "invalid_value", "input_audio.data is not base64; encode the file", param="messages"
        ) from None


async def _chunks(job: Job, service: Service) -> AsyncGenerator[dict[str, Any], None]:
    """The answer as it comes: of each segment, then what else was understood.

    Raises:
        Refusal: it failed, or was cancelled.
    """
    shown, answers = "", list[str]()
    job = replace(job, model=next((spec.name for spec in asking.specs(service)), ""))
    yield _chunk(job, {"role": "assistant", "content": ""})
    async with aclosing(service.dispatcher.events(job.id)) as happening:
        async for event in happening:
            if event["event"] == "segment":
                answers.append(str(event["segment"].get("answer", "")))
                delta, shown = asking.added(shown, join_words(answers))
                if delta:
                    yield _chunk(job, {"content": delta})
    result = asking.result_of(asking.ended_well(await service.dispatcher.wait(job.id)))
    delta, _ = asking.added(shown, said(result))
    if delta:
        yield _chunk(job, {"content": delta})
    yield _chunk(job, {}, "stop")


def _chunk(job: Job, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{job.id}",
        "object": "chat.completion.chunk",
        "created": int(job.created_at.timestamp()),
        "model": job.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
