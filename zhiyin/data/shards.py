"""Our own shards: tars of records and audio with an index of places, read from any place on, here or far away.

A folder of shards holds `shard-00000.tar`, ... (`000000.json`, a manifest line, and `000000.flac` or the like, for each
sample), an index of each, `shard-00000.json` (place, size and checksum of every sample), and `index.json`, written
last. Addresses with ``://`` are opened by fsspec (extra `remote`), never by a command.
"""

import importlib
import importlib.util
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from zhiyin.data import clip, manifest, tars
from zhiyin.data.manifest import Record
from zhiyin.errors import UserError

FORMAT = "zhiyin-shards-1"
INDEX = "index.json"
PER_SHARD = 1000


@dataclass(frozen=True)
class Place:
    """Where a reader stands: a shard, and how many of its samples are used."""

    shard: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Item:
    """A sample: its record (whose `audio` is the name inside the tar), its audio file, and the place after it."""

    record: Record
    audio: bytes
    after: Place


@dataclass(frozen=True)
class Shard:
    """A tar as index.json tells of it."""

    name: str
    size_bytes: int
    num_samples: int
    duration_s: float


@dataclass(frozen=True)
class Shards:
    """A folder of shards, or an address."""

    root: str
    shards: tuple[Shard, ...]

    @property
    def num_samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.num_samples for shard in self.shards)

    def stream(self, start: Place = Place()) -> Iterator[Item]:
        """All samples from `start` on, each with the place after it.

        Raises:
            UserError: a tar is missing, cut off or damaged; names shard, sample and byte. What is before was given.
        """
        for number in range(start.shard, len(self.shards)):
            first = start.sample if number == start.shard else 0
            if first >= self.shards[number].num_samples:
                continue
            places = self._places(number)
            with _open(self.root, self.shards[number].name) as file:
                whole = self._whole(number, file, places)
                for sample in range(first, len(places)):
                    if sample >= whole:
                        raise self._cut_off(number, file, whole)
                    last = sample + 1 == len(places)
                    yield self._item(
                        number, sample, places[sample], file, Place(number + last, 0 if last else sample + 1)
                    )

    def read(self, place: Place) -> Item:
        """The one sample at a place.

        Raises:
            UserError: there is no such place, or as for `stream`.
        """
        fits = 0 <= place.shard < len(self.shards) and 0 <= place.sample < self.shards[place.shard].num_samples
        if not fits:
            raise UserError(f"shards {self.root}: nothing at shard {place.shard}, sample {place.sample}")
        return next(self.stream(place))

    def records(self) -> Iterator[tuple[Place, Record]]:
        """Place and record of every sample, without its audio and so without its checksum.

        Raises:
            UserError: as for `stream`.
        """
        for number, shard in enumerate(self.shards):
            places = self._places(number)
            with _open(self.root, shard.name) as file:
                whole = self._whole(number, file, places)
                for sample, (at, size, *_) in enumerate(places):
                    if sample >= whole:
                        raise self._cut_off(number, file, whole)
                    file.seek(at)
                    where = f"shards {self.root}: {shard.name} sample {sample} (byte {at})"
                    try:
                        row = json.loads(file.read(size))
                    except ValueError as error:
                        raise UserError(f"{where}: damaged ({error}); copy the tar again") from error
                    yield Place(number, sample), manifest.from_row(row, Path(), where)

    def faults(self) -> Iterator[str]:
        """Read everything; what is wrong, one line for each shard that is."""
        for number in range(len(self.shards)):
            try:
                for item in self.stream(Place(number)):
                    if item.after.shard > number:
                        break
            except UserError as error:
                yield str(error)

    def _item(self, number: int, sample: int, place: Sequence[int], file: BinaryIO, after: Place) -> Item:
        record_at, record_bytes, audio_at, audio_bytes, checksum = place
        texts = []
        for at, size in ((record_at, record_bytes), (audio_at, audio_bytes)):
            file.seek(at)
            texts.append(file.read(size))
        where = f"shards {self.root}: {self.shards[number].name} sample {sample} (byte {record_at})"
        if zlib.crc32(texts[1], zlib.crc32(texts[0])) != checksum:
            raise UserError(
                f"{where}: damaged, its checksum differs; copy the tar again, or go on at sample {sample + 1}"
            )
        return Item(manifest.from_row(json.loads(texts[0]), Path(), where), texts[1], after)

    def _places(self, number: int) -> list[list[int]]:
        name = self.shards[number].name.removesuffix(".tar") + ".json"
        places = _json(self.root, name).get("samples")
        if not isinstance(places, list) or len(places) != self.shards[number].num_samples:
            raise UserError(f"shards {self.root}: {name} does not belong to {INDEX}; copy the folder again")
        return places

    def _whole(self, number: int, file: BinaryIO, places: Sequence[Sequence[int]]) -> int:
        """How many samples, from the first on, lie inside the file as it is."""
        size = file.seek(0, 2)
        if size >= self.shards[number].size_bytes:
            return len(places)
        return next((i for i, place in enumerate(places) if place[2] + place[3] > size), len(places))

    def _cut_off(self, number: int, file: BinaryIO, whole: int) -> UserError:
        shard, size = self.shards[number], file.seek(0, 2)
        return UserError(
            f"shards {self.root}: {shard.name} is cut off at byte {size} of {shard.size_bytes}; of its "
            f"{shard.num_samples} samples {whole} are whole; copy it again"
        )


