"""A measure cut by what is known of the records: who speaks, how long, how noisy, asked in which language."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zhiyin.evaluate.bootstrap import Interval, interval
from zhiyin.evaluate.measures import Measure, Row
from zhiyin.text.normalize import has_wide

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


KEYS: dict[str, Callable[[Row], str]] = {
    "source": _of("source"),
    "language": _of("language"),
    "gender": _gender,
    "age": _of("age_group"),
    "duration": _duration,
    "SNR": _snr,
    "asked in": _asked_in,
    "speaker": _of("speaker"),
}


def cut(measure: Measure, *, resamples: int, seed: int) -> list[Slice]:
    """Slices by every key of which the records show two values or more; records that do not say are left out."""
    found = []
    for key, of in KEYS.items():
        places: dict[str, list[int]] = defaultdict(list)
        for at, row in enumerate(measure.rows):
            if name := of(row):
                places[name].append(at)
        for name in sorted(places, key=_order) if len(places) > 1 else ():
            part = replace(measure, rows=(), stats_NK=measure.stats_NK[places[name]])
            where = interval(part.stats_NK, part.value, resamples=resamples, seed=seed)
            found.append(Slice(key, name, len(places[name]), part.figure, where))
    return found


def _order(name: str) -> tuple[float, str]:
    """Ranges by their lower edge, names by the alphabet."""
    first = name.split(" ")[0]
    if first == "under":
        return -1e9, name
    number = name.split(" ")[1] if first == "from" else first
    return (float(number), name) if number.lstrip("-").isdigit() and " " in name else (0.0, name)
