"""`zhiyin serve` and `zhiyin token`: the service, and who may use it."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.cli_options import BACKEND, DTYPE, FALLBACK, MODEL_HELP
from zhiyin.errors import UserError

if TYPE_CHECKING:
    from zhiyin.serve.tokens import Tokens

NEEDED = ("fastapi", "uvicorn", "websockets", "python_multipart", "sqlalchemy", "alembic", "prometheus_client")
NEEDED_BY_PAGE = ("gradio",)

tokens = typer.Typer(help="Who may use the service.", no_args_is_help=True, rich_markup_mode=None)

_CONFIG = typer.Option("--config", metavar="FILE", help="Settings in TOML; flags overrule them.")
_DATA = typer.Option(
    "--data", metavar="DIR", help="Folder of all that is kept.  [default: ~/.local/share/zhiyin/service]"
)
_DB = typer.Option("--db", metavar="URL", help="postgresql://USER@HOST/NAME instead of a file below --data.")
_DEVICE = typer.Option("--device", metavar="NAME", help="Where to run; once for each worker.  [default: auto]")
_LIMIT = typer.Option("--limit", metavar="NAME=VALUE", help="One of [limits], e.g. upload_bytes=100000000; repeatable.")
_PAGE = typer.Option("--page/--no-page", help="Whether the web page is served.  [default: page]", show_default=False)
_AUDIO = typer.Option(
    "--keep-audio/--no-keep-audio",
    help="Whether recordings stay after they were understood.  [default: keep-audio]",
    show_default=False,
)
_INSECURE = typer.Option("--insecure", help="Let others in without any token.")
_PROXY = typer.Option("--trusted-proxy", metavar="ADDRESS", help="Whose X-Forwarded-For is believed; repeatable.")
_ORIGIN = typer.Option("--origin", metavar="URL", help="Other pages that may use cookies and WebSockets; repeatable.")


def serve(
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="0: any free one.  [default: 7860]")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="PATH", help=MODEL_HELP)] = None,
    device: Annotated[list[str] | None, _DEVICE] = None,
    backend: Annotated[str | None, BACKEND] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=0, help="Of one worker.")] = None,
    dtype: Annotated[str | None, DTYPE] = None,
    allow_fallback: Annotated[bool | None, FALLBACK] = None,
    page: Annotated[bool | None, _PAGE] = None,
    insecure: Annotated[bool | None, _INSECURE] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", metavar="PEM", help="Certificate; speak TLS.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", metavar="PEM", help="Its key.")] = None,
    trusted_proxy: Annotated[list[str] | None, _PROXY] = None,
    origin: Annotated[list[str] | None, _ORIGIN] = None,
    keep_days: Annotated[int | None, typer.Option("--keep-days", help="History and audio; 0: for ever.")] = None,
    keep_deleted_days: Annotated[int | None, typer.Option("--keep-deleted-days", help="To undo deletions.")] = None,
    keep_audio: Annotated[bool | None, _AUDIO] = None,
    audit_days: Annotated[int | None, typer.Option("--audit-days", help="Of the audit log.  [default: 180]")] = None,
    idle_unload: Annotated[float | None, typer.Option("--idle-unload", metavar="S", help="0: never.")] = None,
    slots: Annotated[int | None, typer.Option("--slots", help="Recordings a worker works on at once.")] = None,
    attempts: Annotated[int | None, typer.Option("--attempts", help="How often a job is begun.")] = None,
    drain: Annotated[float | None, typer.Option("--drain", metavar="S", help="How long a stop waits.")] = None,
    limit: Annotated[list[str] | None, _LIMIT] = None,
) -> None:
    """Serve a web page, an OpenAI-compatible API and live captions."""
    _need(NEEDED)
    from zhiyin.serve import settings as settings_module

    given: dict[str, object] = {
        **{"data": data, "db": db, "host": host, "port": port, "model": model, "devices": device or None},
        **{"backend": backend, "threads": threads, "dtype": dtype, "allow_fallback": allow_fallback},
        **{"page": page, "insecure": insecure, "tls_cert": tls_cert, "tls_key": tls_key},
        **{"trusted_proxies": trusted_proxy or None, "origins": origin or None},
        **{"keep_days": keep_days, "keep_deleted_days": keep_deleted_days, "keep_audio": keep_audio},
        **{"audit_days": audit_days, "idle_unload_s": idle_unload, "slots": slots, "attempts": attempts},
        **{"drain_s": drain, "limits": limits(limit or []) or None},
    }
    settings = settings_module.read(config, given)
    if settings.page:
        _need(NEEDED_BY_PAGE)
    from zhiyin.serve import run

    run.serve(settings)


@tokens.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user; what is made with the token is theirs.")],
    role: Annotated[str, typer.Option("--role", metavar="user|admin", help="What it may do.")] = "user",
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
) -> None:
    """Make a token; it is shown once, on standard output."""
    with _tokens(config, data, db) as known:
        secret = known.add(name, role)
    sys.stderr.write(f"zhiyin: token of {name} ({role}); it is shown this once, only its hash is kept\n")
    typer.echo(secret)


@tokens.command("list")
def list_tokens(
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
) -> None:
    """Show all tokens there ever were, without their secrets."""
    with _tokens(config, data, db) as known:
        rows = known.list()
    typer.echo(f"{'id':<12}  {'role':<5}  {'made':<16}  {'last used':<16}  {'revoked':<16}  name")
    for row in rows:
        when = (row.created_at, row.last_used_at, row.revoked_at)
        cells = "  ".join(f"{moment:%Y-%m-%d %H:%M}" if moment else f"{'-':<16}" for moment in when)
        typer.echo(f"{row.id:<12}  {row.role:<5}  {cells}  {row.name}")


@tokens.command("revoke")
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `zhiyin token list` shows it.")],
    config: Annotated[Path | None, _CONFIG] = None,
    data: Annotated[Path | None, _DATA] = None,
    db: Annotated[str | None, _DB] = None,
) -> None:
    """End a token, and the sessions that were begun with it; a running service notices within a second or two."""
    with _tokens(config, data, db) as known:
        is_done = known.revoke(id)
    if not is_done:
        raise UserError(f"token '{id}': there is no live one with this id; see `zhiyin token list`")
    sys.stderr.write(f"zhiyin: token {id} is revoked\n")


def limits(words: list[str]) -> dict[str, float]:
    """`NAME=VALUE` words as a table of numbers; names are checked with the settings.

    Raises:
        UserError: a word is not of this form.
    """
    found: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            found[name] = int(text) if text.strip().isdecimal() else float(text)
        except ValueError:
            raise UserError(f"--limit {word!r}: write NAME=NUMBER, e.g. --limit upload_bytes=100000000") from None
    return found


def _need(modules: tuple[str, ...]) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the service needs {', '.join(missing)}; install the extra: pip install 'zhiyin[serve]'")


@contextmanager
def _tokens(config: Path | None, data: Path | None, db: str | None) -> "Iterator[Tokens]":
    _need(NEEDED)
    from zhiyin.serve import database
    from zhiyin.serve.settings import folders, read
    from zhiyin.serve.tokens import Tokens

    settings = read(config, {"data": data, "db": db})
    engine = database.open(database.url(settings, folders(settings)))
    try:
        yield Tokens(engine)
    finally:
        engine.dispose()
