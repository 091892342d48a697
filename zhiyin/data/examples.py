"""From a record to what is asked and what must be said: the choice of tasks and of the prompt form."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from zhiyin.data.manifest import Record
from zhiyin.tasks import prompts, render, table


@dataclass(frozen=True)
class TaskMix:
    """How a record's tasks become requests.

    Attributes:
        plain_share: share of requests in plain language; the others are tag prompts.
        x_only_share: of the requests with a label task, the share without the transcript (OSUM: 0.5).
        extra_share: share of records asked for more than the plain transcript, where more is known.
        unfit_share: of the plain requests, the share that no task fits.
    """

    plain_share: float = 0.25
    x_only_share: float = 0.4
    extra_share: float = 0.6
    unfit_share: float = 0.05


@dataclass(frozen=True)
class Example:
    """One training example in words; the tokenizer turns it into ids."""

    prompt: str
    target: str
    transcript: str | None  # for the CTC head: None when unknown, "" when nothing is said


def make(
    record: Record,
    mix: TaskMix,
    labels: Mapping[str, tuple[str, ...]],
    rng: random.Random,
    *,
    shift_s: float = 0.0,
    speed: float = 1.0,
    time_step_s: float = 0.04,
) -> Example:
    """Choose tasks the record has a truth for, and render prompt and target.

    Args:
        record: what is known.
        mix: shares of the forms.
        labels: the model's own label sets.
        rng: source of the choices.
        shift_s: silence put in front of the audio; word times move by it.
        speed: playing speed; word times shrink by it.
        time_step_s: resolution of word times.
    """
    tasks = table.with_labels(table.select(_choose(record, mix, rng)), labels)
    words = tuple(
        replace(w, start_s=w.start_s / speed + shift_s, end_s=w.end_s / speed + shift_s) for w in record.words
    )
    truth = replace(record.truth, words=words)
    transcript = record.text
    if rng.random() >= mix.plain_share:
        return Example(render.tags(tasks), render.target(tasks, truth, time_step_s=time_step_s), transcript)
    language = rng.choice(("en", "zh"))
    if rng.random() < mix.unfit_share:
        return Example(rng.choice(prompts.unfit(language, "train")), "<none>", transcript)
    asked = prompts.sample(tasks, language, "train", rng)
    return Example(asked, render.target(tasks, truth, with_tags=True, time_step_s=time_step_s), transcript)


def _choose(record: Record, mix: TaskMix, rng: random.Random) -> list[str]:
    known = set(record.tasks)
    extras = [task.id for task in table.TASKS if task.id in known and task.id != "asr"]
    if "asr" not in known:
        return [rng.choice(extras)]
    if not extras or rng.random() >= mix.extra_share:
        return ["asr"]
    kinds = {task.id: task.kind for task in table.TASKS}
    first = rng.choice(extras)
    if first == "srwt":
        return ["srwt"]
    chosen = [first]
    if kinds[first] == "label":
        others = [t for t in extras if kinds[t] == "label" and t != first]
        chosen += rng.sample(others, rng.choice((0, 0, min(1, len(others)), len(others))))
    return chosen if rng.random() < mix.x_only_share else ["asr", *chosen]
