"""OSUM's tars: shards with side files, and "combine" (audio in tars, everything else in JSONL beside them).

Source: OSUM `dataset.py` and `tools/make_shard_list*.py` at f2bcfac; OSUM-EChat for "combine". Shards hold
`key.wav` (or another audio suffix), `key.txt`, `key.task`, `key.lang`, `key.speaker`, `key.emotion`, `key.gender`,
`key.duration`, `key.extra`; what stands before the last dot is the key. Tars are read from this machine only.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from zhiyin.data import clip, manifest, tars
from zhiyin.data.formats import osum
from zhiyin.data.manifest import Imported, Record
from zhiyin.errors import UserError

PER_TAR = 1000  # what OSUM recommends
_SIDE = ("txt", "task", "lang", "speaker", "emotion", "gender", "duration", "extra")


def read_shards(source: Path, out: Path) -> Imported:
    """Records of a tar, a folder of tars, or a list file with one tar on each line; audio goes to `out`/audio.

    Raises:
        UserError: a tar is missing or damaged, or a sample is broken; says which.
    """
    found = osum.Collected()
    for tar in _tars(source):
        _add_shard(found, tar, out)
    return found.done()


def read_combine(source: Path, out: Path) -> Imported:
    """Records of a training list (``jsonl|tar`` on each line, ``-|tar`` for a plain shard) or of a folder.

    A folder has combines_list.txt, the JSONL of each tar, and combines_tar_root.txt, the folder of the tars.

    Raises:
        UserError: a file is missing or damaged, or a line has no audio; says which.
    """
    found = osum.Collected()
    for lines, tar in _pairs(source):
        if lines is None:
            _add_shard(found, tar, out)
            continue
        inside = {_stem(m.name): m for m in tars.members(tar) if _suffix(m.name) in clip.SUFFIXES}
        for number, row in manifest.rows(lines):
            where = f"{lines} line {number}"
            member = inside.get(str(row.get("key")))
            if member is None:
                raise UserError(f"{where}: no audio with the key {row.get('key')!r} in {tar}")
            found.add(row, _extract(tar, member, out), where)
    return found.done()


def write_shards(records: Iterable[Record], out: Path) -> list[str]:
    """Write tars with side files and data.list, which names them, into the folder `out`; returns notes."""
    records = list(records)
    names = []
    for number, group in enumerate(_groups(records)):
        name = f"shard_{number:05d}.tar"
        tars.write(out / name, (file for record in group for file in _files(record)))
        names.append(name)
    manifest.write_lines(out / "data.list", names)
    return osum.left_out(records)


def write_combine(records: Iterable[Record], out: Path) -> list[str]:
    """Write audio tars, a JSONL for each, and the lists that join them, into the folder `out`; returns notes."""
    records = list(records)
    lists, pairs = [], []
    for number, group in enumerate(_groups(records)):
        name = f"combine_{number:05d}"
        rows = [line for record in group for line in osum.to_lines(_whole_file(record))]
        audio = (pair for record in group for pair in _audio_of_lines(record))
        tars.write(out / "tars" / f"{name}.tar", audio)
        manifest.write_lines(out / f"{name}.list", (json.dumps(row, ensure_ascii=False) for row in rows))
        lists.append(f"{name}.list")
        pairs.append(f"{name}.list|tars/{name}.tar")
    manifest.write_lines(out / "combines_list.txt", lists)
    manifest.write_lines(out / "combines_tar_root.txt", ["tars"])
    manifest.write_lines(out / "train.list", pairs)
    return osum.left_out(records)


def _files(record: Record) -> Iterator[tuple[str, bytes]]:
    suffix, audio = clip.encoded(record)
    for line in osum.to_lines(_whole_file(record)):
        key = line.pop("key")
        for name, value in line.items():
            text = json.dumps(value, ensure_ascii=False) if name == "extra" else str(value)
            yield f"{key}.{name}", text.encode()
        yield f"{key}.{suffix}", audio


def _audio_of_lines(record: Record) -> Iterator[tuple[str, bytes]]:
    suffix, audio = clip.encoded(record)
    for line in osum.to_lines(_whole_file(record)):
        yield f"{line['key']}.{suffix}", audio


def _whole_file(record: Record) -> Record:
    """The record as it is once its part has become a file of its own."""
    return replace(record, start_s=0.0, end_s=None)


def _groups(records: list[Record]) -> Iterator[list[Record]]:
    for start in range(0, len(records), PER_TAR):
        yield records[start : start + PER_TAR]


def _add_shard(found: osum.Collected, tar: Path, out: Path) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for member in tars.members(tar):
        key, suffix = _stem(member.name), _suffix(member.name)
        name = "audio" if suffix in clip.SUFFIXES else suffix
        if name in rows.get(key, {}):
            raise UserError(
                f"tar {tar}: sample '{key}' has {name} twice, again at byte {member.offset_bytes}; remove one"
            )
        if name == "audio":
            rows.setdefault(key, {})[name] = member
        elif name in _SIDE:
            try:
                rows.setdefault(key, {})[name] = tars.read(tar, member).decode()
            except UnicodeDecodeError as error:
                raise UserError(f"tar {tar}: {member.name!r} at byte {member.offset_bytes} is not UTF-8") from error
    for key, row in rows.items():
        where = f"tar {tar} sample '{key}'"
        if "audio" not in row or "txt" not in row:
            raise UserError(f"{where}: no {'audio' if 'audio' not in row else 'txt'}; a sample has both")
        found.add({**row, "key": key}, _extract(tar, row["audio"], out), where)


def _extract(tar: Path, member: tars.Member, out: Path) -> Path:
    """The audio as a file of its own; the name cannot leave the folder, whatever stands in the tar."""
    folder = out / "audio" / clip.file_name(tar.stem)
    path = folder / f"{clip.file_name(_stem(member.name))}.{_suffix(member.name)}"
    data = tars.read(tar, member)
    temporary = path.with_name(path.name + ".part")
    try:
        if not path.exists() or path.read_bytes() != data:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"writing {path}: {(error.strerror or str(error)).lower()}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _tars(source: Path) -> list[Path]:
    if source.is_dir():
        if (source / "data.list").is_file():
            return _listed(source / "data.list")
        found = sorted(source.glob("*.tar"))
        if not found:
            raise UserError(f"shards {source}: no .tar in this folder; give a tar, a folder of tars, or a list of tars")
        return found
    return [source] if source.suffix == ".tar" else _listed(source)


def _listed(path: Path) -> list[Path]:
    return [_local(line, path) for line in _lines(path)]


def _pairs(source: Path) -> list[tuple[Path | None, Path]]:
    if not source.is_dir():
        pairs = [line.split("|") for line in _lines(source)]
        if any(len(pair) != 2 for pair in pairs):
            raise UserError(f"combine {source}: each line joins two paths with a bar, e.g. a.list|a.tar")
        return [(None if a == "-" else _local(a, source), _local(b, source)) for a, b in pairs]
    lists = _listed(source / "combines_list.txt")
    roots = _listed(source / "combines_tar_root.txt")
    if len(roots) != 1:
        raise UserError(f"{source / 'combines_tar_root.txt'}: holds {len(roots)} lines; one folder is needed")
    return [(path, roots[0] / f"{path.stem}.tar") for path in lists]


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"reading the list {path}: {error}; give a text file with a path on each line") from error
    return [line.strip() for line in lines if line.strip()]


def _local(line: str, path: Path) -> Path:
    if clip.is_address(line):
        raise UserError(
            f"{path}: {line} lies on another machine; fetch it first, import reads only files that are here"
        )
    return path.parent / line


def _stem(name: str) -> str:
    """What stands before the last dot; a folder in front belongs to it, as in OSUM, and is no folder for us."""
    return name.rpartition(".")[0]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower().removeprefix(".")
