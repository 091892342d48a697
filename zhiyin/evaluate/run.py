"""Records through the main job into `results.jsonl`, so that scoring never runs the model again."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zhiyin.ask import DEFAULTS, Options
from zhiyin.audio.features import Float32
from zhiyin.data import clip
from zhiyin.data.manifest import Record, read_growing
from zhiyin.errors import UserError
from zhiyin.evaluate.files import about
from zhiyin.pipeline import understand
from zhiyin.runtime.load import Loaded
from zhiyin.tasks import instructions, table

UNFIT_EVERY = 8  # about every eighth record is also asked for something that no task fits


@dataclass(frozen=True)
class Request:
    """What a record is asked: tasks by their tags or, with `instruction`, in plain language; no task fits none."""

    tasks: tuple[str, ...]
    instruction: str = ""
    language: str = ""


def requests(record: Record, spec_tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """What a record is asked: all its labels with the transcript, and each free-text or timed task by itself."""
    known = [task for task in table.TASKS if task.id in record.tasks and task.id in spec_tasks]
    labels = tuple(task.id for task in known if task.kind == "label")
    plain = tuple(task.id for task in known if task.kind == "text")
    others = [(task.id,) for task in known if task.kind not in ("label", "text")]
    return [combined for combined in [plain + labels] if combined] + others


def in_plain_language(
    record: Record, spec_tasks: Sequence[str], languages: Sequence[str], wordings: str = "test"
) -> list[Request]:
    """The same requests in each language, in a wording that training never uses; the record's id decides which.

    Args:
        record: what is asked about.
        spec_tasks: tasks the model knows.
        languages: of the requests.
        wordings: split of `tasks.instructions` they are taken from, ``dev`` or ``test``.

    Raises:
        UserError: there are no wordings in a language or split.
    """
    number = zlib.crc32(record.id.encode())
    wanted = [*requests(record, spec_tasks), *([()] if number % UNFIT_EVERY == 0 else [])]
    found = []
    for tasks in wanted:
        for language in languages:
            ways = instructions.phrasings(tasks, language, wordings)
            found.append(Request(tasks, ways[number // UNFIT_EVERY % len(ways)], language))
    return found


def run(
    records: Sequence[Record],
    model: Loaded,
    out: Path,
    *,
    report: Callable[[Record], None],
    ask: Sequence[str] = (),
    wordings: str = "test",
) -> Path:
    """Run every request of every record; resumes an interrupted run.

    Args:
        records: what to run.
        model: that answers.
        out: folder of `results.jsonl`.
        report: called with each record before it runs.
        ask: languages in which requests are made in plain language; none: by tags.
        wordings: split of `tasks.instructions` those requests are taken from, ``dev`` or ``test``.

    Returns:
        Path of `results.jsonl`; a record that fails is written with its error and scored as wrong.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    done = {_key(row) for row in read_growing(path)} if path.exists() else set()
    names = model.backend.spec.tasks
    with path.open("a", encoding="utf-8") as lines:
        for record in records:
            report(record)
            by_tags = [Request(tasks) for tasks in requests(record, names)]
            for request in in_plain_language(record, names, ask, wordings) if ask else by_tags:
                if (record.id, request.tasks, request.instruction) not in done:
                    lines.write(json.dumps(_row(record, request, model), ensure_ascii=False) + "\n")
    return path


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["id"], tuple(row["tasks"]), row.get("instruction", {}).get("text", "")


def _row(record: Record, request: Request, model: Loaded) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record.id, "tasks": request.tasks, **about(record)}
    row["reference"] = {
        "text": record.text,
        "labels": record.labels,
        "words": [asdict(word) for word in record.words],
        "answer": record.answer,
        "translation": record.translation,
    }
    if request.instruction:
        row["instruction"] = {"text": request.instruction, "language": request.language}
    tasks = None if request.instruction else request.tasks
    options = Options(instruction=request.instruction) if request.instruction else DEFAULTS
    try:
        source: Path | Float32 = clip.samples(record) if record.is_part else record.audio
        result = understand(source, tasks, model=model, options=options)
    except UserError as error:
        return row | {"error": str(error)}
    segments = result.segments
    row["hypothesis"] = {
        "tasks": result.tasks,
        "text": result.text,
        "labels": dict(result.labels),
        "words": [asdict(word) for segment in segments for word in segment.words],
        "answer": result.answer,
        "translation": result.translation,
        "unparsed": result.unparsed,
    }
    return row | {"processing_s": round(result.processing_s, 4)}
