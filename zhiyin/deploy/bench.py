"""How fast a model runs: each component and the whole, at several lengths and batch sizes, several models in turns.

| row | what is timed |
|---|---|
| `features` | waveform to features, on the CPU: the processor |
| `encode` | encoder and projector (and CTC head), from features on: without the processor |
| `prefill` | the prompt with the speech in it into an empty cache, to the first logits |
| `step` | one more token |
| `first token` | features, encode, prefill |
| `reply` | first token and all steps, greedy; it does not stop at an end token |
| `understand` | the main job, `pipeline.understand`: speech detection, windows, reply as long as it is, parsing |

The device is waited for before a clock is read. What is compared takes turns, call by call, so that whatever else the
machine does costs all the same. Inputs are the same speech each time. Shapes as in `runtime.base`.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from zhiyin import pipeline
from zhiyin.ask import Options
from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load
from zhiyin.deploy.bench_stats import Stats, is_flat, stats
from zhiyin.deploy.verify_golden import about
from zhiyin.deploy.verify_inputs import SEED, SOUNDS, Question, ask, features, questions, speaks
from zhiyin.deploy.verify_observe import INSIDE
from zhiyin.errors import UserError
from zhiyin.runtime import device_state
from zhiyin.runtime.base import Session
from zhiyin.runtime.load import Loaded

WHOLE = "understand"
SPOKEN = ("prefill", "step", "first token", "reply")  # rows that need a decoder
COMPONENTS = ("features", "encode", *SPOKEN, WHOLE)
_GAP_S = 0.2  # of silence between the recordings that a longer one is made of

Call = Callable[[], list[float]]  # the seconds of what it timed
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        warmup: rounds that are not counted.
        runs: rounds that are.
        lengths_s: of audio.
        batches: how many at once.
        tokens: of a reply.
        task: what is asked; nothing for the transcript.
        into: language to translate into.
    """

    warmup: int = 3
    runs: int = 20
    lengths_s: tuple[float, ...] = (5.0, 10.0, 15.0, 30.0)
    batches: tuple[int, ...] = (1,)
    tokens: int = 32
    task: str = ""
    into: str = ""

    def __post_init__(self) -> None:
        for name, value, least in (("warmup", self.warmup, 0), ("runs", self.runs, 1), ("tokens", self.tokens, 1)):
            if value < least:
                raise UserError(f"bench: {name} is {value}; at least {least} is needed")
        if not self.lengths_s or not all(0.1 <= length_s <= 3600 for length_s in self.lengths_s):
            raise UserError(f"bench: lengths {list(self.lengths_s)}; seconds from 0.1 to 3600 are needed")
        if not self.batches or not all(batch >= 1 for batch in self.batches):
            raise UserError(f"bench: batches {list(self.batches)}; at least 1 is needed")


@dataclass(frozen=True)
class Subject:
    """A model that takes part.

    Attributes:
        label: in tables, e.g. ``pocket onnx cpu``.
        load_s: how long it took to load.
        host_bytes: by how much loading it let the process grow.
    """

    label: str
    model: Loaded
    load_s: float
    host_bytes: int | None


@dataclass(frozen=True)
class Row:
    """Times of one component of one model.

    Attributes:
        rtf: real-time factor: mean seconds for a second of audio; nothing for parts that hear none.
        tokens_per_s: of all rows of the batch together; of single steps.
        to_first: median by that of the first model.
    """

    label: str
    component: str
    length_s: float
    batch: int
    stats: Stats
    rtf: float | None
    tokens_per_s: float | None
    to_first: float


@dataclass(frozen=True)
class Report:
    """What was measured; `memory` by label in bytes, `launch_bound` are sentences."""

    plan: Plan
    subjects: tuple[dict[str, Any], ...]
    rows: tuple[Row, ...]
    launch_bound: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def bring(label: str, load_model: Callable[[], Loaded]) -> Subject:
    """Load a model and note what that cost."""
    before = device_state.memory("cpu").used_bytes
    began_s = time.perf_counter()
    model = load_model()
    took_s = time.perf_counter() - began_s
    after = device_state.memory("cpu").used_bytes
    return Subject(label, model, took_s, None if before is None or after is None else max(0, after - before))


