"""Figures as a table one can read."""

from collections.abc import Sequence

from zhiyin.evaluate.score import Figure


def markdown(figures: Sequence[Figure]) -> str:
    """A Markdown table; shares as per cent, times in milliseconds."""
    lines = ["| figure | value | records |", "|---|--:|--:|"]
    for figure in figures:
        value = f"{figure.value:.0f} ms" if " in ms" in figure.name else f"{100 * figure.value:.1f} %"
        lines.append(f"| {figure.name} | {value} | {figure.count} |")
    return "\n".join(lines) + "\n"
