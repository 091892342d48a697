"""What is measured of each task, as what each record adds to the sums that a figure is made of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zhiyin.evaluate import times, translation
from zhiyin.evaluate.bootstrap import Matrix, Value
from zhiyin.evaluate.replies import EMPTY, Side
from zhiyin.tasks.table import TASKS, spelling
from zhiyin.text import normalize
from zhiyin.text.score import align, count, words
from zhiyin.text.target import language_of

Row = dict[str, Any]
LABEL_TASKS = tuple(task.id for task in TASKS if task.kind == "label")
INSTRUCTIONS = "instructions"  # stands for a task where measures speak of requests in plain language
UNPARSED = "(none)"  # the column of a confusion table for replies without a label of the task


@dataclass(frozen=True)
class Options:
    """How texts are compared.

    Attributes:
        as_written: compare texts as they are, units divided by white space and Chinese characters.
        language: of all texts, instead of what the rows say.
        judge: record id -> score between 0 and 1 that a judge gave its answer.
        tasks: ids of the tasks to measure; none: all.
    """

    as_written: bool = False
    language: str = ""
    judge: Mapping[str, float] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """One figure: its value is `value` of the sums of `stats_NK` over the records `rows`.

    `unit` is ``%`` (the value is a share), ``ms`` or ``points`` (a share times 100). `main` measures are cut into
    slices, and their worst records are shown.
    """

    task: str
    name: str
    better: str
    unit: str
    rows: tuple[Row, ...]
    stats_NK: Matrix
    value: Value
    main: bool = False

    @property
    def figure(self) -> float:
        """The value over all records."""
        return float(self.value(self.stats_NK.sum(0, keepdims=True))[0])


def measures(rows: Sequence[Row], options: Options) -> list[Measure]:
    """Every measure for which some record has a truth, in the order of the task table."""
    wanted = [task.id for task in TASKS if not options.tasks or task.id in options.tasks]
    return [measure for task in (*wanted, INSTRUCTIONS) for measure in of_task(task, rows, options)]


def of_task(task: str, rows: Sequence[Row], options: Options) -> list[Measure]:
    """The measures of one task, or of `INSTRUCTIONS`, for which some record has a truth."""
    if task in LABEL_TASKS:
        found = _labels(rows, task)
    elif task == "asr":
        found = _transcripts(rows, options)
    elif task == "srwt":
        found = [_timed_text(rows, options), *_times(rows)]
    elif task == "sttc":
        found = _answers(rows, options)
    elif task == "ast":
        found = _translations(rows, options)
    else:
        found = _instructions(rows)
    return [measure for measure in found if measure.rows]


def said(row: Row) -> Side:
    """The hypothesis of a row; where there is none, one that says nothing."""
    return {**EMPTY, **row.get("hypothesis", {})}


def language(row: Row, options: Options) -> str:
    """Code of the language of a row's texts, empty if unknown."""
    return options.language or row["slice"].get("language") or ""


def text_units(text: str, code: str, options: Options) -> list[str]:
    """Units of the mixed error rate; see `Options`."""
    return words(text) if options.as_written else normalize.units(text, code)


def ratio(sums_RK: Matrix) -> Matrix:
    """First sum over second; NaN where nothing was counted."""
    below = sums_RK[:, 1]
    return np.divide(sums_RK[:, 0], below, out=np.full(len(below), np.nan), where=below > 0)


def _measure(
    task: str, name: str, chosen: Iterable[tuple[Row, Sequence[float]]], *, unit: str = "%", better: str = "higher",
    value: Value = ratio, main: bool = False,
) -> Measure:  # fmt: skip
    pairs = list(chosen)
    stats_NK = np.array([stats for _, stats in pairs], np.float64).reshape(len(pairs), -1 if pairs else 1)
    return Measure(task, name, better, unit, tuple(row for row, _ in pairs), stats_NK, value, main)


