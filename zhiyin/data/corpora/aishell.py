"""AISHELL-1 by its folders: wav/train/S0002/BAC009S0002W0122.wav, transcript/aishell_transcript_v0.8.txt.

Source: openslr.org/33. Apache-2.0. Genders from speaker.info of resource_aishell, where it lies beside.
"""

from pathlib import Path

from zhiyin.data import clip
from zhiyin.data.corpora.normal import lines, need
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

_GENDERS = {"F": "female", "M": "male"}


def read(folder: Path, _: Path) -> Imported:
    """Records of train, dev and test; recordings without a transcript are left out, with a note.

    Raises:
        UserError: the transcript or all recordings are missing.
    """
    root = folder / "data_aishell" if (folder / "data_aishell").is_dir() else folder
    transcript = need(root / "transcript" / "aishell_transcript_v0.8.txt", "AISHELL-1", "the folder data_aishell")
    texts = {key: text.replace(" ", "") for key, _, text in (line.partition(" ") for _, line in lines(transcript))}
    genders = _genders(root)
    splits: dict[str, list[Record]] = {}
    without = 0
    for audio in sorted((root / "wav").glob("*/*/*.wav")):
        split, speaker = audio.parts[-3], audio.parts[-2]
        if audio.stem not in texts:
            without += 1
            continue
        gender = genders.get(speaker.removeprefix("S"), "")
        record = Record(
            id=audio.stem,
            audio=audio,
            duration_s=clip.length_s(audio),
            tasks=("asr", "sgc") if gender else ("asr",),
            text=texts[audio.stem].lower(),
            labels={"sgc": gender} if gender else {},
            language="zh",
            speaker=f"aishell1_{speaker}",
            source="aishell-1",
            licence="Apache-2.0",
        )
        splits.setdefault(split, []).append(record)
    if not splits:
        raise UserError(f"AISHELL-1 {root}: no wav/*/*/*.wav with a transcript; unpack the archives in wav/ first")
    notes = (f"{without} recordings have no transcript; they were left out",) if without else ()
    return Imported(splits, notes)


def _genders(root: Path) -> dict[str, str]:
    """Speaker number, four digits -> gender; lines are ``0002 M`` or ``2 M``."""
    places = (root, root / "resource_aishell", root.parent / "resource_aishell")
    path = next((place / "speaker.info" for place in places if (place / "speaker.info").is_file()), None)
    rows = [line.split() for _, line in lines(path)] if path else []
    return {row[0].removeprefix("S").zfill(4): _GENDERS[row[1]] for row in rows if len(row) == 2 and row[1] in _GENDERS}
