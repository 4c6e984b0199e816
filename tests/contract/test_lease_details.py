"""Details of Redis streams that other queues tripped over, on fakeredis and on a real Valkey."""

import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_deliveries import RENEW, Entry, JobDeliveries
from runs_domain.storage.redis_jobs import JOB_KEYS, RedisJobs
from runs_domain.storage.redis_lane import Lane
from tests.support.redis_twins import KINDS, RUN, redis_of, take_as_a_ghost

LIVE = "live"
LEASE_MS = 3000
MANY = 60
"""More than ten times what one reclaim asks for: XAUTOCLAIM would see none of the dead."""


@pytest.fixture(params=KINDS)
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client:
        yield client


def job(number: int) -> Job:
    return Job(kind="run", id=f"job-{number:03}", account_id=f"account-{number}")


async def test_a_dead_workers_entry_is_found_behind_many_live_ones(redis: Redis) -> None:
    for number in range(MANY):
        await RedisJobs(redis).send(job(number))
    await redis.xreadgroup(names.GROUP, LIVE, {names.JOB_STREAM: ">"}, count=MANY - 1)
    (dead,) = await take_as_a_ghost(redis)

    taken = await _deliveries(redis, "heir").reclaim(1, [])

    assert [entry.ticket for entry in taken] == [dead]


async def test_renewing_is_no_delivery_and_takes_nothing_back(redis: Redis) -> None:
    """A bare XCLAIM raises the delivery count, and takes an entry from its new owner."""
    await RedisJobs(redis).send(job(1))
    await redis.xreadgroup(names.GROUP, LIVE, {names.JOB_STREAM: ">"})
    ((ticket, _),) = await redis.xrange(names.JOB_STREAM)
    for _ in range(3):
        assert await _renew(redis, LIVE, ticket) == []
    (row,) = await redis.xpending_range(names.JOB_STREAM, names.GROUP, "-", "+", 10)
    assert (row["consumer"], row["times_delivered"]) == (LIVE.encode(), 1)

    await redis.xclaim(names.JOB_STREAM, names.GROUP, "heir", 0, [ticket])
    assert await _renew(redis, LIVE, ticket) == [ticket]
    (row,) = await redis.xpending_range(names.JOB_STREAM, names.GROUP, "-", "+", 10)
    assert row["consumer"] == b"heir"


async def test_only_entries_that_are_still_ours_are_confirmed(redis: Redis) -> None:
    await RedisJobs(redis).send(job(1))
    await RedisJobs(redis).send(job(2))
    reply = await redis.xreadgroup(names.GROUP, LIVE, {names.JOB_STREAM: ">"})
    gone, ours = [Entry(ticket.decode(), fields) for ticket, fields in reply[0][1]]
    await redis.xclaim(names.JOB_STREAM, names.GROUP, "heir", 0, [gone.ticket])

    assert await _deliveries(redis, LIVE).confirm([gone, ours]) == [ours]


def test_keys_that_one_script_touches_lie_in_one_slot_of_a_cluster() -> None:
    of_jobs = [*JOB_KEYS, *names.WITHOUT_TTL, names.cron_lock("tick"), names.health("consumer")]
    of_run = [names.chunk_state(RUN), names.chunk_frames(RUN)]

    for keys in (of_jobs, of_run):
        assert len({key_slot(key.encode()) for key in keys}) == 1, keys


async def _renew(redis: Redis, consumer: str, ticket: bytes) -> list[bytes]:
    fields = {"kind": "run", "id": job(1).id, "account": job(1).account_id, "cause": "resent"}
    data = json.dumps({**fields, "retries": "0"})
    args = (names.GROUP, consumer, LEASE_MS, ticket, data)
    return list(await RENEW(redis, JOB_KEYS, args))


def _deliveries(redis: Redis, consumer: str) -> JobDeliveries:
    """Without a connection for blocking reads, which these tests do not make."""
    return JobDeliveries(redis, Lane("redis://localhost:1"), consumer, lease_seconds=LEASE_MS / 1e3)
