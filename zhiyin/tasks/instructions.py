"""Requests in plain language for every task and combination, and requests no task fits; one file per task.

Files under `instructions/`::

    <task>.json    language -> split -> phrasings; for sttc and ast also "into": the same with the place {into}
    combined.json  "asr+ser" -> language -> split -> phrasings written for exactly that combination
    drink.json     language -> split -> ways to ask an order for its drink (`about`)
    unfit.json     language -> split -> requests that no task fits; their right reply is `render.NO_TASK`
    parts.json     language -> split -> words for each task inside a longer request, and the frames around several;
                   of ``[a|b|]`` one is said
    frames.json    how requests are opened, names of languages, and first words that make no order of a request

The rule of the splits: a phrasing, part, joint or frame belongs to the split under which it stands in its file, and to
no other. What is composed has all its pieces from one split, so ``dev`` and ``test`` measure wordings that training
never saw. `tests/tasks/test_instructions.py` looks for near-duplicates across them.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.tasks import table
from zhiyin.tasks.table import Task

FOLDER = Path(__file__).with_name("instructions")
SPLITS = ("train", "dev", "test")
LANGUAGES = ("en", "zh")
# What people ask for together: the combinations OSUM and OSUM-Pangu were trained with, and a few more.
COMBINATIONS = (
    *("asr+srwt", "asr+ved", "asr+ser", "asr+ssr", "asr+sgc", "asr+sap", "asr+sttc", "asr+ast"),
    *("ser+sgc", "ser+ssr", "sgc+sap", "ser+sgc+sap", "ssr+sgc+sap", "asr+ser+sgc", "asr+sgc+sap"),
    *("asr+ssr+sgc+sap", "asr+ved+sgc+sap", "asr+ser+sgc+sap", "asr+ser+ssr+sgc+sap", "asr+ved+ser+ssr+sgc+sap"),
)
TOPICS = ("drink",)
COMPOSED = 40  # requests composed for a combination in `phrasings`
# Shares of `pick`: how often a person's habits show. Chosen by us, not measured.
WRITTEN_SHARE = 0.4
WRITTEN_ALONE_SHARE = 0.6  # of training requests for one task; the others are composed, to make more of them
OPENING_SHARE = 0.3
CAPITAL_SHARE = 0.3
DROPPED_MARK_SHARE = 0.3
ADDED_STOP_SHARE = 0.2
_MARKS = ("?", "？")
_CHOICE = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Instruction:
    """A request and what it asks for.

    Attributes:
        text: the words.
        tasks: ids in table order; none: no task fits.
        language: of the words, ``en`` or ``zh``.
        into: language of the answer or translation, where the request names one.
    """

    text: str
    tasks: tuple[str, ...]
    language: str
    into: str = ""


def pick(tasks: Sequence[str], language: str, split: str, rng: random.Random, *, into: str = "") -> str:
    """One request for exactly these tasks, worded and punctuated as a person might.

    Args:
        tasks: ids; none: a request that no task fits.
        language: ``en`` or ``zh``.
        split: ``train``, ``dev`` or ``test``.
        rng: decides; the same state gives the same request.
        into: with ``sttc`` or ``ast`` alone: the language that is asked for, ``en``, ``zh`` or ``de``.

    Raises:
        UserError: a task, language or split is not known, or `into` does not fit the tasks.
    """
    rows = _rows(tasks)
    _check(rows, language, split, into)
    written = _written(rows, language, split, into)
    share = WRITTEN_SHARE
    if len(rows) < 2:
        share = WRITTEN_ALONE_SHARE if rows and split == "train" and not into else 1.0
    if written and (share == 1.0 or rng.random() < share):
        request = rng.choice(written)
    else:
        request = _compose(rows, language, split, rng)
    if into:
        request = request.replace("{into}", rng.choice(_read("frames")["languages"][language][into]))
    return _as_said(request, language, split, rng)


def phrasings(tasks: Sequence[str], language: str, split: str, *, into: str = "") -> tuple[str, ...]:
    """Requests for exactly these tasks: a fixed list, the same on every call and machine.

    One task or none: what was written for it. Several: that, and `COMPOSED` composed ones. Arguments and errors are
    those of `pick`.
    """
    rows = _rows(tasks)
    _check(rows, language, split, into)
    written = _written(rows, language, split, into)
    if into:
        names = _read("frames")["languages"][language][into]
        return tuple(request.replace("{into}", names[i % len(names)]) for i, request in enumerate(written))
    if len(rows) < 2:
        return written
    rng = random.Random(f"{_key(rows)} {language} {split}")
    composed = dict.fromkeys(_compose(rows, language, split, rng) for _ in range(20 * COMPOSED))
    return tuple(dict.fromkeys((*written, *islice(composed, COMPOSED))))


def about(topic: str, language: str, split: str) -> tuple[str, ...]:
    """Questions about a recording that have an answer of their own (task ``sttc``): a fixed list.

    They belong to records, as their `instruction`; no other request is answered so.

    Args:
        topic: one of `TOPICS`: ``drink``, which drink is ordered.
        language: ``en`` or ``zh``.
        split: ``train``, ``dev`` or ``test``.

    Raises:
        UserError: a topic, language or split is not known.
    """
    _check((), language, split, "")
    if topic not in TOPICS:
        raise UserError(f"there are no requests about '{topic}'; topics: {' '.join(TOPICS)}")
    return tuple(_read(topic)[language][split])


def all(split: str) -> tuple[Instruction, ...]:
    """Every request of a split: each task, each of `COMBINATIONS`, those that name a language, and the unfit ones.

    Raises:
        UserError: there is no such split.
    """
    return tuple(_all(split))


def expected(split: str, language: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Requests of a split with the tasks they ask for, in table order and without repeats: what IFR is measured on.

    Args:
        split: ``dev`` or ``test``; ``train`` for a look at the training requests.
        language: of the requests; by default all.

    Raises:
        UserError: there is no such split or language.
    """
    if language and language not in LANGUAGES:
        raise UserError(f"there are no requests in language '{language}'; languages: {' '.join(LANGUAGES)}")
    seen: set[str] = set()
    for one in all(split):
        if (not language or one.language == language) and one.text not in seen:
            seen.add(one.text)
            yield one.text, one.tasks


