"""Truths and hypotheses that come as one string with tags and marks, read into the fields that are scored."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from zhiyin.tasks.dialect import OSUM, ZHIYIN, Dialect
from zhiyin.tasks.parse import parse
from zhiyin.tasks.table import TASKS, TIME, Task, select, spelling, with_labels

Side = dict[str, Any]  # ``text``, ``labels``, ``words``, ``answer``, ``translation``, ``unparsed``

EMPTY: Side = {"text": "", "labels": {}, "words": [], "answer": "", "translation": "", "unparsed": []}
_MARK = re.compile(r"<([^<>]*)>")
_FREE = {"answer": "sttc", "开始回答": "sttc", "translation": "ast"}


def tasks_of(reply: str) -> tuple[str, ...]:
    """Task ids that a string shows by its marks; a label that several tasks have (``other``) shows none."""
    marks = [spelling(mark) for mark in _MARK.findall(reply)]
    found = {_FREE[mark] for mark in marks if mark in _FREE}
    found.add("srwt" if any(TIME.fullmatch(mark) for mark in marks) else "asr")
    for mark in marks:
        owners = [task.id for task in TASKS if mark in {spelling(label) for label in task.labels}]
        found |= set(owners) if len(owners) == 1 else set()
    return tuple(task.id for task in TASKS if task.id in found)


def read(reply: str, tasks: Sequence[str], labels: Mapping[str, Iterable[str]]) -> Side:
    """What a string says of these tasks.

    Args:
        reply: e.g. ``turn left<happy>``, ``<0.10>你<0.30>``, ``请问几点<开始回答>三点``.
        tasks: ids that were asked.
        labels: task id -> labels that count beside those of the task table.
    """
    rows = with_labels(TASKS, {row.id: _merged(row, labels.get(row.id, ())) for row in TASKS if row.kind == "label"})
    asked = select(tasks, rows)
    parsed = parse(reply, asked, table=rows, dialect=_dialect(reply))
    words = [asdict(word) for word in parsed.words]
    free = {"answer": parsed.answer, "translation": parsed.translation}
    return {"text": parsed.text, "labels": parsed.labels, "words": words, **free, "unparsed": list(parsed.unparsed)}


def _dialect(reply: str) -> Dialect:
    return OSUM if OSUM.answer_mark in reply else ZHIYIN


def _merged(task: Task, more: Iterable[str]) -> tuple[str, ...]:
    known = {spelling(label) for label in task.labels}
    return (*task.labels, *(label for label in dict.fromkeys(more) if spelling(label) not in known))