def measure(subjects: Sequence[Subject], plan: Plan, say: Say = lambda line: None) -> Report:
    """Time everything, all models in turns.

    Args:
        subjects: at least one; the others are compared with the first.
        plan: what is measured.
        say: told what is being done.

    Raises:
        UserError: a model cannot do the task, or its memory is too short for the prompt and that many tokens.
    """
    for one in subjects:
        if one.model.backend.name in INSIDE:
            device_state.reset(one.model.backend.device.name)
    rows: list[Row] = []
    notes: list[str] = []
    for length_s in plan.lengths_s:
        samples_T = speech(length_s)
        for batch in plan.batches:
            say(f"{length_s:g} s, batch {batch}")
            calls = {one.label: _calls(one, samples_T, batch, plan, notes) for one in subjects}
            rows += _rows(_in_turns(calls, plan), length_s, batch)
    for one in subjects:
        if not speaks(one.model):
            notes.append(f"{one.label}: holds the encoder alone; {', '.join(SPOKEN)} and {WHOLE} are not there")
    return Report(
        plan, tuple(_facts(one) for one in subjects), tuple(rows), tuple(_flat(rows)), tuple(dict.fromkeys(notes))
    )


def speech(length_s: float) -> Float32:
    """So many seconds of the recordings that come with the package, in turns; always the same."""
    silence_T = np.zeros(int(_GAP_S * SAMPLE_RATE_HZ), np.float32)
    once_T = np.concatenate([part for path in sorted(SOUNDS.glob("*.flac")) for part in (load(path), silence_T)])
    wanted = max(1, int(length_s * SAMPLE_RATE_HZ))
    return np.tile(once_T, -(-wanted // len(once_T)))[:wanted]


def is_device(word: str) -> bool:
    """Whether a word names a device, there or not."""
    return re.fullmatch(r"auto|cpu|mps|(cuda|npu)(:\d+)?", word.strip().lower()) is not None


def _calls(one: Subject, samples_T: Float32, batch: int, plan: Plan, notes: list[str]) -> dict[str, Call]:
    """Row -> what to time; what cannot be timed at this length and batch is left out and said."""
    model, spec = one.model, one.model.backend.spec
    length_s = len(samples_T) / SAMPLE_RATE_HZ
    found: dict[str, Call] = {}
    if length_s <= spec.max_window_s:
        timed = _Timed(model, samples_T, batch, plan)
        found |= {"features": timed.features, "encode": timed.encode}
        if speaks(model):
            found |= {"prefill": timed.prefill, "step": timed.step, "first token": timed.first, "reply": timed.reply}
    else:
        notes.append(
            f"{one.label}: {length_s:g} s are more than its window of {spec.max_window_s:g} s; only {WHOLE}, which cuts"
        )
    if batch == 1 and speaks(model):
        task, options = _question(model, plan).task, Options(into=plan.into or None)
        found[WHOLE] = lambda: [
            _clock(model, lambda: pipeline.understand(samples_T, [task], model=model, options=options))
        ]
    return found


class _Timed:
    """The parts of one model with fixed inputs; each method runs one and gives the seconds it took."""

    def __init__(self, model: Loaded, samples_T: Float32, batch: int, plan: Plan):
        self.model, self.backend, self.samples_T, self.batch, self.tokens = (
            model,
            model.backend,
            samples_T,
            batch,
            plan.tokens,
        )
        self.mels = self._features()
        vectors = [one.vectors_SD for one in self.backend.encode(self.mels)]
        if not speaks(model):
            return
        question = _question(model, plan)
        self.before_ND, self.after_ND = (self.backend.embed(ids) for ids in (question.before_ids, question.after_ids))
        self.prompts = [self._prompt(vectors_SD) for vectors_SD in vectors]
        most, needed = self.backend.spec.max_tokens, len(self.prompts[0]) + plan.tokens
        if needed > most:
            raise UserError(
                f"bench: {len(samples_T) / SAMPLE_RATE_HZ:g} s and their prompt take {len(self.prompts[0])} places, "
                f"with {plan.tokens} tokens {needed}; model '{self.backend.spec.name}' has {most}; ask for fewer tokens"
            )
        vocabulary = self.backend.start(1).extend([self.prompts[0]]).shape[1]
        self.ids = np.random.default_rng(SEED).integers(0, vocabulary, (plan.tokens, batch)).tolist()

    def features(self) -> list[float]:
        return [_clock(self.model, self._features)]

    def encode(self) -> list[float]:
        return [_clock(self.model, lambda: self.backend.encode(self.mels))]

    def prefill(self) -> list[float]:
        return [_clock(self.model, lambda: self.backend.start(self.batch).extend(self.prompts))]

    def step(self) -> list[float]:
        """Each token by itself, of one generation; its prompt is not timed."""
        session = self.backend.start(self.batch)
        session.extend(self.prompts)
        return [_clock(self.model, partial(self._add, session, ids)) for ids in self.ids]

    def first(self) -> list[float]:
        return [_clock(self.model, self._first)]

    def reply(self) -> list[float]:
        return [_clock(self.model, self._reply)]

    def _features(self) -> list[Float32]:
        return [features(self.backend.spec, self.samples_T) for _ in range(self.batch)]

    def _prompt(self, vectors_SD: Float32) -> Float32:
        markers = self.backend.markers
        return np.concatenate([self.before_ND, markers[:1], vectors_SD, markers[1:], self.after_ND])

    def _first(self) -> tuple[Session, Float32]:
        encoded = self.backend.encode(self._features())
        session = self.backend.start(self.batch)
        return session, session.extend([self._prompt(one.vectors_SD) for one in encoded])

    def _add(self, session: Session, ids: Sequence[int]) -> Float32:
        return session.extend(list(self.backend.embed(ids)[:, None]))

    def _reply(self) -> None:
        session, logits_BV = self._first()
        for _ in range(self.tokens - 1):
            best = logits_BV.argmax(axis=1).tolist()
            logits_BV = self._add(session, best)


def _in_turns(calls: dict[str, dict[str, Call]], plan: Plan) -> dict[str, dict[str, list[float]]]:
    """Component -> label -> seconds; every round begins with another model."""
    labels = list(calls)
    found: dict[str, dict[str, list[float]]] = {name: {label: [] for label in labels} for name in COMPONENTS}
    for number in range(plan.warmup + plan.runs):
        first = number % len(labels)
        for name in COMPONENTS:
            for label in (*labels[first:], *labels[:first]):
                if name in calls[label]:
                    times_s = calls[label][name]()
                    found[name][label] += times_s if number >= plan.warmup else []
    return found


def _rows(measured: dict[str, dict[str, list[float]]], length_s: float, batch: int) -> list[Row]:
    rows = []
    for name, by_label in measured.items():
        figures = {label: stats(times_s) for label, times_s in by_label.items() if times_s}
        for label, one in figures.items():
            rtf = None if name in ("prefill", "step") else one.mean_s / (length_s * batch)
            first = next(iter(figures.values()))
            speed = batch / one.mean_s if name == "step" else None
            rows.append(Row(label, name, length_s, batch, one, rtf, speed, one.median_s / first.median_s))
    return rows


def _flat(rows: Sequence[Row]) -> list[str]:
    """Sentences on what does not take longer when there is more to do."""
    found = []
    for what, names, bound, size in (
        ("length", ("encode", "prefill"), "launches or by padding to a fixed size", lambda row: row.length_s),
        ("batch", ("step",), "launches or by reading the weights", lambda row: row.batch),
    ):
        groups: dict[tuple[object, ...], list[Row]] = {}
        for row in rows:
            if row.component in names:
                fixed = row.batch if what == "length" else row.length_s
                groups.setdefault((row.label, row.component, fixed), []).append(row)
        for (label, name, _), some in groups.items():
            times_s = [row.stats.median_s for row in some]
            if is_flat([size(row) for row in some], times_s):
                ends = f"{min(times_s) * 1e3:.1f} to {max(times_s) * 1e3:.1f} ms"
                found.append(f"{label}: {name} does not grow with {what} ({ends}): bound by {bound}, not by arithmetic")
    return found


def _question(model: Loaded, plan: Plan) -> Question:
    return ask(model, plan.task, plan.into) if plan.task else questions(model)[0]


def _clock(model: Loaded, run: Callable[[], object]) -> float:
    """Seconds until the device is done; a backend that gives arrays back is done when it returns."""
    is_torch = model.backend.name in INSIDE
    if is_torch:
        device_state.synchronize(model.backend.device.name)
    began_s = time.perf_counter()
    run()
    if is_torch:
        device_state.synchronize(model.backend.device.name)
    return time.perf_counter() - began_s


def _facts(one: Subject) -> dict[str, Any]:
    """Where it ran and what it took; the peak of the CPU is of the whole process, all models together."""
    device = one.model.backend.device.name
    on_device = device_state.memory(device) if one.model.backend.name in INSIDE and device != "cpu" else None
    return {
        "label": one.label,
        **about(one.model),
        "load_s": one.load_s,
        "load_bytes": one.host_bytes,
        "host_peak_bytes": device_state.memory("cpu").peak_bytes,
        "device_peak_bytes": None if on_device is None else on_device.peak_bytes,
    }
