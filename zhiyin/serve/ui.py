"""The web page: Gradio in the same application, behind the same authentication; scripts of ours that use our own API.

Gradio draws tabs and form fields; it runs no Python for anybody and moves no files. All of its routes but those that
bring its own scripts and styles are closed (`_OnlyReading`): uploads go to ``/api/jobs``, recordings are played from
``/api/history/{id}/audio``, each for its owner only.
"""

import logging
import os
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from zhiyin.serve import refusal
from zhiyin.serve.login import COOKIE as SESSION_COOKIE
from zhiyin.serve.service import Service
from zhiyin.serve.ui_words import LANGUAGES, choose, words
from zhiyin.tasks.table import TASKS

_LOG = logging.getLogger("zhiyin.serve")
LANGUAGE_COOKIE = "zhiyin_language"
_YEAR_S = 365 * 86400
_STATIC = Path(__file__).parent / "ui_static"
_OPEN = ("/theme.css", "/assets/", "/static/", "/svelte/")  # of Gradio's routes; and the page itself


def mount(app: FastAPI, service: Service) -> None:
    """Add the page to the application: ``/`` leads to ``/zh/`` or ``/en/``, and ``/ui/`` has what they need.

    Args:
        app: the other routes must be there already, and the authentication.
        service: whose limits are shown.
    """
    _LOG.info("loading the page: Gradio, about five seconds")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    import gradio

    from zhiyin.serve.ui_blocks import build, theme

    _routes(app, service)
    for language in LANGUAGES:
        gradio.mount_gradio_app(
            app,
            build(gradio, words(language)),
            path=f"/{language}",
            theme=theme(gradio),
            css_paths=[_STATIC / "page.css"],
            head='<link rel="icon" href="/ui/icon.svg"><script type="module" src="/ui/page.js"></script>',
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            show_error=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            allowed_paths=[],
            app_kwargs={
                "middleware": [Middleware(_OnlyReading)],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )


class _OnlyReading:
    """Gradio's routes but those a page without Python behind it needs are as if they were not there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        if (
            scope["type"] == "http"
            and scope["method"] in ("GET", "HEAD")
            and (path in ("", "/") or path.startswith(_OPEN))
        ):
            await self._app(scope, receive, send)
            return
        missing = refusal.Refusal(404, "not_found", "this address is not in use; the page uses /api, see /openapi.json")
        if scope["type"] == "http":
            await refusal.answer(missing, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "not in use"})


def _routes(app: FastAPI, service: Service) -> None:
    """What the page is made of besides Gradio; not part of the API."""

    @app.get("/", include_in_schema=False)
    def root(request: Request) -> Response:
        language = choose(request.cookies.get(LANGUAGE_COOKIE, ""), request.headers.get("accept-language", ""))
        headers = {"Vary": "Accept-Language, Cookie", "Cache-Control": "no-store"}
        return RedirectResponse(f"/{language}/", 307, headers)

    @app.get("/ui/language/{language}", include_in_schema=False)
    def switch(language: str) -> Response:
        answer = RedirectResponse(f"/{language}/" if language in LANGUAGES else "/", 303)
        if language in LANGUAGES:
            answer.set_cookie(LANGUAGE_COOKIE, language, max_age=_YEAR_S, httponly=True, samesite="strict")
        return answer

    @app.get("/ui/words/{language}.json", include_in_schema=False)
    def texts(language: str) -> Response:
        if language not in LANGUAGES:
            raise refusal.Refusal(404, "no_such_language", f"the page speaks {' '.join(LANGUAGES)}", param="language")
        return JSONResponse(words(language), headers={"Cache-Control": "no-cache"})

    @app.get("/ui/session.json", include_in_schema=False)
    def session(request: Request) -> Response:
        return JSONResponse(_session(request, service), headers={"Cache-Control": "no-store"})

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return FileResponse(_STATIC / "icon.svg", media_type="image/svg+xml")

    app.mount("/ui", _Fresh(directory=_STATIC), name="ui")


def _session(request: Request, service: Service) -> dict[str, object]:
    """Who asks, and what the page should know before it starts."""
    principal = request.state.principal
    return {
        "name": principal.name,
        "role": principal.role,
        "can_sign_out": SESSION_COOKIE in request.cookies,
        "tasks": {task.id: {"zh": task.title_zh, "en": task.title} for task in TASKS},
        "upload_bytes": service.settings.limits.upload_bytes,
        "audio_s": service.settings.limits.audio_s,
    }


class _Fresh(StaticFiles):
    """Our scripts: browsers ask each time whether they changed, so that an update is seen at once."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """See StaticFiles."""
        answer = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        answer.headers["Cache-Control"] = "no-cache"
        return answer
