"""`zhiyin pack`: make a folder that installs zhiyin where there is no network, or look whether one is whole."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zhiyin.deploy.pack import Request

DAMAGED = 1  # exit code of a check that found something


def pack(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new one; with --check one that is there.")],
    check: Annotated[bool, typer.Option("--check", help="Read every file of a pack and compare.")] = False,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME|FOLDER", help="To take along; may be repeated.")
    ] = None,
    extras: Annotated[str, typer.Option("--extras", metavar="NAME,NAME", help="Of zhiyin, e.g. export,hf.")] = "",
    python: Annotated[str, typer.Option("--python", metavar="X.Y", help="Of the target; default: this one.")] = "",
    platform: Annotated[
        str, typer.Option("--platform", metavar="OS-CPU", help="linux-aarch64, linux-x86_64; default: here.")
    ] = "",
    with_cuda: Annotated[bool, typer.Option("--gpu", help="torch may bring the libraries of a GPU.")] = False,
    source: Annotated[
        Path | None, typer.Option("--source", metavar="DIR", help="A checkout of zhiyin.", show_default=False)
    ] = None,
) -> None:
    """Make a folder that installs zhiyin where there is no network; pip downloads the wheels for it."""
    from zhiyin.deploy.pack import Request

    if check:
        text, code = _check(folder)
        typer.echo(text, nl=False)
        raise typer.Exit(code)
    names = tuple(filter(None, extras.split(",")))
    typer.echo(_make(Request(folder, tuple(model or ()), names, python, platform, source, with_cuda)), nl=False)


def _make(request: "Request") -> str:
    from zhiyin.deploy import pack

    done = pack.make(request, _say)
    models = f" and the models {', '.join(done.models)}" if done.models else ""
    return (
        f"{done.folder}: {len(done.wheels)} wheels{models}, {done.size_bytes / 1e6:.0f} MB\n"
        f"SHA-256 of its list of checksums: {done.digest}\n"
        f"next: carry the folder over and give there: {done.folder.name}/install.sh FOLDER; it shows the same SHA-256\n"
    )


def _check(folder: Path) -> tuple[str, int]:
    from zhiyin.deploy import pack

    faults = pack.check(folder)
    if faults:
        return "".join(f"{folder}: {line}\n" for line in faults), DAMAGED
    return f"{folder}: every file is as it was packed; SHA-256 of the list: {pack.digest(folder)}\n", 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
