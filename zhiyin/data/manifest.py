"""One manifest line is one record: a recording, or a part of one, and what is known of it (`docs/data.md`)."""

import contextlib
import dataclasses
import difflib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord, Truth

# Names of the labels in a manifest -> the tasks that ask for them.
LABEL_FIELDS = {"event": "ved", "emotion": "ser", "style": "ssr", "gender": "sgc", "age": "sap"}
_STRINGS = ("answer", "translation", "instruction", "language", "speaker", "source", "licence", "age_group")
_SECONDS = ("start_s", "end_s", "duration_s")
_ORDER = ("id", "audio", "start_s", "end_s", "duration_s", "tasks", "text", "words", *LABEL_FIELDS, "labels")
_ORDER += ("translation", "instruction", "answer", "language", "speaker", "source", "licence", "age_group")


@dataclass(frozen=True)
class Record:
    """A recording, or a part of one, with its truth.

    Attributes:
        id: unique key.
        audio: path; relative paths are relative to the manifest's folder.
        duration_s: length in seconds; of a part, its own length.
        tasks: task ids this record has a truth for.
        text: transcript, lower case without punctuation; None when unknown, "" when nothing is said.
        words: word times, where known; seconds from the beginning of the record (of the part).
        labels: label task id -> label; in the file event, emotion, style, gender, age.
        answer: reply to a spoken question, or to `instruction`.
        translation: text in the other language.
        language: ISO code of the speech, "" when there is none.
        speaker: speaker key, "" when unknown.
        source: corpus key.
        licence: terms of the recording.
        age_group: infant, child, adult or senior, "" when unknown; for slices in reports.
        start_s: where in the file the record begins.
        end_s: where it ends; None at the end of the file.
        instruction: a request in plain language that belongs to this record.
    """

    id: str
    audio: Path
    duration_s: float
    tasks: tuple[str, ...]
    text: str | None = None
    words: tuple[TimedWord, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    answer: str = ""
    translation: str = ""
    language: str = ""
    speaker: str = ""
    source: str = ""
    licence: str = ""
    age_group: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    instruction: str = ""

    @property
    def truth(self) -> Truth:
        """The fields a target is rendered from."""
        return Truth(self.text or "", self.words, self.labels, self.answer, self.translation)

    @property
    def is_part(self) -> bool:
        """Whether this is only a part of its audio file."""
        return self.start_s > 0 or self.end_s is not None


@dataclass(frozen=True)
class Imported:
    """What was read from another format or a corpus.

    Attributes:
        splits: name of a split -> its records; a source without splits has one, "all".
        notes: what the user should know: what was left out, and why.
    """

    splits: dict[str, list[Record]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Broken:
    """A line that is no record, and why."""

    why: str


def read(path: Path) -> list[Record]:
    """Records of a JSONL manifest in our own format.

    Raises:
        UserError: the file is missing, or a line is broken (named by number).
    """
    records = []
    for number, record in lines(path):
        if isinstance(record, Broken):
            raise UserError(f"manifest {path} line {number}: {record.why}")
        records.append(record)
    return records


def lines(path: Path) -> Iterator[tuple[int, Record | Broken]]:
    """Line numbers and records, or what is wrong with the line; empty lines are passed over.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    for number, row in _rows(path):
        yield number, row if isinstance(row, Broken) else _record(row, path.parent)


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and JSON objects of a JSONL file; empty lines are passed over.

    Raises:
        UserError: the file is missing, or a line is not a JSON object.
    """
    for number, row in _rows(path):
        if isinstance(row, Broken):
            raise UserError(f"manifest {path} line {number}: {row.why}")
        yield number, row


def read_growing(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file that is appended to while we work; a last line cut by a kill is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def write(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSONL, audio paths relative to the manifest where they lie below it."""
    write_lines(path, (json.dumps(to_row(record, path.parent), ensure_ascii=False) for record in records))


def write_lines(path: Path, texts: Iterable[str]) -> None:
    """Write lines to a file that is there whole or not at all; folders are made."""
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as out:
            out.writelines(text + "\n" for text in texts)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"writing {path}: {(error.strerror or str(error)).lower()}; nothing was replaced") from error
    except UnicodeEncodeError as error:
        raise UserError(f"writing {path}: {ascii(error.object)[:80]} is not Unicode; rename that file") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def to_row(record: Record, folder: Path) -> dict[str, Any]:
    """The fields of a manifest line in `folder`; what is unknown is left out."""
    row = dataclasses.asdict(record)
    row["audio"] = relative(record.audio, folder)
    row["tasks"] = list(record.tasks)
    row["words"] = [dataclasses.asdict(word) for word in record.words]
    labels = row.pop("labels")
    row |= {name: labels.pop(task) for name, task in LABEL_FIELDS.items() if task in labels}
    row["labels"] = labels  # of tasks that have no field of their own
    if not record.start_s:
        row.pop("start_s")
    kept = {name: row[name] for name in _ORDER if name in row and row[name] not in ("", [], {}, None)}
    kept.setdefault("tasks", [])
    if record.text is not None:
        kept["text"] = record.text  # "" is a truth: nothing is said
    return {name: kept[name] for name in _ORDER if name in kept}


def from_row(row: dict[str, Any], folder: Path, where: str) -> Record:
    """The record of a manifest line in `folder`.

    Raises:
        UserError: beginning with `where`, when a field is missing, unknown or of another kind.
    """
    record = _record(row, folder)
    if isinstance(record, Broken):
        raise UserError(f"{where}: {record.why}")
    return record


def relative(audio: Path, folder: Path) -> str:
    """A path as a manifest in `folder` names it: relative where it lies below, else absolute."""
    whole, root = Path(os.path.abspath(audio)), Path(os.path.abspath(folder))
    return str(whole.relative_to(root)) if whole.is_relative_to(root) else str(whole)


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like a wrong one, or nothing: `` (did you mean 'x'?)``."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    if not path.is_file():
        raise UserError(f"reading manifest {path}: there is no such file")
    with path.open("rb") as file:  # by bytes, so that one bad line does not hide those after it
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield number, _row(line)


def _row(line: bytes) -> dict[str, Any] | Broken:
    try:
        text = line.decode()
        row = json.loads(text)
    except UnicodeDecodeError as error:
        return Broken(f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8")
    except json.JSONDecodeError as error:
        return Broken(f"not JSON ({error.msg}); mend or remove it")
    except (RecursionError, ValueError) as error:
        return Broken(f"not JSON that can be read ({str(error)[:60]}); mend or remove it")
    return row if isinstance(row, dict) else Broken(f"an object was expected, got {text.strip()[:40]!r}")


def _record(row: dict[str, Any], folder: Path) -> Record | Broken:
    known = sorted({f.name for f in dataclasses.fields(Record)} | set(LABEL_FIELDS))
    for name in row:
        if name not in known:
            return Broken(f"unknown field '{name}'{near(name, known)}; fields: {', '.join(known)}")
    if "duration_s" not in row and _is_seconds(row.get("end_s")) and _is_seconds(row.get("start_s", 0.0)):
        row = {**row, "duration_s": max(0.0, round(row["end_s"] - row.get("start_s", 0.0), 6))}
    for name in ("id", "audio", "duration_s", "tasks"):
        if name not in row:
            return Broken(f"field '{name}' is missing; fields: {', '.join(known)}")
    wrong = _wrong(row)
    if wrong:
        return Broken(wrong)
    labels = dict(row.get("labels") or {})
    for name, task in LABEL_FIELDS.items():
        if row.get(name) and labels.setdefault(task, row[name]) != row[name]:
            return Broken(f"{name} '{row[name]}' and labels.{task} '{labels[task]}' disagree; keep one")
    words = tuple(TimedWord(word["text"], word["start_s"], word["end_s"]) for word in row.get("words") or ())
    values = {name: row[name] for name in (*_STRINGS, *_SECONDS, "text") if row.get(name) is not None}
    return Record(
        id=row["id"], audio=folder / row["audio"], tasks=tuple(row["tasks"]), words=words, labels=labels, **values
    )


def _wrong(row: dict[str, Any]) -> str:
    """What is wrong with the values of a row, or nothing."""
    for name in ("id", "audio"):
        if not isinstance(row[name], str) or not row[name].strip() or "\0" in row[name]:
            return f"field '{name}' is {row[name]!r}; a text is needed"
    for name in ("text", *_STRINGS, *LABEL_FIELDS):
        if row.get(name) is not None and not isinstance(row[name], str):
            return f"field '{name}' is {row[name]!r}; a text was expected"
    for name in _SECONDS:
        value = row.get(name)
        if value is not None and not _is_seconds(value):
            return f"field '{name}' is {value!r}; seconds were expected, not below 0"
    if row["duration_s"] is None or row["duration_s"] <= 0:
        return f"the record is {row['duration_s']} s long; duration_s, or end_s behind start_s, says how long"
    if not _are_texts(row["tasks"]):
        return f'field \'tasks\' is {row["tasks"]!r}; a list of task ids was expected, e.g. ["asr", "ser"]'
    labels = row.get("labels") or {}
    if not isinstance(labels, dict) or not _are_texts(list(labels.values())):
        return f"field 'labels' is {labels!r}; an object of texts was expected"
    words = row.get("words") or []
    if not isinstance(words, list):
        return f"field 'words' is {words!r}; a list was expected"
    for word in words:
        fits = isinstance(word, dict) and set(word) == {"text", "start_s", "end_s"} and isinstance(word["text"], str)
        if not fits or not (_is_seconds(word["start_s"]) and _is_seconds(word["end_s"])):
            return f"word {word!r}: an object of text, start_s and end_s was expected"
    if "\\ud" in json.dumps(row).lower() and _has_half_character(row):
        return "a text holds half a character (a lone surrogate); mend the program that wrote it"
    return ""


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _has_half_character(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
