"""From the fields of a request to a wish that some worker can carry out, and from a finished job to its result."""

import asyncio
import functools
import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse

from zhiyin import ask
from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.result import Result
from zhiyin.runtime.base import ModelSpec
from zhiyin.serve import sse
from zhiyin.serve.dispatch import FAULT, LOST
from zhiyin.serve.job import Job, Mode, Wish
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service
from zhiyin.serve.tokens import Principal
from zhiyin.serve.uploads import Upload, moved
from zhiyin.tasks.families import NO_ITN
from zhiyin.text import hotword_list

ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize", "gpt-transcribe")
NAME_WORDS, NAME_LETTERS, NAME_CHARACTERS = 3, 40, 8  # a longer piece of a prompt is no name; the last: wide ones

P = ParamSpec("P")
R = TypeVar("R")
DEFAULT_MODEL = "pocket"


def specs(service: Service) -> list[ModelSpec]:
    """What is known of the models that are loaded, each once."""
    return list({w.spec.name: w.spec for w in service.dispatcher.workers() if w.spec is not None}.values())


def model_of(given: str, service: Service) -> str:
    """The model a wish names: empty for the one that is loaded, however a client calls it.

    Raises:
        Refusal: 404, no such model is served here.
    """
    names = [spec.name for spec in specs(service)]
    configured = service.settings.model or DEFAULT_MODEL
    if not given or given in ALIASES or given in names or given == configured:
        return ""
    served = " ".join(names) or configured
    raise Refusal(404, "model_not_found", f"model '{given[:100]}' is not served here; served: {served}", param="model")


def with_itn(wish: Wish, itn: bool | None, service: Service) -> Wish:
    """Numbers in figures by default; without them the model is told so too, where it can be (as the command line)."""
    can_be_told = any(NO_ITN in ask.family_of(spec).options for spec in specs(service))
    return replace(wish, written=itn is not False, itn=False if itn is False and can_be_told else None)


def words(given: Sequence[str]) -> tuple[str, ...]:
    """Hotwords from text fields: one a line or with commas between them; never the name of a file."""
    pieces = [piece.strip() for text in given for piece in text.replace("，", ",").replace("\n", ",").split(",")]
    return tuple(piece for piece in pieces if piece)


def from_prompt(prompt: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names in a prompt, which become hotwords, and what is to be said of it: models here take no other context."""
    pieces = [piece.strip() for piece in re.split(r"[,，;；:：、\n]|[.!?](?=\s|$)|[。！？]", prompt) if piece.strip()]
    names = tuple(piece for piece in pieces if _is_name(piece))
    notes = [f"prompt: taken as hotwords: {', '.join(names)}"] if names else []
    if len(names) < len(pieces):
        notes.append("prompt: sentences were not used, the model takes no context; only names separated by commas are")
    return names, tuple(notes)


def _is_name(piece: str) -> bool:
    """Whether a piece of a prompt is short enough for a name, and can be a hotword."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in piece)
    if len(piece.split()) > NAME_WORDS or len(piece) > NAME_LETTERS or wide > NAME_CHARACTERS:
        return False
    try:
        return bool(hotword_list.read([piece]))
    except UserError:
        return False


async def in_thread(work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """What asks the database or the disk, away from the event loop."""
    return await to_thread.run_sync(functools.partial(work, *arguments, **named))


async def checked(wish: Wish, service: Service) -> Wish:
    """The same wish, when the loaded model can do it.

    Raises:
        Refusal: 400, with what it can do.
    """

    def check() -> None:
        options = replace(wish.options(), hotwords=hotword_list.read(list(wish.hotwords)))
        asked = ask.request(wish.tasks or None, options)
        for spec in specs(service):
            ask.fit(asked, spec)

    try:
        if wish.hotwords:  # thousands of them take their time
            await to_thread.run_sync(check)
        else:
            check()
    except UserError as error:
        raise Refusal(400, "cannot_do_that", str(error)) from None
    return wish


async def submitted(upload: Upload, wish: Wish, service: Service, *, user: str, mode: Mode, batch: str = "") -> Job:
    """A job of a recording that has arrived, in the database and on its way to a worker."""

    job = await service.books.once(
        functools.partial(
            service.jobs.add,
            id=upload.id,
            user=user,
            mode=mode,
            batch=batch,
            file_name=upload.file_name,
            audio=upload.audio,
            sha256=upload.sha256,
            bytes=upload.bytes,
            duration_s=upload.duration_s,
            wish=wish,
        )
    )
    await to_thread.run_sync(moved, upload, service)
    service.dispatcher.submit(job)
    return job


def admitted(request: Request, service: Service) -> str:
    """Who asks for something that is waited for; nobody may, while there is no worker that could do it.

    Raises:
        Refusal: 503, with the reason.
    """
    if service.dispatcher.problem:
        said = (
            f"nothing can be understood now ({service.dispatcher.problem}); POST /api/jobs takes recordings for later"
        )
        raise Refusal(503, "no_worker", said, retry_after_s=30)
    principal: Principal = request.state.principal
    return principal.name


async def finished(job: Job, service: Service, request: Request) -> Job:
    """Wait until a job has ended well; it is cancelled if the client goes away.

    Raises:
        Refusal: it failed or was cancelled.
    """
    async with cancelled_with(request, job, service):
        ended = await service.dispatcher.wait(job.id)
    return ended_well(ended)


def ended_well(job: Job) -> Job:
    """A job that is done.

    Raises:
        Refusal: it failed or was cancelled.
    """
    if job.state == "failed":
        raise failure(job)
    if job.state != "done":
        raise Refusal(409, "cancelled", f"job {job.id} was cancelled")
    return job


def failure(job: Job) -> Refusal:
    """What a job failed of: a request or recording that cannot be served is the client's, the rest is ours."""
    if job.error.startswith(FAULT):
        return Refusal(500, "internal_error", job.error)
    if job.error.startswith(LOST):
        return Refusal(503, "worker_lost", f"{job.error}; send it again", retry_after_s=10)
    return Refusal(400, "cannot_understand", job.error)


@asynccontextmanager
async def cancelled_with(request: Request, job: Job, service: Service) -> AsyncIterator[None]:
    """While the block waits for a job, watch the client: when it goes, the job is cancelled, and the wait ends."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        await service.dispatcher.cancel(job.id)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()


async def streamed(
    events: AsyncGenerator[Any, None], job: Job, service: Service, request: Request, end: str = ""
) -> StreamingResponse:
    """Events as a response. It begins with the first of them, so that what fails before has its status; what fails
    later is told as an event. A client that goes away cancels the job."""
    async with cancelled_with(request, job, service):
        first = await anext(events)

    async def all_of_them() -> AsyncIterator[sse.Event]:
        is_over = False
        try:
            yield sse.Event(first)
            async for event in events:
                yield sse.Event(event)
            if end:
                yield sse.Event(end)
            is_over = True
        except Refusal as error:
            is_over = True
            yield sse.Event(error.body())
        finally:
            if not is_over:
                with anyio.CancelScope(shield=True):
                    await events.aclose()
                    await service.dispatcher.cancel(job.id)

    return sse.response(all_of_them(), {"X-Job-Id": job.id})


def added(before: str, now: str) -> tuple[str, str]:
    """What a text has more than before, and all of it."""
    return (now[len(before) :], now) if now.startswith(before) else ("", before)


def result_of(job: Job) -> Result:
    """The result of a job that is done; its source is the name its owner gave the recording."""
    return replace(build(Result, job.result, f"result of job {job.id}"), source=job.file_name)
