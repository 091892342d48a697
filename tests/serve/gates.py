"""A small application behind the real middlewares, for tests of these alone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from zhiyin.serve import database, refusal, security
from zhiyin.serve.audit import Audit
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.limits import Allowance
from zhiyin.serve.metrics import Metrics
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.settings import Folders, Settings, folders
from zhiyin.serve.tokens import Tokens

HERE = "http://127.0.0.1:7860"


@dataclass(frozen=True)
class Worker:
    """What metrics look at."""

    device: str = "cpu"
    state: str = "ready"
    memory_bytes: int = 7 << 20
    device_memory: tuple[int, int] | None = (3, 10)


@dataclass(frozen=True)
class Small:
    """The parts of the service that the middlewares need."""

    settings: Settings
    folders: Folders
    tokens: Tokens
    limits: Allowance
    audit: Audit
    metrics: Metrics
    dispatcher: Any

    def lines(self) -> list[str]:
        """The audit log so far."""
        return [line for path in sorted(self.folders.audit.iterdir()) for line in path.read_text().splitlines()]


def small(data: Path, **given: Any) -> Small:
    """The parts, in a folder."""
    settings = Settings(data=data, **given)
    places = folders(settings)
    engine = database.open(database.url(settings, places))
    metrics = Metrics()
    limits = Allowance(settings.limits, engine, Jobs(engine), places)
    audit = Audit(places, settings.audit_days, metrics.audit_failed)
    return Small(settings, places, Tokens(engine), limits, audit, metrics, SimpleNamespace(workers=lambda: [Worker()]))


def application(service: Small) -> FastAPI:
    """Routes of each kind behind the middlewares."""
    app = FastAPI(docs_url=None, redoc_url=None)
    security.install(app, service)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers())

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(refusal.body(error.status_code, str(error.detail)), error.status_code, error.headers)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {}

    @app.get("/api/whoami")
    async def whoami(request: Request) -> dict[str, str]:
        found = security.principal(request)
        return {"name": found.name, "role": found.role}

    @app.get("/api/history/{id}")
    async def one(id: str) -> dict[str, str]:
        return {"id": id}

    @app.post("/api/history/delete")
    async def change(request: Request, wish: dict[str, Any]) -> dict[str, int]:
        request.state.audit_object = "made-1"
        return {"bytes": len(str(wish))}

    @app.post("/api/reset", dependencies=[Depends(security.require_admin)])
    async def reset() -> dict[str, str]:
        return {}

    @app.get("/api/fault")
    async def fault() -> None:
        said = "a secret transcript"
        raise RuntimeError(said * 2)

    @app.get("/api/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(3):
                yield f"data: {number}\n\n".encode()

        return StreamingResponse(parts(), media_type="text/event-stream", headers={"Access-Control-Allow-Origin": "*"})

    @app.get("/zh/")
    async def page() -> dict[str, str]:
        return {}

    @app.websocket("/api/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json({"name": websocket.state.principal.name})
        websocket.state.audit_object = "stored-1"
        await websocket.close()

    return app


def client(service: Small, base_url: str = HERE) -> TestClient:
    """A client of the application; redirects are not followed."""
    return TestClient(application(service), base_url=base_url, follow_redirects=False)
