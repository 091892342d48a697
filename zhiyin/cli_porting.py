"""The commands of who brings a model to a device: doctor, export, atc, verify, bench. Work happens elsewhere."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli_options import BACKEND, DEVICE, DTYPE, MODEL_HELP, THREADS


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False) -> None:
    """Look at this machine's devices: what is there, what would be used, what is wrong and what mends it."""
    from zhiyin import cli_doctor

    text, code = cli_doctor.run(as_json=as_json, terminal=sys.stdout.isatty())
    typer.echo(text, nl=False, color=True)
    raise typer.Exit(code)


_SOC = typer.Option("--soc", metavar="NAME", help="The chip, e.g. Ascend910B3 or 310P3.")
_HOST = typer.Option(
    "--host", metavar="OS-CPU", help="Where the chip sits: linux-aarch64, linux-x86_64; default: here."
)


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


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)] = "pocket",
    named: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The same as MODEL.", show_default=False)
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
    backend: Annotated[str, BACKEND] = "auto",
    dtype: Annotated[str, DTYPE] = "auto",
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
    threads: Annotated[int | None, THREADS] = None,
) -> None:
    """Prove that a device computes what the CPU computes in float32; exit code 1 if it does not."""
    from zhiyin import cli_deploy

    where = cli_deploy.Where(named or model, device, backend, dtype, threads)
    text, code = cli_deploy.check(where, cli_deploy.Check(against, inputs, runs, hunt, dump, as_json, gates))
    typer.echo(text, nl=False)
    raise typer.Exit(code)


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)] = "pocket",
    named: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The same as MODEL.", show_default=False)
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
    backend: Annotated[str, BACKEND] = "auto",
    dtype: Annotated[str, DTYPE] = "auto",
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
    threads: Annotated[int | None, THREADS] = None,
) -> None:
    """Time a model component by component and as a whole; the last line is JSON."""
    from zhiyin import cli_deploy

    where = cli_deploy.Where(named or model, device, backend, dtype, threads)
    options = cli_deploy.Speed(warmup, runs, lengths, batch, tokens, task, into, tuple(compare or ()), as_json)
    typer.echo(cli_deploy.speed(where, options), nl=False)
