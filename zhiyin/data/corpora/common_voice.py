"""Common Voice by its folders: train.tsv, dev.tsv, test.tsv and clips/ of one language.

Source: commonvoice.mozilla.org, the release's tables (client_id, path, sentence, age, gender, ...). CC0-1.0.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from zhiyin.data import clip
from zhiyin.data.corpora.normal import need, ordered, plain
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

_SPLITS = ("train", "dev", "test")
# A decade says adult or old as we divide them; "teens" may be either side of 18 and says nothing.
_AGES = {"twenties": "adult", "thirties": "adult", "fourties": "adult", "forties": "adult", "fifties": "adult"}
_AGES |= dict.fromkeys(("sixties", "seventies", "eighties", "nineties"), "old")
_GENDERS = {"male": "male", "female": "female", "male_masculine": "male", "female_feminine": "female"}


def read(folder: Path, _: Path) -> Imported:
    """Records of the three official splits.

    Raises:
        UserError: a table or a clip is missing.
    """
    need(folder / "train.tsv", "Common Voice", "the folder of one language, which holds train.tsv and clips")
    lengths = _lengths(folder / "clip_durations.tsv")
    splits = {}
    for split in _SPLITS:
        if (folder / f"{split}.tsv").is_file():
            splits[split] = [_record(row, folder, lengths) for row in _rows(folder / f"{split}.tsv")]
    return Imported(splits)


def _record(row: dict[str, str], folder: Path, lengths: dict[str, float]) -> Record:
    audio = need(folder / "clips" / row["path"], f"Common Voice {row['path']}", "a folder with all clips")
    labels = {"sgc": _GENDERS.get(row.get("gender") or "", ""), "sap": _AGES.get(row.get("age") or "", "")}
    labels = {task: label for task, label in labels.items() if label}
    locale = row.get("locale") or folder.name
    text = plain(row["sentence"])
    return Record(
        id=Path(row["path"]).stem,
        audio=audio,
        duration_s=lengths.get(row["path"]) or clip.length_s(audio),
        tasks=ordered(("asr", *labels)),
        text=text.replace(" ", "") if locale.startswith("zh") else text,
        labels=labels,
        language=locale.partition("-")[0],
        speaker=f"cv_{row['client_id'][:32]}",
        source="common-voice",
        licence="CC0-1.0",
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)  # sentences hold lone quotation marks
        for number, row in enumerate(rows, start=2):
            if not row.get("path") or row.get("sentence") is None or not row.get("client_id"):
                raise UserError(f"{path} line {number}: client_id, path or sentence is missing")
            yield row


def _lengths(path: Path) -> dict[str, float]:
    """Clip -> seconds, from the table that newer releases have: ``clip  duration[ms]``."""
    if not path.is_file():
        return {}
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return {row[0]: int(row[1]) / 1000 for row in rows if len(row) == 2 and row[1].isdigit()}
