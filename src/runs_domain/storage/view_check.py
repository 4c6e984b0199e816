"""Views held against the fold of the log, row by row: for checks, and for what a rebuild would do.

One moment of the database is looked at: each view up to its own checkpoint, whatever is appended
and projected meanwhile. Several processes share that moment. Memory does not grow with the log.
"""

from datetime import datetime
from typing import Final

import msgspec

from runs_domain.errors import RunledgerError
from runs_domain.ids import Position
from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret
from runs_domain.storage import run_ranges
from runs_domain.storage.lean_reads import log_end
from runs_domain.storage.long_work import LongConnection, Show, open_session
from runs_domain.storage.postgres_log import READ_SETTINGS
from runs_domain.storage.projection import checkpoints
from runs_domain.storage.rebuild_pool import in_processes
from runs_domain.storage.view_compare import (
    NAME,
    Compared,
    CompareJob,
    Counts,
    Difference,
    compare,
)

_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class CheckFailed(RunledgerError):
    """The message is for operators."""


class CheckJob(msgspec.Struct, frozen=True):
    url: Secret
    secrets: ServerSecrets
    views: tuple[str, ...]
    workers: int
    limit: int
    """Differences of each view that are told one by one."""
    to_the_end: bool = False
    """Fold what comes after the checkpoints too, to see that it can be folded."""
    changed_after: Position | None = None
    """Only runs with an event after it."""


class Checked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One view."""

    name: str
    checkpoint: Position
    log_end: Position
    counts: Counts
    differences: tuple[Difference, ...]
    stopped_position: Position | None = None
    stopped_error: str | None = None
    stopped_at: datetime | None = None

    @property
    def is_beyond_the_end(self) -> bool:
        return self.checkpoint > self.log_end

    @property
    def is_right(self) -> bool:
        """Its rows are, up to where it is: also if it stands still there."""
        return not (self.counts.differing or self.is_beyond_the_end)


class Found(msgspec.Struct, frozen=True):
    views: tuple[Checked, ...]
    faults: tuple[str, ...]
    """Runs that cannot be read or folded, in words; the first of them."""
    faults_count: int
    events: int
    runs: int

    @property
    def is_right(self) -> bool:
        return not self.faults_count and all(view.is_right for view in self.views)


async def check_views(job: CheckJob, show: Show) -> Found:
    """Raises CheckFailed, WorkerFailed, ServerFailed, StoreUnavailable."""
    parameters = {"timezone": "UTC", **READ_SETTINGS}
    async with open_session(job.url, name=NAME, parameters=parameters) as session:
        await session.do(_BEGIN)
        # Before the moment is fixed: a view that was swapped after it would look empty.
        await session.do(f"LOCK TABLE {', '.join(job.views)} IN ACCESS SHARE MODE")
        ((snapshot,),) = await session.fetch("SELECT pg_export_snapshot()")
        return await _check(job, session, snapshot, show)


async def _check(job: CheckJob, session: LongConnection, snapshot: str, show: Show) -> Found:
    end = await log_end(session)
    found = {one.name: one for one in await checkpoints(session)}
    unknown = [name for name in job.views if name not in found]
    if unknown:
        raise CheckFailed(f"no checkpoint of {', '.join(unknown)}: was the database migrated?")
    places = {name: found[name].position for name in job.views}
    if job.changed_after is not None and job.changed_after > end:
        raise CheckFailed(f"position {job.changed_after} is beyond the log's end, which is {end}")
    upto = end if job.to_the_end else min(end, max(places.values()))
    ranges = await run_ranges.plan(session, upto)
    show.phase("compare", total=sum(one.events for one in ranges))
    compared = _Sum(job, show)
    workers = min(job.workers, len(ranges))
    work = CompareJob(
        url=job.url,
        secrets=job.secrets,
        snapshot=snapshot,
        checkpoints=places,
        upto=upto,
        changed_after=None
        if job.changed_after is None
        else min(job.changed_after, *places.values()),
        parts=tuple(ranges[number::workers] for number in range(workers)),
        limit=job.limit,
    )
    await in_processes(compare, work, workers, compared.take)
    views = [
        Checked(
            name=name,
            checkpoint=places[name],
            log_end=end,
            stopped_position=found[name].stopped_position,
            stopped_error=found[name].stopped_error,
            stopped_at=found[name].stopped_at,
            counts=compared.counts[name],
            differences=compared.first(name),
        )
        for name in job.views
    ]
    faults = tuple(compared.faults[: job.limit])
    return Found(tuple(views), faults, compared.faults_count, compared.events, compared.runs)


class _Sum:
    """Of what the processes have found."""

    def __init__(self, job: CheckJob, show: Show) -> None:
        self.counts = {name: Counts() for name in job.views}
        self.faults: list[str] = []
        self.faults_count = self.events = self.runs = 0
        self._differences: dict[str, list[Difference]] = {name: [] for name in job.views}
        self._limit = job.limit
        self._show = show

    def take(self, one: Compared) -> None:
        self.events += one.events
        self.runs += one.runs
        self.faults_count += one.faults_count
        self.faults += one.faults[: self._limit - len(self.faults)]
        for name, counts in one.counts.items():
            self.counts[name] += counts
        for name, some in one.differences.items():
            self._differences[name] = sorted([*self._differences[name], *some], key=_place)
            del self._differences[name][self._limit :]
        self._show.advance(one.events)

    def first(self, name: str) -> tuple[Difference, ...]:
        return tuple(self._differences[name])


def _place(one: Difference) -> tuple[str, ...]:
    return one.key
