"""`/api/jobs`: recordings that are understood while nobody waits; progress as events, results in every format."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from zhiyin import write
from zhiyin.serve import asking, form, sse
from zhiyin.serve.job import Job, State
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.routes_understand import AsFormat, WishForm, rendered, wish_of
from zhiyin.serve.service import Service, TheService
from zhiyin.serve.tokens import Principal
from zhiyin.serve.uploads import receive
from zhiyin.serve.views import JobDetail, JobList, JobView, job_detail, job_view

ENDED = ("done", "failed", "cancelled")
_MARK = re.compile("[0-9]{1,9}")

router = APIRouter(prefix="/api/jobs", tags=["jobs"])


class JobForm(WishForm):
    """What is asked of a recording, and how the job is to be filed."""

    mode: Literal["upload", "microphone", "batch"] = Field("upload", description="How the recording came about.")
    batch: str = Field("", max_length=100, description="Name under which jobs are listed together.")


@router.post("", status_code=202, summary="Send a recording", openapi_extra=form.body(JobForm))
async def create(request: Request, service: TheService) -> JobView:
    """The recording is stored and waits for its turn; the answer comes at once."""
    user = request.state.principal.name
    async with receive(request, service, user) as sent:
        given = form.read(JobForm, sent.fields)
        wish = await asking.checked(await asking.in_thread(wish_of, given, service, user), service)
        job = await asking.submitted(sent.upload, wish, service, user=user, mode=given.mode, batch=given.batch)
    request.state.audit_object = job.id
    return job_view(job)


@router.get("", summary="Jobs, newest first")
def list_jobs(
    request: Request,
    service: TheService,
    state: Annotated[Literal["", State], Query(description="Only of this state.")] = "",
    batch: Annotated[str, Query(max_length=100, description="Only of this batch.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 100,
) -> JobList:
    """Your jobs, newest first; the whole history with all filters is under /api/history."""
    jobs = service.jobs.recent(request.state.principal.name, states=(state,) if state else (), batch=batch, limit=limit)
    return JobList(jobs=[job_view(job) for job in jobs])


@router.get("/{id}", summary="A job")
def show(id: str, request: Request, service: TheService) -> JobDetail:
    """How far it is and, when it is done, what was understood."""
    return job_detail(own(id, request, service))


@router.get(
    "/{id}/events",
    summary="What happens to a job, as it happens",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(id: str, request: Request, service: TheService) -> Response:
    """Server-sent events, each with a JSON object: `{"event": "state", "state"}`, `{"event": "progress", "until_s",
    "duration_s"}`, `{"event": "segment", "segment"}`; they end after the final state. A client that reconnects with
    `Last-Event-ID` gets the segments it has not seen."""
    job = await to_thread.run_sync(own, id, request, service)
    seen = request.headers.get("last-event-id", "")
    return sse.response(_events(job, service, int(seen) if _MARK.fullmatch(seen) else 0))


@router.get(
    "/{id}/result",
    summary="The result of a job",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/plain": {}}}},
)
def result(id: str, request: Request, service: TheService, format: AsFormat = "json") -> Response:
    """As a file of the command line; 409 while it is not done."""
    job = own(id, request, service)
    if job.state != "done":
        why = f": {job.error}" if job.error else ""
        raise Refusal(409, "not_done", f"job {id} has no result, it is {job.state}{why}")
    return rendered(write.FORMATS[format](asking.result_of(job)), format, {})


@router.post("/{id}/cancel", summary="Cancel a job")
async def cancel(id: str, request: Request, service: TheService) -> JobView:
    """A job that waits or runs ends; one that has ended stays as it is, with 409."""
    job = await to_thread.run_sync(own, id, request, service)
    if not await service.dispatcher.cancel(id):
        raise Refusal(409, "already_ended", f"job {id} cannot be cancelled any more, it is {job.state}")
    return job_view(await to_thread.run_sync(own, id, request, service))


@router.post("/{id}/retry", status_code=202, summary="Try a job again")
async def retry(id: str, request: Request, service: TheService) -> JobView:
    """A job that failed or was cancelled waits again, if its recording is still there."""
    job = await to_thread.run_sync(own, id, request, service)
    if job.state not in ("failed", "cancelled"):
        raise Refusal(409, "not_failed", f"job {id} is {job.state}; only failed and cancelled jobs are tried again")
    if not job.audio or not (service.folders.audio / job.audio).is_file():
        raise Refusal(409, "no_audio", f"the recording of job {id} is not there any more; send it again")
    with await to_thread.run_sync(service.limits.admit, job.user):
        await to_thread.run_sync(service.jobs.retry, id)
    again = await to_thread.run_sync(own, id, request, service)
    service.dispatcher.submit(again)
    return job_view(again)


def own(id: str, request: Request, service: Service) -> Job:
    """A job that this person may see; asks the database.

    Raises:
        Refusal: 404; whether it is somebody else's is not said.
    """
    principal: Principal = request.state.principal
    job = service.jobs.get(id, None if principal.is_admin else principal.name)
    if job is None:
        raise Refusal(404, "no_such_job", f"no job '{id[:64]}'; GET /api/jobs lists yours", param="id")
    request.state.audit_object = job.id
    return job


async def _events(job: Job, service: Service, seen: int) -> AsyncIterator[sse.Event]:
    """Events of a job with the number of segments sent so far as the mark to go on from."""
    segments = 0
    if job.state in ENDED:
        for segment in (job.segments or [])[seen:]:
            segments += 1
            yield sse.Event({"event": "segment", "segment": segment}, str(seen + segments))
        yield sse.Event({"event": "state", "state": job.state, "error": job.error}, str(seen + segments))
        return
    async for event in service.dispatcher.events(job.id):
        if event["event"] == "segment":
            segments += 1
            if segments <= seen:
                continue
        yield sse.Event(event, str(max(segments, seen)))
