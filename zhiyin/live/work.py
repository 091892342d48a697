"""What live sessions want computed, and the computing: windows of one or of many sessions through the model at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zhiyin import hear
from zhiyin.audio import evidence, level
from zhiyin.audio.windows import Window
from zhiyin.result import Segment
from zhiyin.runtime.base import ModelSpec
from zhiyin.runtime.load import Loaded
from zhiyin.tasks import table
from zhiyin.tasks.families import Asked


@dataclass(frozen=True)
class Work:
    """What a session wants to know next.

    Attributes:
        window: the audio.
        asked: what to ask of it.
        hints: hotwords for the model, from `hear.hints`.
        until_s: where the audio of the stream ends in it; behind may lie silence that fills a bucket.
        is_final: whether the answer ends a segment.
        cut_s: where the window was cut because it had become too long; None elsewhere.
    """

    window: Window
    asked: Asked
    hints: hear.Hints | None
    until_s: float
    is_final: bool
    cut_s: float | None = None


def compute(works: Sequence[Work], model: Loaded) -> list[Segment]:
    """What the model understands of each window; equal requests go through it together.

    Sessions share nothing but the model, so works of many sessions can be given at once. A sound whose level does not
    move as that of speech does is not given to the model, as in `audio.windows.cut`.
    """
    found = {i: Segment(one.window.start_s, one.until_s) for i, one in enumerate(works) if _is_steady(one.window)}
    waiting = [i for i in range(len(works)) if i not in found]
    while waiting:
        first = works[waiting[0]]
        same = [i for i in waiting if works[i].asked == first.asked and works[i].hints is first.hints]
        heard = hear.hear([works[i].window for i in same], first.asked, model, first.hints)
        found.update(zip(same, heard, strict=True))
        waiting = [i for i in waiting if i not in found]
    return [found[i] for i in range(len(works))]


def is_spoken(asked: Asked) -> bool:
    """Whether a transcript was asked."""
    return any(task.kind in hear.SPOKEN for task in asked.tasks)


def has_times(asked: Asked, spec: ModelSpec) -> bool:
    """Whether the words of the transcript have times that cost nothing: those of a CTC head."""
    return spec.ctc_transcript and "srwt" in spec.tasks and is_spoken(asked)


def final(asked: Asked, spec: ModelSpec) -> Asked:
    """The request for the end of a segment: what was asked, with times of words where they cost nothing."""
    if not has_times(asked, spec):
        return asked
    rest = tuple(task for task in asked.tasks if task.kind not in hear.SPOKEN)
    return replace(asked, tasks=(*table.select("srwt"), *rest))


def partial(asked: Asked, spec: ModelSpec) -> Asked | None:
    """The request while somebody speaks: the transcript alone; None where none was asked."""
    if not is_spoken(asked):
        return None
    wanted = "srwt" if has_times(asked, spec) or "asr" not in spec.tasks else "asr"
    return replace(asked, tasks=table.select(wanted))


def _is_steady(window: Window) -> bool:
    return evidence.is_steady(level.adjusted(window.samples_T))  # an offset would hide how it moves
