"""How a job leaves its worker while its lease is still being renewed beside."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from runs_domain.errors import QueueUnavailable
from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.crash_points import replaced
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_deliveries import JobDeliveries
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.desk import Desk, working
from tests.support.redis_twins import ACCOUNT
from tests.support.waiting import until
from workers.stream_worker import StreamWorker

JOB = Job(kind="run", id=str(UUID(int=1)), account_id=ACCOUNT)
HEIR = "heir"
LONG_AGO_MS = 3_600_000
RARELY_SECONDS = 600.0
"""A lease that its thread does not renew within a test: the test renews by hand."""

Finish = Callable[[], Awaitable[bool]]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[PipelinedRedis]:
    client = PipelinedRedis(redis_url)
    yield client
    await client.aclose()


class Ending:
    """What is told to Redis of an ended job goes through `finish`, which a test writes."""

    def __init__(self, url: str) -> None:
        self.desk = Desk()
        self.calls = 0
        self.tell: Callable[[int, str, Finish], Awaitable[bool]] | None = None
        self._url = url
        self._worker: StreamWorker | None = None

    @asynccontextmanager
    async def working(self) -> AsyncIterator[StreamWorker]:
        def wrap(deliveries: JobDeliveries) -> JobDeliveries:
            async def finish(ticket: str, key: str) -> bool:
                self.calls += 1
                assert self.tell is not None
                return await self.tell(self.calls, ticket, lambda: deliveries.finish(ticket, key))

            return replaced(deliveries, finish=finish)

        options = {"lease_seconds": RARELY_SECONDS, "wrap": wrap}
        async with working(self._url, self.desk, **options) as self._worker:
            yield self._worker

    async def renew(self) -> None:
        """As the thread does it; whatever it reports has reached the loop afterwards."""
        assert self._worker is not None
        await asyncio.to_thread(self._worker._leases._renew)
        await asyncio.sleep(0)  # noqa: TID251 - gives way, does not wait


@pytest.fixture
def ending(redis_url: str) -> Ending:
    return Ending(redis_url)


async def test_a_renewal_between_the_end_of_a_job_and_its_receipt_is_no_lost_lease(
    redis: PipelinedRedis, ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    """On a busy loop the reply waits in the socket while the thread finds the entry gone."""

    async def tell(_nth: int, _ticket: str, finish: Finish) -> bool:
        ours = await finish()
        await ending.renew()
        return ours

    ending.tell = tell
    with caplog.at_level(logging.WARNING):
        async with ending.working() as worker:
            await RedisJobs(redis).send(JOB)
            await until(lambda: worker.jobs_complete == 1 and not worker._running)

    assert (worker.counters.finished, worker.counters.leases_lost) == (1, 0)
    assert ending.calls == 1
    assert "lease" not in caplog.text
    assert "not ours" not in caplog.text


async def test_while_the_end_of_a_job_cannot_be_told_its_lease_is_renewed_on(
    redis: PipelinedRedis, ending: Ending
) -> None:
    idle_ms: list[int] = []

    async def tell(nth: int, ticket: str, finish: Finish) -> bool:
        if nth > 2:
            return await finish()
        await _claim(redis, ticket, worker.consumer)
        await ending.renew()
        (row,) = await redis.xpending_range(names.JOB_STREAM, names.GROUP, "-", "+", 10)
        idle_ms.append(row["time_since_delivered"])
        raise QueueUnavailable("finish: no answer")

    ending.tell = tell
    async with ending.working() as worker:
        await RedisJobs(redis).send(JOB)
        await until(lambda: ending.calls == 3 and not worker._running)

    assert len(idle_ms) == 2
    assert max(idle_ms) < LONG_AGO_MS
    assert worker.counters.leases_lost == 0
    assert await redis.xlen(names.JOB_STREAM) == 0


async def test_a_job_whose_lease_is_lost_while_its_end_cannot_be_told_is_left_alone(
    redis: PipelinedRedis, ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    async def tell(_nth: int, ticket: str, _finish: Finish) -> bool:
        await _claim(redis, ticket, HEIR, idle_ms=0)
        await ending.renew()
        raise QueueUnavailable("finish: no answer")

    ending.tell = tell
    with caplog.at_level(logging.WARNING):
        async with ending.working() as worker:
            await RedisJobs(redis).send(JOB)
            await until(lambda: ending.calls and not worker._running)

    assert ending.calls == 1
    assert "not ours" in caplog.text
    (row,) = await redis.xpending_range(names.JOB_STREAM, names.GROUP, "-", "+", 10)
    assert row["consumer"] == HEIR.encode()


async def test_an_ended_job_that_was_another_workers_by_then_counts_as_a_lost_lease(
    redis: PipelinedRedis, ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    async def tell(_nth: int, ticket: str, finish: Finish) -> bool:
        await _claim(redis, ticket, HEIR, idle_ms=0)
        return await finish()

    ending.tell = tell
    with caplog.at_level(logging.WARNING):
        async with ending.working() as worker:
            await RedisJobs(redis).send(JOB)
            await until(lambda: ending.calls and not worker._running)

    assert worker.counters.leases_lost == 1
    assert "not ours" in caplog.text


async def _claim(
    redis: PipelinedRedis, ticket: str, consumer: str, *, idle_ms: int = LONG_AGO_MS
) -> None:
    await redis.xclaim(
        names.JOB_STREAM, names.GROUP, consumer, 0, [ticket], idle=idle_ms, justid=True
    )