def _transcripts(rows: Sequence[Row], options: Options) -> list[Measure]:
    """WER where the truth has no wide characters, CER where it has; MER everywhere, with its kinds of errors."""
    known = [row for row in rows if "asr" in row["tasks"] and row["reference"].get("text") is not None]
    spoken = [row for row in known if row["reference"]["text"].strip()]
    silent = [(row, (bool(said(row)["text"].strip()), 1)) for row in known if not row["reference"]["text"].strip()]
    narrow = [row for row in spoken if not normalize.has_wide(row["reference"]["text"])]
    wide = [row for row in spoken if normalize.has_wide(row["reference"]["text"])]
    mixed = [(row, _edits(row, options, text_units)) for row in spoken]
    kinds = {"substitutions": 2, "deletions": 3, "insertions": 4}
    by_kind = [
        _measure("asr", name, ((row, (stats[at], stats[1])) for row, stats in mixed), better="lower")
        for name, at in kinds.items()
    ]
    return [
        _measure("asr", "WER", ((row, _edits(row, options, text_units)) for row in narrow), better="lower"),
        _measure("asr", "CER", ((row, _edits(row, options, _characters)) for row in wide), better="lower"),
        _measure("asr", "MER", mixed, better="lower", main=True),
        *by_kind,
        _measure(
            "asr", "records with an error", ((row, (min(1, stats[0]), 1)) for row, stats in mixed), better="lower"
        ),
        _measure("asr", "text where nothing is said", silent, better="lower"),
    ]


def _timed_text(rows: Sequence[Row], options: Options) -> Measure:
    """MER of words that were asked with their times."""
    known = [row for row in rows if "srwt" in row["tasks"] and (row["reference"].get("text") or "").strip()]
    return _measure("srwt", "MER", ((row, _edits(row, options, text_units)) for row in known), better="lower")


def _characters(text: str, code: str, options: Options) -> list[str]:
    return list("".join(text.split())) if options.as_written else normalize.characters(text, code)


def _edits(row: Row, options: Options, divide: Callable[[str, str, Options], list[str]]) -> tuple[int, ...]:
    code = language(row, options)
    expected, got = (divide(side["text"], code, options) for side in (row["reference"], said(row)))
    found = count(align(expected, got))
    return found.errors, found.length, found.substitutions, found.deletions, found.insertions


def _times(rows: Sequence[Row]) -> list[Measure]:
    """Shift of the boundaries of words heard right, and share of all that are near; those of lost words are not."""
    timed = [row for row in rows if "srwt" in row["tasks"] and row["reference"].get("words")]
    found = [(row, times.matched(row["reference"]["words"], said(row)["words"])) for row in timed]
    shifts = ((row, (1000 * sum(shift), len(shift))) for row, shift in found)
    heard = ((row, (len(shift), 2 * len(row["reference"]["words"]))) for row, shift in found)
    measures = [
        _measure("srwt", "AAS", shifts, unit="ms", better="lower", main=True),
        _measure("srwt", "boundaries of words heard right", heard),
    ]
    for limit_s in times.TOLERANCES_S:
        near = ((row, (_near(shift, limit_s), 2 * len(row["reference"]["words"]))) for row, shift in found)
        measures.append(_measure("srwt", f"within {1000 * limit_s:.0f} ms", near))
    return measures


def _near(shifts: Sequence[float], limit_s: float) -> float:
    return times.hit_rate(shifts, limit_s) * len(shifts) if shifts else 0.0


def label_pairs(rows: Sequence[Row], task: str) -> list[tuple[Row, str, str]]:
    """Rows with the true label of a task and the one that was given, `UNPARSED` where there is none."""
    asked = [row for row in rows if task in row["tasks"] and task in row["reference"].get("labels", {})]
    return [(row, row["reference"]["labels"][task], said(row)["labels"].get(task) or UNPARSED) for row in asked]


def _labels(rows: Sequence[Row], task: str) -> list[Measure]:
    """Accuracy, unweighted recall and macro F1 over the labels that occur in the truth; no label is a wrong one."""
    pairs = [(row, spelling(truth), spelling(given)) for row, truth, given in label_pairs(rows, task)]
    classes = sorted({truth for _, truth, _ in pairs})
    # for each class: whether it is the truth, was given, and both
    stats = [
        (row, [float(x) for c in classes for x in (truth == c, given == c, truth == given == c)])
        for row, truth, given in pairs
    ]
    return [
        _measure(task, "accuracy", ((row, (truth == given, 1)) for row, truth, given in pairs), main=True),
        _measure(task, "unweighted recall", stats, value=_recall),
        _measure(task, "macro F1", stats, value=_f1),
        _measure(task, "no label", ((r, (g == UNPARSED, 1)) for r, _, g in pairs), better="lower"),
    ]


