"""Utterances per second of training: our loop beside the plain one, and what the loader gives by itself.

The plain loop takes random batches padded to their longest recording and computes in float32; model, recordings, losses
and optimizer are the same, and so is the mean number of utterances in a batch. Both are measured in turns, so that a
busy machine is busy for both::

    python benchmarks/train_throughput.py --pack ../shared/data --threads 2

Prints one JSON object. Features are computed before the clock starts.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from zhiyin.data import cache, tokenizer
from zhiyin.data.corpora import speech_pack
from zhiyin.data.loader import Batch, Drawn, Group, Loader, Place
from zhiyin.runtime.device import before_torch
from zhiyin.tasks import render, table
from zhiyin.train import loop, recipe, stages
from zhiyin.train.processes import Processes

ROOT = Path(__file__).resolve().parents[1]


class Plain(Loader):
    """Random batches of `size` recordings, in the order they were drawn."""

    size = 16

    def _groups(self, number: int, rng: random.Random) -> list[Group]:
        drawn = [one for group in super()._groups(number, rng) if not isinstance(group, int) for one in group]
        rng.shuffle(drawn)
        cut: list[list[Drawn]] = [drawn[i : i + self.size] for i in range(0, len(drawn), self.size)]
        return [group for group in cut if len(group) == self.size]


def loader(kind: type[Loader], stage: stages.Stage, records: list, features: cache.Features, pieces: object) -> Loader:
    """A loader of the stage's settings."""
    return kind(
        records,
        features,
        pieces,  # type: ignore[arg-type]
        stage.spec.labels,
        stage.loader,
        stage.mix,
        stage.augment,
        eos_id=1,
        time_step_s=stage.tokenizer.time_step_s,
        seed=1,
    )


def rounds(
    stage: stages.Stage, batches: Iterator[tuple[Batch, Place]], model: object, steps: int
) -> Iterator[tuple[float, float, int]]:
    """Seconds, processor seconds and utterances of each round of `steps` steps, as the loop takes them."""
    inside = Processes("cpu").wrap(model, sharded=False)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(loop._groups(inside, 0.05), lr=1e-4, fused=True)
    weights_V = torch.ones(model.config.decoder.vocab_size)  # type: ignore[attr-defined]
    step = 0
    while True:
        started, worked, count = time.perf_counter(), time.process_time(), 0
        for _ in range(steps):
            batch, _ = next(batches)
            optimizer.zero_grad(set_to_none=True)
            loop._gradients(inside, [batch], step, stage, "cpu", weights_V, Processes("cpu"))
            optimizer.step()
            step, count = step + 1, count + len(batch.ids)
        yield time.perf_counter() - started, time.process_time() - worked, count


def only_loading(some: Loader, count: int) -> tuple[float, float]:
    """Utterances and seconds of audio per second of a loader nobody waits for."""
    batches = some.batches(Place())
    next(batches)
    started, utterances, frames = time.perf_counter(), 0, 0.0
    for _ in range(count):
        batch, _ = next(batches)
        utterances, frames = utterances + len(batch.ids), frames + float(batch.frames_B.sum())
    passed = time.perf_counter() - started
    batches.close()
    return utterances / passed, frames / 100 / passed


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--stage", type=Path, default=ROOT / "configs" / "pocket.toml")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    before_torch()
    torch.set_num_threads(options.threads)
    stage = stages.read(options.stage)
    stage = replace(stage, loader=replace(stage.loader, growth=(), speeds=(1.0,)))
    found = [r for r in speech_pack.read(options.pack, "train") if r.tasks and r.duration_s <= stage.loader.max_audio_s]
    records = random.Random(1).sample(found, min(options.records, len(found)))
    tasks = table.with_labels(table.TASKS, stage.spec.labels)
    marks = [task.tag for task in tasks] + [f"<{label}>" for task in tasks for label in task.labels]
    marks += [render.NO_TASK, render.ANSWER_MARK, render.TRANSLATION_MARK]
    texts = [record.text for record in records if record.text]
    section = stage.tokenizer
    pieces = tokenizer.train(
        texts,
        list(dict.fromkeys(marks)),
        num_pieces=section.num_pieces,
        max_time_s=section.max_time_s,
        time_step_s=section.time_step_s,
    )
    assert stage.model is not None
    with tempfile.TemporaryDirectory() as scratch:
        features = cache.build(Path(scratch), records, (1.0,))
        ours = loader(Loader, stage, records, features, pieces)
        batches = [len(group) for number in range(4) for group in ours._pool(number) if not isinstance(group, int)]
        Plain.size = round(statistics.mean(batches))
        plain = loader(Plain, stage, records, features, pieces)
        utterances, seconds = only_loading(ours, 40)
        kinds = {"plain": (plain, False), "ours": (ours, stage.optimizer.bf16)}
        running = {}
        for name, (source, bf16) in kinds.items():
            own = replace(stage, optimizer=replace(stage.optimizer, bf16=bf16))
            model = recipe.build(recipe.sizes(stage.model, pieces), 1)
            running[name] = rounds(own, source.batches(Place()), model.train(), options.steps)
        for each in running.values():  # a round that is not counted
            next(each)
        sums: dict[str, list[float]] = {name: [0.0, 0.0, 0.0] for name in running}
        for _ in range(options.rounds):
            for name, each in running.items():
                sums[name] = [total + value for total, value in zip(sums[name], next(each), strict=True)]
    wall, work = ({name: total[2] / total[kind] for name, total in sums.items()} for kind in (0, 1))
    print(
        json.dumps(
            {
                "stage": options.stage.name,
                "records": len(records),
                "utterances_per_batch": Plain.size,
                "threads": options.threads,
                "plain_utterances_per_s": round(wall["plain"], 2),
                "ours_utterances_per_s": round(wall["ours"], 2),
                "ratio": round(wall["ours"] / wall["plain"], 2),
                "ratio_by_processor_time": round(work["ours"] / work["plain"], 2),
                "loader_alone_utterances_per_s": round(utterances, 1),
                "loader_alone_audio_s_per_s": round(seconds, 1),
                "loader_over_loop": round(utterances / wall["ours"], 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
