"""`/api/history`: what was understood, to search, to put right, to delete and bring back, and to take home."""

import mimetypes
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from zhiyin import write
from zhiyin.serve import asking, history_export
from zhiyin.serve.filters import Query as Wanted
from zhiyin.serve.job import Job, Mode, State
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.routes_jobs import own
from zhiyin.serve.routes_understand import AsFormat, rendered
from zhiyin.serve.service import Service, TheService
from zhiyin.serve.tokens import Principal
from zhiyin.serve.views import HistoryPage, JobDetail, View, job_detail, job_view

MAX_IDS = 1000  # in one request
MAX_POINTS = 20_000  # of an outline
_FILES = {
    "csv": ("text/csv; charset=utf-8", "csv"),
    "json": ("application/json", "json"),
    "srt": ("application/zip", "zip"),
}

router = APIRouter(prefix="/api/history", tags=["history"])


class Filters(BaseModel, extra="forbid"):
    """Which rows; all that are given must fit."""

    text: str = Field("", max_length=1000, description="Words of the transcript, its edited form, or the file name.")
    user: str = Field("", max_length=200, description="Whose; only administrators may ask for others or for * (all).")
    state: Literal["", State] = Field("", description="Only of this state.")
    mode: Literal["", Mode] = Field("", description="How it came about.")
    task: str = Field("", max_length=50, description="Only where this task id was asked.")
    language: str = Field("", max_length=50, description="Only of this language.")
    model: str = Field("", max_length=200, description="Only by this model.")
    device: str = Field("", max_length=200, description="Only from this device.")
    label: str = Field("", max_length=200, description="Only with this label, e.g. happy.")
    batch: str = Field("", max_length=100, description="Only of this batch.")
    since: datetime | None = Field(None, description="Accepted at this time or later; UTC where no zone is given.")
    until: datetime | None = Field(None, description="Accepted before this time.")
    deleted: bool = Field(False, description="Only what was deleted, instead of only what was not.")
    order: Literal["newest", "oldest"] = Field("newest", description="Which come first.")


class PageFilters(Filters):
    """The same, page by page."""

    limit: int = Field(50, ge=1, le=500, description="Rows of a page.")
    after: str = Field("", max_length=200, description="`next` of the page before.")


class ExportFilters(Filters):
    """The same, as a file."""

    format: Literal["csv", "json", "srt"] = Field(
        "csv", description="csv for spreadsheets, json, or a zip of srt files."
    )
    ids: str = Field(
        "", max_length=40 * MAX_IDS, description="Only these, with commas between; the filters are not used."
    )


class Edit(BaseModel, extra="forbid"):
    """A transcript put right by a person."""

    edited: str | None = Field(max_length=2_000_000, description="The new text, kept beside the original; null: none.")


class Ids(BaseModel, extra="forbid"):
    """Several rows."""

    ids: list[str] = Field(min_length=1, max_length=MAX_IDS, description="Ids of the rows.")


class Changed(View):
    """How many rows were changed."""

    changed: int = Field(description="Rows that were changed; the others were not there, or were so already.")


class Outline(View):
    """The outline of a recording, to be drawn."""

    duration_s: float = Field(description="Length of the recording in seconds.")
    peaks: list[tuple[float, float]] = Field(description="Lowest and highest sample of equal stretches.")


@router.get("", summary="Search the history")
def search(request: Request, given: Annotated[PageFilters, Query()], service: TheService) -> HistoryPage:
    """Rows that fit, a page at a time."""
    page = service.history.search(_query(given, request, given.limit, given.after))
    return HistoryPage(rows=[job_view(job) for job in page.rows], next=page.next, total=page.total)


@router.get(
    "/export",
    summary="Take the history home",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}, "application/json": {}, "application/zip": {}}}},
)
def export(request: Request, given: Annotated[ExportFilters, Query()], service: TheService) -> Response:
    """Everything that fits the filters as one file, which is written while it is sent."""
    if given.ids:
        principal: Principal = request.state.principal
        request.state.audit_object = given.ids
        ids = given.ids.split(",")[:MAX_IDS]
        jobs = service.history.pick(ids, None if principal.is_admin else principal.name)
    else:
        jobs = service.history.every(_query(given, request))
    to_bytes = {"csv": history_export.csv_lines, "json": history_export.json_array, "srt": history_export.srt_zip}
    media, suffix = _FILES[given.format]
    name = f"history-{datetime.now(timezone.utc):%Y-%m-%d}.{suffix}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(to_bytes[given.format](jobs), media_type=media, headers=headers)


