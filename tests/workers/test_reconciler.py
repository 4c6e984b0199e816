"""The reconciler: every open run has a job, whatever was lost on the way."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from typing_extensions import override

from runs_domain.errors import QueueUnavailable, StoreUnavailable
from runs_domain.ids import RunId
from runs_domain.ports import Head, Job, JobKind
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.memory_jobs import MemoryJobs
from tests.support.driving import SECRETS, TestClock
from tests.support.log_streams import Run
from workers import reconciler
from workers.reconciler import RECONCILE_SECONDS, RESEND_GRACE_SECONDS, Reconciler, reconcile_cron

RUN_WITHOUT_JOB_SECONDS_MAX = 10.0
"""Issue 3's bound."""


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def log(clock: TestClock) -> MemoryEventLog:
    return MemoryEventLog(SECRETS, clock)


async def settled_runs(log: MemoryEventLog, clock: TestClock, count: int) -> list[Run]:
    runs = [Run(log) for _ in range(count)]
    for run in runs:
        await run.do(run.request())
    await clock.sleep(RESEND_GRACE_SECONDS)
    return runs


def ids(jobs: MemoryJobs) -> set[str]:
    return {job.id for job in jobs.waiting.values()}


async def test_invariant_1_a_run_whose_job_was_lost_is_sent_again(
    log: MemoryEventLog, clock: TestClock
) -> None:
    (run,) = await settled_runs(log, clock, 1)
    jobs = MemoryJobs()

    await Reconciler(log, jobs).tick()

    assert list(jobs.waiting.values()) == [
        Job(kind="run", id=str(run.run_id), account_id=str(run.account_id), cause="resent")
    ]


async def test_a_run_that_has_a_job_is_left_alone(log: MemoryEventLog, clock: TestClock) -> None:
    queued, running = await settled_runs(log, clock, 2)
    jobs = MemoryJobs()
    for run in (running, queued):
        await jobs.send(Job(kind="run", id=str(run.run_id), account_id=str(run.account_id)))
    jobs.take()
    subject = Reconciler(log, jobs)

    await subject.tick()

    assert subject.counters.resent == 0


async def test_a_run_that_was_just_appended_to_is_given_time(
    log: MemoryEventLog, clock: TestClock
) -> None:
    run = Run(log)
    await run.do(run.request())
    jobs = MemoryJobs()
    subject = Reconciler(log, jobs)

    await subject.tick()
    assert ids(jobs) == set()

    await clock.sleep(RESEND_GRACE_SECONDS)
    await subject.tick()
    assert len(ids(jobs)) == 1


def test_grace_and_two_ticks_are_within_the_bound() -> None:
    assert RESEND_GRACE_SECONDS + 2 * RECONCILE_SECONDS < RUN_WITHOUT_JOB_SECONDS_MAX


async def test_many_reconcilers_at_once_send_a_run_once(
    log: MemoryEventLog, clock: TestClock
) -> None:
    await settled_runs(log, clock, 20)
    jobs = MemoryJobs()
    subjects = [Reconciler(log, jobs) for _ in range(5)]

    await asyncio.gather(*(subject.tick() for subject in subjects))

    assert len(jobs.waiting) == 20
    assert sum(subject.counters.resent for subject in subjects) == 20


async def test_all_pages_are_looked_at_and_a_long_list_goes_on_at_the_next_tick(
    log: MemoryEventLog, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PAGE_HEADS_MAX", 2)
    monkeypatch.setattr(reconciler, "TICK_PAGES_MAX", 3)
    await settled_runs(log, clock, 8)
    jobs = MemoryJobs()
    subject = Reconciler(log, jobs)

    await subject.tick()
    assert len(jobs.waiting) == 6

    await subject.tick()
    assert len(jobs.waiting) == 8

    jobs.waiting.clear()
    await subject.tick()
    assert len(jobs.waiting) == 6


class _AwayLog(MemoryEventLog):
    @override
    async def open_heads(
        self, *, limit: int, after: RunId | None = None, min_age_seconds: float = 0.0
    ) -> tuple[Head, ...]:
        raise StoreUnavailable("PostgreSQL is away")


class _AwayJobs(MemoryJobs):
    @override
    async def missing(self, kind: JobKind, ids: Sequence[str]) -> tuple[str, ...]:
        raise QueueUnavailable("Redis is away")


async def test_a_store_that_is_away_is_counted_and_asked_again(clock: TestClock) -> None:
    subject = Reconciler(_AwayLog(SECRETS, clock), MemoryJobs())

    await subject.tick()
    await subject.tick()

    assert (subject.counters.ticks, subject.counters.failed_ticks) == (2, 2)


async def test_a_queue_that_is_away_is_counted_and_asked_again(
    log: MemoryEventLog, clock: TestClock
) -> None:
    await settled_runs(log, clock, 1)
    subject = Reconciler(log, _AwayJobs())

    await subject.tick()

    assert subject.counters.failed_ticks == 1


async def test_the_cron_job_is_named_and_due_every_few_seconds(
    log: MemoryEventLog, clock: TestClock
) -> None:
    job = reconcile_cron(Reconciler(log, MemoryJobs()))
    job.calculate_next(clock.now())
    first = job.next_run
    assert first is not None
    job.calculate_next(first)

    assert job.name == "reconcile"
    assert job.next_run == first + timedelta(seconds=RECONCILE_SECONDS)