def _all(split: str) -> Iterator[Instruction]:
    for language in LANGUAGES:
        for key in (*(task.id for task in table.TASKS), *COMBINATIONS, ""):
            ids = tuple(task.id for task in _rows(key.split("+") if key else ()))
            for text in phrasings(ids, language, split):
                yield Instruction(text, ids, language)
        for task in ("sttc", "ast"):
            for into in _read("frames")["languages"][language]:
                for text in phrasings((task,), language, split, into=into):
                    yield Instruction(text, (task,), language, into)


def _compose(rows: Sequence[Task], language: str, split: str, rng: random.Random) -> str:
    """A request for several tasks: nouns or clauses for them in a random order, joined, in a frame."""
    parts = _read("parts")[language][split]
    kind = rng.choice(("nouns", "clauses"))
    said = [rng.choice(parts[task.id][kind]) for task in rows]
    rng.shuffle(said)
    between = "、" if language == "zh" else ", "
    listed = between.join(said[:-1]) + (rng.choice(parts["joins"][kind]) if len(said) > 1 else "") + said[-1]
    request = rng.choice(parts["frames"][kind]).replace("{x}", listed)
    request = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), request)
    return " ".join(request.split()).replace("？？", "？").replace("，，", "，")


def _as_said(request: str, language: str, split: str, rng: random.Random) -> str:
    """Vary opening, end mark and first letter, as people do."""
    openings = _read("frames")["openings"][language][split]
    if rng.random() < OPENING_SHARE:
        request = rng.choice(openings[_form(request, language)]).replace("{x}", request)
        if request.endswith(("??", "？？")):
            request = request[:-1]
    if request.endswith(_MARKS):
        request = request[:-1] if rng.random() < DROPPED_MARK_SHARE else request
    elif rng.random() < ADDED_STOP_SHARE:
        request += "。" if language == "zh" else "."
    return request[0].upper() + request[1:] if rng.random() < CAPITAL_SHARE else request


def _form(request: str, language: str) -> str:
    """Whether a request is one of the ``questions``, the ``orders`` (an imperative and nothing else) or ``others``."""
    if request.endswith(_MARKS):
        return "questions"
    first = request[0] if language == "zh" else request.split()[0].rstrip(",:;")
    plain = not any(mark in request for mark in (",", "，", ":", "：", ";", "please", "kindly", "谢", "请", "thanks"))
    return "orders" if plain and first not in _read("frames")["not_orders"][language] else "others"


def _written(rows: Sequence[Task], language: str, split: str, into: str) -> tuple[str, ...]:
    """Phrasings written by hand for exactly these tasks; for some combinations none."""
    if not rows:
        return tuple(_read("unfit")[language][split])
    if len(rows) == 1:
        content = _read(rows[0].id)
        return tuple((content["into"] if into else content)[language][split])
    wanted = frozenset(task.id for task in rows)
    for key, found in _read("combined").items():
        if wanted == frozenset(key.split("+")):
            return tuple(found[language][split])
    return ()


def _rows(tasks: Sequence[str]) -> tuple[Task, ...]:
    return table.select(tasks, table.TASKS) if tasks else ()


def _key(rows: Sequence[Task]) -> str:
    return "+".join(task.id for task in rows)


def _check(rows: Sequence[Task], language: str, split: str, into: str) -> None:
    if language not in LANGUAGES:
        raise UserError(f"there are no requests in language '{language}'; languages: {' '.join(LANGUAGES)}")
    if split not in SPLITS:
        raise UserError(f"there is no split '{split}' of the requests; splits: {' '.join(SPLITS)}")
    names = _read("frames")["languages"][language]
    if into and (_key(rows) not in ("sttc", "ast") or into not in names):
        raise UserError(
            f"a request for '{_key(rows)}' cannot name the language '{into}'; sttc or ast alone can, "
            f"with one of {' '.join(names)}"
        )


def _read(name: str) -> dict[str, Any]:
    return _load(FOLDER / f"{name}.json")


@cache
def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there are no natural requests for '{path.stem}': {path} is missing; add it")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
