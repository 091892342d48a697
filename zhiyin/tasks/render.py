"""From tasks and a record's truth to the prompt a model is told and the target it must say.

Grammar of a target, in this order (`parse.py` reads it back)::

    reply      = [tags] [transcript | timed] {label} [answer | translation]
    tags       = "<asr>" "<ser>" ...              only in the plain-language form, table order
    timed      = {time word {time word}} time     "<0.00>turn<0.32>left<0.61>"; a gap has two times in a row
    label      = "<happy>"                        one per label task, table order
    answer     = "<answer>" text                  sttc; the mark is left out when nothing comes before it
    translation= "<translation>" text             ast; likewise

A model whose transcript comes from a CTC head (`ctc_transcript`) is told it after the speech, and says only the rest::

    told       = [tag] transcript ("<answer>" | "<translation>")     the tag in the plain-language form
    reply      = text

A request that no task fits is answered with ``<none>`` alone. Other model families write the same things with other
names and marks: see `dialect.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zhiyin.errors import UserError
from zhiyin.tasks.dialect import ZHIYIN, Dialect
from zhiyin.tasks.table import Task

ANSWER_MARK = ZHIYIN.answer_mark
TRANSLATION_MARK = ZHIYIN.translation_mark
NO_TASK = "<none>"


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


def tags(tasks: Sequence[Task], *, dialect: Dialect = ZHIYIN) -> str:
    """The tag string of a combination, e.g. ``<asr><ser>``; also the prompt of the tag form. ``<none>`` for no task."""
    return dialect.tag_gap.join(dialect.tag(task) for task in dialect.ordered(tasks)) or NO_TASK


def target(
    tasks: Sequence[Task],
    truth: Truth,
    *,
    with_tags: bool = False,
    time_step_s: float | None = None,
    dialect: Dialect = ZHIYIN,
) -> str:
    """What the model must say for `tasks`, without the end token.

    Args:
        tasks: rows from `table.select`, in table order; none when no task fits the request (plain-language form only).
        truth: what is known; every label task asked must have a label.
        with_tags: the plain-language form, in which the reply begins with the task tags.
        time_step_s: times are rounded to this step (a small model has one token per step); by default the dialect's.
        dialect: names and marks to write with.

    Raises:
        UserError: a label is missing or not in the task's set, a text holds ``<`` or ``>``, or the words have no text
            or go back in time.
    """
    out = [tags(tasks, dialect=dialect) if with_tags else ""]
    kinds = {task.kind for task in tasks}
    if "words" in kinds:
        out.append(timed(truth.words, time_step_s=time_step_s, dialect=dialect))
    elif "text" in kinds:
        out.append(_plain(truth.text, "text"))
    for task in dialect.ordered(tasks):
        if task.kind == "label":
            out.append(f"<{_label(task, truth.labels)}>")
    said = len(tasks) > 1
    if "answer" in kinds:
        out.append((dialect.answer_mark if said else "") + _plain(truth.answer, "answer"))
    if "translation" in kinds:
        out.append((dialect.translation_mark if said else "") + _plain(truth.translation, "translation"))
    return "".join(out)


def heard(task: Task, text: str, *, with_tag: bool = False, dialect: Dialect = ZHIYIN) -> tuple[str, ...]:
    """Pieces that tell a model the transcript that it is to answer or to translate.

    Args:
        task: answer or translation.
        text: the transcript; angle brackets in it say nothing.
        with_tag: the plain-language form, which names the task that the request was understood as.
        dialect: names and marks to write with.
    """
    mark = dialect.answer_mark if task.kind == "answer" else dialect.translation_mark
    tag = (dialect.tag(task),) if with_tag else ()
    return (*tag, " ".join(re.sub("[<>]", " ", text).split()), mark)


def timed(words: Sequence[TimedWord], *, time_step_s: float | None = None, dialect: Dialect = ZHIYIN) -> str:
    """Words with boundaries; neighbours that touch share one, a gap shows two.

    >>> timed([TimedWord("turn", 0.0, 0.32), TimedWord("left", 0.32, 0.61)])
    '<0.00>turn<0.32>left<0.61>'

    Raises:
        UserError: a word has no text, or a time goes back.
    """
    step_s = dialect.time_step_s if time_step_s is None else time_step_s
    out: list[str] = []
    last, last_s = "", 0.0
    for word in words:
        text, start_s, end_s = _plain(word.text, "word"), _rounded(word.start_s, step_s), _rounded(word.end_s, step_s)
        if not text or not last_s <= start_s <= end_s:
            raise UserError(
                f"word {word.text!r} at {word.start_s} to {word.end_s} s, after a time of {last_s:.2f} s, cannot be "
                "written: a word needs text and times that do not go back; mend or drop it in the data"
            )
        start, end = (f"<{time_s:.{dialect.time_decimals}f}>" for time_s in (start_s, end_s))
        out.append(text if start == last and dialect.shared_times else start + text)
        out.append(end)
        last, last_s = end, end_s
    return "".join(out)


def _rounded(time_s: float, step_s: float) -> float:
    return round(time_s / step_s) * step_s


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