@router.post("/delete", summary="Delete rows")
def delete_all(request: Request, given: Ids, service: TheService) -> Changed:
    """They can be brought back until they are purged."""
    request.state.audit_object = ",".join(given.ids)
    return Changed(changed=service.history.delete(given.ids, _name(request)))


@router.post("/undo", summary="Bring deleted rows back")
def undo(request: Request, given: Ids, service: TheService) -> Changed:
    """The opposite of deleting."""
    request.state.audit_object = ",".join(given.ids)
    return Changed(changed=service.history.undo(given.ids, _name(request)))


@router.get("/{id}", summary="A row")
def show(id: str, request: Request, service: TheService) -> JobDetail:
    """Everything that is kept of a recording."""
    return job_detail(own(id, request, service))


@router.patch("/{id}", summary="Put a transcript right")
def edit(id: str, request: Request, given: Edit, service: TheService) -> JobDetail:
    """What the model said stays as it was."""
    job = own(id, request, service)
    edited = service.history.edit(id, job.user, given.edited)
    if edited is None:
        raise Refusal(409, "not_done", f"{id} has no text to put right, it is {job.state}")
    return job_detail(edited)


@router.delete("/{id}", summary="Delete a row")
def delete(id: str, request: Request, service: TheService) -> Changed:
    """It can be brought back until it is purged."""
    job = own(id, request, service)
    return Changed(changed=service.history.delete([id], job.user))


@router.get(
    "/{id}/result",
    summary="The result of a row, as a file",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/plain": {}}}},
)
def result(id: str, request: Request, service: TheService, format: AsFormat = "txt") -> Response:
    """As a file of the command line, to be saved."""
    job = own(id, request, service)
    if job.state != "done":
        raise Refusal(409, "not_done", f"{id} has no result, it is {job.state}")
    headers = {"Content-Disposition": f'attachment; filename="{id}.{format}"'}
    return rendered(write.FORMATS[format](asking.result_of(job)), format, headers)


@router.get(
    "/{id}/audio",
    summary="The recording of a row",
    response_class=Response,
    responses={200: {"content": {"audio/*": {}}}, 206: {"description": "The part that was asked for."}},
)
def audio(id: str, request: Request, service: TheService) -> Response:
    """As it was sent; parts of it with `Range`."""
    job = own(id, request, service)
    kind = mimetypes.guess_type(f"x{_suffix(job)}")[0] or "application/octet-stream"
    if not kind.startswith(("audio/", "video/")):
        kind = "application/octet-stream"
    return FileResponse(
        _path(job, service),
        media_type=kind,
        filename=f"{id}{_suffix(job)}",
        content_disposition_type="inline",
        headers={"Content-Security-Policy": "sandbox; default-src 'none'", "X-Content-Type-Options": "nosniff"},
    )


@router.get("/{id}/peaks", summary="The outline of a recording")
async def peaks(
    id: str,
    request: Request,
    service: TheService,
    points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="How many stretches.")] = 1000,
) -> Outline:
    """Lowest and highest sample of equal stretches of the recording, as it is drawn above its segments."""
    job = await to_thread.run_sync(own, id, request, service)
    found = await service.recordings.look(_path(job, service), points)
    return Outline.model_validate(found)


def _path(job: Job, service: Service) -> Path:
    path = service.history.recording(job)
    if path is None:
        raise Refusal(404, "no_audio", f"the recording of {job.id} is not kept any more; its text is")
    return path


def _suffix(job: Job) -> str:
    return "." + job.audio.rpartition(".")[2] if "." in job.audio else ""


def _name(request: Request) -> str | None:
    """Whose rows may be changed; an administrator's request may change anybody's."""
    principal: Principal = request.state.principal
    return None if principal.is_admin else principal.name


def _query(given: Filters, request: Request, limit: int = 50, after: str = "") -> Wanted:
    """The filters for the database; only administrators see what is not theirs."""
    principal: Principal = request.state.principal
    if given.user not in ("", principal.name) and not principal.is_admin:
        raise Refusal(403, "not_yours", "only administrators see the history of others; leave `user` out", param="user")
    user = None if given.user == "*" else given.user or principal.name
    return Wanted(
        text=given.text,
        user=user,
        states=(given.state,) if given.state else (),
        modes=(given.mode,) if given.mode else (),
        tasks=(given.task,) if given.task else (),
        language=given.language,
        model=given.model,
        device=given.device,
        label=given.label,
        batch=given.batch,
        since=_utc(given.since),
        until=_utc(given.until),
        deleted=given.deleted,
        order=given.order,
        limit=limit,
        after=after,
    )


def _utc(given: datetime | None) -> datetime | None:
    return given.replace(tzinfo=timezone.utc) if given is not None and given.tzinfo is None else given
