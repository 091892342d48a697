"""Times as a person reads them; the last line is the same as JSON."""

import json
from collections.abc import Iterator

from zhiyin.deploy.bench import Report, Row

_HEAD = ("component", "length", "batch", "model", "mean ms", "median", "P95", "P99", "RTF", "tokens/s", "times first")


def text(report: Report) -> str:
    """The models, a table, what is bound by launches, notes, and the record as one line of JSON."""
    lines = [*_subjects(report), "", *_table(report), ""]
    lines += [*report.launch_bound, *report.notes]
    return "\n".join([*lines, record(report)]) + "\n"


def record(report: Report) -> str:
    """One line of JSON."""
    return json.dumps(report.to_dict(), ensure_ascii=False)


def _subjects(report: Report) -> Iterator[str]:
    for one in report.subjects:
        on_device = f", {_megabytes(one['device_peak_bytes'])} of the device" if one["device_peak_bytes"] else ""
        yield (
            f"{one['label']}: {one['precision']}, {one['backend']} on {one['device']}, {one['machine']}; loaded in "
            f"{one['load_s']:.2f} s and {_megabytes(one['load_bytes'])}{on_device}"
        )
    plan = report.plan
    peak = _megabytes(report.subjects[0]["host_peak_bytes"])
    yield f"{plan.warmup} rounds to warm up, {plan.runs} counted, {plan.tokens} tokens; peak of the process {peak}"


def _table(report: Report) -> Iterator[str]:
    cells = [_HEAD, *(_cells(row) for row in report.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEAD))]
    for row in cells:
        yield "  ".join(
            cell.ljust(width) if i in (0, 3) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    one = row.stats
    times = (f"{value * 1e3:.2f}" for value in (one.mean_s, one.median_s, one.p95_s, one.p99_s))
    rtf = "-" if row.rtf is None else f"{row.rtf:.4f}"
    speed = "-" if row.tokens_per_s is None else f"{row.tokens_per_s:.1f}"
    return (row.component, f"{row.length_s:g} s", str(row.batch), row.label, *times, rtf, speed, f"{row.to_first:.2f}")


def _megabytes(count: int | None) -> str:
    return "memory not known" if count is None else f"{count / 1e6:.0f} MB"
