"""A recording of many hours: complete, in memory that does not grow, word for word what its windows give one by one.

    python benchmarks/long_recording.py [--hours 10]

The conversation is made while it is written: our samples in random order, louder and softer, over a faint noise, mostly
with pauses, now and then half a minute without one, so that speech must be cut. What is said is known. Five minutes of
the same are measured beside it: the peak memory of the two processes must not differ by 150 MB. Then every window of
the long recording goes through the model by itself, in this process, and its words are compared with the command's.
Needs about 50 MB of disk for an hour.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from measure import SAMPLES, ZHIYIN, run

import zhiyin
from zhiyin.ask import fit, request
from zhiyin.audio.io import open_recording
from zhiyin.audio.windows import OVERLAP_S, cut
from zhiyin.hear import hear
from zhiyin.segments import Heard, merge
from zhiyin.text.score import words

RATE_HZ = 16_000
SHORT_S = 300.0
MOST_MORE_MB = 150.0
NOISE = 0.0005
EDGE = 0.05  # softer than this are the beginnings and ends of the samples
UNBROKEN = 12  # turns of about 2 s without a pause


def turns(seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """One turn after another, with the pause after it, and its words; without end."""
    truth = [json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    spoken = [(soundfile.read(SAMPLES / row["file"], dtype="float32")[0], row["text"]) for row in truth]
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    unbroken = 0
    while True:
        samples, text = rng.choice(spoken)
        unbroken = UNBROKEN if not unbroken and rng.random() < 0.02 else max(0, unbroken - 1)
        pause_s = 0.0 if unbroken else rng.uniform(0.5, 3.0)
        if unbroken:
            loud = np.flatnonzero(np.abs(samples) > EDGE)
            samples = samples[loud[0] : loud[-1] + 1]
        turn = np.concatenate([samples * 10 ** rng.uniform(-0.5, 0), np.zeros(round(pause_s * RATE_HZ))])
        yield (turn + NOISE * noise.standard_normal(len(turn))).astype(np.float32), text


def write(path: Path, seconds: float) -> list[str]:
    """Write a recording of at least `seconds`; returns its words."""
    said: list[str] = []
    written = 0
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as out:
        for samples, text in turns(seed=1):
            out.write(samples)
            said += words(text)
            written += len(samples)
            if written >= seconds * RATE_HZ:
                break
    return said


def one_by_one(path: Path) -> tuple[list[str], int, int]:
    """The words of each segment with every window alone in its batch; how many windows, and how many were cut."""
    model = zhiyin.load().loaded
    asked = fit(request(["asr"]), model.backend.spec)
    limit_s = model.backend.spec.max_window_s
    said: list[str] = []
    count = cuts = 0
    last: Heard | None = None
    for window in cut(open_recording(path).blocks(), limit_s=limit_s, overlap_s=min(OVERLAP_S, limit_s / 6)):
        heard = Heard(window, hear([window], asked, model)[0])
        count, cuts = count + 1, cuts + bool(window.overlap_s)
        if last is not None:
            if window.overlap_s:
                last, heard = merge(last, heard)
            said.append(last.segment.text)
        last = heard
    return [*said, *([last.segment.text] if last else [])], count, cuts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0)
    hours = parser.parse_args().hours
    print("| recording | wall s | real-time factor | peak memory MB | words said | words heard | word error rate |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in (("5 minutes", SHORT_S), (f"{hours:g} hours", hours * 3600)):
            path = Path(folder) / "long.flac"
            said = write(path, seconds)
            cost = run([*ZHIYIN, "understand", str(path), "--format", "json"])
            result = json.loads(cost.output)
            peaks.append(cost.peak_mb)
            heard = words(result["text"])
            starts = [segment["start_s"] for segment in result["segments"]]
            assert starts == sorted(starts), "segments are out of order"
            assert result["duration_s"] >= seconds and starts[-1] > result["duration_s"] - 60, "the end is missing"
            wrong = distance(said, heard) / len(said)
            print(
                f"| {name} | {cost.wall_s:.1f} | {cost.wall_s / result['duration_s']:.4f} | {cost.peak_mb:.0f} "
                f"| {len(said)} | {len(heard)} | {100 * wrong:.2f} % |",
                flush=True,
            )
        more_mb = peaks[1] - peaks[0]
        verdict = "within" if more_mb <= MOST_MORE_MB else "MORE THAN"
        print(f"\nmemory: {more_mb:+.0f} MB against 5 minutes, {verdict} the {MOST_MORE_MB:.0f} MB allowed", flush=True)
        began_s = time.monotonic()
        alone, count, cuts = one_by_one(path)
    together = [segment["text"] for segment in result["segments"]]
    differ = [i for i, pair in enumerate(zip(alone, together, strict=True)) if words(pair[0]) != words(pair[1])]
    print(f"windows one by one: {count}, {cuts} of them cut inside speech; {time.monotonic() - began_s:.1f} s")
    changed = distance(words(" ".join(alone)), words(" ".join(together)))
    print(f"segments whose words differ: {len(differ)} of {len(alone)}; words that differ: {changed}")
    for i in differ[:5]:
        print(f"  {i}: {alone[i]!r} alone, {together[i]!r} in its batch")


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
