"""Kaldi data folders: wav.scp, text, utt2spk, segments, spk2gender, utt2dur, utt2lang.

Source: kaldi-asr.org, "Data preparation". A wav.scp may hold commands ("sph2pipe ... |"); those are refused, never run.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from zhiyin.data import clip, manifest
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

_GENDERS = {"f": "female", "m": "male"}


def read(source: Path, _: Path) -> Imported:
    """Records of a data folder; relative audio paths are relative to it.

    Raises:
        UserError: a file or line is broken, or wav.scp holds a command; says which line.
    """
    if not (source / "wav.scp").is_file():
        raise UserError(f"Kaldi folder {source}: no wav.scp; give the folder that holds wav.scp and text")
    audio = {key: _path(source, value, number) for key, (value, number) in _table(source / "wav.scp").items()}
    texts, speakers = _optional(source / "text"), _optional(source / "utt2spk")
    lengths, languages = _optional(source / "utt2dur"), _optional(source / "utt2lang")
    genders = _optional(source / "spk2gender")
    spans = _spans(source / "segments") if (source / "segments").is_file() else {key: (key, 0.0, None) for key in audio}
    records: list[Record] = []
    measured: dict[Path, float] = {}
    for key, (recording, start_s, end_s) in spans.items():
        if recording not in audio:
            raise UserError(f"Kaldi folder {source}: {key} is of recording {recording}, which wav.scp has not")
        path = audio[recording]
        if end_s is not None:
            duration_s = end_s - start_s
        else:
            if key in lengths:
                duration_s = _seconds(lengths[key], source / "utt2dur", key)
            else:
                duration_s = _measured(path, measured) - start_s
        speaker = speakers.get(key, "")
        gender = _GENDERS.get(genders.get(speaker, "").lower()[:1], "")
        records.append(
            Record(
                id=key,
                audio=path,
                duration_s=round(duration_s, 6),
                tasks=(("asr",) if key in texts else ()) + (("sgc",) if gender else ()),
                text=texts.get(key),
                labels={"sgc": gender} if gender else {},
                language=languages.get(key, ""),
                speaker="" if speaker == key else speaker,  # Kaldi's way to say that it is not known
                start_s=start_s,
                end_s=end_s,
            )
        )
    unknown = [key for key in texts if key not in spans]
    notes = (f"{len(unknown)} lines of text have no audio, e.g. {unknown[0]}; they were left out",) if unknown else ()
    return Imported({"all": records}, notes)


def write(records: Iterable[Record], out: Path) -> list[str]:
    """Write a data folder, sorted as Kaldi wants it; returns notes on what Kaldi has no place for.

    Raises:
        UserError: an id or a speaker holds white space, or a path ends like a command.
    """
    ordered = sorted(records, key=lambda record: record.id.encode())
    speakers = {record.id: record.speaker or record.id for record in ordered}
    for name in (*speakers, *speakers.values()):
        if len(name.split()) != 1 or name.strip() != name:
            raise UserError(f"Kaldi folder {out}: the id or speaker {name!r} holds white space; rename it")
    with_parts = any(record.is_part for record in ordered)
    recordings: dict[Path, str] = {}
    for record in ordered:
        if str(record.audio).rstrip().endswith("|") or "\n" in str(record.audio):
            raise UserError(f"Kaldi folder {out}: {record.audio} would be read as a command; rename the file")
        recordings.setdefault(record.audio if with_parts else Path(record.id), record.id)
    audio = {record.id: record.audio for record in ordered if record.id in recordings.values()}
    tables: dict[str, Mapping[str, str]] = {
        "wav.scp": {key: manifest.relative(path, out) for key, path in audio.items()},
        "text": {r.id: " ".join(r.text.split()) for r in ordered if r.text is not None},
        "utt2spk": speakers,
        "utt2dur": {r.id: f"{r.duration_s:.6f}" for r in ordered},
        "utt2lang": {r.id: r.language for r in ordered if r.language},
        "spk2gender": {speakers[r.id]: r.labels["sgc"][0] for r in ordered if r.labels.get("sgc") in _GENDERS.values()},
    }
    if with_parts:
        tables["segments"] = {
            r.id: f"{recordings[r.audio]} {r.start_s:.6f} {r.start_s + r.duration_s:.6f}" for r in ordered
        }
    for name, table in tables.items():
        lines = (
            f"{key} {value}".rstrip(" ") for key, value in sorted(table.items(), key=lambda item: item[0].encode())
        )
        manifest.write_lines(out / name, lines)
    if not with_parts:
        (out / "segments").unlink(missing_ok=True)
    dropped = sorted({task for record in ordered for task in record.tasks} - {"asr", "sgc"})
    return [f"a Kaldi folder has no place for {', '.join(dropped)}; they were left out"] if dropped else []


def _measured(path: Path, known: dict[Path, float]) -> float:
    if path not in known:
        known[path] = clip.length_s(path)
    return known[path]


def _path(folder: Path, value: str, number: int) -> Path:
    where = f"{folder / 'wav.scp'} line {number}"
    if value.rstrip().endswith("|") or value.lstrip().startswith("|"):
        raise UserError(f"{where}: {value[:60]!r} is a command; commands are never run, convert the audio first")
    if ".ark:" in value:
        raise UserError(f"{where}: {value[:60]!r} is a part of an archive; unpack it first")
    return folder / value


def _spans(path: Path) -> dict[str, tuple[str, float, float | None]]:
    spans: dict[str, tuple[str, float, float | None]] = {}
    for key, (value, number) in _table(path).items():
        parts = value.split()
        if len(parts) not in (3, 4):
            raise UserError(f"{path} line {number}: an id, a recording, start and end were expected")
        start_s, end_s = _seconds(parts[1], path, key), parts[2]
        end = None if end_s == "-1" else _seconds(end_s, path, key)  # -1: to the end of the recording
        if end is not None and end <= start_s:
            raise UserError(f"{path} line {number}: ends at {end} s and begins at {start_s} s")
        spans[key] = (parts[0], start_s, end)
    return spans


def _seconds(text: str, path: Path, key: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UserError(f"{path}: {key}: {text!r} is no time in seconds")
    return value


def _optional(path: Path) -> dict[str, str]:
    return {key: value for key, (value, _) in _table(path).items()} if path.is_file() else {}


def _table(path: Path) -> dict[str, tuple[str, int]]:
    """First word of each line -> the rest and the line's number."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    found: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(maxsplit=1)
        if key in found:
            raise UserError(f"{path} line {number}: {key} is there twice; remove one")
        found[key] = (rest[0] if rest else "", number)
    return found
