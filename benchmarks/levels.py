"""How many of the sample recordings are understood when they are quiet, offset, clipped or narrow.

    python benchmarks/levels.py [--untouched]

`--untouched` gives detector and model the recording as it is, without `zhiyin.audio.level`. Prints a Markdown table.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soxr

import zhiyin
from zhiyin.audio import level
from zhiyin.audio.features import Float32
from zhiyin.audio.io import load

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
RATE_HZ = 16_000


def _peak(samples_T: Float32, peak_db: float) -> Float32:
    return samples_T / np.abs(samples_T).max() * 10 ** (peak_db / 20)


CASES: dict[str, tuple[Callable[[Float32], Float32], int]] = {
    "as it is": (lambda x: x, RATE_HZ),
    **{f"peak {db} dBFS": (lambda x, db=db: _peak(x, db), RATE_HZ) for db in (-20, -30, -40, -50, -60)},
    "peak -50 dBFS in 16 bits": (lambda x: np.round(_peak(x, -50) * 32_767) / 32_767, RATE_HZ),
    "peak -50 dBFS, offset 1 %": (lambda x: _peak(x, -50) + 0.01, RATE_HZ),
    **{f"offset {100 * offset:g} %": (lambda x, dc=offset: x / 2 + dc, RATE_HZ) for offset in (0.05, 0.1, 0.3)},
    **{f"clipped by {db} dB": (lambda x, db=db: np.clip(_peak(x, db), -1, 1), RATE_HZ) for db in (3, 6, 12, 20)},
    "8 kHz": (lambda x: soxr.resample(x, RATE_HZ, 8_000), 8_000),
    "8 kHz, peak -50 dBFS": (lambda x: _peak(soxr.resample(x, RATE_HZ, 8_000), -50), 8_000),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--untouched", action="store_true")
    if parser.parse_args().untouched:
        level.QUIET_DB, level._QUIET, level.OFFSET = -math.inf, 0.0, math.inf
    rows = [json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    model = zhiyin.load(threads=1)
    print("| recording | right of 8 | wrong |\n|---|--:|---|")
    for name, (change, rate_hz) in CASES.items():
        wrong = []
        for row in rows:
            heard = model.understand(change(load(SAMPLES / row["file"])).astype(np.float32), sample_rate_hz=rate_hz)
            if "".join(heard.text.split()) != "".join(row["text"].split()):
                wrong.append(f"{row['file']}: {heard.text or 'nothing'}")
        print(f"| {name} | {len(rows) - len(wrong)} | {'; '.join(wrong)} |", flush=True)


if __name__ == "__main__":
    main()
