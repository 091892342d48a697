"""`POST /api/understand`: everything the command line can, over HTTP; the answer is the command line's."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from zhiyin import write
from zhiyin.serve import asking, form
from zhiyin.serve.job import Wish
from zhiyin.serve.routes_hotwords import no_list
from zhiyin.serve.service import Service, TheService
from zhiyin.serve.uploads import receive
from zhiyin.serve.views import ResultView

MEDIA = {"json": "application/json", "txt": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"} | {
    "tsv": "text/tab-separated-values"
}
Format = Literal["json", "txt", "srt", "vtt", "tsv"]
AsFormat = Annotated[Format, Query(description="Of the answer.")]

router = APIRouter(tags=["understand"])


class WishForm(BaseModel, extra="forbid"):
    """What is asked of a recording."""

    tasks: str = Field("", description="Task ids, e.g. asr,sgc; empty: the transcript.")
    instruction: str = Field("", description="A request in plain language instead of tasks.")
    language: str = Field("", description="Code of the language that is spoken; a model that does not know it refuses.")
    into: str = Field("", description="Code of the language to translate into.")
    hotwords: str = Field("", description="Names likely to be said: one a line or with commas; wrong => right pairs.")
    hotword_list: str = Field("", description="Name of a list saved under /api/hotwords, used too.")
    speakers: bool = Field(False, description="Say who speaks, where the model can.")
    itn: bool | None = Field(None, description="Numbers in figures (the default) or, if false, as they were spoken.")
    template: str = Field("", description="Prompt template of the model's family.")
    channels: Literal["mix", "split"] = Field("mix", description="Average the channels, or understand each by itself.")
    model: str = Field("", description="Name of the model; empty: the one that is loaded.")


class UnderstandForm(WishForm):
    """The same, and how to answer."""

    format: Format = Field("json", description="Of the answer.")


def wish_of(given: WishForm, service: Service, user: str) -> Wish:
    """What a form asks for; asks the database for a saved list.

    Raises:
        Refusal: no such list or model.
    """
    kept = service.hotwords.get(user, given.hotword_list) if given.hotword_list else None
    if given.hotword_list and kept is None:
        raise no_list(given.hotword_list)
    wish = Wish(
        tasks=tuple(given.tasks.replace("+", ",").split(",")) if given.tasks else (),
        instruction=given.instruction,
        language=given.language,
        into=given.into,
        hotwords=(*asking.words([given.hotwords]), *(kept.entries if kept else ())),
        speakers=given.speakers,
        template=given.template,
        channels=given.channels,
        model=asking.model_of(given.model, service),
    )
    return asking.with_itn(wish, given.itn, service)


@router.post(
    "/api/understand",
    summary="Understand a recording and wait for the result",
    response_model=ResultView,
    openapi_extra=form.body(UnderstandForm),
)
async def understand(request: Request, service: TheService) -> Response:
    """Any tasks, request in plain language and options; the answer is exactly the JSON (or other format) of the command
    line. The job is in the history too; its id is in the header `X-Job-Id`. A client that goes away cancels it."""
    user = asking.admitted(request, service)
    async with receive(request, service, user) as sent:
        given = form.read(UnderstandForm, sent.fields)
        wish = await asking.checked(await asking.in_thread(wish_of, given, service, user), service)
        job = await asking.submitted(sent.upload, wish, service, user=user, mode="api")
    request.state.audit_object = job.id
    done = await asking.finished(job, service, request)
    return rendered(write.FORMATS[given.format](asking.result_of(done)), given.format, {"X-Job-Id": job.id})


def rendered(text: str, format: str, headers: dict[str, str]) -> Response:
    """A result as the text of a file."""
    data = text.encode("utf-8", "backslashreplace")
    return Response(data, media_type=MEDIA[format], headers=headers)
