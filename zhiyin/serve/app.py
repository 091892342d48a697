"""The service as one ASGI application: what its parts are, in which order they stand, and how errors look."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

import zhiyin
from zhiyin.errors import UserError
from zhiyin.serve import (
    database,
    docs_page,
    form,
    live_record,
    live_socket,
    openai_chat,
    openai_models,
    openai_transcriptions,
    realtime,
    refusal,
    routes_history,
    routes_hotwords,
    routes_jobs,
    routes_system,
    routes_understand,
    security,
    uploads,
)
from zhiyin.serve.audit import Audit
from zhiyin.serve.bookkeeper import Bookkeeper
from zhiyin.serve.dispatch import Dispatcher
from zhiyin.serve.history import History
from zhiyin.serve.hotword_lists import HotwordLists
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.limits import Allowance
from zhiyin.serve.metrics import Metrics
from zhiyin.serve.recordings import Recordings
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service
from zhiyin.serve.settings import Settings, folders
from zhiyin.serve.tokens import Tokens
from zhiyin.serve.views import Error

_LOG = logging.getLogger("zhiyin.serve")
_PURGE_EVERY_S = 3600.0
_PARTS: tuple[ModuleType, ...] = (
    openai_transcriptions,
    openai_chat,
    openai_models,
    routes_understand,
    routes_jobs,
    routes_history,
    routes_hotwords,
    routes_system,
    realtime,
    live_socket,
    docs_page,
)
_STATUS_OF = {"locked": 503, "full": 507, "lost": 503}  # of a database that cannot
_ABOUT = """Speech in, text and meaning out. `/v1` is what OpenAI's clients expect, `/api` is everything else.

Send a token as `Authorization: Bearer zy_...` unless the service listens on loopback and has none. Every error is
`{"error": {"message", "type", "param", "code"}}`; 429, 503 and 507 say in `Retry-After` when to try again."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "The request or the recording cannot be served as it is."},
    401: {"model": Error, "description": "No token, or one that is not valid."},
    403: {"model": Error, "description": "Not allowed to this user."},
    404: {"model": Error, "description": "There is no such thing, or it is somebody else's."},
    429: {"model": Error, "description": "A limit of this user; Retry-After says when to try again."},
    503: {"model": Error, "description": "The service is full or not ready; Retry-After says when to try again."},
}


def create(settings: Settings, *, jobs: Jobs | None = None, dispatcher: Dispatcher | None = None) -> FastAPI:
    """The application; workers start with its lifespan.

    Args:
        settings: of the installation.
        jobs: another queue than that of the database, for tests.
        dispatcher: another way to have jobs done, for tests.

    Raises:
        UserError: the data folder or the database cannot be used, or the settings contradict each other.
    """
    service = _service(settings, jobs, dispatcher)
    app = FastAPI(
        title="zhiyin",
        version=zhiyin.__version__,
        description=_ABOUT,
        docs_url=None,  # it would fetch scripts from elsewhere; ours is docs_page
        redoc_url=None,
        lifespan=_lifespan,
        responses=_ERRORS,
    )
    app.state.zhiyin = service
    security.install(app, service)
    _answer_errors(app)
    for part in _PARTS:
        app.include_router(part.router)
    _answer_unknown(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    if settings.page:
        from zhiyin.serve import ui  # brings Gradio

        ui.mount(app, service)
    return app


def _service(settings: Settings, jobs: Jobs | None, dispatcher: Dispatcher | None) -> Service:
    places = folders(settings)
    engine = database.open(database.url(settings, places))
    jobs, metrics = jobs or Jobs(engine), Metrics()
    books = Bookkeeper(jobs, places.journals)
    return Service(
        settings=settings,
        folders=places,
        engine=engine,
        jobs=jobs,
        books=books,
        history=History(engine, places),
        hotwords=HotwordLists(engine),
        dispatcher=dispatcher or Dispatcher(settings, jobs, metrics, books),
        limits=Allowance(settings.limits, engine, jobs, places),
        audit=Audit(places, settings.audit_days, metrics.audit_failed),
        metrics=metrics,
        tokens=Tokens(engine),
        recordings=Recordings(),
    )


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One process for each data folder: what another left behind is put right, then the workers start."""
    service: Service = app.state.zhiyin
    with _only_one(service):
        await to_thread.run_sync(live_record.recover, service)  # first: what is left then belongs to nobody
        await to_thread.run_sync(uploads.recover, service)
        await service.dispatcher.start()
        keeping = asyncio.ensure_future(_keep(service))
        try:
            yield
        finally:
            keeping.cancel()
            await service.dispatcher.stop()
            await service.books.stop()
            await service.recordings.close()
            service.audit.close()
            service.engine.dispose()


@contextlib.contextmanager
def _only_one(service: Service) -> Iterator[None]:
    path = service.folders.data / ".lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"data folder {path.parent}: another zhiyin serve uses it; give this one another --data DIR"
            ) from None
        file.write(str(os.getpid()))
        file.flush()
        yield


async def _keep(service: Service) -> None:
    """Remove what is older than the settings keep, now and every hour."""
    while True:
        try:
            await to_thread.run_sync(_purge, service)
        except UserError as error:
            _LOG.warning("old rows were not removed: %s", error)
        await asyncio.sleep(_PURGE_EVERY_S)


def _purge(service: Service) -> None:
    settings = service.settings
    gone = service.history.purge(settings.keep_days, deleted_days=settings.keep_deleted_days)
    if gone.rows or gone.orphans:
        _LOG.info("removed %d rows and %d recordings", gone.rows, gone.audio_files + gone.orphans)


def _answer_errors(app: FastAPI) -> None:
    """Every error in one shape; what is not handled here is a fault of ours, which the outermost middleware answers."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, database.Unavailable):
            error = Refusal(_STATUS_OF[error.reason], f"database_{error.reason}", str(error), retry_after_s=5)
        if not isinstance(error, Refusal):
            error = Refusal(400, "invalid_request", str(error))
        headers = error.headers() | ({"Connection": "close"} if error.status in (408, 413, 507) else {})
        return JSONResponse(error.body(), error.status, headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return await refused(request, form.refusal(error.errors()[0]))

    async def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse(refusal.body(error.status_code, str(error.detail)), error.status_code, error.headers)

    app.add_exception_handler(UserError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)


def _answer_unknown(app: FastAPI) -> None:
    """What is no route of ours under /api and /v1 is said as JSON; below them the page takes every address."""

    async def unknown(request: Request, rest: str) -> JSONResponse:
        every = (route for part in _PARTS for route in part.router.routes)
        others = (route for route in every if route.matches(request.scope)[0] is Match.PARTIAL)
        kinds = {method for route in others for method in getattr(route, "methods", None) or ()}
        if kinds:
            allowed = ", ".join(sorted(kinds))
            said = f"{request.method} is not possible here; possible: {allowed}"
            return JSONResponse(refusal.body(405, said), 405, {"Allow": allowed})
        raise Refusal(404, "no_such_route", "there is no such address; /docs lists all")

    every = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
    for prefix in ("/api", "/v1"):
        app.add_api_route(prefix + "/{rest:path}", unknown, methods=every, include_in_schema=False)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; FastAPI's own shape of validation errors never occurs."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path in schema["paths"].values():
            for operation in path.values():
                operation.get("responses", {}).pop("422", None)
        parts = schema["components"]["schemas"]
        parts.update(openai_chat.schemas())
        for name in ("HTTPValidationError", "ValidationError"):
            parts.pop(name, None)
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{}, {"token": []}]
        app.openapi_schema = schema
    return app.openapi_schema
