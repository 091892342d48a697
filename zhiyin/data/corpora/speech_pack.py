"""The speech pack: real recordings of thirteen free corpora with labels for nine tasks (`../shared/data`).

Its orders of coffee have no transcript: they are records whose `instruction` asks for the drink (task ``sttc``), in
English or Chinese, in wordings of their split; the id decides which.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhiyin.data.manifest import Imported, Record, rows
from zhiyin.errors import UserError
from zhiyin.tasks import instructions
from zhiyin.tasks.render import TimedWord

# The pack's spelling -> the task table's. Boredom, none, slow and fast are labels of this pack only.
EMOTIONS = {"angry": "anger"}
AGES = {"child": "child", "adult": "adult", "senior": "old"}


def read(folder: Path, split: str) -> list[Record]:
    """Records of one split (train, dev or test).

    Raises:
        UserError: the folder holds no such manifest.
    """
    manifest = folder / f"{split}.jsonl"
    if not manifest.is_file():
        raise UserError(
            f"speech pack {folder}: no {split}.jsonl; give the folder that holds train.jsonl, dev.jsonl, test.jsonl"
        )
    requests = [one for language in instructions.LANGUAGES for one in instructions.about("drink", language, split)]
    return [_record(row, folder, requests) for _, row in rows(manifest)]


def read_all(folder: Path, _: Path) -> Imported:
    """Records of all three splits that carry a truth for one of our tasks.

    Raises:
        UserError: the folder holds no such manifests.
    """
    splits = {split: read(folder, split) for split in ("train", "dev", "test")}
    without = sum(not record.tasks for records in splits.values() for record in records)
    kept = {split: [record for record in records if record.tasks] for split, records in splits.items()}
    return Imported(kept, (f"{without} clips have no truth for our tasks; they were left out",) if without else ())


def _record(row: dict[str, Any], folder: Path, drink_requests: Sequence[str]) -> Record:
    has = set(row["tasks"])
    labels: dict[str, str] = {}
    if "VED" in has:
        labels["ved"] = row["event"]
    if "SER" in has:
        labels["ser"] = EMOTIONS.get(row["emotion"], row["emotion"])
    if "SSR" in has:
        labels["ssr"] = row["style"]
    if "SGC" in has:
        labels["sgc"] = row["gender"]
    if "SAP" in has and row.get("age_group") in AGES:
        labels["sap"] = AGES[row["age_group"]]
    # a clip that only carries a sound event has no speech: its transcript is empty, which is a truth worth learning
    text = row.get("text") if "ASR" in has else ("" if has == {"VED"} else None)
    words = tuple(TimedWord(w["w"], w["start"], w["end"]) for w in row.get("words") or ()) if "SRWT" in has else ()
    translation = next(iter(row["translation"].values())).lower() if "AST" in has else ""
    drink = row.get("slots", {}).get("coffeeDrink", "").lower() if "INTENT" in has else ""
    tasks = tuple(labels)
    tasks += ("asr",) if text is not None else ()
    tasks += ("srwt",) if words else ()
    tasks += ("sttc",) if drink else ()
    tasks += ("ast",) if translation else ()
    return Record(
        id=row["id"],
        audio=folder / row["audio"],
        duration_s=row["duration"],
        tasks=tasks,
        text=text,
        words=words,
        labels=labels,
        answer=drink,
        translation=translation,
        instruction=drink_requests[zlib.crc32(row["id"].encode()) % len(drink_requests)] if drink else "",
        language=row.get("language", ""),
        speaker=row.get("speaker", ""),
        source=row["source"],
        licence=row["licence"],
        age_group=row.get("age_group", ""),
    )
