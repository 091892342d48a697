"""One manifest line is one record: a recording and what is known of it."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord, Truth


@dataclass(frozen=True)
class Record:
    """A recording with its truth.

    Attributes:
        id: unique key.
        audio: path; relative paths are relative to the manifest's folder.
        duration_s: length in seconds.
        tasks: task ids this record has a truth for.
        text: transcript, lower case without punctuation; None when unknown, "" when nothing is said.
        words: word times, where known.
        labels: label task id -> label.
        answer: reply to a spoken question.
        translation: text in the other language.
        language: ISO code of the speech, "" when there is none.
        speaker: speaker key, "" when unknown.
        source: corpus key.
        licence: terms of the recording.
        age_group: infant, child, adult or senior, "" when unknown; for slices in reports.
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

    @property
    def truth(self) -> Truth:
        """The fields a target is rendered from."""
        return Truth(self.text or "", self.words, self.labels, self.answer, self.translation)


def read(path: Path) -> list[Record]:
    """Records of a JSONL manifest in our own format.

    Raises:
        UserError: the file is missing, or a line is broken (named by number).
    """
    return [_record(row, path, number) for number, row in rows(path)]


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and JSON objects of a JSONL file; empty lines are passed over.

    Raises:
        UserError: the file is missing, or a line is not a JSON object.
    """
    if not path.is_file():
        raise UserError(f"reading manifest {path}: there is no such file")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"manifest {path} line {number}: not JSON ({error.msg}); mend or remove it") from error
            if not isinstance(row, dict):
                raise UserError(f"manifest {path} line {number}: an object was expected, got {line.strip()[:40]!r}")
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
    root = path.parent.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as out:
        for record in records:
            row = dataclasses.asdict(record)
            audio = record.audio.resolve()
            row["audio"] = str(audio.relative_to(root) if audio.is_relative_to(root) else audio)
            out.write(
                json.dumps({k: v for k, v in row.items() if v not in ("", (), {}, None)}, ensure_ascii=False) + "\n"
            )
    temporary.replace(path)


def _record(row: dict[str, Any], path: Path, number: int) -> Record:
    names = {f.name for f in dataclasses.fields(Record)}
    unknown = sorted(set(row) - names)
    missing = sorted({"id", "audio", "duration_s", "tasks"} - set(row))
    if unknown or missing:
        what = f"unknown field '{unknown[0]}'" if unknown else f"field '{missing[0]}' is missing"
        raise UserError(f"manifest {path} line {number}: {what}; fields: {', '.join(sorted(names))}")
    words = tuple(TimedWord(**word) for word in row.get("words", ()))
    fixed = {"audio": path.parent / row["audio"], "words": words, "tasks": tuple(row["tasks"])}
    return Record(**{**row, **fixed})
