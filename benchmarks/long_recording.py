"""Memory and completeness on long recordings: 5 minutes against 2 hours of the same synthetic conversation.

    python benchmarks/long_recording.py [--hours 2]

The recording repeats our samples with pauses, so the right text is known: it is compared with what came back.
"""

import argparse
import itertools
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from measure import SAMPLES, ZHIYIN, run

from zhiyin.text.score import words

RATE_HZ = 16_000


def pieces(seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Samples in random order with a pause of half a second to three seconds after each, without end."""
    truth = [json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    spoken = [(soundfile.read(SAMPLES / row["file"], dtype="float32")[0], row["text"]) for row in truth]
    rng = random.Random(seed)
    for _ in itertools.count():
        samples, text = rng.choice(spoken)
        yield np.concatenate([samples, np.zeros(int(rng.uniform(0.5, 3.0) * RATE_HZ), np.float32)]), text


def write(path: Path, seconds: float) -> list[str]:
    """Write a recording of at least `seconds`; returns its words."""
    said: list[str] = []
    written = 0
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as out:
        for samples, text in pieces(seed=1):
            out.write(samples)
            said += words(text)
            written += len(samples)
            if written >= seconds * RATE_HZ:
                return said
    return said


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=2.0)
    hours = parser.parse_args().hours
    print("| recording | wall s | real-time factor | peak memory MB | words said | words heard | word error rate |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in (("5 minutes", 300.0), (f"{hours:g} hours", hours * 3600)):
            path = Path(folder) / "long.wav"
            said = write(path, seconds)
            cost = run([*ZHIYIN, "understand", str(path), "--format", "json"])
            result = json.loads(cost.output)
            heard = words(result["text"])
            starts = [segment["start_s"] for segment in result["segments"]]
            assert starts == sorted(starts), "segments are out of order"
            wrong = distance(said, heard) / len(said)
            print(
                f"| {name} | {cost.wall_s:.1f} | {cost.wall_s / result['duration_s']:.4f} | {cost.peak_mb:.0f} "
                f"| {len(said)} | {len(heard)} | {100 * wrong:.1f} % |",
                flush=True,
            )


def distance(said: list[str], heard: list[str]) -> int:
    """Levenshtein distance row by row in numpy; `zhiyin.text.score.edits` gives the same and takes hours here."""
    codes = {word: i for i, word in enumerate({*said, *heard})}
    columns = np.arange(len(heard) + 1)
    other = np.array([codes[word] for word in heard], int)
    row = columns.copy()
    for number, word in enumerate(said, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != codes[word]))
        row = np.minimum.accumulate(np.concatenate([[number], best]) - columns) + columns
    return int(row[-1])


if __name__ == "__main__":
    main()
