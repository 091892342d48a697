"""AudioMNIST by its folders: data/01/0_01_0.wav (digit, speaker, take), data/audioMNIST_meta.txt.

Source: github.com/soerenab/AudioMNIST; S. Becker et al., arXiv 1807.03418. MIT.
"""

import json
from pathlib import Path
from typing import Any

from zhiyin.data import clip
from zhiyin.data.corpora.normal import age_label, need, ordered
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def read(folder: Path, _: Path) -> Imported:
    """All records; the corpus has no splits (`zhiyin data split` makes some).

    Raises:
        UserError: the table of speakers or all recordings are missing.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    about = "the folder that holds data/audioMNIST_meta.txt"
    table = need(root / "audioMNIST_meta.txt", "AudioMNIST", about)
    try:
        speakers: dict[str, dict[str, Any]] = json.loads(table.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{table}: not JSON ({error})") from error
    records = []
    for audio in sorted(root.glob("[0-9][0-9]/[0-9]_*_*.wav")):
        digit, speaker, _take = audio.stem.split("_")
        labels = _labels(speakers.get(speaker, {}))
        record = Record(
            id=f"amnist_{audio.stem}",
            audio=audio,
            duration_s=clip.length_s(audio),
            tasks=ordered(("asr", *labels)),
            text=_DIGITS[int(digit)],
            labels=labels,
            language="en",
            speaker=f"amnist_{speaker}",
            source="audio-mnist",
            licence="MIT",
        )
        records.append(record)
    if not records:
        raise UserError(f"AudioMNIST {root}: no 01/0_01_0.wav and the like; give {about}")
    return Imported({"all": records})


def _labels(about: dict[str, Any]) -> dict[str, str]:
    labels = {}
    if about.get("gender") in ("female", "male"):
        labels["sgc"] = about["gender"]
    age = str(about.get("age", ""))
    if age.isdigit() and 0 < int(age) < 120:  # one speaker of the table is said to be 1234 years old
        labels["sap"] = age_label(int(age))
    return labels
