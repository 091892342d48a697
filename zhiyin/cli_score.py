"""`zhiyin score`: figures of hypotheses in files; no model runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.errors import UserError

if TYPE_CHECKING:
    from zhiyin.evaluate.summary import Summary

OUTPUTS = ("figures.json", "figures.md", "report.html", "judge.jsonl")


def score(
    hypotheses: Annotated[
        Path, typer.Argument(metavar="HYP", help="results.jsonl of eval, or JSONL, TSV, Kaldi text.")
    ],
    references: Annotated[
        Path | None, typer.Argument(metavar="[REF]", help="A manifest, or as HYP; results.jsonl needs none.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="HYP", help="Another run to compare with.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help=f"Write {', '.join(OUTPUTS)} there.", show_default=False),
    ] = None,
    task: Annotated[str, typer.Option("--task", metavar="ID,ID", help="Only these.  [default: all]")] = "",
    language: Annotated[str, typer.Option("--language", metavar="CODE", help="Of all texts: zh, en or another.")] = "",
    as_written: Annotated[bool, typer.Option("--as-written", help="Case, punctuation and numbers count.")] = False,
    slices: Annotated[bool, typer.Option("--slices", help="Tables by speaker, source, length and so on, too.")] = False,
    judge: Annotated[
        Path | None, typer.Option("--judge", metavar="FILE.jsonl", help="Scores of answers.", show_default=False)
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", metavar="N", min=100, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the bootstrap.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Score hypotheses in files against their truth, with intervals; compare two runs."""
    from zhiyin.evaluate import files, report, summary
    from zhiyin.evaluate import judge as judged
    from zhiyin.evaluate.measures import Options
    from zhiyin.tasks.table import select

    asked = tuple(row.id for name in task.split(",") if name for row in select(name))
    paired = files.load(hypotheses, references, asked)
    other = files.load(against, references, asked).rows if against else None
    options = Options(as_written, language, judged.read(judge) if judge else {}, asked)
    found = summary.summarize(
        paired.rows, options, extra=paired.extra, against=other, resamples=resamples, seed=seed
    )  # fmt: skip
    if not found.scored:
        raise UserError(f"scoring {hypotheses}: no row has a truth for the tasks asked; give --task or another REF")
    if out:
        title = f"{hypotheses}" + (f" against {against}" if against else "")
        write(found, out, title)
    text = json.dumps(summary.to_json(found), ensure_ascii=False, indent=1) + "\n" if as_json else None
    typer.echo(text or report.summary_markdown(found, with_slices=slices), nl=False)


def write(found: "Summary", out: Path, title: str) -> None:
    """Write the figures as JSON, Markdown and a page, and answers for a judge, into a folder."""
    from zhiyin.data.manifest import write_lines
    from zhiyin.evaluate import html, report, summary
    from zhiyin.evaluate import judge as judged

    write_lines(out / "figures.json", [json.dumps(summary.to_json(found), ensure_ascii=False, indent=1)])
    write_lines(out / "figures.md", [report.summary_markdown(found, with_slices=True).rstrip("\n")])
    write_lines(out / "report.html", [html.page(found, out, title).rstrip("\n")])
    if any("sttc" in row["tasks"] for row in found.rows):
        judged.write(out / "judge.jsonl", found.rows)
