"""Proof that a model computes on a device what it computes on the CPU in float32, component by component.

The reference is the model on the CPU in float32 (eager torch; of a bundle alone, the bundle), another model folder, or
golden outputs of another machine; never the device itself: two runs on the same device are a row of their own and
prove only that it repeats itself.
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.deploy import verify_gates, verify_golden, verify_inputs
from zhiyin.deploy.verify_gates import Gate, Gates, Measures
from zhiyin.deploy.verify_inputs import RANDOM, REAL, Case
from zhiyin.deploy.verify_observe import BATCH, INSIDE, Seen, observe
from zhiyin.errors import UserError
from zhiyin.runtime import load as loading
from zhiyin.runtime import store
from zhiyin.runtime.bundle import RECORD, read_target
from zhiyin.runtime.device_state import deterministic
from zhiyin.runtime.load import POCKET, Loaded

CPU_FP32 = "cpu-fp32"
REPEAT, ALL = "run to run", "all"
_LOGITS = ("ctc", "decoder", f"ctc{BATCH}", f"decoder{BATCH}")
_INNOCENT = "every part gives what the reference gives"
_NO_NUMBER = "values that are not finite, or another shape"
_SAME = Measures(cosine=1.0, mean_abs=0.0, max_abs=0.0, relative_l2=0.0)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: of the component, e.g. ``encoder blocks.3``.
        inputs: ``real`` or ``random``.
        cases: how many inputs (and prompts) it is of; the measures are the worst of them.
        measures: how far it is from the reference.
        wrong: limits that are exceeded; nothing if it passes.
    """

    name: str
    inputs: str
    cases: int
    measures: Measures
    wrong: str


@dataclass(frozen=True)
class Report:
    """What a comparison found; `passed` is what the exit code says."""

    subject: dict[str, Any]
    reference: dict[str, Any]
    gates: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    hunt: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every row is within its gate."""
        return not any(row.wrong for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {"passed": self.passed, **asdict(self)}


def compare(
    subject: Loaded,
    reference: Loaded | verify_golden.Golden,
    *,
    inputs: str = f"{REAL},{RANDOM}",
    runs: int = 2,
    gates_file: Path | None = None,
    hunt: bool = False,
    say: Say = lambda line: None,
) -> Report:
    """Compare a model with a reference.

    Args:
        subject: the model on the device in question.
        reference: the same model on the CPU, or its golden outputs, which bring their own inputs.
        inputs: see `verify_inputs.sounds`.
        runs: of the subject, at least 1; with 2 or more they are compared with each other.
        gates_file: instead of the gates that come with the package.
        hunt: look for the first part of the model that differs, if a row fails; needs torch on both sides.
        say: told what is being done.

    Raises:
        UserError: nothing can be compared, e.g. two different models.
    """
    if runs < 1:
        raise UserError(f"runs {runs}: at least 1 is needed; 2 also show whether the device repeats itself")
    precision, gates = verify_gates.read(gates_file, subject)
    if isinstance(reference, verify_golden.Golden):
        if hunt:
            raise UserError("hunt: golden outputs hold no layers to compare with; verify against a model instead")
        same_form = _check_same(reference.identity, subject, str(reference.reference.get("folder")))
        cases, expected, about = list(reference.cases), reference.seen, reference.reference
        fitting = [case for case in cases if case.mel_MF.shape[1] <= subject.backend.spec.max_frames]
        cut_off, cases = len(cases) - len(fitting), fitting
        expected = _same_window(expected, about["window_s"], subject)
    else:
        check_not_itself(subject, reference)
        is_same = Path(subject.source).resolve() == Path(reference.source).resolve()
        same_form = is_same or _check_same(verify_golden.identify(reference), subject, reference.source)
        window_s = min(model.backend.spec.max_window_s for model in (reference, subject))
        cases, expected = _observed(reference, inputs, say, window_s)
        about, cut_off = verify_golden.about(reference), 0
    seen, exact = _observed_exactly(subject, cases, runs, say)
    if not same_form:
        _check_same_table(expected, seen[0], subject)
    rows = [*_rows(expected, seen[0], cases, gates), *_repeats(seen, cases, gates.repeat)]
    found: list[str] = []
    if hunt and not isinstance(reference, verify_golden.Golden):
        for row, line in _hunted(subject, reference, cases, gates.layer, say):
            rows.append(row)
            found.append(line)
    if cut_off:
        exact = (*exact, f"{cut_off} inputs are longer than the model's window and were left out")
    notes = (*exact, *_notes(expected, seen[0], cases, isinstance(reference, verify_golden.Golden)))
    return Report(verify_golden.about(subject), about, precision, tuple(rows), notes, tuple(found))


def dump(reference: Loaded, folder: Path, *, inputs: str = f"{REAL},{RANDOM}", say: Say = lambda line: None) -> None:
    """Write what a reference computes, for `compare` on another machine.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    cases, seen = _observed(reference, inputs, say, reference.backend.spec.max_window_s)
    verify_golden.write(folder, reference, cases, seen)


