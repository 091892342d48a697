"""The command line. Heavy imports happen inside the commands, so that `zhiyin --help` answers at once.

Standard output carries data only; progress and complaints go to standard error. A mistake the user can mend is one
line and exit code 2, a batch in which some recordings failed ends with 1, Ctrl-C with 130.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli_pack import pack
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
_MODEL_HELP = "A model folder, or a name of `zhiyin models`; default: pocket, the built-in one."
_DEVICE = typer.Option("--device", metavar="NAME", help="Where to run; auto says what it chose and why.")
_BACKEND = typer.Option("--backend", metavar="NAME", help="How to run: auto, onnx, eager (torch), hf (transformers).")


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
_TASK = typer.Option("--task", metavar="ID,ID", help="Task ids as `zhiyin tasks` lists them.  [default: asr]")
_ASK = typer.Option("--ask", metavar="TEXT", help="A request in plain language instead of --task.")
_LANGUAGE = typer.Option("--language", metavar="CODE", help="Of the speech; refuse a model that does not know it.")
_INTO = typer.Option("--into", metavar="CODE", help="The language to translate into.")
_HOTWORDS = typer.Option("--hotwords", metavar="FILE|WORD,WORD", help="Names likely to be said; a file has one a line.")
_CHANNELS = typer.Option("--channels", metavar="mix|split", help="Average the channels, or understand each by itself.")
_RESUME = typer.Option("--resume", help="Go on where the same command with --output-dir was stopped.")
_SPEAKERS = typer.Option("--speakers", help="Say who speaks.")
_ITN = typer.Option(
    "--itn/--no-itn", help="Numbers in figures, or as spoken; default: figures, in tsv not.", show_default=False
)
_TEMPLATE = typer.Option("--template", metavar="NAME", help="Another prompt template of the model's family.")
_FORMAT = typer.Option("--format", metavar="FORMAT", help="txt, json, srt, vtt or tsv.")
_OUTPUT_DIR = typer.Option("--output-dir", metavar="DIR", help="One file per recording instead of standard output.")
_PCM = typer.Option("--pcm", metavar="CODING[:RATE[:CHANNELS]]", help="Input is raw PCM, e.g. s16le:16000:1.")
_DTYPE = typer.Option("--dtype", metavar="NAME", help="Of weights that run with torch: float32, bfloat16, float16.")
_DOWNLOAD = typer.Option("--allow-download", help="Pull a model that is not here.")
_THREADS = typer.Option("--threads", metavar="N", min=1, help="CPU threads; default: a few.", show_default=False)


@app.command()
def understand(
    inputs: Annotated[list[str], _INPUTS],
    task: Annotated[str | None, _TASK] = None,
    ask: Annotated[str | None, _ASK] = None,
    language: Annotated[str | None, _LANGUAGE] = None,
    into: Annotated[str | None, _INTO] = None,
    hotwords: Annotated[str | None, _HOTWORDS] = None,
    speakers: Annotated[bool, _SPEAKERS] = False,
    itn: Annotated[bool | None, _ITN] = None,
    template: Annotated[str | None, _TEMPLATE] = None,
    channels: Annotated[str, _CHANNELS] = "mix",
    format: Annotated[str, _FORMAT] = "txt",
    output_dir: Annotated[str | None, _OUTPUT_DIR] = None,
    resume: Annotated[bool, _RESUME] = False,
    pcm: Annotated[str | None, _PCM] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="PATH", help=_MODEL_HELP)] = None,
    device: Annotated[str, _DEVICE] = "auto",
    backend: Annotated[str, _BACKEND] = "auto",
    threads: Annotated[int | None, _THREADS] = None,
    dtype: Annotated[str, _DTYPE] = "auto",
    allow_download: Annotated[bool, _DOWNLOAD] = False,
) -> None:
    """Turn recordings into text, labels, times and answers."""
    from zhiyin.cli_understand import Options, run

    words = (task, ask, language, into, hotwords, speakers, itn, template, channels)
    where = (model, device, backend, threads, dtype, allow_download)
    raise typer.Exit(run(inputs, Options(*words, format, output_dir, resume, pcm, *where)))


@app.command()
def listen(
    source: Annotated[str, typer.Argument(metavar="[-|FILE]", help="Raw PCM, or a file; with --mic its name.")] = "-",
    mic: Annotated[bool, typer.Option("--mic", help="Listen to a microphone (extra `live`).")] = False,
    pcm: Annotated[str | None, _PCM] = None,
    paced: Annotated[bool, typer.Option("--paced", help="Play the file as if it were live.")] = False,
    task: Annotated[str | None, _TASK] = None,
    language: Annotated[str | None, _LANGUAGE] = None,
    hotwords: Annotated[str | None, _HOTWORDS] = None,
    itn: Annotated[bool | None, _ITN] = None,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="txt, or json: events.")] = "txt",
    pause: Annotated[float, typer.Option("--pause", metavar="S", min=0.15, help="Silence that ends speech.")] = 0.24,
    stall: Annotated[float, typer.Option("--stall", metavar="S", min=0.1, help="No samples for so long, too.")] = 2.0,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", min=0, help="Leave then; 0: never.")] = 0.0,
    model: Annotated[str | None, typer.Option("--model", metavar="PATH", help=_MODEL_HELP)] = None,
    device: Annotated[str, _DEVICE] = "auto",
    backend: Annotated[str, _BACKEND] = "auto",
    threads: Annotated[int | None, _THREADS] = None,
) -> None:
    """Understand a stream while it is spoken; Ctrl-C ends."""
    from zhiyin.cli_listen import Options, run

    where, words = (source, mic, pcm, paced, pause, stall, timeout), (task, language, hotwords, itn, format)
    raise typer.Exit(run(Options(*where, *words, model, device, backend, threads)))


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
def doctor(as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False) -> None:
    """Look at this machine's devices: what is there, what would be used, what is wrong and what mends it."""
    from zhiyin import cli_doctor

    text, code = cli_doctor.run(as_json=as_json, terminal=sys.stdout.isatty())
    typer.echo(text, nl=False, color=True)
    raise typer.Exit(code)


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
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder of weights; nothing in it is run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new checkpoint.")],
    family: Annotated[str, typer.Option("--from", help="auto, osum, osum-pangu or whisper.")] = "auto",
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="PATH", help="Folder of the decoder.", show_default=False)
    ] = None,
    lora_scale: Annotated[
        float | None, typer.Option("--lora-scale", metavar="X", help="alpha / rank, where LoRA is inside.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="keep, float32, bfloat16 or float16.")] = "keep",
    name: Annotated[str, typer.Option("--name", help="Of the model.  [default: the family's]")] = "",
    facts: Annotated[
        Path | None, typer.Option("--facts", metavar="FILE.json", help="Heads and the like, for other sizes.")
    ] = None,
    sha256: Annotated[bool, typer.Option("--sha256", help="Also record the hash of the source.")] = False,
) -> None:
    """Turn published weights into a checkpoint, every key accounted for (extra `train`)."""
    from zhiyin.cli_convert import Options, run

    typer.echo(run(source, out, Options(family, tokenizer, lora_scale, dtype, name, facts, sha256)))


_SOC = typer.Option("--soc", metavar="NAME", help="The chip, e.g. Ascend910B3 or 310P3.")
_HOST = typer.Option(
    "--host", metavar="OS-CPU", help="Where the chip sits: linux-aarch64, linux-x86_64; default: here."
)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A trained checkpoint, or a hub folder.")],
    out: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Replaced when every graph is right.")],
    target: Annotated[str, typer.Option("--target", help="onnx, or om: compiled for an Ascend chip.")] = "onnx",
    precision: Annotated[
        str,
        typer.Option("--precision", help="onnx: float32, float16, int8, int8-dynamic; om: fp32, fp16, mixed."),
    ] = "",
    buckets: Annotated[
        str, typer.Option("--buckets", metavar="S,S", help="Fixed lengths of audio, seconds; default: any length.")
    ] = "",
    batches: Annotated[
        str, typer.Option("--batches", metavar="N,N", help="With --buckets: rows of the decoder graphs.")
    ] = "1",
    opset: Annotated[int, typer.Option("--opset", help="Of ONNX, 11 to 17.")] = 17,
    components: Annotated[
        str, typer.Option("--components", metavar="NAMES", help="encoder,projector leaves the decoder out.")
    ] = "",
    soc: Annotated[str, _SOC] = "",
    host: Annotated[str, _HOST] = "",
) -> None:
    """Write a checkpoint as a bundle that runs without torch (extra `export`)."""
    from zhiyin import cli_export

    asked = cli_export.Export(target, precision, buckets, batches, opset, components, soc, host)
    for line in cli_export.export(checkpoint, out, asked):
        typer.echo(line)


