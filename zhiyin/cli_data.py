"""`zhiyin data`: manifests checked, counted, divided, converted, packed and made of synthetic speech."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.errors import UserError

if TYPE_CHECKING:
    from zhiyin.data.manifest import Record

FAULTS = 1  # exit code of a check that found something

app = typer.Typer(
    help="Manifests: check, stats, split, import, export, shard, synth, label.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_FILE = typer.Argument(metavar="FILE", help="A manifest (.jsonl).")
_LABELS = typer.Option("--labels", metavar="TASK=A,B", help="A model's own label set; may be repeated.")


@app.command()
def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Manifests, the splits of one set; or a folder of shards.")
    ],
    labels: Annotated[list[str] | None, _LABELS] = None,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Decode every recording.")] = True,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Threads that decode.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Name every fault with its file and line, then the hours per task and label; exit code 1 with faults."""
    from zhiyin.cli_progress import Progress
    from zhiyin.data import check as checking
    from zhiyin.data import clip, stats

    if len(files) == 1 and (clip.is_address(files[0]) or Path(files[0]).is_dir()):
        raise typer.Exit(_check_shards(files[0]))
    with Progress(0) as progress:
        placed, faults = checking.check(
            list(dict.fromkeys(map(Path, files))),
            labels=_label_sets(labels or []),
            with_audio=audio,
            workers=workers,
            progress=lambda done: progress.say(f"{done} recordings heard") if done % 1000 == 0 else None,
        )
    found = stats.rows(one.record for one in placed)
    if as_json:
        shown = [{"file": str(fault.file), "line": fault.line, "what": fault.what} for fault in faults]
        typer.echo(json.dumps({"faults": shown, "rows": [asdict(row) for row in found]}, ensure_ascii=False))
    else:
        typer.echo("".join(f"{fault}\n" for fault in faults) + stats.text(found), nl=False)
        typer.echo(f"{len(placed)} records, {len(faults)} faults")
    raise typer.Exit(FAULTS if faults else 0)


@app.command()
def stats(
    file: Annotated[Path, _FILE],
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Also draw (extra `train`).", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON array.")] = False,
) -> None:
    """Hours, records and speakers per task, label, language and source."""
    from zhiyin.data import manifest
    from zhiyin.data import stats as counting

    records = manifest.read(file)
    found = counting.rows(records)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in found], ensure_ascii=False))
    else:
        typer.echo(counting.text(found), nl=False)
    for path in counting.plot(records, plot) if plot else ():
        typer.echo(str(path), err=True)


@app.command()
def split(
    file: Annotated[Path, _FILE],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: beside FILE.", show_default=False)
    ] = None,
    by: Annotated[str, typer.Option("--by", help="What is in one split only: speaker, source or id.")] = "speaker",
    dev: Annotated[float, typer.Option("--dev", metavar="PERCENT", help="Of the hours.")] = 5.0,
    test: Annotated[float, typer.Option("--test", metavar="PERCENT", help="Of the hours.")] = 5.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another one, another division.")] = 1,
) -> None:
    """Divide a manifest into train, dev and test: no speaker in two, labels balanced, the same for the same seed."""
    from zhiyin.data import manifest
    from zhiyin.data import split as dividing

    records = manifest.read(file)
    done = dividing.split(records, by=by, dev=dev, test=test, seed=seed)
    folder = out or file.parent
    paths = {name: folder / f"{name}.jsonl" for name in done.records}
    if file.resolve() in {path.resolve() for path in paths.values()}:
        raise UserError(f"split {file}: would be replaced by its own part; give --out")
    for name, part in done.records.items():
        manifest.write(paths[name], part)
        typer.echo(_wrote(paths[name], part))
    if done.ungrouped:
        typer.echo(f"{done.ungrouped} records have no {by}; each counts as a group of its own", err=True)


@app.command("import")
def import_(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="`zhiyin data formats` lists them.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the manifests, one for each split.")],
    onto: Annotated[
        Path | None, typer.Option("--onto", metavar="FILE", help="ctm, textgrid: the records.", show_default=False)
    ] = None,
) -> None:
    """Make manifests of other people's formats and corpora; audio stays where it is, unless it is in a tar."""
    from zhiyin.data import manifest
    from zhiyin.data.formats import table

    row = table.named(format, to_write=False)
    if row.read_words is not None:
        if onto is None:
            raise UserError(f"import {format}: word times need the records they belong to; give --onto FILE")
        imported = row.read_words(source, manifest.read(onto))
    else:
        if onto is not None or row.read is None:
            raise UserError(f"import {format}: --onto is for word times (ctm, textgrid)")
        imported = row.read(source, out)
    for name, records in imported.splits.items():
        manifest.write(out / f"{name}.jsonl", records)
        typer.echo(_wrote(out / f"{name}.jsonl", records))
    for note in imported.notes:
        typer.echo(note, err=True)


@app.command()
def export(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="`zhiyin data formats` lists them.")],
    file: Annotated[Path, _FILE],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File or folder, as the format has it.")],
) -> None:
    """Write a manifest in another format."""
    from zhiyin.data import manifest
    from zhiyin.data.formats import table

    row = table.named(format, to_write=True)
    records = manifest.read(file)
    notes = row.write(records, out) if row.write else []
    typer.echo(_wrote(out, records))
    for note in notes:
        typer.echo(note, err=True)


