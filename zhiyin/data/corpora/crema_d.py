"""CREMA-D by its names: AudioWAV/1001_DFA_ANG_XX.wav (actor, sentence, emotion, level), VideoDemographics.csv.

Source: github.com/CheyneyComputerScience/CREMA-D; H. Cao et al., doi 10.1109/TAFFC.2014.2336244. ODbL 1.0.
"""

import csv
from pathlib import Path

from zhiyin.data import clip
from zhiyin.data.corpora.normal import age_label, need, ordered
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_TEXTS = {
    "IEO": "it's eleven o'clock",
    "TIE": "that is exactly what happened",
    "IOM": "i'm on my way to the meeting",
    "IWW": "i wonder what this is about",
    "TAI": "the airplane is almost full",
    "MTI": "maybe tomorrow it will be cold",
    "IWL": "i would like a new alarm clock",
    "ITH": "i think i have a doctor's appointment",
    "DFA": "don't forget a jacket",
    "ITS": "i think i've seen this before",
    "TSI": "the surface is slick",
    "WSI": "we'll stop in a couple of minutes",
}


def read(folder: Path, _: Path) -> Imported:
    """All records; the corpus has no splits.

    Raises:
        UserError: the recordings are missing.
    """
    root = need(folder / "AudioWAV", "CREMA-D", "the folder that holds AudioWAV")
    actors = _actors(folder / "VideoDemographics.csv")
    records, others = [], 0
    for audio in sorted(root.glob("*.wav")):
        actor, sentence, emotion, *_level = [*audio.stem.split("_"), "", "", ""]
        if sentence not in _TEXTS or emotion not in _EMOTIONS:
            others += 1
            continue
        labels = {"ser": _EMOTIONS[emotion], **actors.get(actor, {})}
        record = Record(
            id=f"cremad_{audio.stem}",
            audio=audio,
            duration_s=clip.length_s(audio),
            tasks=ordered(("asr", *labels)),
            text=_TEXTS[sentence],
            labels=labels,
            language="en",
            speaker=f"cremad_{actor}",
            source="crema-d",
            licence="ODbL-1.0",
        )
        records.append(record)
    if not records:
        raise UserError(f"CREMA-D {root}: no 1001_DFA_ANG_XX.wav and the like")
    notes = [f"{others} files have another name; they were left out"] if others else []
    notes += [] if actors else ["no VideoDemographics.csv: ages and genders are not known"]
    return Imported({"all": records}, tuple(notes))


def _actors(path: Path) -> dict[str, dict[str, str]]:
    """Actor -> labels; columns ActorID, Age, Sex."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["ActorID"]: {"sgc": row["Sex"].strip().lower(), "sap": age_label(int(row["Age"]))}
        for row in rows
        if row.get("Age", "").isdigit() and row.get("Sex", "").strip().lower() in ("female", "male")
    }
