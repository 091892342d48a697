"""`zhiyin verify` and `zhiyin bench`: is it right on a device, and how fast."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from zhiyin.deploy import bench, bench_report, verify, verify_golden, verify_report
from zhiyin.errors import UserError
from zhiyin.runtime import load as loading
from zhiyin.runtime.load import Loaded

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Where:
    """Which model, and where it runs."""

    model: str
    device: str
    backend: str
    dtype: str
    threads: int | None


@dataclass(frozen=True)
class Check:
    """Options of `zhiyin verify` beside the model."""

    against: str
    inputs: str
    runs: int
    hunt: bool
    dump: Path | None
    as_json: bool
    gates: Path | None


def check(where: Where, options: Check) -> tuple[str, int]:
    """Compare a model on a device with the reference, or write the reference down.

    Returns:
        What goes to standard output, and the exit code: 1 if a row exceeds its gate.
    """
    if options.dump is not None:
        return _dump(where, options, options.dump), 0
    reference = verify.reference_of(where.model, options.against, where.threads)
    subject = _load(where)
    if not isinstance(reference, verify_golden.Golden):
        verify.check_not_itself(subject, reference)
    report = verify.compare(
        subject,
        reference,
        inputs=options.inputs,
        runs=options.runs,
        gates_file=options.gates,
        hunt=options.hunt,
        say=_Clock(),
    )
    if options.as_json:
        return json.dumps(report.to_dict(), ensure_ascii=False) + "\n", 0 if report.passed else 1
    return verify_report.text(report), 0 if report.passed else 1


def _dump(where: Where, options: Check, folder: Path) -> str:
    if options.hunt:
        raise UserError("verify --dump writes what the reference computes and compares nothing; leave --hunt out")
    reference = verify.reference_of(where.model, options.against, where.threads)
    if isinstance(reference, verify_golden.Golden):
        raise UserError(f"verify --dump: {options.against} holds golden outputs already; copy the folder")
    verify.dump(reference, folder, inputs=options.inputs, say=_Clock())
    about = verify_golden.about(reference)
    return (
        f"{folder}: golden outputs of model {about['model']} ({about['backend']}, {about['precision']}, on the CPU); "
        f"check them elsewhere with zhiyin verify MODEL --against {folder.name}\n"
    )


def _load(where: Where) -> Loaded:
    return loading.load(
        where.model, device=where.device, backend=where.backend, dtype=where.dtype, threads=where.threads
    )


class _Clock:
    """Says on standard error what is being done, with the seconds since it began."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def __call__(self, line: str) -> None:
        sys.stderr.write(f"[{time.perf_counter() - self._began_s:5.1f} s] {line}\n")


@dataclass(frozen=True)
class Speed:
    """Options of `zhiyin bench` beside the model."""

    warmup: int
    runs: int
    lengths: str
    batches: str
    tokens: int
    task: str
    into: str
    compare: tuple[str, ...]
    as_json: bool


def speed(where: Where, options: Speed) -> str:
    """Time a model, and others beside it; what goes to standard output, its last line JSON."""
    plan = bench.Plan(
        options.warmup,
        options.runs,
        tuple(_numbers("lengths", options.lengths, float)),
        tuple(_numbers("batch", options.batches, int)),
        options.tokens,
        options.task,
        options.into,
    )
    say = _Clock()
    found: list[bench.Subject] = []
    for one in (where, *(_other(where, word) for word in options.compare)):
        say(f"loading {_label(one)}")
        subject = bench.bring("", partial(_load, one))
        backend = subject.model.backend
        label = f"{backend.spec.name} {backend.name} {backend.device.name} {backend.spec.precision}"
        if label in [other.label for other in found]:
            label += f" #{len(found) + 1}"
        found.append(replace(subject, label=label))
    report = bench.measure(found, plan, say)
    return bench_report.record(report) + "\n" if options.as_json else bench_report.text(report)


def _other(where: Where, word: str) -> Where:
    """The same on another device or backend, or another model in the same place."""
    if word in loading.BACKENDS:
        return replace(where, backend=word)
    if bench.is_device(word):
        return replace(where, device=word)
    return replace(where, model=word, backend="auto", dtype="auto")


def _label(where: Where) -> str:
    return f"{where.model}: backend {where.backend}, device {where.device}"


def _numbers(name: str, words: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        return [kind(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"bench: {name} '{words}' are not numbers with commas between them, e.g. 5,10,15") from None
