"""What was heard of a recording, kept while it is worked on, so that a run that was stopped can go on.

A journal is a file of JSON lines: the first says of what it is, each other one holds a batch of windows and what was
heard in them, before neighbours are merged. A line is complete or it does not count. Reading and the search for speech
begin anew, which is quick; the model goes on with the first batch that is not there. So what comes out is what an
uninterrupted run gives, to the last digit.
"""

import hashlib
import json
import os
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from zhiyin.audio.windows import Window
from zhiyin.config import build
from zhiyin.errors import UserError
from zhiyin.result import Segment
from zhiyin.runtime.load import Loaded

FORMAT = 1
_KEYS = {"channel", "starts_s", "segments"}  # of a line


def file_stamp(path: str | os.PathLike[str]) -> dict[str, int]:
    """Size and time of a file, by which a changed one is recognised.

    Raises:
        OSError: the file cannot be looked at.
    """
    facts = os.stat(path)
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def model_stamp(model: Loaded) -> str:
    """What a model is, by name, kind and the sizes and times of its files."""
    spec, folder = model.backend.spec, Path(model.source)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    facts = [[path.name, *file_stamp(path).values()] for path in files]
    return digest([spec.name, spec.family, spec.precision, model.backend.name, model.backend.device.name, facts])


def digest(facts: Any) -> str:
    """A short name for anything JSON can hold."""
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """One recording's batches, by channel.

    Attributes:
        until_s: the last time of the recording that was heard before.
    """

    def __init__(self, path: str | os.PathLike[str], key: dict[str, Any]) -> None:
        """Read what is there; what belongs to another key, and a last line that was cut, is dropped.

        Args:
            path: of the file; made with the first batch that is added.
            key: of what it is; plain JSON values.

        Raises:
            UserError: the file is there and cannot be read.
        """
        self.until_s = 0.0
        self._path = Path(path)
        self._head = {"journal": FORMAT, **key}
        self._kept: dict[int | None, deque[dict[str, Any]]] = defaultdict(deque)
        self._good_bytes = 0
        self._file: BinaryIO | None = None
        try:
            self._read()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._fault("read", error) from None

    def take(self, channel: int | None, windows: Sequence[Window]) -> list[Segment]:
        """What was heard in the next batch of a channel, if it was of the same windows; else nothing, from then on."""
        kept = self._kept[channel]
        if kept and kept[0]["starts_s"] == [window.start_s for window in windows]:
            return [build(Segment, one, f"journal {self._path}") for one in kept.popleft()["segments"]]
        if kept:
            self._forget()
        return []

    def add(self, channel: int | None, windows: Sequence[Window], heard: Sequence[Segment]) -> None:
        """Keep a batch; it is in the file when this returns.

        Raises:
            UserError: the file cannot be written.
        """
        row = {"channel": channel, "starts_s": [one.start_s for one in windows], "segments": [asdict(h) for h in heard]}
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise self._fault("write", error) from None

    def close(self) -> None:
        """Close the file; it stays, for whoever made it to remove."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> None:
        with self._path.open("rb") as file:
            for line in file:
                row = _row(line)
                if row is None or (row.keys() != _KEYS if self._good_bytes else row != self._head):
                    return
                if self._good_bytes:
                    self._kept[row["channel"]].append(row)
                    self.until_s = max([self.until_s, *(one["end_s"] for one in row["segments"])])
                self._good_bytes += len(line)

    def _forget(self) -> None:
        """Begin the file anew; what it holds was cut into windows in another way."""
        self.close()
        self._kept.clear()
        self._good_bytes = 0

    def _open(self) -> BinaryIO:
        file = self._path.open("r+b" if self._good_bytes else "wb")
        file.truncate(self._good_bytes)
        file.seek(self._good_bytes)
        if not self._good_bytes:
            file.write(_line(self._head))
        return file

    def _fault(self, what: str, error: OSError) -> UserError:
        why = (error.strerror or str(error)).lower()
        return UserError(f"cannot {what} the journal {self._path}: {why}; choose another place for it")


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogatepass")


def _row(line: bytes) -> dict[str, Any] | None:
    """The record of a line; nothing where the line was cut or is none of ours."""
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass")) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
