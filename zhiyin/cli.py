"""The command line. Heavy imports happen inside the commands, so that `zhiyin --help` answers at once.

Standard output carries data only; progress and complaints go to standard error. A mistake the user can mend is one
line and exit code 2, a batch in which some recordings failed ends with 1, Ctrl-C with 130.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from zhiyin import cli_porting, cli_serve, cli_training
from zhiyin.cli_data import app as data
from zhiyin.cli_history import history
from zhiyin.cli_options import BACKEND, DEVICE, DTYPE, FALLBACK, HOTWORDS, ITN, LANGUAGE, MODEL_HELP, PCM, TASK, THREADS
from zhiyin.cli_pack import pack
from zhiyin.cli_score import score
from zhiyin.errors import UserError

app = typer.Typer(
    name="zhiyin",
    help="Speech in, text and meaning out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


_VERSION = typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")


@app.callback()
def _options(version: Annotated[bool, _VERSION] = False) -> None:
    pass


_INPUTS = typer.Argument(metavar="FILE|DIR|GLOB|-", help="Recordings; a folder is searched, - is standard input.")
_ASK = typer.Option("--ask", metavar="TEXT", help="A request in plain language instead of --task.")
_INTO = typer.Option("--into", metavar="CODE", help="The language to translate into.")
_CHANNELS = typer.Option("--channels", metavar="mix|split", help="Average the channels, or understand each by itself.")
_RESUME = typer.Option("--resume", help="Go on where the same command with --output-dir was stopped.")
_SPEAKERS = typer.Option("--speakers", help="Say who speaks.")
_TEMPLATE = typer.Option("--template", metavar="NAME", help="Another prompt template of the model's family.")
_FORMAT = typer.Option("--format", metavar="FORMAT", help="txt, json, srt, vtt or tsv.")
_OUTPUT_DIR = typer.Option("--output-dir", metavar="DIR", help="One file per recording instead of standard output.")
_DOWNLOAD = typer.Option("--allow-download", help="Pull a model that is not here.")


@app.command()
def understand(
    inputs: Annotated[list[str], _INPUTS],
    task: Annotated[str | None, TASK] = None,
    ask: Annotated[str | None, _ASK] = None,
    language: Annotated[str | None, LANGUAGE] = None,
    into: Annotated[str | None, _INTO] = None,
    hotwords: Annotated[str | None, HOTWORDS] = None,
    speakers: Annotated[bool, _SPEAKERS] = False,
    itn: Annotated[bool | None, ITN] = None,
    template: Annotated[str | None, _TEMPLATE] = None,
    channels: Annotated[str, _CHANNELS] = "mix",
    format: Annotated[str, _FORMAT] = "txt",
    output_dir: Annotated[str | None, _OUTPUT_DIR] = None,
    resume: Annotated[bool, _RESUME] = False,
    pcm: Annotated[str | None, PCM] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="PATH", help=MODEL_HELP)] = None,
    device: Annotated[str, DEVICE] = "auto",
    backend: Annotated[str, BACKEND] = "auto",
    threads: Annotated[int | None, THREADS] = None,
    dtype: Annotated[str, DTYPE] = "auto",
    allow_download: Annotated[bool, _DOWNLOAD] = False,
    allow_fallback: Annotated[bool, FALLBACK] = False,
) -> None:
    """Turn recordings into text, labels, times and answers."""
    from zhiyin.cli_understand import Options, run

    words = (task, ask, language, into, hotwords, speakers, itn, template, channels)
    where = (model, device, backend, threads, dtype, allow_download, allow_fallback)
    raise typer.Exit(run(inputs, Options(*words, format, output_dir, resume, pcm, *where)))


@app.command()
def listen(
    source: Annotated[str, typer.Argument(metavar="[-|FILE]", help="Raw PCM, or a file; with --mic its name.")] = "-",
    mic: Annotated[bool, typer.Option("--mic", help="Listen to a microphone (extra `live`).")] = False,
    pcm: Annotated[str | None, PCM] = None,
    paced: Annotated[bool, typer.Option("--paced", help="Play the file as if it were live.")] = False,
    task: Annotated[str | None, TASK] = None,
    language: Annotated[str | None, LANGUAGE] = None,
    hotwords: Annotated[str | None, HOTWORDS] = None,
    itn: Annotated[bool | None, ITN] = None,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="txt, or json: events.")] = "txt",
    pause: Annotated[float, typer.Option("--pause", metavar="S", min=0.15, help="Silence that ends speech.")] = 0.28,
    stall: Annotated[float, typer.Option("--stall", metavar="S", min=0.1, help="No samples for so long, too.")] = 2.0,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", min=0, help="Leave then; 0: never.")] = 0.0,
    model: Annotated[str | None, typer.Option("--model", metavar="PATH", help=MODEL_HELP)] = None,
    device: Annotated[str, DEVICE] = "auto",
    backend: Annotated[str, BACKEND] = "auto",
    threads: Annotated[int | None, THREADS] = None,
    allow_fallback: Annotated[bool, FALLBACK] = False,
) -> None:
    """Understand a stream while it is spoken; Ctrl-C ends."""
    from zhiyin.cli_listen import Options, run

    where, words = (source, mic, pcm, paced, pause, stall, timeout), (task, language, hotwords, itn, format)
    raise typer.Exit(run(Options(*where, *words, model, device, backend, threads, allow_fallback)))


@app.command()
def tasks() -> None:
    """List what can be asked."""
    from zhiyin.tasks.table import TASKS

    for row in TASKS:
        labels = f" ({', '.join(row.labels)})" if row.labels else ""
        typer.echo(f"{row.id:<5} {row.title} {row.title_zh}{labels}")


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)] = None,
    device: Annotated[str, DEVICE] = "auto",
    backend: Annotated[str, BACKEND] = "auto",
) -> None:
    """Say what a model is, what it can do and where it would run."""
    from zhiyin.cli_info import describe

    typer.echo(describe(model, device, backend), nl=False)


@app.command()
def models(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this one.", show_default=False)] = "",
    check: Annotated[bool, typer.Option("--check", help="Read every file of what was pulled and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON array.")] = False,
) -> None:
    """List the models that are here and those that can be pulled."""
    from zhiyin import cli_models

    text, code = cli_models.check(name) if check else (cli_models.table(name, as_json), 0)
    typer.echo(text, nl=False)
    raise typer.Exit(code)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME|OWNER/REPO", help="As `zhiyin models` lists it, or on the hub.")],
    revision: Annotated[str, typer.Option("--revision", metavar="REV", help="Branch, tag or commit.")] = "",
    dest: Annotated[
        Path | None, typer.Option("--dest", metavar="DIR", help="Folder instead of the store's.", show_default=False)
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Also what has restrictions; without it they are named.")
    ] = False,
) -> None:
    """Download a model; no other command but pack uses the network. Stop it at any time and give it again."""
    from zhiyin import cli_models

    typer.echo(cli_models.pull(name, revision, dest, accept_licence))


app.command()(cli_porting.doctor)
app.command()(cli_porting.export)
app.command()(cli_porting.atc)
app.command()(cli_porting.verify)
app.command()(cli_porting.bench)
app.command()(pack)
app.add_typer(data, name="data")
app.command()(cli_training.train)
app.command()(cli_training.init)
app.command()(cli_training.convert)
app.command("eval")(cli_training.evaluate)
app.command()(score)
app.command()(cli_serve.serve)
app.add_typer(cli_serve.tokens, name="token")
app.add_typer(history, name="history")
