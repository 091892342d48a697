"""The real recordings of the pocket model: the speech pack, and strings joined from its single words."""

from dataclasses import dataclass, replace
from pathlib import Path

from zhiyin.data.corpora import speech_pack
from zhiyin.data.joined import join_words
from zhiyin.data.manifest import Record

JOINED = 1200  # word strings from each of fsdd and dsp20


@dataclass(frozen=True)
class Material:
    """Records to train on, and records to look at while training."""

    train: list[Record]
    dev: list[Record]


def pocket(pack: Path, folder: Path) -> Material:
    """Read the speech pack and make (or find) the joined strings in `folder`.

    Only records that carry a truth for one of our tasks are kept.
    """
    train = speech_pack.read(pack, "train")
    strings = [
        replace(record, id=f"{source}_{record.id}")
        for seed, source in ((3, "fsdd"), (4, "dsp20"))
        for record in join_words(
            folder / f"joined-{source}", [r for r in train if r.source == source], JOINED, seed=seed
        )
    ]
    return Material(
        [record for record in (*train, *strings) if record.tasks],
        [record for record in speech_pack.read(pack, "dev") if record.tasks],
    )
