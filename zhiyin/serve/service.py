"""What every route works with; made once when the application is made."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from zhiyin.serve.audit import Audit
from zhiyin.serve.bookkeeper import Bookkeeper
from zhiyin.serve.dispatch import Dispatcher
from zhiyin.serve.history import History
from zhiyin.serve.hotword_lists import HotwordLists
from zhiyin.serve.jobs import Jobs
from zhiyin.serve.limits import Allowance
from zhiyin.serve.metrics import Metrics
from zhiyin.serve.recordings import Recordings
from zhiyin.serve.settings import Folders, Settings
from zhiyin.serve.tokens import Tokens


@dataclass(frozen=True)
class Service:
    """The parts of one running service; in a request it is ``request.app.state.zhiyin``."""

    settings: Settings
    folders: Folders
    engine: Engine
    jobs: Jobs
    books: Bookkeeper
    history: History
    hotwords: HotwordLists
    dispatcher: Dispatcher
    limits: Allowance
    audit: Audit
    metrics: Metrics
    tokens: Tokens
    recordings: Recordings


async def of(request: Request) -> Service:
    """The service that a request came to; a dependency of the routes, async so that it costs no thread."""
    service: Service = request.app.state.zhiyin
    return service


TheService = Annotated[Service, Depends(of)]