@app.command()
def atc(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Of zhiyin export --buckets.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the compiled bundle.")],
    soc: Annotated[str, _SOC],
    precision: Annotated[str, typer.Option("--precision", help="fp32, fp16 or mixed (fp16 in products).")] = "mixed",
    host: Annotated[str, _HOST] = "",
    only_print: Annotated[bool, typer.Option("--print", help="Only show the commands.")] = False,
    limit_s: Annotated[float, typer.Option("--limit-s", metavar="S", min=1, help="Time for one graph.")] = 3600.0,
) -> None:
    """Compile a bundle of fixed lengths for an Ascend chip; without CANN here, write a script that does."""
    from zhiyin import cli_export

    for line in cli_export.atc(bundle, out, soc, precision, host, only_print, limit_s):
        typer.echo(line)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)] = "pocket",
    named: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The same as MODEL.", show_default=False)
    ] = None,
    device: Annotated[str, _DEVICE] = "auto",
    backend: Annotated[str, _BACKEND] = "auto",
    dtype: Annotated[str, _DTYPE] = "auto",
    against: Annotated[
        str, typer.Option("--against", metavar="WHAT", help="cpu-fp32, a model, or a folder of --dump.")
    ] = "cpu-fp32",
    inputs: Annotated[
        str, typer.Option("--inputs", metavar="WHAT", help="real, random, both with a comma, or a recording.")
    ] = "real,random",
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="On the device; 2 show whether it repeats.")] = 2,
    hunt: Annotated[bool, typer.Option("--hunt", help="Find the first layer that differs (needs torch).")] = False,
    dump: Annotated[
        Path | None, typer.Option("--dump", metavar="DIR", help="Write the reference for another machine instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    gates: Annotated[
        Path | None, typer.Option("--gates", metavar="FILE.toml", help="What may differ, instead of ours.")
    ] = None,
    threads: Annotated[int | None, _THREADS] = None,
) -> None:
    """Prove that a device computes what the CPU computes in float32; exit code 1 if it does not."""
    from zhiyin import cli_deploy

    where = cli_deploy.Where(named or model, device, backend, dtype, threads)
    text, code = cli_deploy.check(where, cli_deploy.Check(against, inputs, runs, hunt, dump, as_json, gates))
    typer.echo(text, nl=False)
    raise typer.Exit(code)


