"""Records through the main job into `results.jsonl`, so that scoring never runs the model again."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zhiyin.ask import DEFAULTS, Options
from zhiyin.audio.features import Float32
from zhiyin.data import clip, sources
from zhiyin.data.manifest import Record, read_growing
from zhiyin.data.sources import Stored
from zhiyin.errors import UserError
from zhiyin.evaluate.files import about
from zhiyin.pipeline import understand
from zhiyin.runtime.load import Loaded
from zhiyin.tasks import instructions, table
from zhiyin.text.normalize import has_wide
from zhiyin.text.target import to_name

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


def own_request(record: Record, spec_tasks: Sequence[str]) -> Request | None:
    """The record's own instruction: for its translation where it has one, else its answer, else all its tasks.

    None where there is no instruction, or the model does not know what it is for. Training reads it the same way
    (`data.examples.make`).
    """
    free = next(((task,) for task in ("ast", "sttc") if task in record.tasks), ())
    wanted = free or tuple(task.id for task in table.TASKS if task.id in record.tasks)
    if not record.instruction or not wanted or not set(wanted) <= set(spec_tasks):
        return None
    return Request(wanted, record.instruction, "zh" if has_wide(record.instruction) else "en")


def by_tags(record: Record, spec_tasks: Sequence[str], *, follows: bool) -> list[Request]:
    """Every request by its tags; what the record's own instruction is for in its words, as no tag names a language.

    Args:
        record: what is asked about.
        spec_tasks: tasks the model knows.
        follows: whether the model understands plain language; else everything is asked by tags.
    """
    own = own_request(record, spec_tasks) if follows else None
    found = [Request(tasks) for tasks in requests(record, spec_tasks) if own is None or tasks != own.tasks]
    return found if own is None else [*found, own]


def in_plain_language(
    record: Record, spec_tasks: Sequence[str], languages: Sequence[str], wordings: str = "test"
) -> list[Request]:
    """The same requests in each language, in a wording that training never uses; the record's id decides which.

    A request for a translation names its language where it is not the usual one (`text.target.usual`). Of other
    tasks, what the record's own instruction asks for is asked in its words, once: no other wording fits its answer.

    Args:
        record: what is asked about.
        spec_tasks: tasks the model knows.
        languages: of the requests.
        wordings: split of `tasks.instructions` they are taken from, ``dev`` or ``test``.

    Raises:
        UserError: there are no wordings in a language or split.
    """
    number = zlib.crc32(record.id.encode())
    own = own_request(record, spec_tasks)
    wanted = [*requests(record, spec_tasks), *([()] if number % UNFIT_EVERY == 0 else [])]
    found = []
    for tasks in wanted:
        if own and tasks == own.tasks and tasks != ("ast",):
            continue
        for language in languages:
            ways = instructions.phrasings(
                tasks,
                language,
                wordings,
                into=to_name(record.translation, record.language) if tasks == ("ast",) else "",
            )
            found.append(Request(tasks, ways[number // UNFIT_EVERY % len(ways)], language))
    return [*found, own] if own and own.tasks != ("ast",) else found


def run(
    records: Sequence[Record],
    model: Loaded,
    out: Path,
    *,
    report: Callable[[Record], None],
    ask: Sequence[str] = (),
    wordings: str = "test",
    stored: Mapping[str, Stored] | None = None,
) -> Path:
    """Run every request of every record; resumes an interrupted run.

    Args:
        records: what to run.
        model: that answers.
        out: folder of `results.jsonl`.
        report: called with each record before it runs.
        ask: languages in which requests are made in plain language; none: by tags.
        wordings: split of `tasks.instructions` those requests are taken from, ``dev`` or ``test``.
        stored: id -> where the audio is, of records inside shards.

    Returns:
        Path of `results.jsonl`; a record that fails is written with its error and scored as wrong.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    done = {_key(row) for row in read_growing(path)} if path.exists() else set()
    spec = model.backend.spec
    with path.open("a", encoding="utf-8") as lines:
        for record in records:
            report(record)
            if ask:
                wanted = in_plain_language(record, spec.tasks, ask, wordings)
            else:
                wanted = by_tags(record, spec.tasks, follows=spec.can_follow_instructions)
            for request in wanted:
                if (record.id, request.tasks, request.instruction) not in done:
                    row = _row(record, request, model, (stored or {}).get(record.id))
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["id"], tuple(row["tasks"]), row.get("instruction", {}).get("text", "")


def _row(record: Record, request: Request, model: Loaded, stored: Stored | None) -> dict[str, Any]:
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
        result = understand(_audio(record, stored), tasks, model=model, options=options)
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


def _audio(record: Record, stored: Stored | None) -> Path | Float32:
    """A whole file as it is, or the samples of a part or of what lies in a shard."""
    if stored is not None:
        return sources.samples(record, stored)
    return clip.samples(record) if record.is_part else record.audio
