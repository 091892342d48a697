"""The picture of a run: losses, learning rate and dev figures over steps."""

import json
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a run's `metrics.jsonl`; a last line cut by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def draw(metrics: Path, picture: Path) -> None:
    """Draw `metrics.jsonl` as a PNG: training losses left, dev figures right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(metrics)
    train = [row for row in rows if "loss" in row]
    dev = [row for row in rows if "dev" in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in ("lm_loss", "ctc_loss"):
        left.plot([row["step"] for row in train], [row[name] for row in train], label=name, linewidth=1)
    left.set(xlabel="step", ylabel="loss per token", yscale="log", title="training")
    left.legend()
    for name in sorted({key for row in dev for key in row["dev"]}):
        points = [(row["step"], row["dev"][name]) for row in dev if name in row["dev"]]
        right.plot([x for x, _ in points], [100 * y for _, y in points], marker=".", label=name)
    right.set(xlabel="step", ylabel="%", ylim=(0, 105), title="dev, greedy")
    if dev:
        right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
