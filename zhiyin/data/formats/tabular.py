"""CSV and JSONL with one row per recording, as Hugging Face's audio folders have them (metadata.csv, metadata.jsonl).

Source: huggingface.co/docs/datasets, "Create an audio dataset": a column file_name names the audio, relative to the
file. Columns we write have the names of our manifest; the usual names of others are understood when read.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zhiyin.data import clip, manifest
from zhiyin.data.manifest import LABEL_FIELDS, Imported, Record
from zhiyin.errors import UserError
from zhiyin.tasks.table import TASKS, spelling

# Our field -> names that others give it; the first one there counts.
_NAMES = {
    "audio": ("file_name", "audio", "audio_path", "audio_file", "path", "file", "wav", "filename"),
    "id": ("id", "key", "utt_id", "segment_id"),
    "text": ("text", "transcription", "transcript", "sentence", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "duration_s": ("duration_s", "duration"),
    "start_s": ("start_s", "start", "start_time"),
    "end_s": ("end_s", "end", "end_time"),
    "licence": ("licence", "license"),
}
_COLUMNS = ("file_name", "id", "start_s", "end_s", "duration_s", "tasks", "text", "words", *LABEL_FIELDS, "labels")
_COLUMNS += ("translation", "instruction", "answer", "language", "speaker", "source", "licence", "age_group")
_AS_JSON = ("words", "labels")  # inside a cell of CSV
_NUMBERS = ("start_s", "end_s", "duration_s")


def read(source: Path, _: Path) -> Imported:
    """Records of a .csv, .tsv or .jsonl file, or of a folder with metadata.csv or metadata.jsonl.

    Columns that are not understood are left out, with a note.

    Raises:
        UserError: the file is missing or a row is broken, named by its line.
    """
    path = _file(source)
    rows = manifest.rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    records, unknown = [], set()
    for number, row in rows:
        record, others = _record(row, path, f"{path} line {number}")
        records.append(record)
        unknown |= others
    notes = (f"columns that are not understood were left out: {', '.join(sorted(unknown))}",) if unknown else ()
    return Imported({"all": records}, notes)


def write_csv(records: Iterable[Record], out: Path) -> list[str]:
    """Write a CSV file; audio stays where it is."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, _COLUMNS, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writeheader()
    for record in records:
        row = _row(record, out)
        row["tasks"] = " ".join(record.tasks)
        row |= {name: json.dumps(row[name], ensure_ascii=False) for name in _AS_JSON if name in row}
        table.writerow(row)
    manifest.write_lines(out, [buffer.getvalue().removesuffix("\n")])
    return []


def write_jsonl(records: Iterable[Record], out: Path) -> list[str]:
    """Write a JSONL file; audio stays where it is."""
    manifest.write_lines(out, (json.dumps(_row(record, out), ensure_ascii=False) for record in records))
    return []


def _row(record: Record, out: Path) -> dict[str, Any]:
    row = manifest.to_row(record, out.parent)
    return {"file_name": row.pop("audio"), **row}


def _file(source: Path) -> Path:
    found = [source / name for name in ("metadata.csv", "metadata.jsonl") if (source / name).is_file()]
    path = found[0] if found else source
    if not path.is_file() or path.suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"table {source}: give a .csv, .tsv or .jsonl file, or a folder with metadata.csv or .jsonl")
    return path


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, dialect="excel-tab" if path.suffix == ".tsv" else "excel", strict=True)
            header = next(table, [])
            last = table.line_num
            for cells in table:
                number, last = last + 1, table.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UserError(f"{path} line {number}: {len(cells)} cells, and the header has {len(header)}")
                yield number, dict(zip(header, cells, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table that can be read ({error}); save it as CSV in UTF-8") from error


def _record(row: Mapping[str, Any], path: Path, where: str) -> tuple[Record, set[str]]:
    """A record, and the columns nobody asked for."""
    found: dict[str, Any] = {}
    for name in (*_COLUMNS[1:], "audio"):
        column = next((other for other in _NAMES.get(name, (name,)) if row.get(other) not in (None, "")), None)
        if column is not None:
            found[name] = row[column]
    used = {other for name in (*_COLUMNS, "audio") for other in _NAMES.get(name, (name,))}
    if isinstance(found.get("audio"), Mapping):  # as datasets writes an audio column: {"path": ..., "bytes": ...}
        found["audio"] = found["audio"].get("path")
    if not isinstance(found.get("audio"), str):
        raise UserError(f"{where}: no column names the audio; one of {', '.join(_NAMES['audio'])} is needed")
    _from_cells(found, where)
    found = {name: str(value) if name in ("id", "speaker") else value for name, value in found.items()}
    found.setdefault("id", Path(found["audio"]).with_suffix("").as_posix())
    for name, task in LABEL_FIELDS.items():
        if name in found:
            found[name] = _canonical(task, found[name])
    if "tasks" not in found:
        found["tasks"] = _tasks(found)
    if "text" not in found and "asr" in found["tasks"]:
        found["text"] = ""  # a cell cannot tell "nothing is said" from "not known"; the tasks do
    if "duration_s" not in found and "end_s" not in found:
        found["duration_s"] = round(clip.length_s(path.parent / found["audio"]) - found.get("start_s", 0.0), 6)
    return manifest.from_row(found, path.parent, where), set(row) - used


def _from_cells(found: dict[str, Any], where: str) -> None:
    for name in _NUMBERS:
        if isinstance(found.get(name), str):
            try:
                found[name] = float(found[name])
            except ValueError:
                raise UserError(f"{where}: {name} is {found[name]!r}; seconds were expected") from None
    for name in _AS_JSON:
        if isinstance(found.get(name), str):
            try:
                found[name] = json.loads(found[name])
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: {name} is not JSON ({error.msg})") from error
    if isinstance(found.get("tasks"), str):
        found["tasks"] = found["tasks"].replace(",", " ").split()


def _tasks(found: Mapping[str, Any]) -> list[str]:
    names = {"text": "asr", "words": "srwt", "translation": "ast", "answer": "sttc", **LABEL_FIELDS}
    has = {task for name, task in names.items() if name in found}
    return [task.id for task in TASKS if task.id in has]


def _canonical(task: str, label: Any) -> Any:
    known = {spelling(name): name for row in TASKS if row.id == task for name in row.labels}
    return known.get(spelling(label), label) if isinstance(label, str) else label
