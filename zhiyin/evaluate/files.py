"""Truths and hypotheses from files: rows of `results.jsonl`, manifests, JSONL, TSV and Kaldi's text."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.data import manifest
from zhiyin.data.synth_rules import SOURCE, grammar_of
from zhiyin.errors import UserError
from zhiyin.evaluate.replies import EMPTY, Side, read, tasks_of
from zhiyin.tasks.parse import join_words
from zhiyin.tasks.table import TASKS

Row = dict[str, Any]

_ID = ("id", "key", "utt", "utt_id")
_TEXT = ("text", "txt", "pred_text", "hypothesis")
_FREE = ("answer", "translation")
_SLICES = ("language", "speaker", "source", "age_group", "snr_db")
_LABELS = {**manifest.LABEL_FIELDS, **{task.id: task.id for task in TASKS if task.kind == "label"}}
_KNOWN = (*_ID, *_TEXT, *_FREE, *_SLICES, *_LABELS, "words", "labels", "tasks", "duration_s", "unparsed")


@dataclass(frozen=True)
class Entry:
    """What one line of a file says of a recording; `said` holds only the fields that are there."""

    id: str
    where: str
    said: dict[str, Any]
    tasks: tuple[str, ...] = ()
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Paired:
    """Rows to be scored, and ids of hypotheses that no reference has; they are told, not scored."""

    rows: list[Row]
    extra: tuple[str, ...] = ()


def load(hypotheses: Path, references: Path | None, tasks: Sequence[str] = ()) -> Paired:
    """Rows of a file of hypotheses, with the truth of a file of references or their own.

    A reference without a hypothesis gives a row without one, which is scored as wrong. Where hypotheses are
    `results.jsonl`, so does each task of a reference that the run asks of others but not of this one.

    Args:
        hypotheses: `results.jsonl` of ``zhiyin eval``, or ids with texts or labels.
        references: a manifest, or ids with texts or labels; may be left out for `results.jsonl`.
        tasks: ids of what to score, instead of what the files say.

    Raises:
        UserError: a file is missing or cannot be read, or an id comes twice.
    """
    asked = tuple(tasks)
    rows = _results(hypotheses)
    if rows is not None:
        rows = [row for row in rows if not asked or set(asked) & set(row["tasks"])]
        return Paired(rows) if references is None else _with_truth(rows, entries(references), asked)
    if references is None:
        raise UserError(f"scoring {hypotheses}: it holds no truth of its own; give a file of references after it")
    return _pair(entries(hypotheses), entries(references), asked)


def entries(path: Path) -> list[Entry]:
    """Lines of a manifest, a JSONL file, a TSV file or Kaldi's text.

    Raises:
        UserError: the file is missing, a line cannot be read, or an id comes twice.
    """
    found = _json_entries(path) if _is_json(path) else _text_entries(path)
    seen: dict[str, str] = {}
    for entry in found:
        if entry.id in seen:
            raise UserError(f"{entry.where}: id '{entry.id}' was already in {seen[entry.id]}; ids must be unique")
        seen[entry.id] = "line " + entry.where.rpartition(" ")[2]
    if not found:
        raise UserError(f"reading {path}: it holds no line to score")
    return found


def _results(path: Path) -> list[Row] | None:
    """Rows of `results.jsonl`, None of any other file."""
    if path.is_dir():
        path = path / "results.jsonl"
    _must_exist(path)
    if not _is_json(path):
        return None
    rows = manifest.read_growing(path)
    whole = [row for row in rows if isinstance(row, dict) and "reference" in row and "tasks" in row]
    return [{"slice": {}, **row} for row in whole] if whole and len(whole) == len(rows) else None


def _is_json(path: Path) -> bool:
    _must_exist(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return next((line for line in file if line.strip()), "").lstrip().startswith("{")


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"scoring {path}: there is no such file; a JSONL, TSV or Kaldi text file is expected")


def _json_entries(path: Path) -> list[Entry]:
    found = []
    for number, row in manifest.rows(path):
        where = f"{path} line {number}"
        if "audio" in row:
            found.append(_of_record(manifest.from_row(row, path.parent, where), where))
        else:
            found.append(_of_fields(row, where))
    return found


def _of_record(record: manifest.Record, where: str) -> Entry:
    words = [dataclasses.asdict(word) for word in record.words]
    said = {"labels": record.labels, "words": words, "answer": record.answer, "translation": record.translation}
    texts = {} if record.text is None else {"text": record.text}
    return Entry(record.id, where, {**said, **texts}, record.tasks, about(record))


def about(record: manifest.Record) -> dict[str, Any]:
    """Where a record's audio is, and what tables can be cut by."""
    place = {"audio": str(record.audio.absolute()), "start_s": record.start_s, "end_s": record.end_s}
    names = {name: getattr(record, name) for name in ("source", "language", "age_group", "speaker")}
    names["gender"] = record.labels.get("sgc", "")
    if record.source == SOURCE:  # of made speech: the grammar, and the voice without the length of its vocal tract
        names |= {"grammar": grammar_of(record.id), "speaker": record.speaker.partition("@")[0]}
    return {**place, "duration_s": record.duration_s, "slice": names}


