"""The figures that `zhiyin eval` prints: per task, and per corpus where it matters; a missing hypothesis is wrong."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zhiyin.evaluate import slices, times
from zhiyin.evaluate.measures import INSTRUCTIONS, LABEL_TASKS, Measure, Options, of_task
from zhiyin.evaluate.replies import EMPTY
from zhiyin.text.score import edits, words

Row = dict[str, Any]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ORDERS = "pico_s2i"  # of the speech pack: orders of coffee, asked for the drink
_UNWEIGHTED = "unweighted recall"
_MATCH = "normalised match"


@dataclass(frozen=True)
class Figure:
    """One line of the report over `count` records.

    `unit` is ``%`` (the value is a share), ``points`` (a share times 100) or ``ms`` (the value is in milliseconds).
    """

    name: str
    value: float
    count: int
    better: str = "lower"
    unit: str = "%"


def score(rows: Sequence[Row]) -> list[Figure]:
    """All figures that the rows allow, in the order of the task table, then requests in plain language."""
    figures = [*_word_errors(rows), *_times(rows), *_labels(rows), *_answers(rows), *_translations(rows)]
    figures += _instructions(rows)
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


def _corpus(row: Row) -> str:
    """Source of a row; of made speech with its grammar, e.g. ``synthetic questions``."""
    return f"{row['slice'].get('source') or ''} {row['slice'].get('grammar') or ''}".strip()


def _word_errors(rows: Sequence[Row]) -> Iterable[Figure]:
    spoken = [row for row in rows if "asr" in row["tasks"] and row["reference"]["text"]]
    digits = [row for row in spoken if is_digits(row["reference"]["text"])]
    strings = [row for row in digits if len(words(row["reference"]["text"])) > 1]
    groups: dict[str, list[Row]] = {
        "digit strings": strings,
        "digit strings of adults": [row for row in strings if not _is_child(row)],
        "single digits": [row for row in digits if len(words(row["reference"]["text"])) == 1],
    }
    for row in spoken:
        groups.setdefault(_corpus(row), []).append(row)
    sentences = [row for row in spoken if _corpus(row) == "so762" and not is_digits(row["reference"]["text"])]
    groups["so762 without digit strings"] = sentences
    for name, group in groups.items():
        if group:
            wrong = sum(edits(words(r["reference"]["text"]), words(_hypothesis(r)["text"])) for r in group)
            total = sum(len(words(row["reference"]["text"])) for row in group)
            yield Figure(f"word error rate, {name}", wrong / total, len(group))
    silent = [row for row in rows if "asr" in row["tasks"] and row["reference"]["text"] == ""]
    if silent:
        invented = sum(bool(_hypothesis(row)["text"]) for row in silent)
        yield Figure("text invented where nothing is said", invented / len(silent), len(silent))


def _is_child(row: Row) -> bool:
    return row["slice"].get("age_group") in ("child", "infant") or row["reference"]["labels"].get("sap") == "child"


def _labels(rows: Sequence[Row]) -> Iterable[Figure]:
    """Gender of adults and of children apart; unweighted recall also by corpus, of those with two labels or more."""
    found = [one for task in LABEL_TASKS for one in of_task(task, rows, Options())]
    for one in found:
        if one.name not in ("accuracy", _UNWEIGHTED):
            continue
        whole, name = one, f"{one.task} {one.name}"
        if one.task == "sgc":
            children = [at for at, row in enumerate(one.rows) if _is_child(row)]
            whole = slices.only(one, sorted(set(range(len(one.rows))) - set(children)))
            yield from _figure(whole, f"{name} of adults")
            yield from _figure(slices.only(one, children), f"{name} of children")
            name += " of adults"
        else:
            yield from _figure(one, name)
        for corpus, part in slices.parts(whole, _corpus).items() if one.name == _UNWEIGHTED else ():
            if len({row["reference"]["labels"][one.task] for row in part.rows}) > 1:
                yield from _figure(part, f"{name}, {corpus}")


def _answers(rows: Sequence[Row]) -> Iterable[Figure]:
    for one in of_task("sttc", rows, Options()):
        yield from _by_corpus(one)
        if one.name == _MATCH:
            orders = [at for at, row in enumerate(one.rows) if row["slice"].get("source") == ORDERS]
            yield from _figure(slices.only(one, orders), "coffee orders: drink right")


def _translations(rows: Sequence[Row]) -> Iterable[Figure]:
    for one in of_task("ast", rows, Options()):
        yield from _by_corpus(one)
        if one.name == _MATCH:
            for direction, part in slices.parts(one, slices.KEYS["direction"]).items():
                yield from _figure(part, f"ast {one.name}, {direction}")


def _by_corpus(measure: Measure) -> Iterable[Figure]:
    """A figure, and where it is the share of right replies also that of each corpus."""
    yield from _figure(measure, f"{measure.task} {measure.name}")
    for corpus, part in slices.parts(measure, _corpus).items() if measure.name == _MATCH else ():
        yield from _figure(part, f"{measure.task} {measure.name}, {corpus}")


def _instructions(rows: Sequence[Row]) -> Iterable[Figure]:
    """Requests in plain language, all and by the language they are made in."""
    for one in of_task(INSTRUCTIONS, rows, Options()):
        yield from _figure(one, f"requests, {one.name}")
        for language, part in slices.parts(one, slices.KEYS["asked in"]).items():
            yield from _figure(part, f"requests, {one.name}, asked in {language}")


def _figure(measure: Measure, name: str) -> Iterable[Figure]:
    if measure.rows:
        yield Figure(name, measure.figure, len(measure.rows), measure.better, measure.unit)


def _times(rows: Sequence[Row]) -> Iterable[Figure]:
    """Shift of word boundaries where all words were heard right; see `evaluate.times`."""
    timed = [row for row in rows if "srwt" in row["tasks"]]
    for corpus in sorted({_corpus(row) for row in timed}):
        group = [row for row in timed if _corpus(row) == corpus]
        found = [times.shifts(row["reference"]["words"], _hypothesis(row)["words"]) for row in group]
        values = [shift for one in found for shift in one or ()]
        if values:
            value = 1000 * times.average_shift_s(values)
            yield Figure(f"word times, average shift in ms, {corpus}", value, len(group), unit="ms")
