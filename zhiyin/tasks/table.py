"""The task table: one row for each thing that can be asked of a recording.

A combination of tasks is a tuple of rows in table order. To add a task: one row here, its requests under
`instructions/`, one row in `tests/tasks/test_table.py`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from zhiyin.errors import UserError


@dataclass(frozen=True)
class Task:
    """One row: what is asked, and the shape of what comes back.

    Attributes:
        id: short name on the command line and in the generated tag, e.g. ``ser`` -> ``<ser>``.
        title: English name shown to users.
        title_zh: Chinese name shown to users.
        kind: ``text`` (transcript), ``words`` (transcript with times), ``label`` (one of `labels`),
            ``answer`` or ``translation`` (free text after the transcript).
        labels: default label set, in canonical spelling; a model may bring its own subset or superset.
        osum_tag: the tag OSUM and OSUM-Pangu data use for it, upper case, e.g. ``<EMOTION>``.
        pangu_tag: the tag OSUM-Pangu generates, e.g. ``<emotion>``.

    Source of the label sets: OSUM `conf/prompt_config.yaml`, OSUM-Pangu `conf/prompt_config2.yaml`.
    """

    id: str
    title: str
    title_zh: str
    kind: str
    labels: tuple[str, ...] = ()
    osum_tag: str = ""
    pangu_tag: str = ""

    @property
    def tag(self) -> str:
        """The tag as generated and as used in tag prompts, e.g. ``<ser>``."""
        return f"<{self.id}>"


EVENTS = ("laugh", "cough", "cry", "screaming", "sigh", "throat clearing", "sneeze", "other")
EMOTIONS = ("sad", "anger", "neutral", "happy", "surprise", "fear", "disgust", "other")
STYLES = ("新闻科普", "恐怖故事", "童话故事", "客服", "诗歌散文", "有声书", "日常口语", "其他")

TASKS: tuple[Task, ...] = (
    Task("asr", "transcript", "转写", "text", (), "<TRANSCRIBE>", "<asr>"),
    Task("srwt", "words with times", "带时间的转写", "words", (), "<ALIGN>", "<align>"),
    Task("ved", "vocal event", "声音事件", "label", EVENTS, "<CAPTION>", "<caption>"),
    Task("ser", "emotion", "情感", "label", EMOTIONS, "<EMOTION>", "<emotion>"),
    Task("ssr", "speaking style", "说话风格", "label", STYLES, "<STYLE>", "<style>"),
    Task("sgc", "gender", "性别", "label", ("female", "male"), "<GENDER>", "<gender>"),
    Task("sap", "age", "年龄", "label", ("child", "adult", "old"), "<AGE>", "<age>"),
    Task("sttc", "spoken question, text answer", "语音问答", "answer", (), "<S2TCHAT>", "<chat>"),
    Task("ast", "speech translation", "语音翻译", "translation", (), "<TRANSLATE>", ""),
)

# What stands inside a time mark: seconds.
TIME = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
# Words that stand for something else inside ``<...>`` in a reply of some dialect, and so cannot be labels.
MARK_WORDS = ("answer", "translation", "开始回答")


def select(names: str | Iterable[str], table: Sequence[Task] = TASKS) -> tuple[Task, ...]:
    """Rows for task ids, in table order, each once.

    Args:
        names: task ids; one string may hold several, as in ``"asr,sgc"`` or ``"asr+sgc"``.
        table: the rows to choose from.

    Raises:
        UserError: an id is not in the table, none is given, or two free-text tasks are asked together
            (both ``sttc`` and ``ast`` end the reply with free text, so one reply cannot hold both).
    """
    known = {task.id: task for task in table}
    if isinstance(names, str):
        names = re.split(r"[,+\s]", names)
    wanted = [name.strip().lower() for name in names if name.strip()]
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise UserError(f"task '{name}' is not known; known: {' '.join(known)}{hint}")
    if not wanted:
        raise UserError(f"no task was given; choose from: {' '.join(known)}")
    rows = tuple(task for task in table if task.id in wanted)
    free = [task.id for task in rows if task.kind in ("answer", "translation")]
    if len(free) > 1:
        raise UserError(
            f"tasks {' and '.join(free)} cannot be asked together: each ends the reply with free text; ask one"
        )
    return rows


def with_labels(tasks: Sequence[Task], labels: Mapping[str, Sequence[str]]) -> tuple[Task, ...]:
    """The same rows with a model's own label sets; tasks that `labels` does not name keep theirs.

    Raises:
        UserError: an id is no label task, or a set is empty, repeats a label (in any case), or holds a label that a
            reply could not show unmistakably: with ``<`` or ``>``, a number (that is a time), a mark or a task's name.
    """
    known = {task.id: task for task in (*TASKS, *tasks)}
    for task_id, names in labels.items():
        if task_id not in known or known[task_id].kind != "label":
            choices = " ".join(task.id for task in known.values() if task.kind == "label")
            raise UserError(f"labels were given for '{task_id}', which is no task with labels; those are: {choices}")
        _check_labels(task_id, names, known.values())
    return tuple(replace(task, labels=tuple(labels[task.id])) if task.id in labels else task for task in tasks)


def spelling(label: str) -> str:
    """The form in which labels, tags and marks are compared: upper and lower case and runs of spaces do not matter."""
    return " ".join(label.casefold().split())


def _check_labels(task_id: str, names: Sequence[str], tasks: Iterable[Task]) -> None:
    if isinstance(names, str) or not names:
        raise UserError(f"the label set of task '{task_id}' is {names!r}; it must be a list of at least one label")
    tags = [tag for task in tasks for tag in (task.tag, task.osum_tag, task.pangu_tag)]
    taken = {*MARK_WORDS, *(spelling(tag.strip("<>")) for tag in tags)}
    seen: set[str] = set()
    for name in names:
        word = spelling(name)
        if not word or re.search(r"[<>]", name) or TIME.fullmatch(word) or word in taken or word in seen:
            raise UserError(
                f"label {name!r} of task '{task_id}' cannot be used: a label is a word or phrase, once in its set, "
                "without '<' and '>', that is no number, no task and no mark; rename it"
            )
        seen.add(word)
