"""Whose turn it is: jobs that wait, one user after the other, and of each user the oldest first."""

from collections import deque
from collections.abc import Callable

from zhiyin.serve.job import Job


class Waiting:
    """A queue that is fair between users; not for several threads."""

    def __init__(self) -> None:
        self._of_user: dict[str, deque[Job]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return sum(map(len, self._of_user.values()))

    def add(self, job: Job) -> None:
        """Put a job at its place by age among those of its user."""
        jobs = self._of_user.setdefault(job.user, deque())
        later = 0
        while later < len(jobs) and jobs[-1 - later].id > job.id:
            later += 1
        jobs.insert(len(jobs) - later, job)

    def take(self, may: Callable[[Job], bool]) -> Job | None:
        """The next job, of the first user whose oldest job may begin; his next turn comes after all others'."""
        for user, jobs in self._of_user.items():
            if may(jobs[0]):
                job = jobs.popleft()
                del self._of_user[user]
                if jobs:
                    self._of_user[user] = jobs
                return job
        return None

    def remove(self, id: str) -> bool:
        """Take a job out; whether it was there."""
        for user, jobs in self._of_user.items():
            for job in jobs:
                if job.id == id:
                    jobs.remove(job)
                    if not jobs:
                        del self._of_user[user]
                    return True
        return False
