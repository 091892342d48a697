"""`/api/hotwords`: lists of names that are likely to be said, saved under a name."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field

from zhiyin.serve.refusal import Refusal
from zhiyin.serve.service import TheService
from zhiyin.serve.views import View

router = APIRouter(prefix="/api/hotwords", tags=["hotwords"])
Name = Annotated[str, Path(min_length=1, max_length=100, description="Name of the list.")]


class Text(BaseModel, extra="forbid"):
    """A list as people write it."""

    text: str = Field(
        max_length=2_000_000, description="One entry a line: a word, a word with a weight, wrong => right."
    )


class Brief(View):
    """A saved list, without its entries."""

    name: str = Field(description="Name of the list; give it as hotword_list with a recording.")
    num_words: int = Field(description="Words in it.")
    num_rules: int = Field(description="Pairs wrong => right in it.")
    updated_at: datetime = Field(description="When it was saved last, UTC.")


class Saved(Brief):
    """A saved list."""

    text: str = Field(description="Its entries, one a line.")


class Lists(View):
    """What is saved."""

    lists: list[Brief] = Field(description="Your lists, by name.")


@router.get("", summary="Your lists")
def lists(request: Request, service: TheService) -> Lists:
    """By name, without their entries."""
    return Lists.model_validate({"lists": service.hotwords.list(request.state.principal.name)})


@router.get("/{name}", summary="A list")
def show(name: Name, request: Request, service: TheService) -> Saved:
    """As it was saved."""
    kept = service.hotwords.get(request.state.principal.name, name)
    if kept is None:
        raise no_list(name)
    return Saved.model_validate(kept)


@router.put("/{name}", summary="Save a list")
def save(name: Name, given: Text, request: Request, service: TheService) -> Saved:
    """Every entry is checked; a list of that name is replaced."""
    return Saved.model_validate(service.hotwords.save(request.state.principal.name, name, given.text))


@router.delete("/{name}", status_code=204, summary="Remove a list")
def remove(name: Name, request: Request, service: TheService) -> None:
    """For good."""
    if not service.hotwords.delete(request.state.principal.name, name):
        raise no_list(name)


def no_list(name: str) -> Refusal:
    """What is said of a list that is not there."""
    return Refusal(404, "no_such_list", f"no hotword list '{name[:100]}'; GET /api/hotwords names yours", param="name")
