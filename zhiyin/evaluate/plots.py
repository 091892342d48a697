"""Plots as SVG inside HTML: no drawing library, and the reader's own fonts, which have Chinese characters."""

import math
from collections.abc import Sequence
from html import escape

from zhiyin.evaluate.measures import Measure
from zhiyin.evaluate.report import number, span
from zhiyin.evaluate.slices import Slice
from zhiyin.evaluate.summary import Confusion

_ROW, _LABEL, _WIDTH, _VALUE, _COUNT = 22, 150, 420, 70, 70  # px
_BAR, _WHISKER = "#6f9ceb", "#8a6d3b"  # seen on white and on black


def bars(measure: Measure, parts: Sequence[Slice]) -> str:
    """Horizontal bars of one key's slices, each with its interval, value and number of records."""
    ends = [x for part in parts for x in (part.figure, part.interval.high) if math.isfinite(x)]
    top = max(ends, default=0.0)
    if measure.unit != "ms":
        top = min(max(top, 0.01), 1.5)
    top = top or 1.0
    height = _ROW * len(parts) + 8
    width = _LABEL + _WIDTH + _VALUE + _COUNT
    lines = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" fill="currentColor">']
    for at, part in enumerate(parts):
        lines += _bar(measure, part, at * _ROW + 4, top)
    return "\n".join([*lines, "</svg>"])


def _bar(measure: Measure, part: Slice, y: int, top: float) -> list[str]:
    middle = y + _ROW // 2
    name = part.value if len(part.value) <= 20 else part.value[:19] + "…"
    texts = [f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>']
    texts.append(f'<text x="{_LABEL + _WIDTH + 8}" y="{middle + 4}">{number(measure, part.figure)}</text>')
    right = _LABEL + _WIDTH + _VALUE + _COUNT
    texts.append(f'<text x="{right}" y="{middle + 4}" text-anchor="end" fill="#808080">n={part.count}</text>')
    if not math.isfinite(part.figure):
        return texts
    places = [_LABEL + _WIDTH * min(1.0, x / top) for x in (part.figure, part.interval.low, part.interval.high)]
    low, high = (f"{x:.1f}" for x in places[1:])
    title = f"<title>{escape(part.value)}: {number(measure, part.figure)} ({span(measure, part.interval)})</title>"
    size = f'width="{places[0] - _LABEL:.1f}" height="{_ROW - 8}"'
    rect = f'<rect x="{_LABEL}" y="{y + 4}" {size} fill="{_BAR}">{title}</rect>'
    ends = f"M{low} {middle}H{high}M{low} {middle - 4}v8M{high} {middle - 4}v8"
    return [rect, f'<path d="{ends}" stroke="{_WHISKER}" stroke-width="1.4" fill="none"/>', *texts]


def confusion(table: Confusion) -> str:
    """A table of counts; the deeper the colour, the larger the share of the row (the truth)."""
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in table.given)
    lines = [f'<table><tr><th>truth \\ reply</th>{head}<th class="n">recall</th></tr>']
    for i, truth in enumerate(table.truths):
        total = sum(table.counts[i])
        cells = []
        for j, count in enumerate(table.counts[i]):
            share = count / total
            colour = f"34, 139, 87, {0.7 * share:.2f}" if table.given[j] == truth else f"200, 60, 50, {0.8 * share:.2f}"
            cells.append(f'<td class="n" style="background: rgba({colour})">{count or ""}</td>')
        recall = f"<td class='n dim'>{100 * table.counts[i][i] / total:.0f} %</td>"
        lines.append(f"<tr><th>{escape(truth)}</th>{''.join(cells)}{recall}</tr>")
    return "\n".join([*lines, "</table>"])
