"""How much faster a bundle is than eager torch: the pocket model end to end, recording by recording.

    python benchmarks/onnx_against_eager.py [--bundle DIR ...] [--runs 9] [--threads 2] [--tasks asr,srwt,ved]

Each recording of `samples/` is understood with PyTorch on the checkpoint and with onnxruntime on each bundle, in turns,
so that what else the machine does costs all the same. Counted is the whole main job: decoding, speech detection,
features, model, parsing. Prints a Markdown table of medians over the recordings, wall and processor time in
milliseconds and the ratio of eager to bundle, and the same as JSON on the last line. Without `--bundle` the packaged
bundle is measured.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import zhiyin

SAMPLES = Path(__file__).parents[1] / "samples"


def cost(run: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of one call, by the clock and by the processor."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    run()
    return 1e3 * (time.perf_counter() - wall_s), 1e3 * (time.process_time() - cpu_s)


def measure(models: dict[str, zhiyin.Model], task: str, runs: int) -> dict[str, dict[str, float]]:
    """Of each model the median over the recordings of the median over the runs, and the median of the ratios."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for recording in sorted(SAMPLES.glob("*.flac")):
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for _ in range(runs + 1):
            for name, model in models.items():
                costs[name].append(cost(lambda: model.understand(str(recording), tasks=[task])))  # noqa: B023
        for name, pairs in costs.items():
            rows[name].append((median(wall for wall, _ in pairs[1:]), median(cpu for _, cpu in pairs[1:])))
    found = {}
    for name, pairs in rows.items():
        against = rows["eager"]
        found[name] = {
            "wall_ms": median(wall for wall, _ in pairs),
            "cpu_ms": median(cpu for _, cpu in pairs),
            "wall_ratio": median(base[0] / row[0] for base, row in zip(against, pairs, strict=True)),
            "cpu_ratio": median(base[1] / row[1] for base, row in zip(against, pairs, strict=True)),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", default="asr,srwt,ved")
    given = parser.parse_args()
    models = {"eager": zhiyin.load("pocket", backend="eager", threads=given.threads)}
    if not given.bundle:
        models["packaged bundle"] = zhiyin.load("pocket", backend="onnx", threads=given.threads)
    for folder in given.bundle:
        models[folder.name] = zhiyin.load(folder, threads=given.threads)
    figures = {task: measure(models, task, given.runs) for task in given.tasks.split(",")}
    print("| task | model | wall ms | processor ms | times faster, wall | processor |")
    print("|---|---|--:|--:|--:|--:|")
    for task, found in figures.items():
        for name, row in found.items():
            ratios = f"{row['wall_ratio']:.2f} | {row['cpu_ratio']:.2f}"
            print(f"| {task} | {name} | {row['wall_ms']:.1f} | {row['cpu_ms']:.1f} | {ratios} |")
    print(json.dumps({"threads": given.threads, "runs": given.runs, "figures": figures}))


if __name__ == "__main__":
    main()
