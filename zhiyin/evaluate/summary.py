"""All that is known of a run's quality, ready to be shown: figures, intervals, slices, confusions, a comparison."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zhiyin.evaluate import bootstrap, slices, translation
from zhiyin.evaluate.bootstrap import Difference, Interval
from zhiyin.evaluate.measures import INSTRUCTIONS, LABEL_TASKS, UNPARSED, Measure, Options, Row, label_pairs, measures
from zhiyin.evaluate.slices import Slice
from zhiyin.text import normalize

NAMED_IDS = 5  # of ids that are counted, so many are named


@dataclass(frozen=True)
class Scored:
    """A measure with its interval and its slices (of main measures); with another run also the difference to it."""

    measure: Measure
    interval: Interval
    slices: tuple[Slice, ...] = ()
    other: float | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Confusion:
    """How often which label was given where which was true: `counts[i][j]` for truth `truths[i]`, reply `given[j]`."""

    task: str
    truths: tuple[str, ...]
    given: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Summary:
    """A scored run.

    Attributes:
        rows: what was scored.
        scored: measures in the order of the task table.
        confusions: of label tasks.
        facts: counts that belong beside every figure: rows, missing, extra, failed, not fully parsed.
        notes: what the reader must know: how texts were compared, what could not be computed.
        resamples: of the bootstrap.
        seed: of its draws.
    """

    rows: Sequence[Row]
    scored: tuple[Scored, ...]
    confusions: tuple[Confusion, ...]
    facts: Mapping[str, int]
    notes: tuple[str, ...]
    options: Options
    resamples: int
    seed: int


def summarize(
    rows: Sequence[Row],
    options: Options,
    *,
    extra: Sequence[str] = (),
    against: Sequence[Row] | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = bootstrap.SEED,
) -> Summary:
    """Score rows.

    Args:
        rows: as in `results.jsonl`.
        options: how texts are compared.
        extra: ids of hypotheses without a truth.
        against: rows of another run; differences are taken over the records and tasks that both runs have.
        resamples: of every bootstrap.
        seed: of its draws.
    """
    paired = _paired(rows, against, options, resamples, seed) if against is not None else {}
    scored = []
    for measure in measures(rows, options):
        where = bootstrap.interval(measure.stats_NK, measure.value, resamples=resamples, seed=seed)
        keys = tuple(slices.KEYS) if measure.main else ("asked in",) if measure.task == INSTRUCTIONS else ()
        parts = tuple(slices.cut(measure, resamples=resamples, seed=seed, keys=keys))
        other, difference = paired.get((measure.task, measure.name), (None, None))
        scored.append(Scored(measure, where, parts, other, difference))
    confusions = tuple(_confusion(rows, task) for task in LABEL_TASKS if label_pairs(rows, task))
    facts = {
        "rows": len(rows),
        "missing hypotheses": sum("hypothesis" not in row and "error" not in row for row in rows),
        "extra hypotheses, not scored": len(extra),
        "records that failed": sum("error" in row for row in rows),
        "replies not fully parsed": sum(bool(row.get("hypothesis", {}).get("unparsed")) for row in rows),
    }
    notes = _notes(rows, options, extra, against)
    return Summary(rows, tuple(scored), confusions, facts, notes, options, resamples, seed)


def to_json(summary: Summary) -> dict[str, Any]:
    """All figures as plain values; a figure that cannot be computed is None."""
    found = []
    for one in summary.scored:
        entry: dict[str, Any] = {"task": one.measure.task, "name": one.measure.name, "unit": one.measure.unit}
        entry |= {"better": one.measure.better, "records": len(one.measure.rows), "value": _plain(one.measure.figure)}
        entry["interval"] = [_plain(one.interval.low), _plain(one.interval.high)]
        if one.difference:
            entry |= {"other": _plain(one.other or 0.0), "difference": _plain(one.difference.value)}
            ends = (one.difference.interval.low, one.difference.interval.high)
            entry |= {"difference_interval": [_plain(end) for end in ends], "p": one.difference.p}
        entry["slices"] = [
            {"key": part.key, "value": part.value, "records": part.count, "figure": _plain(part.figure)}
            | {"interval": [_plain(part.interval.low), _plain(part.interval.high)]}
            for part in one.slices
        ]
        found.append(entry)
    tables = [{"task": c.task, "truth": c.truths, "given": c.given, "counts": c.counts} for c in summary.confusions]
    about = {"facts": dict(summary.facts), "notes": summary.notes}
    return {**about, "resamples": summary.resamples, "seed": summary.seed, "figures": found, "confusions": tables}


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _paired(
    rows: Sequence[Row], against: Sequence[Row], options: Options, resamples: int, seed: int
) -> dict[tuple[str, str], tuple[float | None, Difference | None]]:
    """Value of the other run and difference, by task and name of the measure, over what both runs have."""
    first, second = _by_task(rows), _by_task(against)
    common = [key for key in first if key in second]
    # one truth for both, so that classes and totals are the same
    ours = [first[key] for key in common]
    theirs = [{**second[key], "reference": first[key]["reference"], "slice": first[key]["slice"]} for key in common]
    found: dict[tuple[str, str], tuple[float | None, Difference | None]] = {}
    for one, other in zip(measures(ours, options), measures(theirs, options), strict=True):
        shapes = (one.stats_NK, other.stats_NK, one.value)
        difference = bootstrap.compare(*shapes, resamples=resamples, seed=seed)
        found[one.task, one.name] = (other.figure, difference)
    return found


def _by_task(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    """Rows of one task each, as runs may combine tasks differently; what was asked in plain language stays whole."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        request = (row.get("instruction") or {}).get("text", "")
        for tasks in [list(row["tasks"])] if request else [[task] for task in row["tasks"]]:
            found[row["id"], tuple(tasks), request] = {**row, "tasks": tasks}
    return found


