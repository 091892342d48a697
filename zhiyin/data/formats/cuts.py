"""Records as lhotse cuts and back, so that everything lhotse can do is open to our data (extra `train`).

Source: lhotse.readthedocs.io, "Cuts". Words go to the alignment "word", gender to its own field, and the whole
record to `custom["zhiyin"]` of the supervision, so that it comes back exactly.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from zhiyin.data import manifest
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError
from zhiyin.tasks.render import TimedWord

_CUSTOM = "zhiyin"
_HERE = Path()


def read(source: Path, _: Path) -> Imported:
    """Records of a file of cuts (.jsonl or .jsonl.gz).

    Raises:
        UserError: lhotse is not installed, or the cuts cannot be records; says which.
    """
    if not source.is_file():
        raise UserError(f"lhotse cuts {source}: there is no such file")
    try:
        cuts = _lhotse().CutSet.from_file(source)
        return Imported({"all": from_cuts(cuts)})
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"lhotse cuts {source}: cannot be read ({error})") from error


def write(records: Iterable[Record], out: Path) -> list[str]:
    """Write a file of cuts (.jsonl or .jsonl.gz)."""
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"lhotse cuts {out}: name it .jsonl or .jsonl.gz")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"part-{out.name}")  # lhotse looks at the suffix
    try:
        to_cuts(records).to_file(temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return []


def to_cuts(records: Iterable[Record]) -> Any:
    """A lhotse CutSet, one cut with one supervision for each record; headers of the audio are read.

    Raises:
        UserError: lhotse is not installed, or an audio file is missing.
    """
    lhotse = _lhotse()
    recordings: dict[Path, Any] = {}
    cuts = []
    for record in records:
        audio = record.audio.absolute()
        if not audio.is_file():
            raise UserError(f"record '{record.id}': there is no audio {audio}")
        if audio not in recordings:
            recordings[audio] = lhotse.Recording.from_file(audio, recording_id=str(audio))
        recording = recordings[audio]
        length_s = min(record.duration_s, recording.duration - record.start_s)
        item = lhotse.supervision.AlignmentItem
        words = [item(w.text, w.start_s, round(w.end_s - w.start_s, 6)) for w in record.words]
        supervision = lhotse.SupervisionSegment(
            id=record.id,
            recording_id=recording.id,
            start=0.0,
            duration=length_s,
            text=record.text,
            language=record.language or None,
            speaker=record.speaker or None,
            gender=record.labels.get("sgc"),
            custom={_CUSTOM: manifest.to_row(replace(record, audio=audio), _HERE / ".zhiyin")},
            alignment={"word": words} if words else None,
        )
        cut = lhotse.MonoCut(
            id=record.id,
            start=record.start_s,
            duration=length_s,
            channel=0,
            supervisions=[supervision],
            recording=recording,
        )
        cuts.append(cut)
    return lhotse.CutSet.from_cuts(cuts)


def from_cuts(cuts: Iterable[Any]) -> list[Record]:
    """A record for each supervision of each cut.

    A supervision of ours gives its record back with the text, speaker, language and gender it has now.

    Raises:
        UserError: a cut is mixed, changed in a way only lhotse can play, or not in a file.
    """
    records: list[Record] = []
    for cut in cuts:
        recording = getattr(cut, "recording", None)
        if recording is None or len(recording.sources) != 1 or recording.sources[0].type != "file":
            raise UserError(f"cut '{cut.id}': its audio is not one file; save it with lhotse first (save_audio)")
        if recording.transforms:
            raise UserError(
                f"cut '{cut.id}': its audio is changed while it is read; save it with lhotse first (save_audio)"
            )
        for supervision in cut.supervisions:
            whole = (supervision.custom or {}).get(_CUSTOM)
            records.append(_record(cut, supervision, whole))
    return records


def _record(cut: Any, supervision: Any, whole: dict[str, Any] | None) -> Record:
    start_s = round(cut.start + supervision.start, 6)
    audio = Path(cut.recording.sources[0].source)
    gender = (supervision.gender or "").lower()
    gender = {"f": "female", "m": "male"}.get(gender, gender)
    if whole is not None:
        record = manifest.from_row(whole, _HERE, f"cut '{cut.id}'")
        labels = {**record.labels, **({"sgc": gender} if gender else {})}
        same_place = (audio, start_s) == (record.audio, record.start_s)
        moved = {} if same_place else {"start_s": start_s, "end_s": round(start_s + supervision.duration, 6)}
        language, speaker = supervision.language or "", supervision.speaker or ""
        now = replace(record, text=supervision.text, labels=labels, language=language, speaker=speaker, audio=audio)
        return replace(now, **moved)
    is_whole = start_s == 0 and abs(supervision.duration - cut.recording.duration) < 1e-3
    words = (supervision.alignment or {}).get("word", ())
    tasks = ("asr",) * (supervision.text is not None) + ("srwt",) * bool(words) + ("sgc",) * bool(gender)
    return Record(
        id=supervision.id,
        audio=audio,
        duration_s=round(supervision.duration, 6),
        tasks=tasks,
        text=supervision.text,
        words=tuple(TimedWord(w.symbol, w.start, round(w.start + w.duration, 6)) for w in words),
        labels={"sgc": gender} if gender else {},
        language=supervision.language or "",
        speaker=supervision.speaker or "",
        start_s=start_s,
        end_s=None if is_whole else round(start_s + supervision.duration, 6),
    )


def _lhotse() -> Any:
    if importlib.util.find_spec("lhotse") is None:
        raise UserError("cuts need the library lhotse: pip install 'zhiyin[train]'")
    try:
        return importlib.import_module("lhotse")
    except ImportError as error:
        raise UserError(
            f"cuts: lhotse is installed and does not load ({error}); pip install 'zhiyin[train]'"
        ) from error
