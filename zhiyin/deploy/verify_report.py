"""A comparison as a person reads it."""

from collections.abc import Iterator, Sequence
from typing import Any

from zhiyin.deploy.verify import Report

_HEAD = ("component", "inputs", "cosine", "mean abs", "max abs", "rel. L2", "top-1", "error", "")


def text(report: Report) -> str:
    """Two lines of what was compared, a table, notes, and the verdict last."""
    rows = [_HEAD, *(_cells(report, i) for i in range(len(report.rows)))]
    return "\n".join([*_heads(report), "", *_table(rows), "", *_tail(report)]) + "\n"


def _heads(report: Report) -> Iterator[str]:
    for title, about in (("checked", report.subject), ("against", report.reference)):
        where = f"{about['backend']} on {about['device']}"
        yield f"{title}: model {about['model']} ({about['precision']}) with {where}, {about['machine']}"
    yield f"gates: {report.gates}"


def _cells(report: Report, i: int) -> tuple[str, ...]:
    row = report.rows[i]
    one = row.measures
    measures = (
        _fixed(one.cosine, 6),
        _short(one.mean_abs),
        _short(one.max_abs),
        _short(one.relative_l2),
        _share(one.top1),
        _share(one.error),
    )
    return (row.name, f"{row.inputs} {row.cases}", *measures, f"FAILED: {row.wrong}" if row.wrong else "ok")


def _tail(report: Report) -> Iterator[str]:
    yield from (*report.notes, *(f"hunt: {line}" for line in report.hunt))
    wrong = [row for row in report.rows if row.wrong]
    if wrong:
        yield f"FAILED: {len(wrong)} of {len(report.rows)} rows exceed their gates, first {wrong[0].name}"
    else:
        yield f"passed: {len(report.rows)} rows within their gates"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD) - 1)]
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*cells, row[-1]]).rstrip()


def _fixed(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _short(value: Any) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def _share(value: Any) -> str:
    return "-" if value is None else f"{value:.1%}"