def open_shards(root: str | Path) -> Shards:
    """Shards in a folder, or at an address that fsspec knows (``s3://``, ``https://``, ...).

    Raises:
        UserError: there is no index, it is not ours, or fsspec is needed and not installed.
    """
    place = str(root)
    index = _json(place, INDEX)
    if index.get("format") != FORMAT:
        raise UserError(f"shards {place}: {INDEX} is of format {index.get('format')!r}; this version reads {FORMAT}")
    try:
        shards = tuple(Shard(s["name"], s["bytes"], s["samples"], s["seconds"]) for s in index["shards"])
    except (KeyError, TypeError) as error:
        raise UserError(f"shards {place}: {INDEX} is broken ({error}); write the shards again") from error
    if any("/" in shard.name or "\\" in shard.name for shard in shards):
        raise UserError(f"shards {place}: {INDEX} names files outside the folder; it is not ours")
    return Shards(place, shards)


def write(records: Sequence[Record], out: Path, *, per_shard: int = PER_SHARD, seed: int | None = None) -> Shards:
    """Write records and their audio into the folder `out`; the same input gives the same bytes.

    Args:
        records: audio files go in as they are; parts of files as FLAC of 16 kHz.
        out: a new folder, or an empty one.
        per_shard: samples of a tar.
        seed: shuffle the records with it; None keeps their order.

    Raises:
        UserError: the folder holds something, or an audio file cannot be read.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"shards {out}: the folder holds something; give a new one")
    if per_shard < 1:
        raise UserError(f"shards {out}: {per_shard} samples in a shard; at least 1")
    order = list(records)
    if seed is not None:
        random.Random(seed).shuffle(order)
    shards = []
    for number, start in enumerate(range(0, len(order), per_shard)):
        shards.append(_write_one(order[start : start + per_shard], out, f"shard-{number:05d}"))
    rows = [{"name": s.name, "bytes": s.size_bytes, "samples": s.num_samples, "seconds": s.duration_s} for s in shards]
    manifest.write_lines(out / INDEX, [json.dumps({"format": FORMAT, "shards": rows}, indent=1)])
    return Shards(str(out), tuple(shards))


def _write_one(records: Sequence[Record], out: Path, name: str) -> Shard:
    checksums: list[int] = []

    def files() -> Iterator[tuple[str, bytes]]:
        for number, record in enumerate(records):
            suffix, audio = clip.encoded(record)
            inside = f"{number:06d}.{suffix}"
            whole = replace(record, audio=Path(inside), start_s=0.0, end_s=None)
            row = json.dumps({**manifest.to_row(whole, Path()), "audio": inside}, ensure_ascii=False).encode()
            checksums.append(zlib.crc32(audio, zlib.crc32(row)))
            yield f"{number:06d}.json", row
            yield inside, audio

    members = tars.write(out / f"{name}.tar", files())
    pairs = zip(members[::2], members[1::2], checksums, strict=True)
    places = [[a.offset_bytes, a.size_bytes, b.offset_bytes, b.size_bytes, checksum] for a, b, checksum in pairs]
    manifest.write_lines(out / f"{name}.json", [json.dumps({"samples": places})])
    seconds = round(sum(record.duration_s for record in records), 3)
    return Shard(f"{name}.tar", (out / f"{name}.tar").stat().st_size, len(records), seconds)


def _json(root: str, name: str) -> dict[str, Any]:
    with _open(root, name) as file:
        try:
            found = json.loads(file.read())
        except ValueError as error:
            raise UserError(f"shards {root}: {name} is broken ({error}); copy or write the shards again") from error
    return found if isinstance(found, dict) else {}


def _open(root: str, name: str) -> BinaryIO:
    try:
        if not clip.is_address(root):
            return (Path(root) / name).open("rb")
        if importlib.util.find_spec("fsspec") is None:
            raise UserError(f"shards {root}: an address needs the library fsspec: pip install 'zhiyin[remote]'")
        opened: BinaryIO = importlib.import_module("fsspec").open(f"{root.rstrip('/')}/{name}", "rb").open()
        return opened
    except (OSError, ImportError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"shards {root}: {name} cannot be read ({why}); give the folder that holds {INDEX}") from error
