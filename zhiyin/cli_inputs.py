"""From what stands on the command line to recordings, each with the name its result file will have."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from zhiyin.errors import UserError

# What a folder is searched for; a file that is named is tried whatever its ending.
AUDIO_SUFFIXES = (
    *(".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov", ".mp3", ".mp4", ".oga"),
    *(".ogg", ".opus", ".pcm", ".raw", ".wav", ".webm", ".wma"),
)


@dataclass(frozen=True)
class Input:
    """One recording to be read.

    Attributes:
        source: path, or ``-`` for standard input.
        name: relative path of the result without its format, e.g. ``monday/a`` for ``monday/a.wav``.
        fault: why there is no recording (an empty folder, a pattern that fits nothing); told when its turn comes.
    """

    source: str
    name: PurePath
    fault: str = ""


def expand(arguments: Sequence[str]) -> list[Input]:
    """Recordings named by files, folders and patterns, in order, each once, with distinct names.

    A missing file is left to whoever opens it.
    """
    seen: set[str] = set()
    inputs = []
    for argument in arguments:
        for entry in _expand_one(argument):
            key = entry.source if entry.source == "-" or entry.fault else os.path.realpath(entry.source)
            if key not in seen:
                seen.add(key)
                inputs.append(entry)
    return _distinct(inputs)


def is_batch(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for several recordings, however many are found."""
    return len(arguments) > 1 or any(os.path.isdir(argument) or _is_pattern(argument) for argument in arguments)


def _expand_one(argument: str) -> Iterator[Input]:
    if argument == "-":
        yield Input("-", PurePath("stdin"))
    elif os.path.isdir(argument):
        yield from _walk(argument)
    elif _is_pattern(argument):
        paths = sorted(path for path in glob.glob(argument, recursive=True) if os.path.isfile(path))
        if not paths:
            yield Input(argument, PurePath(), f"no file fits the pattern {argument}")
        yield from (_named(path, PurePath(path).name) for path in paths)
    else:
        yield _named(argument, PurePath(argument).name)


def _walk(folder: str) -> Iterator[Input]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename}: {(error.strerror or str(error)).lower()}")

    found = False
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            # names that begin with a dot are side files (macOS writes ._a.wav beside a.wav)
            if Path(name).suffix.lower() in AUDIO_SUFFIXES and not name.startswith("."):
                found = True
                path = os.path.join(parent, name)
                yield _named(path, os.path.relpath(path, folder))
    if not found:
        yield Input(folder, PurePath(), f"folder {folder} holds no recordings; looked for {' '.join(AUDIO_SUFFIXES)}")


def _is_pattern(argument: str) -> bool:
    return glob.has_magic(argument) and not os.path.exists(argument)


def _named(path: str, name: str) -> Input:
    return Input(path, PurePath(os.path.splitext(name)[0]))


def _distinct(inputs: list[Input]) -> list[Input]:
    """Where names collide, first the ending is kept (``a.wav`` beside ``a.mp3``), then the path from what is common."""
    files = [entry for entry in inputs if not entry.fault and entry.source != "-"]
    if not files:
        return inputs
    common = os.path.commonpath([os.path.dirname(os.path.abspath(entry.source)) for entry in files])
    short = {entry.source: entry.name for entry in files}
    named = {entry.source: entry.name.parent / PurePath(entry.source).name for entry in files}
    full = {entry.source: PurePath(os.path.relpath(entry.source, common)) for entry in files}
    names = _lengthen(_lengthen(short, named), full)
    if len(set(names.values())) < len(names):  # a.wav.flac beside a.wav and a.mp3
        names = full
    return [replace(entry, name=names.get(entry.source, entry.name)) for entry in inputs]


def _lengthen(names: dict[str, PurePath], longer: dict[str, PurePath]) -> dict[str, PurePath]:
    count = Counter(names.values())
    return {source: longer[source] if count[name] > 1 else name for source, name in names.items()}
