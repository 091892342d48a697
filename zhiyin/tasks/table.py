"""The task table: one row for each thing that can be asked of a recording.

A combination of tasks is a tuple of rows in table order. To add a task: one row here, its prompts under
`prompts/`, one row in `tests/tasks/test_table.py`.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

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


def select(names: Iterable[str], table: tuple[Task, ...] = TASKS) -> tuple[Task, ...]:
    """Rows for task ids, in table order, each once.

    Raises:
        UserError: an id is not in the table, none is given, or two free-text tasks are asked together
            (both ``sttc`` and ``ast`` end the reply with free text, so one reply cannot hold both).
    """
    known = {task.id: task for task in table}
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
            f"tasks {' and '.join(free)} cannot be asked together: each ends the reply with free text; ask one at a time"
        )
    return rows
