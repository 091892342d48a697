"""Everything that is wrong with manifests, each fault with its file and line."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.data import clip, manifest
from zhiyin.data.manifest import LABEL_FIELDS, Record, near
from zhiyin.errors import UserError
from zhiyin.tasks import table
from zhiyin.tasks.table import Task, spelling

TOLERANCE_S = 0.05  # what times may differ by: headers of lossy formats are no more exact
_FIELD_OF_TASK = {task: name for name, task in LABEL_FIELDS.items()}
_TRUTHS = {"text": "text", "words": "words", "answer": "answer", "translation": "translation"}  # kind -> field


@dataclass(frozen=True)
class Fault:
    """Something wrong with a line of a manifest."""

    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Placed:
    """A record and where it stands."""

    record: Record
    file: Path
    line: int


def check(
    paths: Sequence[Path],
    *,
    labels: Mapping[str, Sequence[str]],
    with_audio: bool = True,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Placed], list[Fault]]:
    """Look at manifests, which are the splits of one data set.

    Args:
        paths: the manifests.
        labels: label sets of a model, where they are not those of the task table.
        with_audio: decode every recording: is it there, as long as its times say, and not twice in the data?
        workers: threads that decode.
        progress: is told the number of audio files that are done.

    Returns:
        The records of all good lines, and the faults in the order of files and lines.

    Raises:
        UserError: a manifest is missing.
    """
    rows = table.with_labels(table.TASKS, labels)
    known = {task.id: task for task in rows}
    placed: list[Placed] = []
    faults: list[Fault] = []
    for path in paths:
        for number, record in manifest.lines(path):
            if isinstance(record, manifest.Broken):
                faults.append(Fault(path, number, record.why))
                continue
            placed.append(Placed(record, path, number))
            faults += [Fault(path, number, what) for what in _truths(record, known)]
            faults += [Fault(path, number, what) for what in _times(record)]
    faults += _twice(placed)
    faults += _speakers(placed)
    if with_audio:
        faults += _audio(placed, workers, progress)
    order = {path: place for place, path in enumerate(paths)}
    return placed, sorted(faults, key=lambda fault: (order[fault.file], fault.line))


def _truths(record: Record, known: Mapping[str, Task]) -> Iterator[str]:
    """Tasks that are not known or have no truth, labels outside their set, texts no target can hold."""
    if not record.tasks:
        yield f"'{record.id}' has no task; name what it has a truth for, e.g. [\"asr\"]"
    for name in record.tasks:
        task = known.get(name)
        if task is None:
            yield f"task '{name}' is not known; known: {' '.join(known)}{near(name, known)}"
        elif task.kind == "label" and name not in record.labels:
            yield f"task '{name}' without its truth: no {_FIELD_OF_TASK[name]}"
        elif task.kind == "text" and record.text is None:
            yield f"task '{name}' without its truth: no text (\"\" where nothing is said)"
        elif task.kind in ("words", "answer", "translation") and not getattr(record, _TRUTHS[task.kind]):
            yield f"task '{name}' without its truth: no {_TRUTHS[task.kind]}"
    for name, label in record.labels.items():
        if name not in known or known[name].kind != "label":
            yield f"labels.{name}: no task with labels has this name; those are: {' '.join(_FIELD_OF_TASK)}"
        elif label not in known[name].labels:
            one_of = ", ".join(known[name].labels)
            yield f"{_FIELD_OF_TASK[name]} '{label}' is not one of {one_of}{near(spelling(label), known[name].labels)}"
    for name in ("text", "answer", "translation"):
        if any(sign in (getattr(record, name) or "") for sign in "<>"):
            yield f"{name} {getattr(record, name)[:40]!r} holds '<' or '>', which mark tags in a target; remove them"


def _times(record: Record) -> Iterator[str]:
    if record.end_s is not None and abs(record.end_s - record.start_s - record.duration_s) > TOLERANCE_S:
        yield f"start_s {record.start_s:g} and end_s {record.end_s:g} do not give duration_s {record.duration_s:g}"
    place_s = 0.0
    for word in record.words:
        if not word.text.strip() or any(sign in word.text for sign in "<>"):
            yield f"word {word.text!r} at {word.start_s:g} s: a word has a text, without '<' and '>'"
        if not place_s <= word.start_s <= word.end_s:
            yield f"word {word.text!r} at {word.start_s:g} to {word.end_s:g} s goes back in time"
        place_s = max(place_s, word.end_s)
    if place_s > record.duration_s + TOLERANCE_S:
        yield f"the last word ends at {place_s:g} s, and the record is {record.duration_s:g} s long"


def _twice(placed: Sequence[Placed]) -> Iterator[Fault]:
    first: dict[str, Placed] = {}
    for one in placed:
        other = first.setdefault(one.record.id, one)
        if other is not one:
            yield Fault(one.file, one.line, f"the id '{one.record.id}' is also that of {other.file}:{other.line}")


def _speakers(placed: Sequence[Placed]) -> Iterator[Fault]:
    """Speakers in more than one manifest: what a model is tested on it must not have heard."""
    homes: dict[str, Placed] = {}
    told: set[tuple[str, Path]] = set()
    for one in placed:
        if not one.record.speaker:
            continue
        home = homes.setdefault(one.record.speaker, one)
        if home.file != one.file and (one.record.speaker, one.file) not in told:
            told.add((one.record.speaker, one.file))
            count = sum(other.file == one.file and other.record.speaker == one.record.speaker for other in placed)
            where = f"{home.file}:{home.line}"
            yield Fault(one.file, one.line, f"the speaker '{one.record.speaker}' ({count} records) is also in {where}")


def _audio(placed: Sequence[Placed], workers: int, progress: Callable[[int], None]) -> Iterator[Fault]:
    files: dict[Path, list[Placed]] = defaultdict(list)
    for one in placed:
        files[one.record.audio].append(one)
    first: dict[str, Placed] = {}
    with ThreadPoolExecutor(workers) as threads:
        for done, (group, found) in enumerate(zip(files.values(), threads.map(_heard, files.values()), strict=True)):
            progress(done + 1)
            if isinstance(found, str):
                yield from (Fault(one.file, one.line, found) for one in group)
                continue
            for one, (length_s, digest) in zip(group, found, strict=True):
                what = _length(one.record, length_s)
                if what:
                    yield Fault(one.file, one.line, what)
                other = first.setdefault(digest, one) if length_s else one
                if other is not one:
                    same = f"'{other.record.id}' in {other.file}:{other.line}"
                    yield Fault(one.file, one.line, f"'{one.record.id}' has the same audio as {same}; keep one")


def _heard(group: Sequence[Placed]) -> list[tuple[float, str]] | str:
    """Length and hash of the samples of each record of one file, or why it cannot be read."""
    found: dict[int, tuple[float, str]] = {}
    audio = group[0].record.audio
    if not audio.is_file():
        return f"there is no audio {audio}"
    try:
        for i, samples_T in clip.parts(audio, [(one.record.start_s, one.record.end_s) for one in group]):
            # 16 bits, so that a lossless copy in another format is the same content
            whole_T = np.round(samples_T.clip(-1, 1) * 32767).astype("<i2")
            found[i] = (len(samples_T) / SAMPLE_RATE_HZ, hashlib.sha256(whole_T.tobytes()).hexdigest())
    except UserError as error:
        return str(error)
    return [found[i] for i in range(len(group))]


def _length(record: Record, length_s: float) -> str:
    if not length_s:
        return f"{record.audio} holds no audio{f' behind {record.start_s:g} s' if record.start_s else ''}"
    if length_s < record.duration_s - TOLERANCE_S:
        return f"{record.audio} is shorter than its times: {length_s:.2f} s of {record.duration_s:g} s"
    if length_s > record.duration_s + TOLERANCE_S:
        return f"duration_s is {record.duration_s:g}, and the audio is {length_s:.2f} s long"
    return ""
