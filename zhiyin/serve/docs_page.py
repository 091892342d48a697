"""`/docs`: the OpenAPI document as one plain page; no script, no request to anywhere."""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter()

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
details { border: 1px solid #8885; border-radius: .4rem; margin: .4rem 0; padding: .3rem .8rem; }
summary { cursor: pointer; } summary code { font-weight: 600; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td, th { text-align: left; vertical-align: top; border-top: 1px solid #8884; padding: .25rem .6rem .25rem 0; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
"""
_METHODS = ("get", "post", "put", "patch", "delete")


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """Every route, field and answer."""
    return HTMLResponse("".join(page(request.app.openapi())))


def page(document: dict[str, Any]) -> Iterator[str]:
    """An OpenAPI document as HTML, piece by piece."""
    title = f"{escape(document['info']['title'])} {escape(document['info']['version'])}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
    for paragraph in document["info"].get("description", "").split("\n\n"):
        yield f"<p>{_prose(paragraph)}</p>"
    yield '<p>For programs: <a href="/openapi.json">/openapi.json</a>.</p>'
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]
    for tag in dict.fromkeys(tag for _, _, one in operations for tag in one.get("tags", ["other"])):
        yield f"<h2>{escape(tag)}</h2>"
        for path, method, operation in operations:
            if tag in operation.get("tags", ["other"]):
                yield from _operation(path, method, operation, document)
    yield "<h2>What is sent and answered</h2>"
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> {_first(schema)}</summary>'
        yield from _fields(schema, document)
        yield "</details>"
    yield "</body></html>"


def _operation(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    yield f'<details><summary><span class="method">{method.upper()}</span><code>{escape(path)}</code> '
    yield f"{escape(operation.get('summary', ''))}</summary><p>{_prose(operation.get('description', ''))}</p>"
    if operation.get("parameters"):
        yield "<table><tr><th>parameter</th><th>type</th><th>meaning</th></tr>"
        for one in operation["parameters"]:
            name = f"<code>{escape(one['name'])}</code> ({one['in']}{', required' if one.get('required') else ''})"
            said = one.get("description") or one.get("schema", {}).get("description", "")
            yield f"<tr><td>{name}</td><td>{_type(one.get('schema', {}))}</td><td>{_prose(said)}</td></tr>"
        yield "</table>"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: <code>{escape(kind)}</code> {_type(content.get('schema', {}))}</p>"
        if "properties" in content.get("schema", {}):
            yield from _fields(content["schema"], document)
    yield "<table><tr><th>answer</th><th>type</th><th>meaning</th></tr>"
    for status, answer in operation.get("responses", {}).items():
        kinds = "; ".join(
            f"<code>{escape(kind)}</code> {_type(content.get('schema', {}))}"
            for kind, content in answer.get("content", {}).items()
        )
        yield f"<tr><td>{escape(status)}</td><td>{kinds}</td><td>{_prose(answer.get('description', ''))}</td></tr>"
    yield "</table></details>"


def _fields(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    if not schema.get("properties"):
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", [])
    yield "<table><tr><th>field</th><th>type</th><th>meaning</th></tr>"
    for name, one in schema["properties"].items():
        needed = ", required" if name in required else ""
        usual = (
            f" Usual: <code>{escape(str(one['default']))}</code>."
            if one.get("default") not in (None, "", [], {})
            else ""
        )
        yield f"<tr><td><code>{escape(name)}</code>{needed}</td><td>{_type(one)}</td>"
        yield f"<td>{_prose(one.get('description', ''))}{usual}</td></tr>"
    yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}"><code>{name}</code></a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(one)) or '&quot;&quot;'}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"text to {_type(schema['additionalProperties'])}"
    return escape(" ".join(str(schema[key]) for key in ("type", "format") if key in schema))


def _first(schema: dict[str, Any]) -> str:
    return escape(str(schema.get("description", "")).partition("\n")[0])


def _prose(text: str) -> str:
    """Escaped, with `code` as code."""
    pieces = escape(" ".join(text.split()), quote=False).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
