"""Tar files: members with their places, damage told with its place, files written in a repeatable way."""

import contextlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zhiyin.errors import UserError

_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name and where its bytes are."""

    name: str
    offset_bytes: int
    size_bytes: int


def members(path: Path) -> Iterator[Member]:
    """The files of an uncompressed tar in their order; folders and links are passed over.

    A tar that ends too early, or whose headers break, yields what is whole and then raises: Python's own reader ends
    in silence there.

    Raises:
        UserError: the tar is missing, compressed, damaged or cut off; says at which byte and after which member.
    """
    last, count = "", 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.offset_data + info.size > size:
                    raise UserError(
                        f"tar {path}: cut off at byte {size}: {info.name!r} should end at byte "
                        f"{info.offset_data + info.size}; {count} members before it are whole; copy the file again"
                    )
                if info.isreg():
                    yield Member(info.name, info.offset_data, info.size)
                last, count = info.name, count + 1
            end = tar.offset
            file.seek(end)
            mark = file.read(_BLOCK_BYTES)
    except OSError as error:
        raise UserError(f"tar {path}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    except tarfile.TarError as error:
        what = f"after {count} members, the last one {last!r}" if count else "at byte 0"
        raise UserError(f"tar {path}: damaged {what} ({error}); compressed tars are not read, unpack them") from error
    if mark != bytes(_BLOCK_BYTES):
        what = "cut off" if len(mark) < _BLOCK_BYTES else "damaged"
        after = f"after {count} members, the last one {last!r}" if count else "no member is whole"
        raise UserError(f"tar {path}: {what} at byte {end}: {after}; copy the file again")


def read(path: Path, member: Member) -> bytes:
    """The bytes of a member."""
    with path.open("rb") as file:
        file.seek(member.offset_bytes)
        return file.read(member.size_bytes)


def write(path: Path, files: Iterable[tuple[str, bytes]]) -> list[Member]:
    """Write a tar that is there whole or not at all, the same for the same files; returns where each begins.

    Raises:
        UserError: it cannot be written; what was there before stays.
    """
    temporary = path.with_name(path.name + ".part")
    written = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in files:
                info = tarfile.TarInfo(name)  # no time, no owner
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
                padded = -(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES
                written.append(Member(name, tar.offset - padded, len(data)))
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"writing {path}: {(error.strerror or str(error)).lower()}; nothing was replaced") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return written
