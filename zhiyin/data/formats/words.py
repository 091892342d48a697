"""Word times as CTM files and as Praat TextGrids, put onto the records of a manifest and taken from them.

Sources: NIST SCTK, "CTM file format" (``file channel start duration word [confidence]``, comments begin with ``;;``);
the Praat manual, "TextGrid file formats": of a text file only numbers, quoted texts and flags in ``<>`` count, which
makes one reader for the long and the short form.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from zhiyin.data import clip, manifest
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord
from zhiyin.tasks.table import TASKS

_TIER = "words"  # as the Montreal Forced Aligner calls it; without one the first tier of intervals counts
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|<(\w+)>|(?<![^\s])(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![^\s])|![^\n]*')


def read_ctm(source: Path, onto: Sequence[Record]) -> Imported:
    """The records of a manifest with the word times of a CTM file; times count from the beginning of the record.

    Raises:
        UserError: a line is broken, or no line belongs to any record.
    """
    times: dict[str, list[TimedWord]] = {}
    for number, line in enumerate(_text(source).split("\n"), start=1):
        parts = line.split()
        if not parts or parts[0].startswith(";;"):
            continue
        where = f"{source} line {number}"
        if len(parts) < 5:
            raise UserError(f"{where}: {len(parts)} fields; expected: file channel start duration word")
        start_s, length_s = (_seconds(part, where) for part in parts[2:4])
        times.setdefault(parts[0], []).append(TimedWord(parts[4], start_s, round(start_s + length_s, 6)))
    return _onto(times, onto, str(source))


def read_textgrids(source: Path, onto: Sequence[Record]) -> Imported:
    """The records of a manifest with the word times of a folder of TextGrids, each named like a record's id.

    Raises:
        UserError: a TextGrid is broken, or none belongs to any record.
    """
    paths = sorted(source.rglob("*.TextGrid")) if source.is_dir() else [source]
    times = {clip.record_id(path.stem): list(read_textgrid(path)) for path in paths}
    return _onto(times, onto, str(source))


def read_textgrid(path: Path) -> tuple[TimedWord, ...]:
    """The words of a TextGrid: intervals with a text, of the tier "words" or of the first tier of intervals.

    Raises:
        UserError: it is no TextGrid, or has no such tier.
    """
    text, flag = _text(path), ""
    tokens: list[str | float] = []
    for match in _TOKEN.finditer(text):
        if match[1] is not None:
            tokens.append(match[1].replace('""', '"'))
        elif match[3] is not None:
            tokens.append(float(match[3]))
        else:
            flag = flag or (match[2] or "")
    if tokens[1:2] != ["TextGrid"]:
        raise UserError(f"{path}: not a TextGrid; it should begin with File type and Object class")
    try:
        tiers = _tiers(tokens[4:]) if flag == "exists" else []
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the TextGrid is cut off or broken; save it again with Praat") from error
    if not tiers:
        raise UserError(f"{path}: no tier of intervals; name the one with the words '{_TIER}'")
    _, words = next((tier for tier in tiers if tier[0].lower() == _TIER), tiers[0])
    return words


def write_ctm(records: Iterable[Record], out: Path) -> list[str]:
    """Write the word times of all records that have some.

    Raises:
        UserError: an id or a word holds white space, which divides the fields.
    """
    lines, without = [], 0
    for record in records:
        without += not record.words
        for word in record.words:
            if len(record.id.split()) != 1 or len(word.text.split()) != 1 or record.id.startswith(";;"):
                raise UserError(f"CTM {out}: record '{record.id}', word {word.text!r}: white space cannot be written")
            lines.append(f"{record.id} 1 {word.start_s:.6f} {word.end_s - word.start_s:.6f} {word.text}")
    manifest.write_lines(out, lines)
    return [f"{without} records have no word times"] if without else []


def write_textgrids(records: Iterable[Record], out: Path) -> list[str]:
    """Write a TextGrid with the tier "words" for every record that has word times into the folder `out`."""
    without = 0
    for record in records:
        without += not record.words
        if record.words:
            manifest.write_lines(out / f"{clip.file_name(record.id)}.TextGrid", [textgrid(record)])
    return [f"{without} records have no word times"] if without else []


def textgrid(record: Record) -> str:
    """The word times of a record as a TextGrid in Praat's long form; gaps are empty intervals.

    Raises:
        UserError: a word has no length or begins before the one before it ends, which Praat cannot hold.
    """
    end_s = max(record.duration_s, record.words[-1].end_s if record.words else 0.0)
    intervals, place_s = [], 0.0
    for word in record.words:
        if not place_s <= word.start_s < word.end_s:
            raise UserError(
                f"record '{record.id}': word {word.text!r} at {word.start_s} s does not follow; mend its times"
            )
        if word.start_s > place_s:
            intervals.append((place_s, word.start_s, ""))
        intervals.append((word.start_s, word.end_s, word.text))
        place_s = word.end_s
    if place_s < end_s or not intervals:
        intervals.append((place_s, end_s, ""))
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s!r}"]
    head += ["tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"']
    head += [f'        name = "{_TIER}"', "        xmin = 0", f"        xmax = {end_s!r}"]
    head += [f"        intervals: size = {len(intervals)}"]
    for number, (start, end, text) in enumerate(intervals, start=1):
        quoted = text.replace('"', '""')
        head += [f"        intervals [{number}]:", f"            xmin = {start!r}", f"            xmax = {end!r}"]
        head += [f'            text = "{quoted}"']
    return "\n".join(head)


def _tiers(tokens: list[str | float]) -> list[tuple[str, tuple[TimedWord, ...]]]:
    """Name and words of each tier of intervals; `tokens` begin with the number of tiers."""
    tiers, place = [], 1
    place = 1
    for _ in range(int(tokens[0])):
        kind, name, count = tokens[place], str(tokens[place + 1]), int(tokens[place + 4])
        place += 5
        step = 3 if kind == "IntervalTier" else 2
        if place + step * count > len(tokens):
            raise IndexError
        rows = [tokens[place + i * step : place + (i + 1) * step] for i in range(count)]
        place += step * count
        if step == 3:
            words = (TimedWord(str(row[2]).strip(), float(row[0]), float(row[1])) for row in rows)
            tiers.append((name, tuple(word for word in words if word.text)))
    return tiers


def _onto(times: Mapping[str, list[TimedWord]], onto: Sequence[Record], source: str) -> Imported:
    ids = {record.id for record in onto}
    strangers = [name for name in times if name not in ids]
    if not ids & set(times):
        raise UserError(
            f"{source}: none of its {len(times)} names is the id of a record; give the manifest they belong to"
        )
    out = []
    for record in onto:
        words = tuple(sorted(times.get(record.id, ()), key=lambda word: word.start_s))
        tasks = {*record.tasks, "srwt"}
        ordered = tuple(task.id for task in TASKS if task.id in tasks)
        out.append(replace(record, words=words, tasks=ordered) if words else record)
    notes = [
        f"{sum(bool(times.get(record.id)) for record in onto)} of {len(onto)} records have word times from {source}"
    ]
    notes += [f"{len(strangers)} names are no record's, e.g. {strangers[0]}"] if strangers else []
    return Imported({"all": out}, tuple(notes))


def _text(path: Path) -> str:
    """A text file in UTF-8 or, as Praat may write it, in UTF-16 with a mark."""
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as UTF-8") from error


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UserError(f"{where}: {text!r} is no time in seconds")
    return value
