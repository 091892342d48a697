"""Run a command as a whole process and read what the operating system charged it: wall seconds and peak memory."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ZHIYIN = [sys.executable, "-m", "zhiyin"]
SAMPLES = Path(__file__).parents[1] / "samples"


@dataclass(frozen=True)
class Cost:
    """What one process cost."""

    wall_s: float
    peak_mb: float
    output: str


def run(command: list[str]) -> Cost:
    """Run a command to its end; a failure raises with what it said."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors[-500:]}")
    return Cost(time.monotonic() - started, usage.ru_maxrss / 1024, output)


def middle(command: list[str], runs: int) -> Cost:
    """Medians over `runs` runs, after one that is not counted."""
    run(command)
    costs = [run(command) for _ in range(runs)]
    return Cost(median(c.wall_s for c in costs), median(c.peak_mb for c in costs), costs[-1].output)
