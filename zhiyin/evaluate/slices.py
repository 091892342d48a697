"""A measure cut by what is known of the records: who speaks, how long, how noisy, asked in which language."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zhiyin.evaluate.bootstrap import Interval, interval
from zhiyin.evaluate.measures import Measure, Row
from zhiyin.text.normalize import has_wide
from zhiyin.text.target import language_of

DURATIONS_S = (1.0, 3.0, 10.0, 30.0)
SNR_DB = (0.0, 10.0, 20.0, 30.0)


@dataclass(frozen=True)
class Slice:
    """A measure over the records of which `key` is `value`."""

    key: str
    value: str
    count: int
    figure: float
    interval: Interval


def _range(value: float, edges: Sequence[float], unit: str) -> str:
    """The name of the range between two edges that holds a value; the lower edge belongs to it."""
    at = sum(value >= edge for edge in edges)
    if at == 0:
        return f"under {edges[0]:g} {unit}"
    return f"from {edges[-1]:g} {unit}" if at == len(edges) else f"{edges[at - 1]:g} to {edges[at]:g} {unit}"


def _duration(row: Row) -> str:
    return _range(float(row["duration_s"]), DURATIONS_S, "s") if row.get("duration_s") is not None else ""


def _snr(row: Row) -> str:
    value = row["slice"].get("snr_db")
    return _range(float(value), SNR_DB, "dB") if value not in (None, "") else ""


def _asked_in(row: Row) -> str:
    request = row.get("instruction") or {}
    return request.get("language") or ("zh" if has_wide(request.get("text", "")) else "en") if request else ""


def _of(name: str) -> Callable[[Row], str]:
    return lambda row: str(row["slice"].get(name) or "")


def _gender(row: Row) -> str:
    return row["slice"].get("gender") or row["reference"].get("labels", {}).get("sgc", "")


def _direction(row: Row) -> str:
    spoken = row["slice"].get("language") or ""
    into = language_of(row["reference"].get("translation") or "", spoken)
    return f"{spoken}>{into}" if spoken and into and "ast" in row["tasks"] else ""


KEYS: dict[str, Callable[[Row], str]] = {
    "source": _of("source"),
    "grammar": _of("grammar"),
    "language": _of("language"),
    "gender": _gender,
    "age": _of("age_group"),
    "duration": _duration,
    "SNR": _snr,
    "direction": _direction,
    "asked in": _asked_in,
    "speaker": _of("speaker"),
}


def cut(measure: Measure, *, resamples: int, seed: int, keys: Sequence[str] = tuple(KEYS)) -> list[Slice]:
    """Slices by every key of which the records show two values or more; records that do not say are left out."""
    found = []
    for key in keys:
        for name, part in parts(measure, KEYS[key]).items():
            where = interval(part.stats_NK, part.value, resamples=resamples, seed=seed)
            found.append(Slice(key, name, len(part.rows), part.figure, where))
    return found


def parts(measure: Measure, of: Callable[[Row], str]) -> dict[str, Measure]:
    """A measure of the records of each name, in order; nothing where the records have fewer than two names.

    Args:
        measure: of all records.
        of: name of a record, or nothing where it has none.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(measure.rows):
        if name := of(row):
            places[name].append(at)
    return {name: only(measure, places[name]) for name in sorted(places, key=_order)} if len(places) > 1 else {}


def only(measure: Measure, places: Sequence[int]) -> Measure:
    """A measure of the records at these places."""
    rows = tuple(measure.rows[at] for at in places)
    return replace(measure, rows=rows, stats_NK=measure.stats_NK[list(places)])


def _order(name: str) -> tuple[float, str]:
    """Ranges by their lower edge, names by the alphabet."""
    first = name.split(" ")[0]
    if first == "under":
        return -1e9, name
    number = name.split(" ")[1] if first == "from" else first
    return (float(number), name) if number.lstrip("-").isdigit() and " " in name else (0.0, name)
