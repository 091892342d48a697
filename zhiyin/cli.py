"""The command line. Heavy imports happen inside the commands, so that `zhiyin --help` answers at once.

Standard output carries data only; progress and complaints go to standard error. A mistake the user can mend is one
line and exit code 2, a batch in which some recordings failed ends with 1, Ctrl-C with 130.
"""

import sys
from pathlib import Path
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

# Options that several commands share.
_MODEL_HELP = "A model folder; default: pocket, the built-in one."
_DEVICE = typer.Option("--device", metavar="NAME", help="Where to run; auto says what it chose and why.")
_BACKEND = typer.Option("--backend", metavar="NAME", help="How to run: auto, onnx or eager (needs torch).")


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


_INPUTS = typer.Argument(metavar="FILE|DIR|GLOB|-", help="Recordings; a folder is searched, - is standard input.")
_TASK = typer.Option("--task", metavar="ID,ID", help="Task ids as `zhiyin tasks` lists them.  [default: asr]")
_ASK = typer.Option("--ask", metavar="TEXT", help="A request in plain language instead of --task.")
_LANGUAGE = typer.Option("--language", metavar="CODE", help="Refuse a model that does not know it; no other effect.")
_FORMAT = typer.Option("--format", metavar="FORMAT", help="txt, json, srt, vtt or tsv.")
_OUTPUT_DIR = typer.Option("--output-dir", metavar="DIR", help="One file per recording instead of standard output.")
_PCM = typer.Option("--pcm", metavar="CODING[:RATE[:CHANNELS]]", help="Input is raw PCM, e.g. s16le:16000:1.")
_THREADS = typer.Option("--threads", metavar="N", min=1, help="CPU threads; default: a few.", show_default=False)


@app.command()
def understand(
    inputs: Annotated[list[str], _INPUTS],
    task: Annotated[str | None, _TASK] = None,
    ask: Annotated[str | None, _ASK] = None,
    language: Annotated[str | None, _LANGUAGE] = None,
    format: Annotated[str, _FORMAT] = "txt",
    output_dir: Annotated[str | None, _OUTPUT_DIR] = None,
    pcm: Annotated[str | None, _PCM] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="PATH", help=_MODEL_HELP)] = None,
    device: Annotated[str, _DEVICE] = "auto",
    backend: Annotated[str, _BACKEND] = "auto",
    threads: Annotated[int | None, _THREADS] = None,
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
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=_MODEL_HELP)] = None,
    device: Annotated[str, _DEVICE] = "auto",
    backend: Annotated[str, _BACKEND] = "auto",
) -> None:
    """Say what a model is, what it can do and where it would run."""
    from zhiyin.cli_info import describe

    typer.echo(describe(model, device, backend), nl=False)


@app.command()
def train(
    stage: Annotated[Path, typer.Argument(metavar="STAGE.toml", help="Settings, e.g. configs/pocket.toml.")],
    pack: Annotated[Path, typer.Option("--pack", metavar="DIR", help="The speech pack: manifests and audio.")],
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="Run folder; the same command resumes it.")],
    start: Annotated[
        Path | None, typer.Option("--from", metavar="CHECKPOINT", help="Begin with these weights.", show_default=False)
    ] = None,
    device: Annotated[str, _DEVICE] = "auto",
    threads: Annotated[int | None, _THREADS] = None,
) -> None:
    """Train a stage (extra `train`); stop it at any time and give the same command again."""
    from zhiyin import cli_recipe

    typer.echo(cli_recipe.train(stage, pack, run, start, device, threads))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a trained checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Replaced when every graph is right.")],
    precision: Annotated[
        str, typer.Option("--precision", help="Of the stored weights: float32, float16 or int8.")
    ] = "float32",
) -> None:
    """Write a checkpoint as a bundle that runs without torch (extra `export`)."""
    from zhiyin import cli_recipe

    typer.echo(cli_recipe.export(checkpoint, out, precision))


@app.command("eval")
def evaluate(
    pack: Annotated[Path, typer.Option("--pack", metavar="DIR", help="The speech pack: its manifests and audio.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For results.jsonl, scores.json, report.md.")],
    split: Annotated[str, typer.Option("--split", help="train, dev or test.")] = "dev",
    limit: Annotated[int, typer.Option("--limit", min=0, help="About this many records, evenly spread; 0 is all.")] = 0,
    model: Annotated[str, typer.Option("--model", metavar="PATH|NAME", help=_MODEL_HELP)] = "",
    device: Annotated[str, _DEVICE] = "auto",
    backend: Annotated[str, _BACKEND] = "auto",
    threads: Annotated[int | None, _THREADS] = None,
) -> None:
    """Run a split through the main job and print its figures; resumes what was cut off."""
    from zhiyin import cli_recipe

    typer.echo(cli_recipe.evaluate(pack, split, out, model, device, backend, threads, limit), nl=False)
