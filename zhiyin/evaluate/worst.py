"""The records a run is worst at, with what was said and heard, and something to listen to."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from zhiyin.audio.features import SAMPLE_RATE_HZ
from zhiyin.data import clip
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError
from zhiyin.evaluate.measures import INSTRUCTIONS, Measure, Options, Row, language, said, text_units
from zhiyin.text.score import align

SHOWN = 10  # worst records of a measure
MAX_CLIP_BYTES = 600_000  # a longer one is linked
_TYPES = {".wav": "wav", ".flac": "flac", ".ogg": "ogg", ".opus": "ogg", ".mp3": "mpeg", ".m4a": "mp4"}


@dataclass(frozen=True)
class Case:
    """A record that went wrong; `heard` is HTML in which differences are marked."""

    row: Row
    cost: str
    truth: str
    heard: str


def worst(measure: Measure, options: Options, *, shown: int = SHOWN) -> list[Case]:
    """Worst records of a main measure: most errors first, then the largest share; none where nothing is wrong."""
    costs = [_cost(measure, at) for at in range(len(measure.rows))]
    order = sorted(range(len(costs)), key=lambda at: (-costs[at][0], -costs[at][1], measure.rows[at]["id"]))
    return [_case(measure, at, costs[at], options) for at in order[:shown] if costs[at][0] > 0]


def player(row: Row, folder: Path) -> str:
    """An audio element: short clips inside the page, others by a link relative to its folder, nothing without audio."""
    if not row.get("audio"):
        return ""
    audio = Path(row["audio"])
    if not audio.is_file():
        return '<span class="dim">no audio file</span>'
    is_part = bool(row.get("start_s")) or row.get("end_s") is not None
    kind = _TYPES.get(audio.suffix.lower())
    if is_part:
        source = _cut(Record(row["id"], audio, 0.0, (), start_s=row.get("start_s") or 0.0, end_s=row.get("end_s")))
    elif kind and audio.stat().st_size <= MAX_CLIP_BYTES:
        source = f"data:audio/{kind};base64," + base64.b64encode(audio.read_bytes()).decode("ascii")
    else:
        source = quote(os.path.relpath(audio, folder))
    return f'<audio controls preload="none" src="{escape(source)}"></audio>'


def _cut(record: Record) -> str:
    """A part of a recording as FLAC inside the page."""
    import soundfile

    try:
        samples_T = clip.samples(record)
    except UserError:
        return ""
    file = io.BytesIO()
    soundfile.write(file, samples_T, SAMPLE_RATE_HZ, format="FLAC")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _cost(measure: Measure, at: int) -> tuple[float, float]:
    stats = measure.stats_NK[at]
    value = float(measure.value(stats[None])[0]) if stats.any() else float("nan")
    value = value if value == value else 0.0
    if measure.better == "higher":
        return 1 - value, 1 - value
    return (float(stats[0]), value) if measure.unit == "%" else (value, value)


def _case(measure: Measure, at: int, cost: tuple[float, float], options: Options) -> Case:
    row, stats = measure.rows[at], measure.stats_NK[at]
    truth, heard = row["reference"], said(row)
    fault = row.get("error", "" if "hypothesis" in row else "no hypothesis")
    note = f'<span class="wrong-text">{escape(fault)}</span>' if fault else ""
    if measure.task == "asr":
        price = f"{stats[0]:.0f} of {stats[1]:.0f}"
        return Case(row, price, *_marked(truth["text"], heard["text"], language(row, options), options, note))
    if measure.task == "srwt":
        return Case(row, f"{cost[0]:.0f} ms", _timed(truth["words"]), note or _timed(heard["words"]))
    if measure.task == INSTRUCTIONS:
        request = f"{escape(row['instruction'].get('text', ''))} → {' '.join(row['tasks']) or 'no task'}"
        understood = " ".join(heard.get("tasks", ())) or "no task"
        return Case(row, "", request, note or escape(f"{understood} {' '.join(heard['unparsed'])}"))
    if measure.task in ("sttc", "ast"):
        name = "answer" if measure.task == "sttc" else "translation"
        price = "" if measure.task == "sttc" else f"{100 * (1 - cost[0]):.0f}"
        return Case(row, price, escape(truth[name]), note or escape(heard[name]))
    given = heard["labels"].get(measure.task) or "no label"
    text = f" <span class='dim'>{escape(' '.join(heard['unparsed']))}</span>" if heard["unparsed"] else ""
    return Case(row, "", escape(truth["labels"][measure.task]), note or escape(given) + text)


def _marked(truth: str, heard: str, code: str, options: Options, note: str) -> tuple[str, str]:
    """Both texts unit by unit, what differs in colour."""
    pairs = align(text_units(truth, code, options), text_units(heard, code, options))
    expected = [_unit(one, one != other) for one, other in pairs if one is not None]
    got = [_unit(other, one != other) for one, other in pairs if other is not None]
    return " ".join(expected), note or " ".join(got) or '<span class="dim">nothing</span>'


def _unit(unit: str, wrong: bool) -> str:
    return f'<span class="wrong-text">{escape(unit)}</span>' if wrong else escape(unit)


def _timed(words: Sequence[dict[str, object]]) -> str:
    return " ".join(f"{escape(str(w['text']))}<sub>{w['start_s']:.2f}–{w['end_s']:.2f}</sub>" for w in words)
