"""RAVDESS speech by its names: Actor_01/03-01-06-01-02-01-12.wav.

Source: S. R. Livingstone, F. A. Russo, doi 10.1371/journal.pone.0196391: modality, vocal channel, emotion, intensity,
statement, repetition, actor (odd: male). CC BY-NC-SA 4.0.
"""

import re
from pathlib import Path

from zhiyin.data import clip
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

# "calm" is in no set of ours; it is not neutral either, whose actors were told to show nothing.
_EMOTIONS = ("neutral", "other", "happy", "sad", "anger", "fear", "disgust", "surprise")
_TEXTS = ("kids are talking by the door", "dogs are sitting by the door")
_NAME = re.compile(r"03-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-([0-2]\d)")


def read(folder: Path, _: Path) -> Imported:
    """All spoken records; the corpus has no splits. Songs and videos are left out, with a note.

    Raises:
        UserError: there is no such recording.
    """
    records, others = [], 0
    for audio in sorted(folder.rglob("*.wav")):
        parts = _NAME.fullmatch(audio.stem)
        if parts is None or parts[1] == "02":
            others += 1
            continue
        emotion, statement, actor = (int(parts[i]) for i in (2, 4, 6))
        labels = {"ser": _EMOTIONS[emotion - 1], "sgc": "male" if actor % 2 else "female"}
        record = Record(
            id=f"ravdess_{audio.stem}",
            audio=audio,
            duration_s=clip.length_s(audio),
            tasks=("asr", "ser", "sgc"),
            text=_TEXTS[statement - 1],
            labels=labels,
            language="en",
            speaker=f"ravdess_{actor:02d}",
            source="ravdess",
            licence="CC-BY-NC-SA-4.0",
        )
        records.append(record)
    if not records:
        raise UserError(
            f"RAVDESS {folder}: no Actor_01/03-01-06-01-02-01-12.wav and the like; give the folder of actors"
        )
    return Imported(
        {"all": records}, (f"{others} files are no audio-only speech; they were left out",) if others else ()
    )