def _confusion(rows: Sequence[Row], task: str) -> Confusion:
    pairs = Counter((truth, given) for _, truth, given in label_pairs(rows, task))
    truths = tuple(sorted({truth for truth, _ in pairs}))
    others = {given for _, given in pairs} - set(truths) - {UNPARSED}
    given = (*truths, *sorted(others), *([UNPARSED] if any(g == UNPARSED for _, g in pairs) else []))
    return Confusion(task, truths, given, tuple(tuple(pairs[t, g] for g in given) for t in truths))


def _notes(
    rows: Sequence[Row], options: Options, extra: Sequence[str], against: Sequence[Row] | None
) -> tuple[str, ...]:
    notes = [
        "texts compared as written"
        if options.as_written
        else "texts compared without case, punctuation and way of writing numbers (docs/evaluation.md, Normaliser)"
    ]
    texts = [row["reference"].get("text") or "" for row in rows]
    texts += [row.get("hypothesis", {}).get("text") or "" for row in rows]
    if not options.as_written and not normalize.can_simplify() and any(map(normalize.seems_traditional, texts)):
        notes.append("traditional characters differ from simplified ones here: pip install 'zhiyin[eval]' folds them")
    translations = [row["reference"].get("translation") for row in rows if "ast" in row["tasks"]]
    names = sorted({translation.tokenizer(text) for text in translations if text})
    if names and not translation.can_bleu():
        notes.append("no BLEU: pip install 'zhiyin[eval]'")
    elif names:
        notes += [f"BLEU: {translation.signature(name)}" for name in names]
    if extra:
        more = f" and {len(extra) - NAMED_IDS} more" if len(extra) > NAMED_IDS else ""
        notes.append(f"hypotheses without a reference: {', '.join(extra[:NAMED_IDS])}{more}")
    if against is not None:
        own, theirs = _by_task(rows).keys(), _by_task(against).keys()
        if own != theirs:
            both, single = len(own & theirs), len(own ^ theirs)
            notes.append(f"compared over {both} pairs of record and task that both runs have; {single} are in one only")
    return tuple(notes)