def _recall(sums_RK: Matrix) -> Matrix:
    """Mean recall over the classes that occur (in a resample: occur there)."""
    truth, both = sums_RK[:, 0::3], sums_RK[:, 2::3]
    return (both / np.maximum(1, truth)).sum(1) / np.maximum(1, (truth > 0).sum(1))


def _f1(sums_RK: Matrix) -> Matrix:
    """Mean F1 over the classes that occur in the truth."""
    truth, given, both = sums_RK[:, 0::3], sums_RK[:, 1::3], sums_RK[:, 2::3]
    score = np.where(truth > 0, 2 * both / np.maximum(1, truth + given), 0)
    return score.sum(1) / np.maximum(1, (truth > 0).sum(1))


def _answers(rows: Sequence[Row], options: Options) -> list[Measure]:
    asked = [row for row in rows if "sttc" in row["tasks"] and row["reference"].get("answer")]
    pairs = [(row, row["reference"]["answer"], said(row)["answer"]) for row in asked]
    codes = [_answered_in(want, language(row, options)) for row, want, _ in pairs]
    same = ((r, (_same(a, b, code, options), 1)) for (r, a, b), code in zip(pairs, codes, strict=True))
    judged = [row for row in asked if row["id"] in options.judge]
    return [
        _measure("sttc", "exact", ((row, (want.strip() == got.strip(), 1)) for row, want, got in pairs)),
        _measure("sttc", "normalised match", same, main=True),
        _measure("sttc", "judge", ((row, (options.judge[row["id"]], 1)) for row in judged), unit="points"),
    ]


def _answered_in(answer: str, spoken: str) -> str:
    """Code of the language of an answer: that of the question, where its script fits."""
    if normalize.has_wide(answer):
        return "zh"
    return "en" if spoken in normalize.CHINESE else spoken


def _same(expected: str, got: str, code: str, options: Options) -> bool:
    """Whether two free texts have the same units; a number in words of another language is another text."""
    code = options.language or code
    return text_units(expected, code, options) == text_units(got, code, options)


def _translations(rows: Sequence[Row], options: Options) -> list[Measure]:
    asked = [row for row in rows if "ast" in row["tasks"] and row["reference"].get("translation")]
    pairs = [(row, row["reference"]["translation"], said(row)["translation"]) for row in asked]
    found = []
    if translation.can_bleu():
        for tok in sorted({translation.tokenizer(want) for _, want, _ in pairs}):
            into = ((r, translation.bleu_stats(b, a, tok)) for r, a, b in pairs if translation.tokenizer(a) == tok)
            found.append(_measure("ast", f"BLEU ({tok})", into, unit="points", value=translation.bleu))
    chrf = ((row, translation.chrf_stats(got, want)) for row, want, got in pairs)
    found.append(_measure("ast", "chrF", chrf, unit="points", value=translation.chrf, main=True))
    codes = [language_of(want, language(row, options)) for row, want, _ in pairs]
    same = ((r, (_same(a, b, code, options), 1)) for (r, a, b), code in zip(pairs, codes, strict=True))
    return [*found, _measure("ast", "normalised match", same)]


def _instructions(rows: Sequence[Row]) -> list[Measure]:
    """Requests in plain language: the tasks that were understood, and whether the whole reply could be read."""
    asked = [row for row in rows if row.get("instruction")]
    tags = [(row, set(said(row).get("tasks", ())) == set(row["tasks"]) and "hypothesis" in row) for row in asked]
    read = [(row, "hypothesis" in row and not said(row)["unparsed"]) for row in asked]
    both = [(row, one and other) for (row, one), (_, other) in zip(tags, read, strict=True)]
    named = {"followed (tags and answer)": both, "tags": tags, "parseable answer": read}
    return [
        _measure(INSTRUCTIONS, name, ((row, (fine, 1)) for row, fine in pairs), main=pairs is both)
        for name, pairs in named.items()
    ]
