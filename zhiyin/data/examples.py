"""From a record to what is asked and what must be said: the choice of tasks and of the prompt form."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from zhiyin.data.manifest import Record
from zhiyin.tasks import prompts, render, table

OF_THE_SPEAKER = {"sgc", "sap"}  # answers that do not depend on what is said


@dataclass(frozen=True)
class TaskMix:
    """How a record's tasks become requests.

    Attributes:
        plain_share: share of requests in plain language; the others are tag prompts.
        x_only_share: of the requests with a label task, the share without the transcript (OSUM: 0.5).
        extra_share: share of records asked for more than the plain transcript, where more is known.
        unfit_share: of the plain requests, the share that no task fits.
        voice_only_share: of the requests that only ask who speaks (`OF_THE_SPEAKER`), the share that is answered from
            the voice vector alone (`model.projector.Voice`). The words of a training recording tell its speaker, and
            a decoder that has them never learns to hear the voice.
    """

    plain_share: float = 0.25
    x_only_share: float = 0.4
    extra_share: float = 0.6
    unfit_share: float = 0.05
    voice_only_share: float = 0.0


@dataclass(frozen=True)
class Example:
    """One training example in words; the tokenizer turns it into ids."""

    prompt: str
    target: str
    transcript: str | None  # for the CTC head: None when unknown, "" when nothing is said
    voice_only: bool = False


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
    # without a share no number is drawn, so that older runs stay the same
    asks_voice = {task.id for task in tasks} <= OF_THE_SPEAKER and mix.voice_only_share > 0
    voice_only = asks_voice and rng.random() < mix.voice_only_share
    if rng.random() >= mix.plain_share:
        target = render.target(tasks, truth, time_step_s=time_step_s)
        return Example(render.tags(tasks), target, transcript, voice_only)
    language = rng.choice(("en", "zh"))
    if rng.random() < mix.unfit_share:
        return Example(rng.choice(prompts.unfit(language, "train")), "<none>", transcript)
    asked = prompts.sample(tasks, language, "train", rng)
    target = render.target(tasks, truth, with_tags=True, time_step_s=time_step_s)
    return Example(asked, target, transcript, voice_only)


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
