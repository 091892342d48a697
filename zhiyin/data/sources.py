"""What a stage is trained on: manifests and shards, each with the weight of its hours, read into one set of records."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zhiyin.audio.features import SAMPLE_RATE_HZ, Float32
from zhiyin.audio.io import load
from zhiyin.data import clip, manifest, shards
from zhiyin.data.manifest import Record
from zhiyin.data.shards import Place, Shards
from zhiyin.errors import UserError

_TOO_SHORT_S = 0.25  # so much shorter than its manifest says a recording may be: encoders and clocks differ


@dataclass(frozen=True)
class Source:
    """A manifest (JSONL) or a folder or address of shards.

    Attributes:
        path: relative to the stage file that names it.
        weight: how many times its hours are heard while those of a source of weight 1 are heard once; 0.5 hears half.
    """

    path: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise UserError(
                f"data {self.path}: its weight is {self.weight}; 0 leaves it out, 0.5 hears half of its hours"
            )


@dataclass(frozen=True)
class Stored:
    """Where the audio of a record of a shard is."""

    root: str
    place: Place


@dataclass(frozen=True)
class Part:
    """What a source held, for the run folder: where, how much, and a hash of what its records say."""

    path: str
    weight: float
    num_records: int
    hours: float
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """Records of several sources.

    Attributes:
        records: all of them, ids once.
        weights: id -> weight of its source, where that is not 1.
        stored: id -> where its audio is, where that is inside a shard.
        parts: the sources, in order.
    """

    records: list[Record]
    weights: dict[str, float]
    stored: dict[str, Stored]
    parts: tuple[Part, ...] = ()

    def joined(self, other: "Corpus") -> "Corpus":
        """Both in one.

        Raises:
            UserError: they have an id in common.
        """
        known = {record.id for record in self.records}
        twice = next((record.id for record in other.records if record.id in known), None)
        if twice is not None:
            names = " and ".join(part.path for part in (*self.parts, *other.parts))
            raise UserError(f"data: the id '{twice}' is there twice ({names}); rename one or leave it out")
        return Corpus(
            self.records + other.records,
            self.weights | other.weights,
            self.stored | other.stored,
            self.parts + other.parts,
        )


def read(sources: Sequence[Source], folder: Path) -> Corpus:
    """All records of sources whose paths are relative to `folder`; those of weight 0 are left out.

    Raises:
        UserError: a source is missing or broken (with file and line), or an id is there twice.
    """
    corpus = Corpus([], {}, {})
    for source in sources:
        if source.weight:
            corpus = corpus.joined(_read_one(source, folder))
    return corpus


def of_records(records: Sequence[Record], name: str) -> Corpus:
    """A corpus of records that are there already.

    Raises:
        UserError: an id is there twice.
    """
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise UserError(f"data {name}: the id '{record.id}' is there twice; rename one or leave it out")
        seen.add(record.id)
    return Corpus(list(records), {}, {}, (_part(Source(name), records, Path()),))


def check(records: Sequence[Record], label_sets: Mapping[str, Sequence[str]]) -> None:
    """Refuse records whose truths cannot be trained, before anything is computed.

    Args:
        records: what would be trained on.
        label_sets: task id -> the labels a model can say.

    Raises:
        UserError: names the first record with a label outside its set and the label it is most like.
    """
    for record in records:
        for task in set(record.tasks) & label_sets.keys():
            label = record.labels.get(task, "")
            if label not in label_sets[task]:
                near = manifest.near(label, label_sets[task])
                allowed = ", ".join(label_sets[task])
                raise UserError(
                    f"data: record '{record.id}' has the {task} label '{label}'{near}; the stage allows {allowed};"
                    f" mend it, or write spec.labels.{task} in the stage"
                )


def samples(record: Record, stored: Stored | None = None) -> Float32:
    """Mono 16 kHz samples [T] of a record, from its file or from its shard.

    Raises:
        UserError: the audio is missing, broken, or shorter than the record says.
    """
    try:
        heard = clip.samples(record) if stored is None else load(_open(stored.root).read(stored.place).audio)
    except UserError as error:
        raise UserError(f"record '{record.id}': {error}") from error
    if len(heard) / SAMPLE_RATE_HZ < record.duration_s - _TOO_SHORT_S:
        raise UserError(
            f"record '{record.id}': {record.audio} gives {len(heard) / SAMPLE_RATE_HZ:.2f} s, but its manifest says"
            f" {record.duration_s:.2f} s; mend it (zhiyin data check names all of them)"
        )
    return heard


@functools.lru_cache(maxsize=32)
def _open(root: str) -> Shards:
    return shards.open_shards(root)


def _read_one(source: Source, folder: Path) -> Corpus:
    where = source.path if clip.is_address(source.path) else str(folder / source.path)
    stored: dict[str, Stored] = {}
    if clip.is_address(where) or Path(where).is_dir():
        records = []
        for place, record in shards.open_shards(where).records():
            stored[record.id] = Stored(where, place)
            records.append(replace(record, audio=Path(where) / record.audio))
    else:
        records = manifest.read(Path(where))
    made = of_records(records, where)
    weights = {record.id: source.weight for record in records} if source.weight != 1 else {}
    return replace(made, weights=weights, stored=stored, parts=(_part(replace(source, path=where), records, folder),))


def _part(source: Source, records: Sequence[Record], folder: Path) -> Part:
    digest = hashlib.sha256()
    for record in records:
        row = manifest.to_row(record, folder) | {"audio": record.audio.name}  # wherever the corpus lies
        digest.update(json.dumps(row, sort_keys=True).encode())
    hours = sum(record.duration_s for record in records) / 3600
    return Part(source.path, source.weight, len(records), round(hours, 3), digest.hexdigest())
