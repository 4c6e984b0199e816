"""StreamWorker while Redis moves, hangs or throws single keys away."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.desk import Begun, Desk, working
from tests.support.redis_twins import ACCOUNT, own_valkey, take_as_a_ghost
from tests.support.redis_weather import frozen, full, read_only
from tests.support.waiting import until
from workers import store_pace
from workers.delivery import Delivery
from workers.stack.valkey import Valkey
from workers.stream_worker import StreamWorker


def job(number: int) -> Job:
    return Job(kind="run", id=str(UUID(int=number)), account_id=ACCOUNT)


@pytest.fixture
def other_valkey() -> Iterator[Valkey]:
    with own_valkey() as started:
        yield started


class Address:
    """A socket's path that leads to one server and then to another, as a name in DNS does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"unix://{path}"

    def lead_to(self, valkey: Valkey) -> None:
        new = self._path.with_suffix(".new")
        new.symlink_to(valkey._socket)
        new.replace(self._path)


@pytest.fixture
def address(short_path: Path) -> Address:
    return Address(short_path / "redis")


async def test_after_a_failover_everything_leaves_the_old_server_that_only_reads(
    valkey: Valkey, other_valkey: Valkey, address: Address
) -> None:
    """The leases too: their thread has a connection of its own."""
    address.lead_to(valkey)
    desk = Desk(open_by_default=False)
    new = PipelinedRedis(other_valkey.url())
    async with working(address.url, desk) as worker:
        before = PipelinedRedis(address.url)
        await RedisJobs(before).send(job(1))
        await before.aclose()
        await until(lambda: desk.begun)
        await until(lambda: worker._leases._client.connection_pool._created_connections)
        address.lead_to(other_valkey)
        with read_only(valkey.url()):
            await until(lambda: _has_job(new, 1))
            await RedisJobs(new).send(job(2))
            await until(lambda: len(desk.begun) == 2)
            desk.gates[job(1).id].set()
            desk.gates[job(2).id].set()
            await until(lambda: len(desk.ended) == 2)
            await until(lambda: _is_idle(new))
    await new.aclose()

    assert desk.begun == [Begun(job(1).id), Begun(job(2).id)]


async def test_after_redis_was_away_live_workers_have_a_leases_time_to_renew_first(
    valkey: Valkey,
) -> None:
    """Nobody could renew meanwhile: every lease looks as if it had run out."""
    redis = PipelinedRedis(valkey.url())
    await RedisJobs(redis).send(job(1))
    await take_as_a_ghost(redis)
    await redis.aclose()
    valkey.stop()
    desk, loop = Desk(), asyncio.get_running_loop()
    async with working(valkey.url(), desk, lease_seconds=1.0) as worker:
        await until(lambda: worker.counters.redis_failures)
        back = loop.time()
        valkey.start()
        await until(lambda: desk.begun)
        assert loop.time() - back >= 1.0


async def test_a_worker_that_hangs_on_redis_stops_within_its_graces(valkey: Valkey) -> None:
    desk = Desk(open_by_default=False)
    async with working(valkey.url(), desk, lease_seconds=3.0) as worker:
        redis = PipelinedRedis(valkey.url())
        await RedisJobs(redis).send(job(1))
        await until(lambda: desk.begun)
        await redis.aclose()
        with frozen(valkey.child):
            worker.stop()
            async with asyncio.timeout(15):
                await worker.close()
    assert desk.ended == [(job(1).id, "stopped")]
    assert not worker._leases._thread.is_alive()


async def test_a_worker_that_starts_while_redis_is_full_takes_and_ends_what_waits_there(
    valkey: Valkey,
) -> None:
    """Only sending needs memory."""
    redis, desk = PipelinedRedis(valkey.url()), Desk()
    await RedisJobs(redis).send(job(1))
    with full(valkey.url()):
        async with working(valkey.url(), desk):
            await until(lambda: desk.ended == [(job(1).id, "done")])
            await until(lambda: _is_idle(redis))
    await redis.aclose()