def _of_fields(row: dict[str, Any], where: str) -> Entry:
    unknown = [name for name in row if name not in _KNOWN]
    if unknown:
        hint = manifest.near(unknown[0], _KNOWN)
        raise UserError(f"{where}: unknown field '{unknown[0]}'{hint}; fields: {' '.join(sorted(_KNOWN))}")
    key = next((row[name] for name in _ID if name in row), None)
    if not isinstance(key, str | int) or key == "":
        raise UserError(f"{where}: no id; it stands in one of the fields {' '.join(_ID)}")
    said = {name: row[name] for name in (*_FREE, "words", "unparsed") if name in row}
    text = next((row[name] for name in _TEXT if name in row), None)
    said |= {} if text is None else {"text": text}
    labels = {_LABELS[name]: row[name] for name in _LABELS if row.get(name)} | row.get("labels", {})
    said |= {"labels": labels} if labels else {}
    broken = [name for name in ("text", *_FREE) if not isinstance(said.get(name, ""), str)]
    if broken:
        raise UserError(f"{where}: field '{broken[0]}' must be text, got {said[broken[0]]!r}")
    slices = {name: row[name] for name in _SLICES if name in row}
    extra = {"slice": slices} | ({"duration_s": row["duration_s"]} if "duration_s" in row else {})
    return Entry(str(key), where, said, tuple(row.get("tasks", ())), extra)


def _text_entries(path: Path) -> list[Entry]:
    """Lines ``id<TAB>text`` or ``id text``; a first line that names columns makes it a table."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"reading {path}: not UTF-8 at byte {error.start}; convert it first") from error
    header = lines[0].split("\t") if lines else []
    is_table = len(header) > 1 and header[0] in _ID and all(name in _KNOWN for name in header)
    found = []
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        if not line.strip() or (is_table and number == 1):
            continue
        if is_table:
            cells = line.split("\t")
            if len(cells) != len(header):
                raise UserError(f"{where}: {len(cells)} columns, the first line names {len(header)}")
            found.append(_of_fields(dict(zip(header, cells, strict=True)), where))
            continue
        key, _, text = line.partition("\t") if "\t" in line else line.strip().partition(" ")
        found.append(Entry(key.strip(), where, {"text": text.strip()}))
    return found


def _pair(hypotheses: list[Entry], references: list[Entry], asked: tuple[str, ...]) -> Paired:
    heard = {entry.id: entry for entry in hypotheses}
    labels = _label_sets(references)
    rows = []
    for entry in references:
        tasks = asked or entry.tasks or _tasks_of(entry)
        side = _side(entry, tasks, labels)
        row = _row(entry.id, tasks, side, entry.about)
        if entry.id in heard:
            row["hypothesis"] = _side(heard[entry.id], tasks, labels)
            _check_labels(row, entry.where, asked)
        rows.append(row)
    known = {entry.id for entry in references}
    return Paired(rows, tuple(entry.id for entry in hypotheses if entry.id not in known))


def _row(key: str, tasks: tuple[str, ...], reference: Side, about: dict[str, Any]) -> Row:
    slices = {"source": "", "language": "", "age_group": "", **about.get("slice", {})}
    return {**about, "id": key, "tasks": list(tasks), "reference": reference, "slice": slices}


def _check_labels(row: Row, where: str, asked: tuple[str, ...]) -> None:
    bare = [task for task in row["tasks"] if task in _LABELS and task not in row["reference"]["labels"]]
    if bare:
        hint = f"; leave {bare[0]} out of --task" if bare[0] in asked else ""
        raise UserError(f"{where}: task {bare[0]} has no label there, so nothing can be right{hint}")


def _tasks_of(entry: Entry) -> tuple[str, ...]:
    """What the fields of a reference are the truth of."""
    found = set(tasks_of(entry.said["text"])) if "text" in entry.said else set()
    found |= set(entry.said.get("labels", ()))
    fields: dict[str, str] = {"words": "srwt", "answer": "sttc", "translation": "ast"}
    found |= {task for name, task in fields.items() if entry.said.get(name)}
    return tuple(task.id for task in TASKS if task.id in found)


def _label_sets(references: Iterable[Entry]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for entry in references:
        for task, label in entry.said.get("labels", {}).items():
            found[task].append(label)
    return found


def _side(entry: Entry, tasks: Sequence[str], labels: dict[str, list[str]]) -> Side:
    text = entry.said.get("text", "")
    parsed = read(text, tasks, labels) if "<" in text else {"text": text}
    if not {"asr", "srwt"} & set(tasks) and "<" not in text:
        parsed |= _alone(text, tasks, labels)
    if "words" in entry.said and not text:
        parsed = parsed | {"text": join_words(word["text"] for word in entry.said["words"])}
    return {**EMPTY, **parsed, **{name: value for name, value in entry.said.items() if name != "text"}}


def _alone(text: str, tasks: Sequence[str], labels: dict[str, list[str]]) -> Side:
    """A bare text where one thing was asked that is no transcript: the label, the answer or the translation."""
    if len(tasks) != 1 or not text:
        return {}
    kind = next(task.kind for task in TASKS if task.id == tasks[0])
    return {"text": "", kind: text} if kind in _FREE else read(f"<{text}>", tasks, labels)


def _with_truth(rows: list[Row], references: list[Entry], asked: tuple[str, ...]) -> Paired:
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row["id"]].append(row)
    run = set(asked) or {task for row in rows for task in row["tasks"]}
    found: list[Row] = []
    for entry in references:
        side = {**EMPTY, "text": None, **entry.said}
        own = by_id.get(entry.id, [])
        fresh = _row(entry.id, (), side, entry.about)
        found += [{**row, **fresh, "tasks": row["tasks"]} for row in own]
        covered = {task for row in own for task in row["tasks"]}
        left = [task for task in entry.tasks or _tasks_of(entry) if task in run - covered]
        found += [{**fresh, "tasks": left}] if left else []
    known = {entry.id for entry in references}
    return Paired(found, tuple(key for key in by_id if key not in known))
