"""The training material of the pocket model: the speech pack, synthetic speech and joined words."""

from dataclasses import dataclass, replace
from pathlib import Path

from zhiyin.data import synth
from zhiyin.data.corpora import speech_pack
from zhiyin.data.manifest import Record

SPOKEN = {"digits": 2500, "commands": 1500, "chinese": 1000, "questions": 1200}
SPOKEN_HELD_OUT = {"digits": 60, "commands": 60, "chinese": 40, "questions": 60}
JOINED = 1200  # word strings from each of fsdd and dsp20


@dataclass(frozen=True)
class Material:
    """Records to train on, and records to look at while training."""

    train: list[Record]
    dev: list[Record]


def pocket(pack: Path, folder: Path) -> Material:
    """Read the speech pack and make (or find) the synthetic part in `folder`.

    Only records that carry a truth for one of our tasks are kept.
    """
    train = speech_pack.read(pack, "train")
    spoken = synth.speak_all(folder / "spoken", SPOKEN, seed=1, held_out=False)
    held_out = synth.speak_all(folder / "spoken-heldout", SPOKEN_HELD_OUT, seed=2, held_out=True)
    joined = [
        replace(record, id=f"{source}_{record.id}")
        for seed, source in ((3, "fsdd"), (4, "dsp20"))
        for record in synth.join_words(
            folder / f"joined-{source}", [r for r in train if r.source == source], JOINED, seed=seed
        )
    ]
    held_out = [replace(record, id=f"heldout_{record.id}", source="synthetic-heldout") for record in held_out]
    return Material(
        [record for record in (*train, *spoken, *joined) if record.tasks],
        [record for record in (*speech_pack.read(pack, "dev"), *held_out) if record.tasks],
    )
