"""Text fields of a form as a pydantic model, with errors a person can read, and the form's part of the OpenAPI page."""

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zhiyin.serve.refusal import Refusal

Fields = TypeVar("Fields", bound=BaseModel)


def read(kind: type[Fields], fields: Mapping[str, tuple[str, ...]]) -> Fields:
    """The fields as a model; an empty field is one that was left out, ``name[]`` is ``name``.

    Raises:
        Refusal: a field is not known, is given twice, or has a value that does not fit.
    """
    lists = {name for name, info in kind.model_fields.items() if _is_list(info.annotation)}
    given: dict[str, Any] = {}
    for name, values in fields.items():
        plain = name.removesuffix("[]")
        if plain not in kind.model_fields:
            if kind.model_config.get("extra") == "ignore":
                continue
            near = difflib.get_close_matches(plain, kind.model_fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: file {' '.join(kind.model_fields)}"
            raise Refusal(400, "unknown_field", f"field '{plain[:100]}' is not known; {hint}", param=plain[:100])
        if plain in lists:
            given.setdefault(plain, []).extend(value for value in values if value)
        elif len(values) > 1:
            raise Refusal(
                400, "field_twice", f"field '{plain}' was given {len(values)} times; give it once", param=plain
            )
        elif values[0]:
            given[plain] = values[0]
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise refusal(error.errors()[0]) from None


def refusal(error: Mapping[str, Any]) -> Refusal:
    """What pydantic says of the first thing that is wrong, in one line."""
    place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    seen = repr(error.get("input"))
    said = str(error["msg"]).removeprefix("Value error, ")
    shown = "" if len(seen) > 80 or error["type"] == "missing" else f", got {seen}"
    return Refusal(400, "invalid_value", f"field '{place}': {said}{shown}"[:500], param=place[:200])


def body(kind: type[BaseModel], what: str = "The recording, in any audio or video format.") -> dict[str, Any]:
    """`openapi_extra` of a route that takes such a form with a file."""
    schema = kind.model_json_schema()
    properties = {
        "file": {"type": "string", "format": "binary", "description": what},
        **{(f"{name}[]" if info.get("type") == "array" else name): info for name, info in schema["properties"].items()},
    }
    content = {"type": "object", "properties": properties, "required": ["file", *schema.get("required", [])]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": content}}}}


def _is_list(annotation: Any) -> bool:
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return any(typing.get_origin(kind) in (list, tuple) for kind in kinds)
