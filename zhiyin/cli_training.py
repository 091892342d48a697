"""The commands of who trains a model: train, eval, init, convert. Work happens elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli_options import BACKEND, DEVICE, FALLBACK, MODEL_HELP, THREADS


def train(
    stage: Annotated[Path, typer.Argument(metavar="STAGE.toml", help="Settings, e.g. configs/pocket.toml.")],
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="Run folder; the same command resumes it.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE[=WEIGHT]", help="A manifest or shards to train on; may be repeated."),
    ] = None,
    dev: Annotated[
        list[str] | None, typer.Option("--dev", metavar="FILE", help="One to look at; may be repeated.")
    ] = None,
    pack: Annotated[
        Path | None, typer.Option("--pack", metavar="DIR", help="The speech pack.", show_default=False)
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="CHECKPOINT", help="Begin with these weights; pocket: the packaged ones.")
    ] = "",
    part: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="NAME=CHECKPOINT", help="Take a part, e.g. decoder, from another; repeatable."),
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="On this machine; more than one: torchrun.")
    ] = 1,
    threads: Annotated[int | None, THREADS] = None,
) -> None:
    """Train a stage (extra `train`); stop it at any time and give the same command again."""
    from zhiyin import cli_recipe

    named = tuple(data or ()), tuple(dev or ())
    given = cli_recipe.Given(stage, run, *named, pack, start, tuple(part or ()), device, processes, threads)
    code, checkpoint = cli_recipe.train(given)
    if checkpoint is not None:
        typer.echo(checkpoint)
    raise typer.Exit(code)


def evaluate(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For results.jsonl, figures and report.html.")],
    pack: Annotated[
        Path | None,
        typer.Option("--pack", metavar="DIR", help="The speech pack: its manifests and audio.", show_default=False),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="FILE", help="A manifest or shards; may be repeated.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of the pack, and of the wordings of --ask.")] = "dev",
    limit: Annotated[int, typer.Option("--limit", min=0, help="About this many records, evenly spread; 0 is all.")] = 0,
    ask: Annotated[
        str, typer.Option("--ask", metavar="CODE,CODE", help="Ask in plain language, e.g. en,zh, instead of by tags.")
    ] = "",
    model: Annotated[str, typer.Option("--model", metavar="PATH|NAME", help=MODEL_HELP)] = "",
    device: Annotated[str, DEVICE] = "auto",
    backend: Annotated[str, BACKEND] = "auto",
    threads: Annotated[int | None, THREADS] = None,
    allow_fallback: Annotated[bool, FALLBACK] = False,
) -> None:
    """Run a split of the pack, or manifests, through the main job and print the figures; resumes what was cut off."""
    from zhiyin import cli_recipe

    where = (model, device, backend, threads, allow_fallback)
    languages = tuple(filter(None, ask.split(",")))
    asked = cli_recipe.Asked(pack, tuple(data or ()), split, out, limit, languages)
    typer.echo(cli_recipe.evaluate(asked, where), nl=False)


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
