"""ESC-50 by its folders: audio/1-100032-A-0.wav, meta/esc50.csv.

Source: github.com/karolpiczak/ESC-50 (filename, fold, target, category, esc10, src_file, take). CC BY-NC 3.0.
"""

import csv
from pathlib import Path

from zhiyin.data import clip
from zhiyin.data.corpora.normal import need
from zhiyin.data.manifest import Imported, Record

# Sounds of a mouth among the fifty classes -> ours; all the others are "other".
_EVENTS = {"crying_baby": "cry", "sneezing": "sneeze", "coughing": "cough", "laughing": "laugh"}


def read(folder: Path, _: Path) -> Imported:
    """Records of the five folds, fold1 to fold5.

    No clip holds words, so the transcript is empty. Clips cut from one recording have one "speaker" and one fold.

    Raises:
        UserError: the table or a clip is missing.
    """
    about = "the folder that holds audio and meta/esc50.csv"
    table = need(folder / "meta" / "esc50.csv", "ESC-50", about)
    splits: dict[str, list[Record]] = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            audio = need(folder / "audio" / row["filename"], "ESC-50", about)
            record = Record(
                id=f"esc50_{audio.stem}",
                audio=audio,
                duration_s=clip.length_s(audio),
                tasks=("asr", "ved"),
                text="",
                labels={"ved": _EVENTS.get(row["category"], "other")},
                speaker=f"esc50_{row['src_file']}",
                source="esc-50",
                licence="CC-BY-NC-3.0",
            )
            splits.setdefault(f"fold{row['fold']}", []).append(record)
    return Imported(dict(sorted(splits.items())))
