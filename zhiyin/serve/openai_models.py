"""`/v1/models`: what is served, in OpenAI's shape, with what each model can do."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import Field

from zhiyin.runtime.base import ModelSpec
from zhiyin.serve import asking
from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import Service, TheService
from zhiyin.serve.views import View

_STARTED_S = int(time.time())

router = APIRouter(prefix="/v1/models", tags=["openai"])


class ModelView(View):
    """A model."""

    id: str = Field(description="Its name.")
    object: Literal["model"] = Field(default="model", description="Always model.")
    created: int = Field(description="When this service was started, in seconds since 1970.")
    owned_by: str = Field(description="Its family.")
    tasks: list[str] = Field(description="Not OpenAI's: task ids it can do.")
    languages: list[str] = Field(description="Not OpenAI's: languages it knows; none where it does not say.")
    labels: dict[str, list[str]] = Field(description="Not OpenAI's: task id -> its labels, where they are its own.")
    can_follow_instructions: bool = Field(description="Not OpenAI's: whether it takes requests in plain language.")
    precision: str = Field(description="Not OpenAI's: number format of the weights.")
    licence: str = Field(description="Not OpenAI's: of the weights.")
    aliases: list[str] = Field(description="Not OpenAI's: other names it answers to.")


class ModelList(View):
    """What is served."""

    object: Literal["list"] = Field(default="list", description="Always list.")
    data: list[ModelView] = Field(description="The models; none while they are being loaded.")


@router.get("", summary="Models")
async def models(service: TheService) -> ModelList:
    """Those that are loaded; OpenAI's names are aliases of the first."""
    return ModelList(data=[_view(spec) for spec in asking.specs(service)])


@router.get("/{id:path}", summary="A model")
async def model(id: Annotated[str, Path(max_length=500)], service: TheService) -> ModelView:
    """By its name or one of its aliases."""
    return _view(_find(id, service))


def _find(id: str, service: Service) -> ModelSpec:
    asking.model_of(id, service)
    found = asking.specs(service)
    if not found:
        raise Refusal(503, "loading", "the model is being loaded; ask again in a few seconds", retry_after_s=5)
    return next((spec for spec in found if spec.name == id), found[0])


def _view(spec: ModelSpec) -> ModelView:
    return ModelView(
        id=spec.name,
        created=_STARTED_S,
        owned_by=spec.family,
        tasks=list(spec.tasks),
        languages=list(spec.languages),
        labels={task: list(labels) for task, labels in spec.labels.items() if task in spec.tasks},
        can_follow_instructions=spec.can_follow_instructions,
        precision=spec.precision,
        licence=spec.licence,
        aliases=list(asking.ALIASES),
    )
