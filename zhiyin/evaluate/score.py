"""Figures from `results.jsonl`: word errors, label accuracy, word times; a missing hypothesis counts as wrong."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zhiyin.data.synth import DIGITS
from zhiyin.evaluate import times
from zhiyin.evaluate.replies import EMPTY
from zhiyin.text.score import edits, words

Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One line of the report: `value` between 0 and 1 (or milliseconds for times), over `count` records."""

    name: str
    value: float
    count: int
    better: str = "lower"


def score(rows: Sequence[Row]) -> list[Figure]:
    """All figures that the rows allow, most general first."""
    figures = [*_word_errors(rows), *_labels(rows), *_free_text(rows), *_times(rows)]
    parsed = [not _hypothesis(row)["unparsed"] for row in rows]
    failed = sum("error" in row for row in rows)
    figures.append(Figure("replies fully parsed", sum(parsed) / max(1, len(rows)), len(rows), "higher"))
    figures.append(Figure("records that failed", failed / max(1, len(rows)), len(rows)))
    return figures


def is_digits(text: str | None) -> bool:
    """Whether a transcript is a string of English digits (and nothing else)."""
    return bool(text) and all(word in DIGITS for word in (text or "").split())


def _hypothesis(row: Row) -> dict[str, Any]:
    return row.get("hypothesis", EMPTY)


def _word_errors(rows: Sequence[Row]) -> Iterable[Figure]:
    spoken = [row for row in rows if "asr" in row["tasks"] and row["reference"]["text"]]
    digits = [row for row in spoken if is_digits(row["reference"]["text"])]
    strings = [row for row in digits if len(words(row["reference"]["text"])) > 1]
    groups: dict[str, list[Row]] = {
        "digit strings": strings,
        "digit strings of adults": [row for row in strings if row["slice"]["age_group"] != "child"],
        "single digits": [row for row in digits if row not in strings],
    }
    for row in spoken:
        groups.setdefault(row["slice"]["source"], []).append(row)
    for name, group in groups.items():
        if group:
            wrong = sum(edits(words(r["reference"]["text"]), words(_hypothesis(r)["text"])) for r in group)
            total = sum(len(words(row["reference"]["text"])) for row in group)
            yield Figure(f"word error rate, {name}", wrong / total, len(group))
    silent = [row for row in rows if "asr" in row["tasks"] and row["reference"]["text"] == ""]
    if silent:
        invented = sum(bool(_hypothesis(row)["text"]) for row in silent)
        yield Figure("text invented where nothing is said", invented / len(silent), len(silent))


def _labels(rows: Sequence[Row]) -> Iterable[Figure]:
    for task in ("ved", "ser", "ssr", "sgc", "sap"):
        asked = [row for row in rows if task in row["tasks"]]
        groups = {"": asked}
        if task == "sgc":
            children = [row for row in asked if row["slice"]["age_group"] in ("child", "infant")]
            groups = {" of adults": [row for row in asked if row not in children], " of children": children}
        for name, group in groups.items():
            if group:
                hits = [_hypothesis(r)["labels"].get(task) == r["reference"]["labels"][task] for r in group]
                yield Figure(f"{task} accuracy{name}", sum(hits) / len(hits), len(hits), "higher")
                yield Figure(f"{task} unweighted recall{name}", _recall(task, group), len(hits), "higher")


def _recall(task: str, group: Sequence[Row]) -> float:
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in group:
        truth = row["reference"]["labels"][task]
        hits[truth].append(_hypothesis(row)["labels"].get(task) == truth)
    return sum(sum(h) / len(h) for h in hits.values()) / len(hits)


def _free_text(rows: Sequence[Row]) -> Iterable[Figure]:
    wanted: dict[str, Callable[[dict[str, Any]], str]] = {
        "sttc": lambda side: side["answer"],
        "ast": lambda side: side["translation"],
    }
    for task, text in wanted.items():
        asked = [row for row in rows if task in row["tasks"]]
        if asked:
            hits = [words(text(_hypothesis(row))) == words(text(row["reference"])) for row in asked]
            yield Figure(f"{task} exact", sum(hits) / len(hits), len(hits), "higher")


def _times(rows: Sequence[Row]) -> Iterable[Figure]:
    """Shift of word boundaries where all words were heard right; see `evaluate.times`."""
    for source in sorted({row["slice"]["source"] for row in rows if "srwt" in row["tasks"]}):
        group = [row for row in rows if "srwt" in row["tasks"] and row["slice"]["source"] == source]
        found = [times.shifts(row["reference"]["words"], _hypothesis(row)["words"]) for row in group]
        values = [shift for one in found for shift in one or ()]
        if values:
            yield Figure(f"word times, average shift in ms, {source}", 1000 * times.average_shift_s(values), len(group))
