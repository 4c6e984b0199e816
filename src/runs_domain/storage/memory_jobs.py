"""The JobQueue and CancelPush ports over dicts, for tests alone."""

from collections.abc import Sequence

from typing_extensions import override

from runs_domain.ids import RunId
from runs_domain.ports import CancelPush, Job, JobKind, JobQueue, checked_delay_ms


class MemoryJobs(JobQueue):
    """`waiting`, `delayed` and `running` are for the test to look at; `due` lets time pass."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, str], Job] = {}
        self.delayed: dict[tuple[str, str], Job] = {}
        self.running: dict[tuple[str, str], Job] = {}

    @override
    async def send(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        is_delayed = checked_delay_ms(delay_seconds) > 0
        key = (job.kind, job.id)
        if key in self._there():
            return False
        (self.delayed if is_delayed else self.waiting)[key] = job
        return True

    @override
    async def cancel(self, kind: JobKind, job_id: str) -> bool:
        key = (kind, job_id)
        return (self.waiting.pop(key, None) or self.delayed.pop(key, None)) is not None

    @override
    async def hasten(self, kind: JobKind, job_id: str) -> bool:
        job = self.delayed.pop((kind, job_id), None)
        if job is not None:
            self.waiting[kind, job_id] = job
        return job is not None

    @override
    async def missing(self, kind: JobKind, ids: Sequence[str]) -> tuple[str, ...]:
        there = self._there()
        return tuple(one for one in ids if (kind, one) not in there)

    def _there(self) -> set[tuple[str, str]]:
        return {*self.waiting, *self.delayed, *self.running}

    def due(self) -> None:
        """Every delayed job is due now."""
        self.waiting |= self.delayed
        self.delayed = {}

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
