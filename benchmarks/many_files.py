"""Memory of one process that understands many short files one after another: does it grow?

    python benchmarks/many_files.py [--files 1000]

The files are pieces of our samples, half a second to eight seconds long, each another length, asked in turn for the
transcript, for word times and for the vocal event. After every file the resident memory is read (from /proc, so on
Linux). A line is fitted to it after the first tenth, and its slope is printed with a 95 % confidence interval that does
not take neighbours for independent: the run is divided into ten blocks, and the slope is that of the blocks' means
(Student's t, eight degrees of freedom).
"""

import argparse
import gc
import json
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from measure import SAMPLES

import zhiyin

RATE_HZ = 16_000
BLOCKS = 10
T_95 = 2.306  # two-sided 95 % point of Student's t with BLOCKS - 2 degrees of freedom
TASKS = ("asr", "srwt", "ved")


def write_file(path: Path, spoken: list[np.ndarray], rng: random.Random) -> None:
    """A short recording of another length each time."""
    joined = np.concatenate([rng.choice(spoken) for _ in range(5)])
    size = round(rng.uniform(0.5, 8.0) * RATE_HZ)
    start = rng.randrange(len(joined) - size) if len(joined) > size else 0
    soundfile.write(path, joined[start : start + size], RATE_HZ, "PCM_16")


def resident_mb() -> float:
    """Resident memory of this process; the second number of statm, in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def slope(values: np.ndarray) -> tuple[float, float]:
    """Growth for each file, and half the width of its 95 % confidence interval."""
    means = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    places = np.array([block.mean() for block in np.array_split(np.arange(len(values)), BLOCKS)])
    centred = places - places.mean()
    fitted = float(centred @ means / (centred @ centred))
    rest = means - means.mean() - fitted * centred
    error = float(np.sqrt(rest @ rest / (BLOCKS - 2) / (centred @ centred)))
    return fitted, T_95 * error


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--trace", type=Path, help="write the memory after every file here, as JSON")
    given = parser.parse_args()
    spoken = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.flac"))]
    model = zhiyin.load()
    rng = random.Random(1)
    memory_mb = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.files):
            path = Path(folder) / f"{number}.flac"
            write_file(path, spoken, rng)
            model.understand(path, TASKS[number % len(TASKS)])
            path.unlink()
            if number % 50 == 49:
                gc.collect()  # what waits for the collector is no growth
            memory_mb.append(resident_mb())
    counted = np.array(memory_mb[given.files // 10 :])
    growth_mb, margin_mb = slope(counted)
    print(f"{given.files} files in {time.monotonic() - began_s:.0f} s")
    print(f"resident memory: {memory_mb[0]:.1f} MB after the first file, {counted[0]:.1f} MB after a tenth of them,")
    print(f"  {memory_mb[-1]:.1f} MB after the last, {max(memory_mb):.1f} MB at most")
    zero = "not distinguishable from zero" if abs(growth_mb) <= margin_mb else "DIFFERENT FROM ZERO"
    print(f"growth: {1024 * growth_mb:+.3f} KB a file, 95 % interval +-{1024 * margin_mb:.3f} KB: {zero}")
    if given.trace:
        given.trace.write_text(json.dumps(memory_mb), encoding="utf-8")


if __name__ == "__main__":
    main()
