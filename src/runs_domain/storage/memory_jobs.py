"""The JobQueue and CancelPush ports over dicts, for tests alone."""

from collections.abc import Sequence

from typing_extensions import override

from runs_domain.ids import RunId
from runs_domain.ports import CancelPush, Job, JobKind, JobQueue


class MemoryJobs(JobQueue):
    """`waiting` and `running` are for the test to look at."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, str], Job] = {}
        self.running: dict[tuple[str, str], Job] = {}

    @override
    async def send(self, job: Job) -> bool:
        key = (job.kind, job.id)
        if key in self.waiting or key in self.running:
            return False
        self.waiting[key] = job
        return True

    @override
    async def missing(self, kind: JobKind, ids: Sequence[str]) -> tuple[str, ...]:
        there = self.waiting.keys() | self.running.keys()
        return tuple(one for one in ids if (kind, one) not in there)

    def take(self) -> Job | None:
        """The oldest waiting job, now running."""
        for key in tuple(self.waiting):
            self.running[key] = self.waiting.pop(key)
            return self.running[key]
        return None

    def finish(self, job: Job) -> None:
        del self.running[job.kind, job.id]


class MemoryCancelPush(CancelPush):
    def __init__(self) -> None:
        self.pushed: list[RunId] = []

    @override
    async def push(self, run_id: RunId) -> None:
        self.pushed.append(run_id)
