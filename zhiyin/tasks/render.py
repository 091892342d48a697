"""From tasks and a record's truth to the prompt a model is told and the target it must say.

Grammar of a target, in this order (`parse.py` reads it back)::

    reply      = [tags] [transcript | timed] {label} [answer | translation]
    tags       = "<asr>" "<ser>" ...              only in the plain-language form, table order
    timed      = {time word {time word}} time     "<0.00>turn<0.32>left<0.61>"; a gap has two times in a row
    label      = "<happy>"                        one per label task, table order
    answer     = "<answer>" text                  sttc; the mark is left out when nothing comes before it
    translation= "<translation>" text             ast; likewise
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zhiyin.errors import UserError
from zhiyin.tasks.table import Task

ANSWER_MARK = "<answer>"
TRANSLATION_MARK = "<translation>"


@dataclass(frozen=True)
class TimedWord:
    """A word and where it is, in seconds from the start of the audio given to the model."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Truth:
    """What is true of a recording, as far as it is known; the fields a target is rendered from."""

    text: str = ""
    words: tuple[TimedWord, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)  # task id -> label
    answer: str = ""
    translation: str = ""


def tags(tasks: Sequence[Task]) -> str:
    """The tag string of a combination, e.g. ``<asr><ser>``; also the prompt of the tag form."""
    return "".join(task.tag for task in tasks)


def target(tasks: Sequence[Task], truth: Truth, *, with_tags: bool = False, time_step_s: float = 0.01) -> str:
    """What the model must say for `tasks`, without the end token.

    Args:
        tasks: rows from `table.select`, in table order.
        truth: what is known; every label task asked must have a label.
        with_tags: the plain-language form, in which the reply begins with the task tags.
        time_step_s: times are rounded to this step (a small model has one token per step).

    Raises:
        UserError: a label is missing or not in the task's set, or a text holds ``<`` or ``>``.
    """
    out = [tags(tasks) if with_tags else ""]
    kinds = {task.kind for task in tasks}
    if "words" in kinds:
        out.append(timed(truth.words, time_step_s=time_step_s))
    elif "text" in kinds:
        out.append(_plain(truth.text, "text"))
    for task in tasks:
        if task.kind == "label":
            out.append(f"<{_label(task, truth.labels)}>")
    said = len(tasks) > 1
    if "answer" in kinds:
        out.append((ANSWER_MARK if said else "") + _plain(truth.answer, "answer"))
    if "translation" in kinds:
        out.append((TRANSLATION_MARK if said else "") + _plain(truth.translation, "translation"))
    return "".join(out)


def timed(words: Sequence[TimedWord], *, time_step_s: float = 0.01) -> str:
    """Words with boundaries; neighbours that touch share one, a gap shows two.

    >>> timed([TimedWord("turn", 0.0, 0.32), TimedWord("left", 0.32, 0.61)])
    '<0.00>turn<0.32>left<0.61>'
    """
    out: list[str] = []
    last = ""
    for word in words:
        start, end = _mark(word.start_s, time_step_s), _mark(word.end_s, time_step_s)
        out.append(_plain(word.text, "word") if start == last else start + _plain(word.text, "word"))
        out.append(end)
        last = end
    return "".join(out)


def _mark(seconds: float, step_s: float) -> str:
    return f"<{round(seconds / step_s) * step_s:.2f}>"


def _label(task: Task, labels: Mapping[str, str]) -> str:
    label = labels.get(task.id)
    if label not in task.labels:
        raise UserError(f"{task.id}: label {label!r} is not one of {', '.join(task.labels)}")
    return label


def _plain(text: str, what: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    if "<" in text or ">" in text:
        raise UserError(f"{what} {text!r} holds '<' or '>', which mark tags in a target; remove them from the data")
    return text
