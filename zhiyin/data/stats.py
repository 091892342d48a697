"""What a data set holds: hours, records and speakers per task, label, language, source; as a table and as plots."""

import importlib
import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.data.manifest import LABEL_FIELDS, Record
from zhiyin.errors import UserError
from zhiyin.tasks.table import TASKS

_BINS_S = 40
_SLICES = ("language", "source", "licence", "age_group")
_MOST_ROWS = 24  # of one plot
_NAME_CHARACTERS = 32


@dataclass(frozen=True)
class Row:
    """A part of a data set.

    Attributes:
        group: what it is divided by: all, task, event, emotion, style, gender, age, language, source, ...
        name: the value of that.
        records: how many.
        duration_s: seconds of audio.
        speakers: how many different ones; records without a speaker are not counted.
    """

    group: str
    name: str
    records: int
    duration_s: float
    speakers: int


def rows(records: Iterable[Record]) -> list[Row]:
    """All parts that are there: the whole, then tasks in table order, labels and slices, the longest first."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        for key in _keys(record):
            groups[key].append(record)
    places = ["all", "task", *LABEL_FIELDS, "labels", *_SLICES]
    order = {task.id: place for place, task in enumerate(TASKS)}
    found = [
        Row(group, name, len(of), sum(r.duration_s for r in of), len({r.speaker for r in of if r.speaker}))
        for (group, name), of in groups.items()
    ]
    return sorted(found, key=lambda r: (places.index(r.group), order.get(r.name, 0), -r.duration_s, r.name))


def text(found: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    out = ["| what | which | records | hours | speakers |", "|---|---|---:|---:|---:|"]
    out += [f"| {r.group} | {r.name} | {r.records} | {r.duration_s / 3600:.2f} | {r.speakers} |" for r in found]
    return "\n".join(out) + "\n"


def plot(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw hours per task and label, lengths of the recordings and hours per speaker into PNG files.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to draw.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("plots need the library matplotlib: pip install 'zhiyin[train]'")
    if not records:
        raise UserError("plots: the manifest holds no record")
    importlib.import_module("matplotlib").use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(records)
    groups = {row.group: [other for other in found if other.group == row.group][:_MOST_ROWS] for row in found[1:]}
    heights = [len(shown) + 2 for shown in groups.values()]
    figure, axes = pyplot.subplots(
        len(groups), 1, figsize=(8, sum(heights) / 4), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (group, shown) in zip(axes[:, 0], groups.items(), strict=True):
        axis.barh(range(len(shown)), [row.duration_s / 3600 for row in shown])
        axis.set_yticks(range(len(shown)), [_latin(row.name)[:_NAME_CHARACTERS] for row in shown])
        axis.invert_yaxis()
        axis.set(title=f"{group}, hours")
    out = [folder / "hours.png", folder / "lengths.png", folder / "speakers.png"]
    figure.savefig(out[0], dpi=100)
    for path, values, name in (
        (out[1], [record.duration_s for record in records], "seconds of a record"),
        (out[2], _per_speaker(records), "minutes of a speaker"),
    ):
        drawing, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
        axis.hist(values, bins=_BINS_S)
        axis.set(xlabel=name, ylabel="records" if path == out[1] else "speakers")
        drawing.savefig(path, dpi=100)
    pyplot.close("all")
    return out


def _keys(record: Record) -> list[tuple[str, str]]:
    fields = {task: name for name, task in LABEL_FIELDS.items()}
    keys = [("all", ""), *(("task", task) for task in dict.fromkeys(record.tasks))]
    keys += [(fields.get(task, "labels"), label) for task, label in record.labels.items()]
    return keys + [(name, getattr(record, name)) for name in _SLICES if getattr(record, name)]


def _per_speaker(records: Sequence[Record]) -> list[float]:
    seconds: dict[str, float] = defaultdict(float)
    for record in records:
        seconds[record.speaker] += record.duration_s / 60
    return [minutes for speaker, minutes in seconds.items() if speaker]


def _latin(name: str) -> str:
    """The fonts of matplotlib hold no Chinese; the styles have English names here."""
    return _STYLES.get(
        name, name if name.isascii() else "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in name)
    )


_STYLES = {
    "新闻科普": "news, science",
    "恐怖故事": "horror story",
    "童话故事": "fairy tale",
    "客服": "customer service",
    "诗歌散文": "poetry, prose",
    "有声书": "audiobook",
    "日常口语": "everyday talk",
    "其他": "other",
}