async def test_a_job_held_since_a_wipe_is_held_on_in_a_redis_that_is_full_then(
    valkey: Valkey,
) -> None:
    holder, other = Desk(open_by_default=False), Desk()
    redis = PipelinedRedis(valkey.url())
    async with working(valkey.url(), holder) as worker:
        await RedisJobs(redis).send(job(1))
        await until(lambda: holder.begun)
        await redis.flushall()
        await until(lambda: _has_job(redis, 1))
        async with working(valkey.url(), other):
            with full(valkey.url()):
                last = await redis.zscore(names.JOB_LATER, f"run:{job(1).id}")
                await until(lambda: _is_renewed_since(redis, last + 2_000))
            holder.gates[job(1).id].set()
            await until(lambda: _is_idle(redis))
    await redis.aclose()

    assert worker.counters.leases_lost == 0
    assert other.begun == []


@pytest.mark.parametrize("key", sorted(names.WITHOUT_TTL))
async def test_a_key_that_redis_evicts_alone_costs_no_job_and_doubles_none(
    redis_url: str, redis: PipelinedRedis, key: str
) -> None:
    """A policy that evicts keys without a TTL is a mistake, which costs seconds and no more."""
    jobs, desk = RedisJobs(redis), Desk(open_by_default=False)
    everyone = [job(number) for number in range(1, 6)]
    async with working(redis_url, desk, slots=1):
        for one in everyone[:4]:
            await jobs.send(one)
        await jobs.send(everyone[4], delay_seconds=0.5)
        await until(lambda: desk.begun)
        first = desk.begun[0].id
        await redis.delete(key)
        await until(lambda: _nothing_missing(jobs, first))
        async with working(redis_url, desk, slots=4):

            async def all_begun() -> bool:
                for one in await jobs.missing("run", [one.id for one in everyone]):
                    if one not in {begun.id for begun in desk.begun}:
                        await jobs.send(Job("run", one, ACCOUNT, "resent"))
                return len({begun.id for begun in desk.begun}) == len(everyone)

            await until(all_begun)
            for one in everyone:
                desk.gates[one.id].set()
            await until(lambda: _is_idle(redis))

    assert sorted(begun.id for begun in desk.begun) == [one.id for one in everyone]
    assert sorted(desk.ended) == [(one.id, "done") for one in everyone]


async def test_while_postgresql_is_away_what_waits_is_not_begun_for_nothing(
    redis_url: str, redis: PipelinedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker began, and gave back, a thousand jobs a second, until the queue had gone round."""
    monkeypatch.setattr(store_pace, "STORE_AWAY_SECONDS", 3600.0)
    begun: list[str] = []
    away = True

    async def run(_ctx: object, job: Job, _delivery: Delivery) -> bool:
        begun.append(job.id)
        if away:
            raise StoreUnavailable
        return True

    for number in range(50):
        await RedisJobs(redis).send(job(number))
    worker = StreamWorker(redis_url, {"run": run}, slots=4, lease_seconds=1.0, handle_signals=False)
    serving = asyncio.create_task(worker.serve())
    try:
        await until(lambda: len(begun) == 4 and not worker._running)
        for _ in range(2):
            swept = await redis.hget(names.JOB_TURNS, "shares")
            await until(lambda swept=swept: _has_swept_since(redis, swept))
        assert len(begun) == 4

        worker._pace._next_try = 0.0
        await until(lambda: len(begun) == 5 and not worker._running)
        away = False
        worker._pace._next_try = 0.0
        await until(lambda: set(begun) == {job(number).id for number in range(50)})
    finally:
        worker.stop()
        await serving


async def _has_swept_since(redis: PipelinedRedis, swept: bytes | None) -> bool:
    return bool(await redis.hget(names.JOB_TURNS, "shares") != swept)


async def _is_renewed_since(redis: PipelinedRedis, ms: float) -> bool:
    score = await redis.zscore(names.JOB_LATER, f"run:{job(1).id}")
    return score is not None and score > ms


async def _nothing_missing(jobs: RedisJobs, *ids: str) -> bool:
    return await jobs.missing("run", ids) == ()


async def _has_job(redis: PipelinedRedis, number: int) -> bool:
    return await RedisJobs(redis).missing("run", [job(number).id]) == ()


async def _is_idle(redis: PipelinedRedis) -> bool:
    return await redis.xlen(names.JOB_STREAM) == 0 and not await redis.exists(names.JOB_INDEX)