@app.command()
def formats() -> None:
    """List what can be imported and exported."""
    from zhiyin.data.formats import table

    for row in table.FORMATS:
        ways = " ".join(way for way, does in (("import", row.read or row.read_words), ("export", row.write)) if does)
        typer.echo(f"{row.name:<16} {ways:<14} {row.about}")


@app.command()
def shard(
    file: Annotated[Path, _FILE],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    per_shard: Annotated[int, typer.Option("--per-shard", metavar="N", min=1, help="Samples of a tar.")] = 1000,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Shuffle with it.", show_default=False)
    ] = None,
) -> None:
    """Pack records and their audio into indexed tars; `zhiyin data check OUT` reads them all."""
    from zhiyin.data import manifest, shards

    written = shards.write(manifest.read(file), out, per_shard=per_shard, seed=seed)
    size_mb = sum(one.size_bytes for one in written.shards) / 1e6
    typer.echo(f"{out}: {written.num_samples} samples in {len(written.shards)} shards, {size_mb:.1f} MB")


@app.command()
def synth(
    grammar: Annotated[
        str,
        typer.Argument(
            metavar="GRAMMAR",
            help="pocket, digits, commands, chinese, questions, phrases, orders, styles, events; or a .toml file.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    hours: Annotated[float, typer.Option("--hours", metavar="H", help="How much: hours of sound.")] = 0.0,
    records: Annotated[int, typer.Option("--records", metavar="N", help="Or recordings.")] = 0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Another one, other recordings.")] = 1,
    jobs: Annotated[int, typer.Option("--jobs", metavar="J", min=1, help="Processes.")] = 1,
    dev: Annotated[float, typer.Option("--dev", metavar="PERCENT", help="Of the recordings.")] = 5.0,
    test: Annotated[float, typer.Option("--test", metavar="PERCENT", help="Of the recordings.")] = 5.0,
    clips: Annotated[
        Path | None,
        typer.Option("--clips", metavar="FILE", help="A manifest of sounds to join with speech.", show_default=False),
    ] = None,
    engines: Annotated[
        str, typer.Option("--engines", metavar="A,B", help="espeak-ng and, as you like, flite and festival.")
    ] = "espeak-ng,flite",
    shards: Annotated[bool, typer.Option("--shards", help="Pack each split into tars; no single files.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a folder that is not complete.")] = False,
) -> None:
    """Make labelled speech with espeak-ng, flite, festival; voices and sentences of dev and test are not in train."""
    from time import monotonic

    from zhiyin.cli_progress import Progress
    from zhiyin.data import synth_run

    speakers = tuple(engines.split(","))
    plan = synth_run.Plan(grammar, records, hours, seed, dev, test, str(clips or ""), engines=speakers)
    begun_s = monotonic()
    with Progress(0) as progress:
        made = synth_run.run(
            plan,
            out,
            jobs=jobs,
            resume=resume,
            shards=shards,
            progress=lambda seconds: progress.say(f"{seconds / 3600:.2f} h made"),
        )
    for path, num_records, num_seconds in made.parts:
        typer.echo(f"{path}: {num_records} records, {num_seconds / 3600:.2f} h")
    if made.new_s:
        rate = made.new_s / (monotonic() - begun_s)
        typer.echo(f"{made.new_s / 3600:.2f} h made, {rate:.0f} times as fast as it plays, {jobs} processes", err=True)


@app.command()
def label(
    file: Annotated[Path, _FILE],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new manifest.")],
    task: Annotated[str, typer.Option("--task", metavar="A,B", help="What is added where it is not known.")] = "asr",
    at_least: Annotated[
        float, typer.Option("--at-least", min=0, max=1, help="Least confidence of what is taken.")
    ] = 0.0,
    model: Annotated[str, typer.Option("--model", metavar="PATH|NAME", help="Default: pocket.")] = "",
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="Where to run.")] = "auto",
) -> None:
    """Add what a model hears (transcripts, labels) to records that have no truth for it; what is known stays."""
    import zhiyin
    from zhiyin.cli_progress import Progress
    from zhiyin.data import manifest
    from zhiyin.evaluate import label as labelling

    records = manifest.read(file)
    loaded = zhiyin.load(model or None, device).loaded
    with Progress(len(records)) as progress:
        found = labelling.label(
            records, loaded, task.split(","), at_least=at_least, report=lambda record: progress.start(record.id)
        )
    manifest.write(out, found.records)
    typer.echo(_wrote(out, found.records))
    typer.echo(f"{found.added} with something new, {len(found.unsure)} not sure enough, {len(found.failed)} failed")
    for line in found.failed:
        typer.echo(line, err=True)
    raise typer.Exit(1 if found.failed else 0)


def _check_shards(place: str) -> int:
    from zhiyin.data import shards

    found = shards.open_shards(place)
    faults = list(found.faults())
    typer.echo("".join(f"{fault}\n" for fault in faults), nl=False)
    typer.echo(f"{found.num_samples} samples in {len(found.shards)} shards, {len(faults)} faults")
    return FAULTS if faults else 0


def _label_sets(given: list[str]) -> dict[str, tuple[str, ...]]:
    sets = {}
    for one in given:
        task, _, names = one.partition("=")
        labels = tuple(name.strip() for name in names.split(",") if name.strip())
        if not labels:
            raise UserError(f"--labels '{one}': a task and its labels were expected, e.g. ssr=slow,normal,fast")
        sets[task.strip()] = labels
    return sets


def _wrote(path: Path, records: "list[Record]") -> str:
    hours = sum(record.duration_s for record in records) / 3600
    return f"{path}: {len(records)} records, {hours:.2f} h"
