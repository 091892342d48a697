"""LibriSpeech by its folders: train-clean-100/19/198/19-198-0000.flac with 19-198.trans.txt beside; SPEAKERS.TXT.

Source: openslr.org/12 (README.TXT of the corpus). CC BY 4.0.
"""

from pathlib import Path

from zhiyin.data import clip
from zhiyin.data.corpora.normal import lines, need, plain
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

_GENDERS = {"F": "female", "M": "male"}


def read(folder: Path, _: Path) -> Imported:
    """Records of every subset that is there, each a split of its name.

    Raises:
        UserError: no transcript is found, or a recording of one is missing.
    """
    genders = _speakers(folder / "SPEAKERS.TXT")
    splits: dict[str, list[Record]] = {}
    for transcript in sorted(folder.glob("*/*/*/*.trans.txt")):
        speaker, split = transcript.parts[-3], transcript.parts[-4]
        for number, line in lines(transcript):
            key, text = (*line.split(" ", 1), "")[:2]
            audio = transcript.parent / f"{key}.flac"
            need(audio, f"{transcript} line {number}", "the whole corpus")
            gender = genders.get(speaker, "")
            record = Record(
                id=key,
                audio=audio,
                duration_s=clip.length_s(audio),
                tasks=("asr", "sgc") if gender else ("asr",),
                text=plain(text),
                labels={"sgc": gender} if gender else {},
                language="en",
                speaker=f"librispeech_{speaker}",
                source="librispeech",
                licence="CC-BY-4.0",
            )
            splits.setdefault(split, []).append(record)
    if not splits:
        raise UserError(f"LibriSpeech {folder}: no */*/*/*.trans.txt; give the folder that holds SPEAKERS.TXT")
    return Imported(splits, () if genders else ("no SPEAKERS.TXT: genders are not known",))


def _speakers(path: Path) -> dict[str, str]:
    """Speaker -> gender; lines are ``19 | F | train-clean-100 | 25.19 | name``."""
    rows = [line.split("|") for _, line in lines(path) if not line.startswith(";")] if path.is_file() else []
    return {row[0].strip(): _GENDERS[row[1].strip()] for row in rows if len(row) > 1 and row[1].strip() in _GENDERS}
