"""What a job's faults come to: told on without their text, counted, and weather is none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from runs_domain.errors import QueueUnavailable, SandboxUnavailable, StoreUnavailable
from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.redis_twins import ACCOUNT
from tests.support.waiting import until
from workers import job_entry, store_pace
from workers.delivery import Cause, Delivery, JobFunction, NotForThisWorker
from workers.stream_worker import StreamWorker

JOB = Job(kind="run", id=str(UUID(int=1)), account_id=ACCOUNT)
CANARY = "canary text of an error"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_entry, "RETRY_SECONDS_MIN", 0.01)
    monkeypatch.setattr(job_entry, "RETRY_SECONDS_MAX", 0.01)
    monkeypatch.setattr(job_entry, "WEATHER_SECONDS", 0.01)
    monkeypatch.setattr(store_pace, "STORE_AWAY_SECONDS", 0.01)


@asynccontextmanager
async def serving(redis_url: str, run: JobFunction, **options: Any) -> AsyncIterator[StreamWorker]:
    worker = StreamWorker(
        redis_url, {"run": run}, handle_signals=False, lease_seconds=1.0, **options
    )
    task = asyncio.create_task(worker.serve())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def test_invariant_6_a_retried_job_tells_the_class_and_place_of_what_broke_it(
    redis_url: str, redis: PipelinedRedis
) -> None:
    told: list[str] = []
    entries: list[bytes] = []

    async def run(_ctx: object, _job: Job, delivery: Delivery) -> bool:
        told.append(delivery.last_error)
        entries.append(repr(await redis.xrange(names.JOB_STREAM)).encode())
        if len(told) < 3:
            raise RuntimeError(CANARY)
        return True

    async with serving(redis_url, run) as worker:
        await RedisJobs(redis).send(JOB)
        await until(lambda: worker.jobs_complete == 1)

    assert told[0] == ""
    for later in told[1:]:
        assert later.startswith("RuntimeError at test_job_faults.py:")
        assert later.endswith(" in run")
    assert told[1].encode() in entries[1]
    assert not any(CANARY.encode() in entry for entry in entries)


@pytest.mark.parametrize("weather", [StoreUnavailable, QueueUnavailable, SandboxUnavailable])
async def test_a_server_that_is_away_uses_up_no_try_however_long_it_is(
    redis_url: str, redis: PipelinedRedis, weather: type[Exception]
) -> None:
    told: list[tuple[str, int, str]] = []

    async def run(_ctx: object, _job: Job, delivery: Delivery) -> bool:
        told.append((delivery.cause, delivery.retries, delivery.last_error))
        if len(told) == 1:
            raise RuntimeError(CANARY)
        if len(told) < 40:
            raise weather(CANARY)
        return True

    async with serving(redis_url, run) as worker:
        await RedisJobs(redis).send(JOB)
        await until(lambda: worker.jobs_complete == 1)

    assert told[1][:2] == ("resent", 1)
    assert {(cause, retries) for cause, retries, _ in told[2:]} == {("handover", 1)}
    assert {error.split()[0] for _, _, error in told[1:]} == {"RuntimeError"}


@pytest.mark.parametrize("cause", ["fresh", "handover"])
async def test_a_job_that_is_not_for_this_worker_goes_back_as_it_came_after_a_pause(
    redis_url: str, redis: PipelinedRedis, cause: Cause, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, bool, int]] = []

    async def run(_ctx: object, _job: Job, delivery: Delivery) -> bool:
        told.append((delivery.cause, delivery.redelivered, delivery.retries))
        if len(told) < 5:
            raise NotForThisWorker("no adapter")
        return True

    async with serving(redis_url, run) as worker:
        await RedisJobs(redis).send(replace(JOB, cause=cause))
        await until(lambda: worker.jobs_complete == 1)

    assert set(told) == {(cause, False, 0)}
    assert (worker.counters.unfit, worker.counters.retried) == (4, 0)
    assert "no adapter" in caplog.text


async def test_a_job_that_is_not_for_this_worker_waits_and_does_not_spin(
    redis_url: str, redis: PipelinedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_entry, "WEATHER_SECONDS", 3600.0)
    begun = 0

    async def run(_ctx: object, _job: Job, _delivery: Delivery) -> bool:
        nonlocal begun
        begun += 1
        raise NotForThisWorker("no adapter")

    async with serving(redis_url, run) as worker:
        await RedisJobs(redis).send(JOB)
        await until(lambda: begun and not worker._running)
        due_ms = await redis.zscore(names.JOB_LATER, f"run:{JOB.id}")

    now_s, _ = await redis.time()
    assert due_ms is not None
    assert due_ms > (now_s + 3000) * 1000
    assert begun == 1
