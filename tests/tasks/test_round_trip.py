"""Whatever can be rendered is read back exactly: all combinations, forms and dialects."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from zhiyin.tasks.dialect import DIALECTS, Dialect
from zhiyin.tasks.parse import Parsed, join_words, parse
from zhiyin.tasks.render import TimedWord, Truth, target
from zhiyin.tasks.table import TASKS, Task, select, with_labels

FREE = [task.id for task in TASKS if task.kind in ("answer", "translation")]
REST = [task.id for task in TASKS if task.id not in FREE]
COMBINATIONS = [
    (*ids, *free)
    for size in range(len(REST) + 1)
    for ids in combinations(REST, size)
    for free in ((), *((one,) for one in FREE))
    if ids or free
]
# Sets as a small model may bring them: shared labels, spaces, Chinese, a label that is also the word for no task.
OWN_LABELS = {
    "ved": ("cry", "sneeze", "none", "清嗓子"),
    "ser": ("none", "boredom", "very sad", "cry"),
    "ssr": ("slow", "normal", "fast"),
    "sap": ("child", "adult", "old", "none"),
}
TABLES = (TASKS, with_labels(TASKS, OWN_LABELS))

CHARACTERS = st.one_of(
    st.sampled_from("abcXYZ09 .,'?!-\t你好世界，。？カ안é😀"),
    st.characters(exclude_characters="<>", exclude_categories=["Cs"]),
)
TEXTS = st.text(CHARACTERS, max_size=30)
WORDS = st.text(CHARACTERS, min_size=1, max_size=6).filter(lambda text: text.strip())


@st.composite
def timed_words(draw: st.DrawFn, step_s: float, decimals: int) -> tuple[TimedWord, ...]:
    """Words on the grid of a dialect; a gap of 0 steps is a shared boundary."""
    words, at = [], 0
    for text in draw(st.lists(WORDS, max_size=5)):
        start = at + draw(st.integers(0, 3))
        at = start + draw(st.integers(0, 300))
        words.append(TimedWord(text, round(start * step_s, decimals), round(at * step_s, decimals)))
    return tuple(words)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[Task, ...], Truth, Dialect, bool, tuple[Task, ...]]:
    table, dialect = draw(st.sampled_from(TABLES)), draw(st.sampled_from(DIALECTS))
    tasks = select(draw(st.sampled_from(COMBINATIONS)), table)
    truth = Truth(
        text=draw(TEXTS),
        words=draw(timed_words(dialect.time_step_s, dialect.time_decimals)),
        labels={task.id: draw(st.sampled_from(task.labels)) for task in tasks if task.kind == "label"},
        answer=draw(TEXTS),
        translation=draw(TEXTS),
    )
    return tasks, truth, dialect, draw(st.booleans()), table


def expected(tasks: tuple[Task, ...], truth: Truth) -> Parsed:
    """What must come back, said without the parser: the fields that were asked, with single spaces."""
    kinds = {task.kind for task in tasks}

    def plain(text: str, kind: str) -> str:
        return " ".join(text.split()) if kind in kinds else ""

    words = tuple(TimedWord(" ".join(word.text.split()), word.start_s, word.end_s) for word in truth.words)
    timed = "words" in kinds
    return Parsed(
        tasks,
        text=join_words(word.text for word in words) if timed else plain(truth.text, "text"),
        words=words if timed else (),
        labels=dict(truth.labels),
        answer=plain(truth.answer, "answer"),
        translation=plain(truth.translation, "translation"),
    )


@given(cases())
def test_any_truth_is_read_back(case: tuple) -> None:
    tasks, truth, dialect, with_tags, table = case
    reply = target(tasks, truth, with_tags=with_tags, dialect=dialect)
    asked = None if with_tags else tasks
    assert parse(reply, asked, table=table, dialect=dialect) == expected(tasks, truth)
    # A model that puts the tags it was asked for in front of its reply is understood too.
    if with_tags:
        assert parse(reply, tasks, table=table, dialect=dialect) == expected(tasks, truth)


def test_every_combination_in_every_form_and_dialect() -> None:
    words = (TimedWord("turn", 0.1, 0.5), TimedWord("left", 0.5, 0.9), TimedWord("now", 1.2, 1.5))
    assert len(COMBINATIONS) == 3 * 2 ** len(REST) - 1
    for table in TABLES:
        truth = Truth("turn left now", words, {t.id: t.labels[-1] for t in table if t.labels}, "yes", "jetzt links")
        for ids in COMBINATIONS:
            tasks = select(ids, table)
            for dialect in DIALECTS:
                for with_tags in (False, True):
                    reply = target(tasks, truth, with_tags=with_tags, dialect=dialect)
                    parsed = parse(reply, None if with_tags else tasks, table=table, dialect=dialect)
                    asked = Truth(
                        truth.text, words, {k: v for k, v in truth.labels.items() if k in ids}, "yes", "jetzt links"
                    )
                    assert parsed == expected(tasks, asked), reply


@given(cases())
def test_letter_case_of_marks_does_not_matter(case: tuple) -> None:
    tasks, truth, dialect, with_tags, table = case
    reply = target(tasks, Truth(labels=truth.labels), with_tags=with_tags, dialect=dialect)
    parsed = parse(reply.upper(), None if with_tags else tasks, table=table, dialect=dialect)
    assert (parsed.tasks, parsed.labels, parsed.unparsed) == (tasks, dict(truth.labels), ())