@app.command()
def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)] = "pocket",
    named: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The same as MODEL.", show_default=False)
    ] = None,
    device: Annotated[str, _DEVICE] = "auto",
    backend: Annotated[str, _BACKEND] = "auto",
    dtype: Annotated[str, _DTYPE] = "auto",
    warmup: Annotated[int, typer.Option("--warmup", metavar="N", help="Rounds that are not counted.")] = 3,
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="Rounds that are.")] = 20,
    lengths: Annotated[str, typer.Option("--lengths", metavar="S,S", help="Seconds of audio.")] = "5,10,15,30",
    batch: Annotated[str, typer.Option("--batch", metavar="N,N", help="How many at once.")] = "1",
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Of a reply.")] = 32,
    task: Annotated[str, typer.Option("--task", metavar="ID", help="What is asked.  [default: asr]")] = "",
    into: Annotated[str, typer.Option("--into", metavar="CODE", help="Language of --task ast.")] = "",
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="WHAT", help="Another device, backend or model, in turns; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the last line, one JSON object.")] = False,
    threads: Annotated[int | None, _THREADS] = None,
) -> None:
    """Time a model component by component and as a whole; the last line is JSON."""
    from zhiyin import cli_deploy

    where = cli_deploy.Where(named or model, device, backend, dtype, threads)
    options = cli_deploy.Speed(warmup, runs, lengths, batch, tokens, task, into, tuple(compare or ()), as_json)
    typer.echo(cli_deploy.speed(where, options), nl=False)


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


@app.command()
def init(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new checkpoint.")],
    encoder: Annotated[Path, typer.Option("--encoder", metavar="PATH", help="A Whisper folder, or OpenAI's .pt file.")],
    decoder: Annotated[Path, typer.Option("--decoder", metavar="DIR", help="Qwen2, Qwen3, Llama or openPangu.")],
    family: Annotated[str, typer.Option("--family", help="Prompts to learn: zhiyin, osum, osum-pangu.")] = "zhiyin",
    ctc: Annotated[bool, typer.Option("--ctc", help="Give the encoder a CTC head.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the stored weights: keep, float32, bfloat16.")] = "keep",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the new weights.")] = 1,
    projector_layers: Annotated[int | None, typer.Option("--projector-layers", metavar="N", min=1)] = None,
    projector_width: Annotated[int | None, typer.Option("--projector-width", metavar="N", min=1)] = None,
    projector_heads: Annotated[int | None, typer.Option("--projector-heads", metavar="N", min=1)] = None,
    projector_ffn: Annotated[int | None, typer.Option("--projector-ffn", metavar="N", min=1)] = None,
) -> None:
    """Make a checkpoint to train from an encoder, a decoder and a new projector (extra `train`)."""
    from zhiyin.cli_init import Options, run

    sizes = (projector_layers, projector_width, projector_heads, projector_ffn)
    first, *rest = run(out, encoder, decoder, Options(family, ctc, dtype, seed, *sizes))
    typer.echo(first)
    typer.echo("\n".join(rest), err=True)


app.command()(pack)
