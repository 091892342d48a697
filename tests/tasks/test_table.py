"""Every row of the task table through select, render, parse and requests; and a row nobody has written code for."""

import json
import shutil
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random

import pytest

from zhiyin.errors import UserError
from zhiyin.tasks import instructions, prompts
from zhiyin.tasks import table as tables
from zhiyin.tasks.dialect import DIALECTS
from zhiyin.tasks.parse import parse
from zhiyin.tasks.render import TimedWord, Truth, target
from zhiyin.tasks.table import MARK_WORDS, TASKS, Task, select, spelling, with_labels


@dataclass(frozen=True)
class Row:
    """The test row of a task: something true of a recording, and what the model must say when only this is asked."""

    task: str
    says: str
    truth: Truth = field(default_factory=Truth)


ROWS = (
    Row("asr", "turn left", Truth(text="turn left")),
    Row("srwt", "<0.10>turn<0.30>left<0.61>", Truth(words=(TimedWord("turn", 0.1, 0.3), TimedWord("left", 0.3, 0.61)))),
    Row("ved", "<throat clearing>", Truth(labels={"ved": "throat clearing"})),
    Row("ser", "<happy>", Truth(labels={"ser": "happy"})),
    Row("ssr", "<日常口语>", Truth(labels={"ssr": "日常口语"})),
    Row("sgc", "<female>", Truth(labels={"sgc": "female"})),
    Row("sap", "<adult>", Truth(labels={"sap": "adult"})),
    Row("sttc", "it is noon", Truth(answer="it is noon")),
    Row("ast", "nach links", Truth(translation="nach links")),
)


def check_row(row: Row, table: tuple[Task, ...]) -> None:
    """What must hold for any row of any table: asked alone, asked with a transcript, asked in plain language."""
    (task,) = select([row.task], table)
    assert target((task,), row.truth) == row.says
    for dialect in DIALECTS:
        for tasks in ((task,), select(["asr", task.id], table)):
            plain = target(tasks, row.truth, with_tags=True, dialect=dialect)
            parsed = parse(plain, table=table, dialect=dialect)
            assert parsed == parse(target(tasks, row.truth, dialect=dialect), tasks, dialect=dialect)
            assert parsed.tasks == tasks
            assert not parsed.unparsed
            assert {**parsed.labels} == {**row.truth.labels}
            assert (parsed.words, parsed.answer, parsed.translation) == (
                tuple(
                    TimedWord(w.text, round(w.start_s, dialect.time_decimals), round(w.end_s, dialect.time_decimals))
                    for w in row.truth.words
                ),
                row.truth.answer,
                row.truth.translation,
            )
    for language in ("en", "zh"):
        for split in instructions.SPLITS:
            alone = instructions.phrasings((task.id,), language, split)
            together = instructions.phrasings(("asr", "sap", task.id), language, split)
            assert instructions.pick((task.id,), language, split, Random(0))
            assert len(alone) >= 5 and len(together) > 20
    assert task.title and task.title_zh


def test_every_task_has_a_test_row() -> None:
    assert [row.task for row in ROWS] == [task.id for task in TASKS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.task)
def test_row(row: Row) -> None:
    check_row(row, TASKS)


def test_a_new_task_needs_its_row_its_requests_and_its_test_row_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("lid", "spoken language", "语种", "label", ("english", "中文", "low german"))
    folder = tmp_path / "instructions"
    shutil.copytree(instructions.FOLDER, folder)
    ways = {"en": ("name the language, {}", "which language is it, {}?"), "zh": ("说出语种{}", "这是什么语言{}？")}
    requests = {
        language: {
            split: [way.format(f"{split} {number}") for way in both for number in range(8)]
            for split in instructions.SPLITS
        }
        for language, both in ways.items()
    }
    (folder / "lid.json").write_text(json.dumps(requests), encoding="utf-8")
    parts = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    for language, split in product(instructions.LANGUAGES, instructions.SPLITS):
        parts[language][split]["lid"] = {"nouns": [f"{split} language"], "clauses": [f"which {split} language it is"]}
    (folder / "parts.json").write_text(json.dumps(parts), encoding="utf-8")
    monkeypatch.setattr(instructions, "FOLDER", folder)
    monkeypatch.setattr(tables, "TASKS", (*TASKS, task))
    check_row(Row("lid", "<low german>", Truth(labels={"lid": "low german"})), tables.TASKS)
    assert sum(tasks == ("lid",) for _, tasks in instructions.expected("test", "en")) == 16


def test_label_sets_are_those_of_osum() -> None:
    """OSUM `conf/prompt_config.yaml`, as its fixed prompts spell them out."""
    for task in TASKS:
        if task.kind == "label":
            sentence = prompts.fixed(select(["asr", task.id]))
            places = [sentence.index(label) for label in task.labels]
            assert places == sorted(places), "the table lists labels in the order of the prompt"


def test_select_gives_table_order_once() -> None:
    assert [task.id for task in select(["SER", "asr", " ser "])] == ["asr", "ser"]
    assert select("asr, ser") == select("ser+asr") == select(["asr", "ser"])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["asrr"], "did you mean 'asr'?"),
        (["pizza"], "known: asr srwt ved ser ssr sgc sap sttc ast"),
        ([], "no task was given"),
        ([" "], "no task was given"),
        (["sttc", "ast"], "cannot be asked together"),
    ],
)
def test_select_refuses(names: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        select(names)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_with_labels_replaces_only_what_is_named() -> None:
    rows = with_labels(select("asr+ved+ser"), {"ved": ("cry", "sneeze", "none"), "sap": ["child", "adult"]})
    assert [task.labels for task in rows] == [(), ("cry", "sneeze", "none"), select("ser")[0].labels]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"asr": ("yes",)}, "no task with labels"),
        ({"mood": ("yes",)}, "no task with labels"),
        ({"ser": ()}, "at least one label"),
        ({"ser": "happy"}, "at least one label"),
        ({"ser": ("happy", "Happy")}, "'Happy'"),
        ({"ser": ("a<b",)}, "'a<b'"),
        ({"ser": ("  ",)}, "'  '"),
        ({"ser": ("1.5",)}, "'1.5'"),
        ({"ser": ("answer",)}, "'answer'"),
        ({"ser": ("Style",)}, "'Style'"),
    ],
)
def test_with_labels_refuses_what_a_reply_could_not_show(labels: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(UserError) as caught:
        with_labels(TASKS, labels)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_marks_of_all_dialects_are_kept_from_labels() -> None:
    marks = {spelling(mark.strip("<>")) for d in DIALECTS for mark in (d.answer_mark, d.translation_mark)}
    assert marks == set(MARK_WORDS)


def test_tags_are_distinct_in_every_dialect() -> None:
    for dialect in DIALECTS:
        assert len({spelling(dialect.tag(task)) for task in TASKS}) == len(TASKS)
