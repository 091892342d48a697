"""A result as the text of a file: txt for people, json with everything, srt and vtt subtitles, tsv for tables.

All but json, which has both, show the written form where the result has one. Where channels were kept apart, each
says which it is.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace

from zhiyin.result import Result, Segment
from zhiyin.subtitles import Cue, Shown, cues, timed
from zhiyin.tasks.table import TASKS

_TITLES = {task.id: task.title for task in TASKS}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def txt(result: Result) -> str:
    """The transcript in one line, then a line ``title: value`` for each label, answer and translation.

    Where speakers were asked, the transcript has a line for each turn, and where channels were kept apart, for each
    segment.
    """
    if any(segment.turns or segment.channel is not None for segment in result.segments):
        lines = [_channel(segment) + line for segment in result.segments for line in _said(segment)]
    else:
        lines = [_line(result.written or result.text)] if result.text else []
    lines += [f"{_TITLES.get(task, task)}: {_line(label)}" for task, label in result.labels.items()]
    lines += [f"answer: {_line(result.answer)}"] if result.answer else []
    lines += [f"translation: {_line(result.translation)}"] if result.translation else []
    lines += [f"unparsed: {_line(piece)}" for piece in result.unparsed]
    return "".join(f"{line}\n" for line in lines)


def to_json(result: Result) -> str:
    """Everything, in the schema of `docs/result.md`, indented."""
    return json.dumps(result.to_dict(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def json_line(result: Result) -> str:
    """The same document in one line, for results of many recordings in one stream."""
    return json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"


def srt(result: Result) -> str:
    """SubRip subtitles; where words have times, cues by the rules of `subtitles`, otherwise one cue per segment."""
    blocks = []
    for number, cue in enumerate(_cues(result), 1):
        body = "\n".join(line.replace("-->", "→") for line in cue.lines)
        blocks.append(f"{number}\n{_times(cue, ',')}\n{body}\n")
    return "\n".join(blocks)


def vtt(result: Result) -> str:
    """WebVTT subtitles, the same cues as `srt`."""
    blocks = ["WEBVTT\n"]
    for cue in _cues(result):
        body = "\n".join(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in cue.lines)
        blocks.append(f"{_times(cue, '.')}\n{body}\n")
    return "\n".join(blocks)


def tsv(result: Result) -> str:
    """A header and one row per segment; times in whole milliseconds, labels as ``task=label`` joined by ``;``.

    Where channels were kept apart, there is a last column with their numbers.
    """
    rows: list[tuple[str, ...]] = [("start_ms", "end_ms", "text", "labels", "answer", "translation")]
    for segment in result.segments:
        labels = ";".join(f"{task}={label}" for task, label in segment.labels.items())
        texts = (" ".join(_said(segment)), labels, segment.answer, segment.translation)
        rows.append((str(_ms(segment.start_s)), str(_ms(segment.end_s)), *map(_line, texts)))
    if any(segment.channel is not None for segment in result.segments):
        channels = ["channel", *(str(segment.channel) for segment in result.segments)]
        rows = [(*row, channel) for row, channel in zip(rows, channels, strict=True)]
    return "".join("\t".join(row) + "\n" for row in rows)


FORMATS: dict[str, Callable[[Result], str]] = {"txt": txt, "json": to_json, "srt": srt, "vtt": vtt, "tsv": tsv}


def _cues(result: Result) -> list[Cue]:
    """Transcript and labels in brackets, answer, translation; an answer or translation is of the segment as a whole."""
    found = []
    for channel in dict.fromkeys(segment.channel for segment in result.segments):
        shown = [_to_show(segment) for segment in result.segments if segment.channel == channel]
        found += cues(shown, duration_s=result.duration_s)  # two channels may speak, and be shown, at the same time
    return sorted(found, key=lambda cue: cue.start_s)


def _to_show(segment: Segment) -> Shown:
    labels = f"[{', '.join(segment.labels.values())}]" if segment.labels else ""
    *turns, last = _said(segment) or [""]
    lines = [*turns, *(_line(text) for text in (f"{last} {labels}", segment.answer, segment.translation))]
    is_whole = segment.turns or segment.answer or segment.translation
    pieces = () if is_whole else timed(segment)
    words = tuple(replace(word, text=_CONTROL.sub(" ", word.text)) for word in pieces)
    kept = tuple(line for line in lines if line)
    return Shown(segment.start_s, segment.end_s, kept, words, _line(labels), _channel(segment))


def _said(segment: Segment) -> list[str]:
    """The transcript, in written form where there is one: one line, or one for each turn, ``Speaker 1: turn left``."""
    if segment.turns:
        texts = [turn.written or turn.text for turn in segment.turns]
        return [
            _line(f"{turn.speaker}: {text}" if turn.speaker else text)
            for turn, text in zip(segment.turns, texts, strict=True)
        ]
    return [_line(segment.written or segment.text)] if segment.text else []


def _channel(segment: Segment) -> str:
    return "" if segment.channel is None else f"[channel {segment.channel}] "


def _times(cue: Cue, point: str) -> str:
    start_ms = _ms(cue.start_s)
    end_ms = max(_ms(cue.end_s), start_ms + 1)  # players drop cues that end when they begin
    return f"{_clock(start_ms, point)} --> {_clock(end_ms, point)}"


def _clock(ms: int, point: str) -> str:
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _line(text: str) -> str:
    """One line whatever the model said: no line breaks, tabs or terminal control codes."""
    return " ".join(_CONTROL.sub(" ", text).split())
