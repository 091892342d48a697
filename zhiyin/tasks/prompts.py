"""How people ask: natural requests for every task and combination, requests no task fits, and OSUM's fixed sentences.

The sentences are data, one JSON file per task under `prompts/`::

    <task>.json     language -> split -> phrasings; those that end with a question mark are questions, others commands
    combined.json   "asr+ser" -> language -> split -> phrasings written for exactly that combination
    joining.json    language -> how single phrasings are opened and joined into one request
    unfit.json      language -> split -> requests that no task fits; their right reply is `render.NO_TASK`
    fixed.json      "asr+ser" -> language -> the one sentence a model trained with fixed prompts knows

The splits ``train`` and ``eval`` share no phrasing, opening or joining, so that a figure measured with ``eval``
speaks of wordings the model never saw.
"""

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from zhiyin.errors import UserError
from zhiyin.tasks.table import Task

FOLDER = Path(__file__).with_name("prompts")
SPLITS = ("train", "eval")
QUESTION_MARKS = ("?", "？")
# How many requests `instructions` composes for a combination; enough for stable evaluation, few enough to read.
COMPOSED_REQUESTS = 40
# Shares of `sample`: how often a person's habits show. Chosen by us, not measured.
HANDWRITTEN_SHARE = 0.4
OPENING_SHARE = 0.3
CAPITAL_SHARE = 0.3
DROPPED_QUESTION_MARK_SHARE = 0.3
ADDED_STOP_SHARE = 0.2


def instructions(tasks: Sequence[Task], language: str, split: str, *, folder: Path = FOLDER) -> tuple[str, ...]:
    """Natural requests for exactly these tasks: a fixed list, the same on every call and machine.

    Args:
        tasks: rows from `table.select`; none at all means requests that no task fits.
        language: ``en`` or ``zh``.
        split: ``train`` or ``eval``.
        folder: where the prompt files are.

    Returns:
        One task: its phrasings. Several: the ones written for the combination, then `COMPOSED_REQUESTS` composed ones.

    Raises:
        UserError: the language or split does not exist, or a task has no prompt file.
    """
    _check(language, split, folder)
    if not tasks:
        return unfit(language, split, folder=folder)
    if len(tasks) == 1:
        return _phrasings(tasks[0], language, split, folder)
    rng = random.Random(f"{_key(tasks)} {language} {split}")
    written = _written(tasks, language, split, folder)
    composed = dict.fromkeys(_compose(tasks, language, split, rng, folder) for _ in range(COMPOSED_REQUESTS))
    return tuple(dict.fromkeys((*written, *composed)))


def sample(tasks: Sequence[Task], language: str, split: str, rng: random.Random, *, folder: Path = FOLDER) -> str:
    """One natural request for exactly these tasks, worded and punctuated as a person might; for training.

    Arguments and errors as `instructions`; `rng` decides, so the same state gives the same request.
    """
    _check(language, split, folder)
    written = unfit(language, split, folder=folder) if not tasks else _written(tasks, language, split, folder)
    if written and (len(tasks) < 2 or rng.random() < HANDWRITTEN_SHARE):
        request = rng.choice(written)
    else:
        request = _compose(tasks, language, split, rng, folder)
    return _casual(request, language, split, rng, folder)


def unfit(language: str, split: str, *, folder: Path = FOLDER) -> tuple[str, ...]:
    """Requests that no task fits (``order me a pizza``); the right reply is `render.NO_TASK` alone."""
    _check(language, split, folder)
    return _pick(_read(folder, "unfit"), "unfit", language, split)


def fixed(tasks: Sequence[Task], language: str = "zh", *, folder: Path = FOLDER) -> str:
    """The fixed sentence for a combination, for models trained with one sentence per combination.

    The Chinese ones are the first variants of OSUM's `conf/prompt_config.yaml`, word for word; the English ones are
    ours and say the same. Both spell out OSUM's label sets.

    Raises:
        UserError: the combination has no fixed sentence, or the language does not exist.
    """
    _check(language, "train", folder)
    known = _read(folder, "fixed")
    wanted = frozenset(task.id for task in tasks)
    for key, sentences in known.items():
        if wanted == frozenset(key.split("+")):
            return sentences[language]
    raise UserError(f"there is no fixed prompt for '{_key(tasks)}'; there is one for: {' '.join(known)}")


def _compose(tasks: Sequence[Task], language: str, split: str, rng: random.Random, folder: Path) -> str:
    """Join one phrasing per task, in a random order."""
    parts = [rng.choice(_phrasings(task, language, split, folder)) for task in tasks]
    rng.shuffle(parts)
    joins = _read(folder, "joining")[language][split]["joins"]
    request = parts[0]
    for place, part in enumerate(parts[1:]):
        forms = joins[f"{_form(request)}+{_form(part)}"]
        # A frame such as "first a, then b" reads well around the first two parts only.
        fitting = [form for form in forms if place == 0 or form.startswith("{a}")]
        request = rng.choice(fitting).format(a=request, b=part)
    return request


def _casual(request: str, language: str, split: str, rng: random.Random, folder: Path) -> str:
    """Vary opening, end mark and first letter, as people do."""
    joining = _read(folder, "joining")[language]
    command = not any(mark in request for mark in QUESTION_MARKS)
    if command and rng.random() < OPENING_SHARE:
        request = rng.choice(joining[split]["openings"]) + request
    if request.endswith(QUESTION_MARKS):
        request = request[:-1] if rng.random() < DROPPED_QUESTION_MARK_SHARE else request
    elif rng.random() < ADDED_STOP_SHARE:
        request += joining["stop"]
    return request[0].upper() + request[1:] if rng.random() < CAPITAL_SHARE else request


def _form(phrasing: str) -> str:
    return "ask" if phrasing.endswith(QUESTION_MARKS) else "do"


def _written(tasks: Sequence[Task], language: str, split: str, folder: Path) -> tuple[str, ...]:
    """Phrasings written by hand for exactly these tasks; often none for a combination."""
    if len(tasks) == 1:
        return _phrasings(tasks[0], language, split, folder)
    wanted = frozenset(task.id for task in tasks)
    for key, phrasings in _read(folder, "combined").items():
        if wanted == frozenset(key.split("+")):
            return _pick(phrasings, key, language, split)
    return ()


def _phrasings(task: Task, language: str, split: str, folder: Path) -> tuple[str, ...]:
    return _pick(_read(folder, task.id), task.id, language, split)


def _pick(requests: Mapping[str, Any], name: str, language: str, split: str) -> tuple[str, ...]:
    try:
        return tuple(requests[language][split])
    except KeyError:
        raise UserError(
            f"the prompt file for '{name}' has no requests for language '{language}' and split '{split}'; add some"
        ) from None


def _key(tasks: Sequence[Task]) -> str:
    return "+".join(task.id for task in tasks)


def _check(language: str, split: str, folder: Path) -> None:
    languages = tuple(_read(folder, "joining"))
    if language not in languages:
        raise UserError(f"there are no prompts in language '{language}'; languages with prompts: {' '.join(languages)}")
    if split not in SPLITS:
        raise UserError(f"there is no prompt split '{split}'; splits: {' '.join(SPLITS)}")


@cache
def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise UserError(f"there are no natural requests for '{name}': {path} is missing; add it")
    return json.loads(path.read_text(encoding="utf-8"))
