"""Whether the service lives and is ready; its devices and models; spans of speech."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import zhiyin
from zhiyin.audio.vad import Thresholds
from zhiyin.serve import form
from zhiyin.serve.dispatch import WorkerState
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.security import require_admin
from zhiyin.serve.service import TheService
from zhiyin.serve.uploads import receive
from zhiyin.serve.views import View

VAD_AUDIO_S = 4 * 3600.0
_PARTS = ("numpy", "onnxruntime", "fastapi", "uvicorn", "sqlalchemy", "gradio")

router = APIRouter()
_USUAL = Thresholds()


class Health(View):
    """Whether the process answers."""

    status: Literal["ok", "loading"] = Field(description="ok, or loading while no worker is ready.")


class WorkerView(View):
    """A worker process and its device."""

    asked: str = Field(description="Device that was asked for.")
    device: str = Field(description="Device it really runs on, with the reason; empty while there is no model.")
    backend: str = Field(description="How the model is executed, e.g. onnx.")
    model: str = Field(description="Name of the model.")
    model_hash: str = Field(description="Which weights these are.")
    precision: str = Field(description="Number format of the weights.")
    tasks: list[str] = Field(description="Task ids the model can do.")
    languages: list[str] = Field(description="Languages it knows; none where it does not say.")
    state: Literal["loading", "ready", "failed", "unloaded", "lost"] = Field(description="How it is.")
    error: str = Field(description="Why it failed; empty otherwise.")
    memory_bytes: int | None = Field(description="Memory of the process; null while it is not known.")
    device_memory_used_bytes: int | None = Field(description="Memory of the device that is in use, where it says so.")
    device_memory_total_bytes: int | None = Field(description="Memory of the device, where it says so.")
    busy: int = Field(description="Recordings it works on.")
    streams: int = Field(description="Live streams it works on.")
    slots: int = Field(description="Recordings it works on at once.")
    pid: int | None = Field(description="Process id; null while there is none.")


class Workers(View):
    """The devices of the service."""

    workers: list[WorkerView] = Field(description="One for each device.")


class System(View):
    """What an operator looks at."""

    version: str = Field(description="Of zhiyin.")
    parts: dict[str, str] = Field(description="Versions of what it is built on.")
    python: str = Field(description="Version of Python.")
    machine: str = Field(description="Operating system and processor.")
    cpus: int = Field(description="Processors this process may use.")
    jobs_open: int = Field(description="Jobs that wait or run.")
    disk_free_bytes: int = Field(description="Free on the disk of the data.")
    disk_total_bytes: int = Field(description="Size of that disk.")
    keep_days: int = Field(description="Days after which rows and recordings are removed; 0: never.")


class Load(BaseModel, extra="forbid"):
    """Another model."""

    model: str = Field("", max_length=1000, description="Name or folder on the server; empty: the configured one.")


class VadForm(BaseModel, extra="forbid"):
    """When speech begins and ends; see docs/recordings.md."""

    start: float = Field(_USUAL.start, gt=0, lt=1, description="Probability at which speech begins.")
    end: float = Field(_USUAL.end, gt=0, lt=1, description="Probability below which it may end.")
    peak: float = Field(_USUAL.peak, gt=0, lt=1, description="A span that never gets this probable is dropped.")
    min_silence_s: float = Field(_USUAL.min_silence_s, ge=0, le=60, description="Silence this long ends a span.")
    min_speech_s: float = Field(_USUAL.min_speech_s, ge=0, le=60, description="Shorter spans are dropped.")
    pad_s: float = Field(_USUAL.pad_s, ge=0, le=30, description="Added on both sides, at most half of min_silence_s.")
    points: int = Field(0, ge=0, le=20_000, description="How many stretches of the outline; 0: no outline.")


class SpanView(View):
    """A stretch of speech."""

    start_s: float = Field(description="Where it begins, in seconds.")
    end_s: float = Field(description="Where it ends.")
    peak: float = Field(description="Highest probability in it.")


class Speech(View):
    """Where somebody speaks."""

    duration_s: float = Field(description="Length of the recording in seconds.")
    spans: list[SpanView] = Field(description="Stretches of speech, in order.")
    peaks: list[tuple[float, float]] = Field(description="Outline: lowest and highest sample of equal stretches.")


@router.get("/healthz", tags=["system"], summary="Does it live")
async def healthz() -> Health:
    """Answered by the event loop alone: no token, no database, no worker."""
    return Health(status="ok")


@router.get(
    "/readyz", tags=["system"], summary="Can it work", response_model=Health, responses={503: {"model": Health}}
)
async def readyz(service: TheService) -> JSONResponse:
    """503 while no worker has its model loaded."""
    is_ready = service.dispatcher.is_ready
    return JSONResponse({"status": "ok" if is_ready else "loading"}, 200 if is_ready else 503)


@router.get("/api/device", tags=["system"], summary="Devices and their models")
async def device(service: TheService) -> Workers:
    """What each worker really runs on, and how it is."""
    return Workers(workers=[_worker(one) for one in service.dispatcher.workers()])


@router.get("/api/models", tags=["system"], summary="Devices and their models", include_in_schema=False)
async def models(service: TheService) -> Workers:
    """The same."""
    return await device(service)


@router.get("/api/system", tags=["system"], summary="Versions, queue and disk")
def system(service: TheService) -> System:
    """What an operator looks at first."""
    disk = shutil.disk_usage(service.folders.data)
    return System(
        version=zhiyin.__version__,
        parts={name: found for name in _PARTS if (found := _version(name))},
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        jobs_open=service.jobs.open_of("")[0],
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        keep_days=service.settings.keep_days,
    )


@router.post("/api/device/load", tags=["system"], summary="Load a model", dependencies=[Depends(require_admin)])
@router.post("/api/models/load", include_in_schema=False, dependencies=[Depends(require_admin)])
async def load(given: Load, service: TheService) -> Workers:
    """Switch to another model, or load the one that was unloaded. Administrators only."""
    await service.dispatcher.load(given.model)
    return await device(service)


@router.post("/api/device/unload", tags=["system"], summary="Unload the model", dependencies=[Depends(require_admin)])
@router.post("/api/models/unload", include_in_schema=False, dependencies=[Depends(require_admin)])
async def unload(service: TheService) -> Workers:
    """Give its memory back; the next job loads it again. Administrators only."""
    await service.dispatcher.unload()
    return await device(service)


@router.post("/api/device/reset", tags=["system"], summary="Restart the workers", dependencies=[Depends(require_admin)])
async def reset(service: TheService) -> Workers:
    """New processes on all devices; what they worked on begins again. Administrators only."""
    await service.dispatcher.reset()
    return await device(service)


@router.post("/api/vad", tags=["understand"], summary="Where somebody speaks", openapi_extra=form.body(VadForm))
async def vad(request: Request, service: TheService) -> Speech:
    """Spans of speech in a recording, with your thresholds; nothing is kept."""
    async with receive(request, service, request.state.principal.name, audio_s=VAD_AUDIO_S) as sent:
        given = form.read(VadForm, sent.fields)
        thresholds = {name: value for name, value in given.model_dump().items() if name != "points"}
        try:
            Thresholds(**thresholds)
        except ValueError:
            said = "thresholds contradict each other: end <= start <= peak, pad_s at most half of min_silence_s"
            raise Refusal(400, "invalid_value", said) from None
        found = await service.recordings.look(sent.upload.part, given.points, thresholds)
    return Speech.model_validate(found)


def _worker(state: WorkerState) -> WorkerView:
    shown = {name: getattr(state, name) for name in WorkerView.model_fields if not name.startswith("device_memory")}
    used, total = state.device_memory or (None, None)
    return WorkerView.model_validate(
        {**shown, "device_memory_used_bytes": used, "device_memory_total_bytes": total, "pid": state.pid or None}
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
