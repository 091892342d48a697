"""Where results go: to standard output, or into a folder that remembers what is done, so that `--resume` goes on.

In the folder, `.zhiyin.jsonl` has a line for each result that was written: of which recording, understood how. Of a
recording that is being worked on, `.NAME.part.jsonl` keeps what was heard (`zhiyin.journal`); it goes with the result.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zhiyin import write
from zhiyin.ask import Options, hotwords_of
from zhiyin.cli_inputs import Input
from zhiyin.errors import UserError
from zhiyin.journal import digest, file_stamp, model_stamp
from zhiyin.result import Result
from zhiyin.runtime.load import Loaded

DONE = ".zhiyin.jsonl"


def asked_of(task: str | None, options: Options, format: str, pcm: str | None, model: Loaded) -> str:
    """A short name for everything that a result depends on beside the recording."""
    hotwords = hotwords_of(options)
    words = [[word.text, word.weight] for word in hotwords.words], [[rule.wrong, rule.right] for rule in hotwords.rules]
    return digest([task, repr(replace(options, hotwords=())), words, format, pcm, model_stamp(model)])


class Stream:
    """Standard output; of many recordings as text each has a line above it that names it, as JSON one line."""

    def __init__(self, format: str, *, batch: bool) -> None:
        """Raises `UserError` for a format of which only one fits a stream."""
        if batch and format not in ("txt", "json"):
            raise UserError(f"several results as {format} do not fit one stream; add --output-dir DIR")
        self._to_text: Callable[[Result], str] = (
            write.json_line if batch and format == "json" else write.FORMATS[format]
        )
        self._has_headers = batch and format == "txt"

    def save(self, entry: Input, result: Result) -> None:
        """Write a result."""
        header = f"==> {result.source} <==\n" if self._has_headers else ""
        sys.stdout.write(header + self._to_text(result))
        sys.stdout.flush()


class Folder:
    """A file per recording, written whole or not at all, and a list of those that are done."""

    def __init__(self, folder: Path, format: str, inputs: Sequence[Input], *, resume: bool) -> None:
        """Make the folder, and see whether everything can be written.

        Args:
            folder: of the results.
            format: of the results.
            inputs: the recordings.
            resume: whether what earlier runs left counts.

        Raises:
            UserError: it cannot be written to.
        """
        self._folder, self._format, self._resume, self._asked = folder, format, resume, ""
        self._targets = {entry.source: folder / f"{entry.name}.{format}" for entry in inputs if not entry.fault}
        try:
            for parent in {folder, *(target.parent for target in self._targets.values())}:
                parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=parent):
                    pass
            text = (folder / DONE).read_text(encoding="utf-8", errors="replace") if (folder / DONE).exists() else ""
        except OSError as error:
            raise _unwritable(folder, error) from None
        taken = [target for target in self._targets.values() if target.is_dir()]
        if taken:
            raise UserError(f"cannot write {taken[0]}: a folder has this name; choose another --output-dir")
        self._is_cut = bool(text) and not text.endswith("\n")
        self._rows = {row["result"]: row for line in text.splitlines() if (row := _row(line))}

    def begin(self, asked: str) -> None:
        """Say what is asked of every recording, from `asked_of`: a result counts as done if it was the same."""
        self._asked = asked

    def holds(self, entry: Input) -> bool:
        """Whether the result of this very recording, understood in the same way, is there and counts."""
        row = self._row_of(entry) if self._resume and self._is_file(entry) else None
        return row is not None and self._targets[entry.source].is_file() and self._rows.get(row["result"]) == row

    def journal(self, entry: Input) -> Path | None:
        """Where to keep what is heard while a recording is worked on; nowhere for standard input and pipes."""
        if not self._is_file(entry):
            return None
        path = self._journal(entry)
        if not self._resume:
            path.unlink(missing_ok=True)
        return path

    def save(self, entry: Input, result: Result) -> None:
        """Write a result and note that it is done; its journal is not needed any more.

        Raises:
            UserError: it cannot be written.
        """
        target = self._targets[entry.source]
        try:
            _replace(target, write.FORMATS[self._format](result))
            if self._is_file(entry):
                with (self._folder / DONE).open("a", encoding="utf-8") as file:
                    file.write("\n" * self._is_cut + json.dumps(self._row_of(entry)) + "\n")
                self._is_cut = False
                self._journal(entry).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(target, error) from None

    def _is_file(self, entry: Input) -> bool:
        return entry.source in self._targets and Path(entry.source).is_file()

    def _journal(self, entry: Input) -> Path:
        target = self._targets[entry.source]
        return target.with_name(f".{target.name}.part.jsonl")

    def _row_of(self, entry: Input) -> dict[str, Any]:
        name = self._targets[entry.source].relative_to(self._folder).as_posix()
        return {"result": name, **file_stamp(entry.source), "asked": self._asked}


def _row(line: str) -> dict[str, Any] | None:
    """A line of the list; nothing where it was cut or is none of ours."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "result" in row else None


def _replace(target: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {path}: {(error.strerror or str(error)).lower()}; choose another --output-dir")
