"""From a model's reply to typed values. Nothing is guessed and nothing is lost.

`parse` reads the grammar of `render.py` in any dialect. It never raises on what a model says: a piece of the reply is
either understood or stands, as it was said, in `Parsed.unparsed`; what was asked and did not come is named there too.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from zhiyin.errors import UserError
from zhiyin.result import Turn
from zhiyin.tasks.dialect import ZHIYIN, Dialect
from zhiyin.tasks.render import NO_TASK, TimedWord
from zhiyin.tasks.table import TASKS, TIME, Task, select, spelling

FREE_TEXT_KINDS = ("answer", "translation")


@dataclass(frozen=True)
class Parsed:
    """What a reply says.

    Attributes:
        tasks: the tasks asked or, in the plain-language form, those the model understood, in table order. Empty with
            nothing in `unparsed`: the model says that no task fits the request.
        text: transcript; for timed words their texts joined by `join_words`.
        words: words with times in seconds from the start of the audio given to the model.
        labels: task id -> label in the task's own spelling.
        answer: text answer.
        translation: text translation.
        turns: what was said by whom, in order, where speakers were asked.
        language: code of the language that the model says it heard, or its own word for it; often it says none.
        unparsed: pieces of the reply that fit nothing asked, in order and as they were said, then what was asked and
            did not come, e.g. ``ser: no label``.
    """

    tasks: tuple[Task, ...]
    text: str = ""
    words: tuple[TimedWord, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    answer: str = ""
    translation: str = ""
    turns: tuple[Turn, ...] = ()
    language: str = ""
    unparsed: tuple[str, ...] = ()


def parse(
    reply: str, tasks: Sequence[Task] | None = None, *, table: Sequence[Task] = TASKS, dialect: Dialect = ZHIYIN
) -> Parsed:
    """Read a reply.

    Args:
        reply: what the model said, without the end token.
        tasks: rows that were asked. Tags at the start of the reply are then optional, and those not asked are unparsed.
            None for the plain-language form: the reply must begin with tags, which say what the model understood.
        table: rows whose tags count, with the model's own label sets (`table.with_labels`).
        dialect: names and marks of the model family.
    """
    reader = _Reader(reply, dialect)
    asked = reader.tags(table, tasks)
    if tasks is None and not asked:
        return Parsed((), unparsed=() if reader.says_no_task() else (*reader.unused(), "reply: no task tag"))
    kinds = {task.kind for task in asked}
    words = reader.words() if "words" in kinds else ()
    text = reader.text() if "text" in kinds and "words" not in kinds else join_words(word.text for word in words)
    alone = len(asked) == 1 and asked[0].kind in FREE_TEXT_KINDS
    labels = {} if alone else reader.labels(asked)
    free = {task.kind: reader.free_text(task, alone) for task in asked if task.kind in FREE_TEXT_KINDS}
    rows = tuple(task for task in table if task in asked) if tasks is None else tuple(tasks)
    missing = [f"{task.id}: no label" for task in rows if task.kind == "label" and task.id not in labels]
    missing += [f"{task.id}: no {task.kind}" for task in rows if free.get(task.kind, "") is None]
    return Parsed(
        tasks=rows,
        text=text,
        words=words,
        labels={task.id: labels[task.id] for task in rows if task.id in labels},
        answer=free.get("answer") or "",
        translation=free.get("translation") or "",
        unparsed=(*reader.unused(), *missing),
    )


def read_tags(tags: str, *, table: Sequence[Task] = TASKS, dialect: Dialect = ZHIYIN) -> tuple[Task, ...]:
    """Rows for a string of tags, e.g. the `task` field of OSUM data, ``<TRANSCRIBE> <EMOTION>``.

    Raises:
        UserError: something in it is no tag of this dialect, or the tasks cannot be asked together.
    """
    reader = _Reader(tags, dialect)
    found = reader.tags(table, None)
    if reader.unused() or not found:
        known = " ".join(dialect.tag(task) for task in table)
        raise UserError(f"tags {tags!r} cannot be read in dialect '{dialect.name}'; its tags: {known}")
    return select([task.id for task in found], table)


# Scripts written without spaces: Han with its extensions, kana, bopomofo, and their punctuation and full-width forms
# (but not full-width letters and digits, which are words, nor Hangul, which is written with spaces).
_NO_SPACE = re.compile(
    "[\u3000-\u303f\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f\U00020000-\U000323af]"
)


def join_words(words: Iterable[str]) -> str:
    """Words as one text: a space between two words unless a CJK character stands on either side of the gap.

    >>> join_words(["打", "开", "wifi", "then", "wait"])
    '打开wifi then wait'
    """
    out = ""
    for word in words:
        gap = " " if out and word and not _NO_SPACE.match(out[-1]) and not _NO_SPACE.match(word[0]) else ""
        out += gap + word
    return out


@dataclass(frozen=True)
class _Piece:
    """Part of a reply: ``<word>`` is a mark; an angle bracket that closes nothing or is never closed is stray.

    `word` is made comparable: the spelling of a mark, a text with single spaces.
    """

    raw: str
    kind: str
    word: str


_PIECE = re.compile(r"<(?P<mark>[^<>]*)>|(?P<stray><[^<>]*|>)|(?P<text>[^<>]+)")


def _pieces(reply: str) -> list[_Piece]:
    """Marks, texts and stray brackets in order; blank text between marks says nothing and is dropped."""
    pieces = []
    for match in _PIECE.finditer(reply):
        mark, text = match["mark"], match["text"]
        if mark is not None:
            pieces.append(_Piece(match[0], "mark", spelling(mark)))
        elif text is None:
            pieces.append(_Piece(match[0], "stray", ""))
        elif text.strip():
            pieces.append(_Piece(match[0], "text", " ".join(text.split())))
    return pieces


def _name(mark: str) -> str:
    return spelling(mark.strip("<>"))


class _Reader:
    """Goes once over the pieces of a reply; what no step takes stays unused."""

    def __init__(self, reply: str, dialect: Dialect) -> None:
        self._pieces = _pieces(reply)
        self._dialect = dialect
        self._at = 0
        self._used: set[int] = set()

    def tags(self, table: Sequence[Task], asked: Sequence[Task] | None) -> tuple[Task, ...]:
        """Leading tags; the tasks of the reply in the order in which their labels follow.

        A tag that comes twice, that was not asked or that cannot go with an earlier one is left unused.
        """
        by_tag = {_name(self._dialect.tag(task)): task for task in (*table, *(asked or ()))}
        found: list[Task] = []
        while self._next("mark") and (task := by_tag.get(self._pieces[self._at].word)):
            second_text = task.kind in FREE_TEXT_KINDS and any(row.kind in FREE_TEXT_KINDS for row in found)
            if task not in found and not second_text and (asked is None or task in asked):
                found.append(task)
                self._used.add(self._at)
            self._at += 1
        if asked is None:
            return tuple(found)
        return (*found, *(task for task in self._dialect.ordered(asked) if task not in found))

    def text(self) -> str:
        """The text that stands next, if any."""
        return self._take().word if self._next("text") else ""

    def words(self) -> tuple[TimedWord, ...]:
        """Texts between two times that do not go back. A time that goes back bounds nothing."""
        begin, times, latest_s = self._at, {}, 0.0
        while self._next("text") or (self._next("mark") and TIME.fullmatch(self._pieces[self._at].word)):
            time_s = float(self._pieces[self._at].word) if self._next("mark") else -1.0
            if time_s >= latest_s:
                times[self._at] = latest_s = time_s
            self._at += 1
        words = []
        for at in range(begin, self._at):
            if self._pieces[at].kind == "text" and at - 1 in times and at + 1 in times:
                words.append(TimedWord(self._pieces[at].word, times[at - 1], times[at + 1]))
                self._used.update((at - 1, at, at + 1))
        return tuple(words)

    def labels(self, asked: Sequence[Task]) -> dict[str, str]:
        """Labels up to the answer or translation, if one was asked.

        If there is one mark for each label task and each belongs to the set of its task, the order decides. Otherwise a
        mark counts only if it belongs to the set of exactly one task asked and no other label claims that task.
        """
        sets = {task.id: {spelling(label): label for label in task.labels} for task in asked if task.kind == "label"}
        marks = self._marks_up_to({self._free_mark(task) for task in asked if task.kind in FREE_TEXT_KINDS})
        said = {at: self._pieces[at].word for at in marks}
        owners = {at: [task for task in sets if said[at] in sets[task]] for at in marks}
        if len(marks) == len(sets) and all(task in owners[at] for at, task in zip(marks, sets, strict=True)):
            chosen = dict(zip(sets, marks, strict=True))
        else:
            claims = {task: [at for at in marks if owners[at] == [task]] for task in sets}
            chosen = {task: ats[0] for task, ats in claims.items() if len({said[at] for at in ats}) == 1}
        self._used.update(chosen.values())
        return {task: sets[task][said[at]] for task, at in chosen.items()}

    def free_text(self, task: Task, alone: bool) -> str | None:
        """Answer or translation; None if its mark is missing. Where nothing else was asked the mark is optional."""
        if self._next("mark") and self._pieces[self._at].word == self._free_mark(task):
            self._take()
        elif not alone:
            return None
        return self.text()

    def says_no_task(self) -> bool:
        """The whole reply is ``<none>``."""
        return [(piece.kind, piece.word) for piece in self._pieces] == [("mark", _name(NO_TASK))]

    def unused(self) -> tuple[str, ...]:
        """Pieces that no step took, neighbours joined."""
        runs = groupby(range(len(self._pieces)), key=lambda at: at in self._used)
        return tuple("".join(self._pieces[at].raw for at in run).strip() for used, run in runs if not used)

    def _next(self, kind: str) -> bool:
        return self._at < len(self._pieces) and self._pieces[self._at].kind == kind

    def _take(self) -> _Piece:
        self._used.add(self._at)
        self._at += 1
        return self._pieces[self._at - 1]

    def _marks_up_to(self, ends: set[str]) -> list[int]:
        """Go on to the first mark named in `ends`, or to the end; the places of the marks gone by."""
        begin = self._at
        while self._at < len(self._pieces) and not (self._next("mark") and self._pieces[self._at].word in ends):
            self._at += 1
        return [at for at in range(begin, self._at) if self._pieces[at].kind == "mark"]

    def _free_mark(self, task: Task) -> str:
        return _name(self._dialect.answer_mark if task.kind == "answer" else self._dialect.translation_mark)
