"""Records through the main job into `results.jsonl`, so that scoring never runs the model again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zhiyin.data.manifest import Record, read_growing
from zhiyin.errors import UserError
from zhiyin.pipeline import understand
from zhiyin.runtime.load import Loaded
from zhiyin.tasks import table


def requests(record: Record, spec_tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """What a record is asked: all its labels with the transcript, and each free-text or timed task by itself."""
    known = [task for task in table.TASKS if task.id in record.tasks and task.id in spec_tasks]
    labels = tuple(task.id for task in known if task.kind == "label")
    plain = tuple(task.id for task in known if task.kind == "text")
    others = [(task.id,) for task in known if task.kind not in ("label", "text")]
    return [combined for combined in [plain + labels] if combined] + others


def run(records: Sequence[Record], model: Loaded, out: Path, *, report: Callable[[Record], None]) -> Path:
    """Run every request of every record; resumes an interrupted run.

    Returns:
        Path of `results.jsonl`; a record that fails is written with its error and scored as wrong.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    done = {(row["id"], tuple(row["tasks"])) for row in read_growing(path)} if path.exists() else set()
    with path.open("a", encoding="utf-8") as lines:
        for record in records:
            report(record)
            for tasks in requests(record, model.backend.spec.tasks):
                if (record.id, tasks) not in done:
                    lines.write(json.dumps(_row(record, tasks, model), ensure_ascii=False) + "\n")
    return path


def _row(record: Record, tasks: tuple[str, ...], model: Loaded) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record.id, "tasks": tasks, "duration_s": record.duration_s}
    row["reference"] = {
        "text": record.text,
        "labels": record.labels,
        "words": [asdict(word) for word in record.words],
        "answer": record.answer,
        "translation": record.translation,
    }
    row["slice"] = {"source": record.source, "language": record.language, "age_group": record.age_group}
    try:
        result = understand(record.audio, tasks, model=model)
    except UserError as error:
        return row | {"error": str(error)}
    segments = result.segments
    row["hypothesis"] = {
        "text": result.text,
        "labels": dict(result.labels),
        "words": [asdict(word) for segment in segments for word in segment.words],
        "answer": result.answer,
        "translation": result.translation,
        "unparsed": result.unparsed,
    }
    return row | {"processing_s": round(result.processing_s, 4)}
