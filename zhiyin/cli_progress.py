"""What a person sees while recordings are worked on; all of it on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from zhiyin.result import Segment

if TYPE_CHECKING:
    import rich.progress


class Progress:
    """A bar on a terminal; elsewhere one plain line per recording, and nothing for a single one."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started = 0
        self._name = ""
        self._bar = _bar(total) if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, name: str) -> None:
        """The next recording begins."""
        self._started += 1
        self._name = name
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._started - 1, description=name)
        elif self._total > 1:
            sys.stderr.write(f"[{self._started}/{self._total}] {name}\n")

    def heard(self, segment: Segment) -> None:
        """A segment of the recording is done."""
        if self._bar is not None:
            minutes, seconds = divmod(int(segment.end_s), 60)
            self._bar.update(self._bar.task_ids[0], description=f"{self._name} {minutes}:{seconds:02}")

    def say(self, line: str) -> None:
        """Write a line that stays."""
        with self.aside():
            sys.stderr.write(f"{line}\n")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something else is written, perhaps to the same terminal."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            self._bar.start()


def _bar(total: int) -> "rich.progress.Progress":
    from rich import progress
    from rich.console import Console

    # transient: what stays on the screen is results and complaints; and data never goes through rich
    bar = progress.Progress(
        progress.BarColumn(20),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bar.add_task("", total=total)
    return bar
