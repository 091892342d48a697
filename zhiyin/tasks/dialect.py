"""How a family of models writes its replies: names of tags, marks, times, orders. The differences are data, not code.

`render.py` writes and `parse.py` reads any of them; ours is the default everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zhiyin.errors import UserError
from zhiyin.tasks.table import Task


@dataclass(frozen=True)
class Dialect:
    """One way of writing replies.

    Attributes:
        name: how users choose it.
        tag_column: the column of the task table that names a task's tag; an empty cell means `Task.tag`.
        tag_gap: what stands between two tags.
        answer_mark: separates transcript or labels from a text answer.
        translation_mark: the same before a translation. Neither OSUM nor OSUM-Pangu translates, so theirs is ours.
        time_decimals: digits behind the point of a time mark, in seconds.
        shared_times: two words that touch share one time mark; otherwise each word has its own pair.
        order: task ids in the order in which tags and labels are written; other tasks follow in table order.
        special_orders: combinations that are written in an order of their own.
    """

    name: str
    tag_column: str = "tag"
    tag_gap: str = ""
    answer_mark: str = "<answer>"
    translation_mark: str = "<translation>"
    time_decimals: int = 2
    shared_times: bool = True
    order: tuple[str, ...] = ()
    special_orders: tuple[tuple[str, ...], ...] = ()

    @property
    def time_step_s(self) -> float:
        """The finest step a time mark can show."""
        return 10.0**-self.time_decimals

    def tag(self, task: Task) -> str:
        """The tag of a task in this dialect, e.g. ``<ser>`` or ``<emotion>``."""
        return getattr(task, self.tag_column) or task.tag

    def ordered(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """Tasks in the order in which this dialect writes their tags and labels."""
        ids = {task.id for task in tasks}
        order = next((special for special in self.special_orders if set(special) == ids), self.order)
        return tuple(sorted(tasks, key=lambda task: order.index(task.id) if task.id in order else len(order)))


_AGE_BEFORE_GENDER = ("asr", "srwt", "ved", "ser", "ssr", "sap", "sgc")

ZHIYIN = Dialect("zhiyin")

# OSUM `conf/prompt_config.yaml`: combinations name style, age, gender in this order; times have 0.1 s and, as the
# prompt asks for start and end of every unit and no code defines the rest, each unit is written with a pair of its own.
# Replies carry no tags; the tags are those of the `task` field of its data.
OSUM = Dialect(
    "osum",
    tag_column="osum_tag",
    tag_gap=" ",
    answer_mark="<开始回答>",
    time_decimals=1,
    shared_times=False,
    order=_AGE_BEFORE_GENDER,
)

# OSUM-Pangu `conf/prompt_config2.yaml`: tags first, two combinations in an order that fits no common one.
# Its data are OSUM's, hence the same mark and the same times.
OSUM_PANGU = Dialect(
    "osum-pangu",
    tag_column="pangu_tag",
    answer_mark="<开始回答>",
    time_decimals=1,
    shared_times=False,
    order=_AGE_BEFORE_GENDER,
    special_orders=(("asr", "sap", "sgc", "ssr", "ser"), ("asr", "ved", "sap", "sgc", "ser", "ssr")),
)

DIALECTS = (ZHIYIN, OSUM, OSUM_PANGU)


def named(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        UserError: there is none.
    """
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    raise UserError(f"reply dialect '{name}' is not known; known: {' '.join(dialect.name for dialect in DIALECTS)}")
