"""`zhiyin pull` and `zhiyin models`: get models, and see which are here."""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zhiyin.errors import UserError
from zhiyin.runtime import known, store
from zhiyin.runtime.load import is_to_pull

if TYPE_CHECKING:
    import rich.progress

DAMAGED = 1  # exit code of a check that found something


@dataclass(frozen=True)
class Line:
    """One line of the list; `where` is ``built in``, ``local``, ``part`` (of it is here) or ``hub``."""

    name: str
    where: str
    family: str
    size_bytes: int
    tasks: tuple[str, ...]
    licence: str
    licence_note: str
    folder: str
    repository: str
    fault: str


def pull(name: str, revision: str, dest: Path | None, accept_licence: bool) -> Path:
    """Download a model, with progress on standard error; returns its folder.

    Raises:
        UserError: see `runtime.store.pull`.
    """
    bar = _bar() if sys.stderr.isatty() else None
    watch = _Watch(bar)
    with bar or nullcontext():
        folder = store.pull(
            name, revision=revision, dest=dest, accept_licence=accept_licence, report=_say, on_step=watch.step
        )
    model = known.row(name)
    if model.use != known.PART:
        then = model.then or f"zhiyin understand RECORDING --model {folder if dest else model.name}"
        _say("next: " + then.format(folder=folder))
    return folder


def pull_if_missing(name: str) -> None:
    """Download a model of the hub that is not here, as `pull` does; anything else is left to `zhiyin.load`."""
    if is_to_pull(name):
        pull(name, "", None, accept_licence=False)


def table(name: str, as_json: bool) -> str:
    """The list of models, those here first, as a table or as a JSON array.

    Raises:
        UserError: `name` is given and in none of them.
    """
    lines = [line for line in _lines() if name in ("", line.name, line.repository.split(" ")[0])]
    if not lines:
        raise UserError(f"models: no model '{name}'; {known.hint(name) or 'zhiyin models lists all'}")
    if as_json:
        return json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=1) + "\n"
    rows = [("NAME", "FAMILY", "SIZE", "TASKS", "LICENCE", "WHERE"), *map(_row, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
    notes = [f"{line.name}: {line.licence_note}" for line in lines if line.licence_note]
    notes += [f"{line.name}: {line.fault}" for line in lines if line.fault]
    return text + "".join(f"\n{note}" for note in notes) + ("\n" if notes else "")


def check(name: str) -> tuple[str, int]:
    """Hash every file of the pulled models, or of one; the report and the exit code.

    Raises:
        UserError: there is no such model here.
    """
    chosen = [entry for entry in store.entries() if name in ("", entry.name)]
    if name and not chosen:
        raise UserError(f"models: '{name}' is not here; {known.hint(name) or 'zhiyin models lists what is'}")
    text, code = "", 0
    for entry in chosen:
        listed = entry.complete and bool(store.manifest(entry.folder))
        faults = store.check(entry.folder) if listed else tuple(filter(None, [entry.fault]))
        verdict = "; ".join(faults) or ("whole" if listed else "was not pulled, nothing to compare with")
        code = DAMAGED if faults else code
        text += f"{entry.name}: {verdict}\n"
    return text or f"no models in {store.home()}\n", code


def _lines() -> list[Line]:
    here = [_local(entry) for entry in store.entries()]
    names = {line.name for line in here}
    return [_pocket(), *here, *(_elsewhere(model) for model in known.known().values() if model.name not in names)]


def _pocket() -> Line:
    folder = Path(__file__).resolve().parent / "pocket" / "bundle"
    about = known.identify(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Line("pocket", "built in", about.family, size, about.tasks, about.licence, "", str(folder), "", "")


def _local(entry: store.Entry) -> Line:
    return Line(
        name=entry.name,
        where="local" if entry.complete else "part",
        family=entry.family,
        size_bytes=entry.size_bytes,
        tasks=entry.tasks,
        licence=entry.licence,
        licence_note=entry.licence_note,
        folder=str(entry.folder),
        repository=entry.repository,
        fault=entry.fault,
    )


def _elsewhere(model: known.Known) -> Line:
    return Line(
        name=model.name,
        where="hub",
        family=model.family,
        size_bytes=round(model.size_gb * 1e9),
        tasks=model.tasks,
        licence=model.licence,
        licence_note=model.licence_note,
        folder="",
        repository=model.repository,
        fault="",
    )


def _row(line: Line) -> tuple[str, ...]:
    size = f"{_size(line.size_bytes)}" if line.size_bytes else "?"
    licence = (line.licence or "?") + (" (!)" if line.licence_note else "")
    return (line.name, line.family or "?", size, " ".join(line.tasks) or "-", licence, line.where)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"


class _Watch:
    """Shows steps of a pull: a bar on a terminal, else a line when a file begins."""

    def __init__(self, bar: "rich.progress.Progress | None") -> None:
        self._bar = bar
        self._number = 0

    def step(self, step: store.Step) -> None:
        """A file has more bytes."""
        begins = step.number != self._number
        self._number = step.number
        label = f"[{step.number}/{step.count}] {step.file}"
        if self._bar is None:
            if begins:
                _say(f"{label} {_size(step.file_bytes)}")
            return
        if begins:
            self._bar.reset(self._bar.task_ids[0], total=step.file_bytes, description=label)
        self._bar.update(self._bar.task_ids[0], completed=step.done_bytes)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _bar() -> "rich.progress.Progress":
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(20),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=True,
    )
    bar.add_task("", total=None)
    return bar
