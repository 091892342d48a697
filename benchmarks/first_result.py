"""How long a stranger waits: a cold `zhiyin understand` on 5 s of speech, `zhiyin --help`, and the environment's size.

    taskset -c 0,1 python benchmarks/first_result.py

Run it in the base environment (`make demo` makes one). Prints a Markdown table; peak memory is the process's own.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from measure import SAMPLES, ZHIYIN, middle

RUNS = 7
CLIP_S = 5.0
RATE_HZ = 16_000


def clip(folder: Path) -> Path:
    """Five seconds of our own samples, one after the other."""
    joined = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.flac"))])
    path = folder / "clip.wav"
    soundfile.write(path, joined[: int(CLIP_S * RATE_HZ)], RATE_HZ)
    return path


def environment_mb() -> float:
    """Size of the environment this Python belongs to."""
    return sum(file.lstat().st_size for file in Path(sys.prefix).rglob("*") if file.is_file()) / 2**20


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        speech = clip(Path(folder))
        rows = [
            (
                "understand, 5 s clip, cold process",
                middle([*ZHIYIN, "understand", str(speech), "--task", "asr,ved"], RUNS),
            ),
            ("--help", middle([*ZHIYIN, "--help"], RUNS)),
        ]
    print("| command | wall s (median) | peak memory MB |\n|---|--:|--:|")
    for name, cost in rows:
        print(f"| {name} | {cost.wall_s:.2f} | {cost.peak_mb:.0f} |")
    print(f"\nenvironment on disk: {environment_mb():.0f} MB")


if __name__ == "__main__":
    main()
