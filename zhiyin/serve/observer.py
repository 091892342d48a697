"""Whoever counts what the dispatcher does; `metrics.Metrics` is one."""

from typing import Protocol

from zhiyin.serve.job import Job


class Observer(Protocol):
    """What it is told, in the event loop; it must be quick."""

    def job_done(self, job: Job) -> None:
        """A job reached its last state."""

    def batch(self, size: int) -> None:
        """So many windows were computed together."""

    def queue(self, depth: int) -> None:
        """So many jobs wait now."""

    def first_text(self, kind: str, seconds: float) -> None:
        """The first segment of a job came so long after it was accepted."""


class Unobserved:
    """Counts nothing."""

    def job_done(self, job: Job) -> None:
        """See `Observer`."""

    def batch(self, size: int) -> None:
        """See `Observer`."""

    def queue(self, depth: int) -> None:
        """See `Observer`."""

    def first_text(self, kind: str, seconds: float) -> None:
        """See `Observer`."""