def reference_of(model: str, against: str, threads: int | None) -> Loaded | verify_golden.Golden:
    """What ``--against`` names: ``cpu-fp32``, golden outputs, or a model, which runs on the CPU in float32.

    Raises:
        UserError: there is no such reference.
    """
    if against != CPU_FP32:
        if verify_golden.is_golden(Path(against)):
            return verify_golden.read(Path(against))
        return _on_cpu(against, threads)
    if model != POCKET and (_folder(model) / RECORD).is_file():
        target = read_target(_folder(model))
        if target is not None and target.kind != "onnx":
            raise UserError(
                f"verify {model}: its graphs run on {target.soc or 'a device'} alone; give --against the ONNX bundle "
                "or the checkpoint that it was made from, or golden outputs (--dump)"
            )
    return _on_cpu(model, threads)


def check_not_itself(subject: Loaded, reference: Loaded) -> None:
    """Refuse a comparison that could only succeed.

    Raises:
        UserError: both are the same files on the same backend and device in the same number format.
    """

    def where(model: Loaded) -> tuple[object, ...]:
        backend = model.backend
        return Path(model.source).resolve(), backend.name, backend.device.name, backend.spec.precision

    if where(subject) == where(reference):
        raise UserError(
            f"verify {subject.source}: {subject.backend.name} on {subject.backend.device.name} would be compared with "
            "itself; choose another --device, --backend or --dtype, or give --against a checkpoint or golden outputs"
        )


def _on_cpu(model: str, threads: int | None) -> Loaded:
    """In float32 through torch where there are weights for it, else the bundle."""
    has_torch = importlib.util.find_spec("torch") is not None
    backend = "auto" if model != POCKET else "eager" if has_torch else "onnx"
    is_bundle = backend == "onnx" or (model != POCKET and (_folder(model) / RECORD).is_file())
    return loading.load(model, device="cpu", backend=backend, threads=threads, dtype="auto" if is_bundle else "float32")


def _folder(model: str) -> Path:
    """Of a model that is a folder or a name of the store."""
    return Path(model) if Path(model).is_dir() else store.find(model) or Path(model)


def _check_same(expected: verify_golden.Identity, subject: Loaded, where: str) -> bool:
    """Whether the same files hold both models; refuses what cannot be the same model."""
    own = verify_golden.identify(subject)
    verify_golden.check_same(expected, own, where)
    return expected.form == own.form


def _observed(reference: Loaded, inputs: str, say: Say, window_s: float) -> tuple[list[Case], Seen]:
    say(f"reference: {reference.backend.name} on {reference.backend.device}")
    usual = reference.backend.spec
    reference.backend.spec = replace(usual, max_window_s=window_s)  # the main job must cut both in the same places
    try:
        cases = verify_inputs.prepare(reference, verify_inputs.sounds(inputs, reference.backend.spec))
        return cases, observe(reference, cases, batches=False)
    finally:
        reference.backend.spec = usual


def _same_window(expected: Seen, window_s: float, subject: Loaded) -> Seen:
    """Without texts that were heard in windows of another length."""
    own_s = subject.backend.spec.max_window_s
    if window_s == own_s:
        return expected
    why = f"the golden texts were heard in windows of up to {window_s:g} s, this model has {own_s:g} s"
    return replace(expected, texts={}, hidden={**expected.hidden, "text": why})


def _observed_exactly(
    subject: Loaded, cases: Sequence[Case], runs: int, say: Say
) -> tuple[list[Seen], tuple[str, ...]]:
    """The subject's runs, and how its device was told to compute: torch can be told not to round float32."""

    def seen() -> list[Seen]:
        found = []
        for i in range(runs):
            say(f"run {i + 1} of {runs}: {subject.backend.name} on {subject.backend.device}")
            found.append(observe(subject, cases))
        return found

    if subject.backend.name not in INSIDE:
        return seen(), ()
    try:
        with deterministic(subject.backend.device.name) as settings:
            return seen(), (f"computed with: {', '.join(settings)}",)
    except RuntimeError as error:
        if "determinis" not in str(error):
            raise
        line = str(error).strip().splitlines()[0]
        return seen(), (f"computed without deterministic algorithms, which the device lacks: {line}",)


