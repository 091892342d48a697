"""The command line. Heavy imports happen inside the commands, so that `zhiyin --help` answers at once.

Standard output carries data only; progress and complaints go to standard error. A mistake the user can mend is one
line and exit code 2, a batch in which some recordings failed ends with 1, Ctrl-C with 130.
"""

import sys
from typing import Annotated

import typer

from zhiyin.errors import UserError

app = typer.Typer(
    name="zhiyin",
    help="Speech in, text and meaning out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_ModelOption = Annotated[str, typer.Option("--model", metavar="PATH|NAME", help="A model folder; default: pocket, the built-in one.")]
_DeviceOption = Annotated[str, typer.Option("--device", help="Where to run; auto says what it chose and why.")]
_BackendOption = Annotated[str, typer.Option("--backend", help="How to run: auto, onnx or eager (needs torch).")]


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `zhiyin` command; leaves by `SystemExit`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # results are UTF-8 whatever the locale; odd file names are shown escaped
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app(args=argv, prog_name="zhiyin")
    except UserError as error:
        sys.stderr.write(f"zhiyin: {error}\n")
        raise SystemExit(2) from None


def _version(asked: bool) -> None:
    if asked:
        from zhiyin import __version__

        typer.echo(f"zhiyin {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def understand(
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE|DIR|GLOB|-...", help="Recordings; a folder is searched, - is standard input.")
    ],
    task: Annotated[str, typer.Option("--task", metavar="ID,ID", help="Task ids, e.g. asr,sgc (see `zhiyin tasks`). [asr]")] = "",
    ask: Annotated[str, typer.Option("--ask", metavar="TEXT", help="A request in plain language instead of --task.")] = "",
    language: Annotated[
        str, typer.Option("--language", metavar="CODE", help="Refuse a model that does not know this language; no other effect.")
    ] = "",
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="txt, json, srt, vtt or tsv.")] = "txt",
    output_dir: Annotated[
        str, typer.Option("--output-dir", metavar="DIR", help="One file per recording instead of standard output.")
    ] = "",
    pcm: Annotated[
        str, typer.Option("--pcm", metavar="CODING[:RATE[:CHANNELS]]", help="The input is raw PCM, e.g. s16le:16000:1.")
    ] = "",
    model: _ModelOption = "",
    device: _DeviceOption = "auto",
    backend: _BackendOption = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 is all.")] = 0,
) -> None:
    """Turn recordings into text, labels, times and answers."""
    from zhiyin.cli_understand import Options, run

    options = Options(task, ask, language, format, output_dir, pcm, model, device, backend, threads)
    raise typer.Exit(run(inputs, options))


@app.command()
def tasks() -> None:
    """List what can be asked."""
    from zhiyin.tasks.table import TASKS

    for row in TASKS:
        labels = f" ({', '.join(row.labels)})" if row.labels else ""
        typer.echo(f"{row.id:<5} {row.title} {row.title_zh}{labels}")


@app.command()
def info(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="A model folder; default: pocket, the built-in one.")] = "",
    device: _DeviceOption = "auto",
    backend: _BackendOption = "auto",
) -> None:
    """Say what a model is, what it can do and where it would run."""
    from zhiyin.cli_info import describe

    typer.echo(describe(model or None, device, backend), nl=False)
