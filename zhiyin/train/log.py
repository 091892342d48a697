"""Figures of a run as they come: `metrics.jsonl`, and event files for TensorBoard where its package is installed."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zhiyin.train.curves import draw

METRICS, CURVES, EVENTS = "metrics.jsonl", "curves.png", "tensorboard"


class Log:
    """Writes and tells; a process that is not the first one has none."""

    def __init__(self, run: Path, report: Callable[[str], None], *, tensorboard: bool, step: int):
        """Begin at a step; later ones that an earlier start has written count no more."""
        self._run, self._report, self._events = run, report, None
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            report("no event files: pip install tensorboard, or write tensorboard = false under [run]")
        elif tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run / EVENTS), purge_step=step + 1)

    def training(self, row: dict[str, Any]) -> None:
        """Figures of a step."""
        self._write(row, row["step"], "train", {name: value for name, value in row.items() if name != "step"})
        self._report(" ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))

    def dev(self, step: int, figures: dict[str, float], *, average: bool = False) -> None:
        """Figures of the dev records, by the weights of a step or by the average of the last; draws the curves."""
        name = "average" if average else "dev"
        self._write({"step": step, name: figures}, step, name, figures)
        draw(self._run / METRICS, self._run / CURVES)
        self._report(f"step {step} {name} " + " ".join(f"{k} {v:.3f}" for k, v in figures.items()))

    def close(self) -> None:
        """The end."""
        if self._events is not None:
            self._events.close()

    def _write(self, row: dict[str, Any], step: int, kind: str, values: dict[str, float]) -> None:
        with (self._run / METRICS).open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)
