"""The report as one HTML page that asks nothing of the network: figures, plots, and the worst errors to hear."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from zhiyin.evaluate import plots, worst
from zhiyin.evaluate.report import number, span, verdict
from zhiyin.evaluate.slices import Slice
from zhiyin.evaluate.summary import Scored, Summary
from zhiyin.tasks.table import TASKS

MAX_BARS = 20  # of one key; of more values (speakers) the worst are drawn

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --page: #fff; --dim: #6b7280; --line: #d9dce1;
  --good: 34 139 87; --bad: 200 60 50; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --page: #16181c; --dim: #9aa1ab; --line: #343941; --bad: 240 110 100; } }
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  color: var(--ink); background: var(--page); max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.dim { color: var(--dim); }
.better { color: rgb(var(--good)); }
.worse, .wrong-text { color: rgb(var(--bad)); }
.wrong-text { font-weight: 600; }
svg { max-width: 100%; height: auto; display: block; font-size: 13px; }
.wide { overflow-x: auto; }
audio { height: 32px; width: 240px; }
sub { color: var(--dim); }
"""


def page(summary: Summary, folder: Path, title: str) -> str:
    """The whole page.

    Args:
        summary: what to show.
        folder: where the page will lie; long recordings are linked from there.
        title: of the page, e.g. the model and the data.
    """
    parts = [f"<h1>{escape(title)}</h1>", _facts(summary), _figures(summary.scored)]
    if any(one.difference for one in summary.scored):
        parts.append(_comparison(summary.scored))
    for task, group in groupby(summary.scored, key=lambda one: one.measure.task):
        parts.append(_task(summary, task, [one for one in group if one.measure.main or one.slices], folder))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n'
    )


def _facts(summary: Summary) -> str:
    counts = " · ".join(f"{escape(name)}: {count}" for name, count in summary.facts.items())
    sure = f"intervals: 95 %, {summary.resamples} resamples of records, seed {summary.seed}"
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*summary.notes, sure))
    return f'<p>{counts}</p><ul class="dim">{notes}</ul>'


def _figures(scored: Sequence[Scored]) -> str:
    lines = ["<h2>Figures</h2><div class='wide'><table><tr><th>task</th><th>figure</th><th class='n'>value</th>"]
    lines.append("<th class='n'>95 % interval</th><th class='n'>records</th><th>better</th></tr>")
    for one in scored:
        measure = one.measure
        cells = (number(measure, measure.figure), span(measure, one.interval), str(len(measure.rows)))
        row = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        name = f"<b>{escape(measure.name)}</b>" if measure.main else escape(measure.name)
        good = "↓" if measure.better == "lower" else "↑"
        lines.append(f'<tr><td>{measure.task}</td><td>{name}</td>{row}<td class="dim">{good}</td></tr>')
    return "\n".join([*lines, "</table></div>"])


def _comparison(scored: Sequence[Scored]) -> str:
    lines = ["<h2>Against the other run</h2><div class='wide'><table><tr><th>task</th><th>figure</th>"]
    lines.append(
        "<th class='n'>this minus other</th><th class='n'>95 % interval</th><th class='n'>p</th><th></th></tr>"
    )
    for one in scored:
        if one.difference is None:
            continue
        measure, word = one.measure, verdict(one)
        value = number(measure, one.difference.value, sign=True)
        cells = (value, span(measure, one.difference.interval), f"{one.difference.p:.3f}")
        row = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        name = f"<td>{measure.task}</td><td>{escape(measure.name)}</td>"
        lines.append(f'<tr>{name}{row}<td class="{word}">{word}</td></tr>')
    return "\n".join([*lines, "</table></div>"])


def _task(summary: Summary, task: str, scored: Sequence[Scored], folder: Path) -> str:
    title = next((row.title for row in TASKS if row.id == task), "requests in plain language")
    parts = [f"<h2>{task}: {escape(title)}</h2>"]
    tables = [table for table in summary.confusions if table.task == task]
    parts += [f"<h3>confusion</h3><div class='wide'>{plots.confusion(table)}</div>" for table in tables]
    for one in scored:
        for key, group in groupby(one.slices, key=lambda part: part.key):
            shown, left = _worst_slices(one, list(group))
            more = f' <span class="dim">(worst {len(shown)} of {len(shown) + left})</span>' if left else ""
            parts.append(f"<h3>{escape(one.measure.name)} by {escape(key)}{more}</h3>{plots.bars(one.measure, shown)}")
        cases = worst.worst(one.measure, summary.options) if one.measure.main else []
        parts.append(_cases(one.measure.name, cases, folder) if cases else "")
    return "\n".join(parts) if len(parts) > 1 else ""


def _worst_slices(one: Scored, parts: list[Slice]) -> tuple[list[Slice], int]:
    known = [part for part in parts if part.figure == part.figure]
    if len(known) <= MAX_BARS:
        return known, 0
    down = one.measure.better == "lower"
    return sorted(known, key=lambda part: -part.figure if down else part.figure)[:MAX_BARS], len(known) - MAX_BARS


def _cases(name: str, cases: Sequence[worst.Case], folder: Path) -> str:
    lines = [f"<h3>worst by {escape(name)}</h3><div class='wide'><table>"]
    lines.append("<tr><th>record</th><th></th><th>truth</th><th>reply</th><th></th></tr>")
    for case in cases:
        where = escape(str(case.row["slice"].get("source") or ""))
        key = f"{escape(case.row['id'])}<br><span class='dim'>{where}</span>"
        sound = worst.player(case.row, folder)
        texts = f"<td class='n'>{case.cost}</td><td>{case.truth}</td><td>{case.heard}</td>"
        lines.append(f"<tr><td>{key}</td>{texts}<td>{sound}</td></tr>")
    return "\n".join([*lines, "</table></div>"])
