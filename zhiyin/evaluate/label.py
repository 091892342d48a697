"""Records to which a model adds what is not known of them: transcripts and labels to train on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zhiyin.data import clip
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.pipeline import understand
from zhiyin.runtime.load import Loaded
from zhiyin.tasks import table


@dataclass(frozen=True)
class Labelled:
    """What came of it.

    Attributes:
        records: all of them, in order, with what was added.
        added: how many got something.
        unsure: ids of those whose transcript was not sure enough, and was not taken.
        failed: a line for each that could not be run; it stays as it was.
    """

    records: list[Record]
    added: int
    unsure: tuple[str, ...]
    failed: tuple[str, ...]


def label(
    records: Sequence[Record],
    model: Loaded,
    tasks: Sequence[str],
    *,
    at_least: float = 0.0,
    report: Callable[[Record], None],
) -> Labelled:
    """Ask a model for what the records have no truth for; what is known is never replaced.

    Args:
        records: what is to be labelled.
        model: that answers.
        tasks: ids of a transcript or labels.
        at_least: least confidence of each segment, 0 to 1; below it nothing of a record is taken.
        report: called with each record before it runs.

    Raises:
        UserError: a task is none of a transcript or a label.
    """
    for task in table.select(tasks):
        if task.kind not in ("text", "label"):
            raise UserError(f"labelling: {task.id} cannot be added by a model; transcripts (asr) and labels can")
    out, unsure, failed, added = [], [], [], 0
    for record in records:
        report(record)
        missing = tuple(task for task in tasks if not _is_known(record, task))
        if not missing:
            out.append(record)
            continue
        try:
            result = understand(clip.samples(record) if record.is_part else record.audio, missing, model=model)
        except UserError as error:
            failed.append(f"{record.id}: {error}")
            out.append(record)
            continue
        sure = [one.confidence for one in result.segments if one.confidence is not None]
        if not result.segments or min(sure, default=1.0) < at_least:
            unsure.append(record.id)
            out.append(record)
            continue
        text = result.text if "asr" in missing else record.text
        labels = {**result.labels, **record.labels}
        truths = {task for task in missing if task == "asr" or task in labels}
        order = [task.id for task in table.TASKS if task.id in truths or task.id in record.tasks]
        out.append(replace(record, text=text, labels=labels, tasks=tuple(order)))
        added += bool(truths)
    return Labelled(out, added, tuple(unsure), tuple(failed))


def _is_known(record: Record, task: str) -> bool:
    return record.text is not None if task == "asr" else task in record.labels
