"""Figures as tables one can read."""

import math
from collections.abc import Sequence

from zhiyin.evaluate.bootstrap import Interval
from zhiyin.evaluate.measures import Measure
from zhiyin.evaluate.score import Figure
from zhiyin.evaluate.summary import Scored, Summary

SURE_P = 0.05


def markdown(figures: Sequence[Figure]) -> str:
    """A Markdown table; shares as per cent, times in milliseconds."""
    ends = {"%": " %", "ms": " ms", "points": ""}
    lines = ["| figure | value | records |", "|---|--:|--:|"]
    for figure in figures:
        number = f"{figure.value:.0f}" if figure.unit == "ms" else f"{100 * figure.value:.1f}"
        lines.append(f"| {figure.name} | {number}{ends[figure.unit]} | {figure.count} |")
    return "\n".join(lines) + "\n"


def summary_markdown(summary: Summary, *, with_slices: bool = False) -> str:
    """Tables for a README: every figure with its interval, the comparison if there is one, slices if asked."""
    lines = ["| task | figure | value | 95 % interval | records |", "|---|---|--:|--:|--:|"]
    for one in summary.scored:
        measure = one.measure
        cells = (measure.task, measure.name, number(measure, measure.figure), span(measure, one.interval))
        lines.append(f"| {' | '.join(cells)} | {len(measure.rows)} |")
    if any(one.difference for one in summary.scored):
        lines += ["", *_comparison(summary.scored)]
    if with_slices:
        for one in summary.scored:
            lines += ["", *_slices(one)] if one.slices else []
    facts = ", ".join(f"{name}: {count}" for name, count in summary.facts.items())
    notes = [facts, *summary.notes, f"intervals: {summary.resamples} resamples of records, seed {summary.seed}"]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def number(measure: Measure, value: float, *, sign: bool = False) -> str:
    """A value in the unit of its measure; a dash where there is none."""
    if not math.isfinite(value):
        return "-"
    plus = "+" if sign else ""
    if measure.unit == "ms":
        return f"{round(value) + 0:{plus}d} ms"
    shown = round(100 * value, 1) + 0.0  # no -0.0
    return f"{shown:{plus}.1f}" + (" %" if measure.unit == "%" else "")


def span(measure: Measure, interval: Interval) -> str:
    """An interval, the unit once at its end."""
    low, high = number(measure, interval.low), number(measure, interval.high)
    return "-" if "-" in (low, high) else f"{low.removesuffix(' %').removesuffix(' ms')} to {high}"


def verdict(one: Scored) -> str:
    """In words whether this run differs from the other one."""
    if one.difference is None:
        return ""
    if one.difference.p >= SURE_P or not one.difference.value:
        return "not sure"
    return "better" if (one.difference.value < 0) == (one.measure.better == "lower") else "worse"


def _comparison(scored: Sequence[Scored]) -> list[str]:
    lines = [
        "| task | figure | this run minus the other | 95 % interval | p | this run is |",
        "|---|---|--:|--:|--:|---|",
    ]
    for one in scored:
        if one.difference:
            measure, difference = one.measure, one.difference
            value = number(measure, difference.value, sign=True)
            cells = (measure.task, measure.name, value, span(measure, difference.interval), f"{difference.p:.3f}")
            lines.append(f"| {' | '.join(cells)} | {verdict(one)} |")
    return lines


def _slices(one: Scored) -> list[str]:
    measure = one.measure
    lines = [f"| {measure.task} {measure.name} by | | value | 95 % interval | records |", "|---|---|--:|--:|--:|"]
    for part in one.slices:
        value, where = number(measure, part.figure), span(measure, part.interval)
        lines.append(f"| {part.key} | {part.value} | {value} | {where} | {part.count} |")
    return lines