def _rows(expected: Seen, seen: Seen, cases: Sequence[Case], gates: Gates) -> Iterable[Row]:
    for name, values in seen.arrays.items():
        truth = expected.arrays.get(name.removesuffix(BATCH), {})
        measured = {
            case: verify_gates.compare(truth[case], array, logits=name in _LOGITS)
            for case, array in values.items()
            if case in truth
        }
        yield from _by_inputs(name, measured, cases, gates.of(name))
    replies = {
        name: verify_gates.compare_tokens(expected.tokens.get("reply", {}).get(name, ()), ids)
        for name, ids in seen.tokens.get("reply", {}).items()
    }
    texts = {
        name: verify_gates.compare_texts(expected.texts.get("text", {}).get(name, ""), text)
        for name, text in seen.texts.get("text", {}).items()
        if "text" not in expected.hidden
    }
    for row, measured in (("reply", replies), ("text", texts)):
        if row in seen.broken:
            measured = {**measured, cases[0].name: Measures(fault=seen.broken[row])}
        yield from _by_inputs(row, measured, cases, gates.of(row))


def _by_inputs(name: str, measured: dict[str, Measures], cases: Sequence[Case], gate: Gate) -> Iterable[Row]:
    kinds = {case.name: case.kind for case in cases}
    for kind in (REAL, RANDOM, ALL):
        some = [one for case, one in measured.items() if kinds.get(case.split(" ")[0], ALL) == kind]
        if some:
            together = verify_gates.worst(some)
            yield Row(name, kind, len(some), together, verify_gates.broken(together, gate))


def _repeats(seen: Sequence[Seen], cases: Sequence[Case], gate: Gate) -> Iterable[Row]:
    """Each further run against the first one, over all rows together."""
    if len(seen) < 2:
        return
    first, found = seen[0], []
    for other in seen[1:]:
        for row, values in other.arrays.items():
            for case, array in values.items():
                before = first.arrays[row][case]
                is_same = np.array_equal(before, array, equal_nan=True)  # what is not finite has a row of its own
                found.append(_SAME if is_same else verify_gates.compare(before, array, logits=False))
        same = first.tokens == other.tokens and first.texts == other.texts
        found.append(Measures(error=0.0 if same else 1.0))
    together = verify_gates.worst(found)
    wrong = verify_gates.broken(together, Gate(max_relative_l2=gate.max_relative_l2, max_error=0.0))
    yield Row(REPEAT, ALL, len(found), together, wrong)


def _hunted(
    subject: Loaded, reference: Loaded, cases: Sequence[Case], gate: Gate, say: Say
) -> Iterable[tuple[Row, str]]:
    """Each side of the model layer by layer: a row, and a line that says where."""
    from zhiyin.deploy.verify_hunt import hunt

    for side, finding in hunt(subject, reference, cases, gate, say):
        name = f"layers, {side}"
        if finding is None:
            yield Row(name, ALL, 1, Measures(), ""), f"{side}: {_INNOCENT} (to {gate.max_relative_l2:g})"
        else:
            is_number = np.isfinite(finding.difference)
            measures = Measures(relative_l2=finding.difference) if is_number else Measures(fault=_NO_NUMBER)
            far = f"relative L2 {finding.difference:.2g}, allowed {gate.max_relative_l2:g}" if is_number else _NO_NUMBER
            line = f"{side}: {finding.path}: {finding.what} ({far})"
            yield Row(name, ALL, 1, measures, verify_gates.broken(measures, gate)), line


def _check_same_table(expected: Seen, seen: Seen, subject: Loaded) -> None:
    """Another form of a model has other files; but its token table is the same."""
    for case, array in expected.arrays.get("embeddings", {}).items():
        got = seen.arrays.get("embeddings", {}).get(case)
        measures = None if got is None else verify_gates.compare(array, got, logits=False)
        if measures and (measures.fault or (measures.relative_l2 or 0.0) > verify_golden.SAME_TABLE):
            why = measures.fault or f"they differ by {measures.relative_l2:.2g}"
            raise UserError(
                f"verify {subject.source}: its token table is not the reference's ({why}): another model, or damaged; "
                "give --against the model it was made from"
            )


def _notes(expected: Seen, seen: Seen, cases: Sequence[Case], is_golden: bool) -> Iterable[str]:
    if is_golden:
        yield "inputs are those of the golden outputs"
    for what, why in {**expected.hidden, **seen.hidden}.items():
        yield f"not shown: {what}: {why}"
    missing = [row for row in seen.arrays if row.removesuffix(BATCH) not in expected.arrays]
    if missing:
        yield f"not compared, the reference does not show it: {', '.join(missing)}"
    if any(case.kind == RANDOM for case in cases):
        yield "random inputs have no waveform, so no features and no text; their replies are random tokens, not greedy"
    texts = expected.texts.get("text", {})
    if texts and not any(texts.values()):
        yield "the reference hears no words in these inputs: equal texts prove nothing here"
