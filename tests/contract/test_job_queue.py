"""The JobQueue port behaves the same in memory, on fakeredis and on a real Valkey."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from runs_domain.ports import JOB_DELAY_SECONDS_MAX, Job, JobQueue
from runs_domain.storage import redis_names as names
from runs_domain.storage.memory_jobs import MemoryJobs
from runs_domain.storage.redis_deliveries import JobDeliveries
from runs_domain.storage.redis_jobs import IDS_PER_CALL_MAX, RedisJobs
from runs_domain.storage.redis_lane import Lane
from tests.support.redis_twins import ACCOUNT, GHOST, KINDS, redis_of

A = Job(kind="run", id="a", account_id=ACCOUNT)
B = Job(kind="run", id="b", account_id=ACCOUNT, cause="resent")


@pytest.fixture(params=KINDS)
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client:
        yield client


@pytest.fixture(params=("memory", *KINDS))
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[JobQueue]:
    if request.param == "memory":
        yield MemoryJobs()
        return
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client:
        yield RedisJobs(client)


async def test_a_job_is_sent_once(queue: JobQueue) -> None:
    assert await queue.send(A) is True
    assert await queue.send(A) is False


async def test_the_cause_makes_no_second_job(queue: JobQueue) -> None:
    assert await queue.send(Job(kind="run", id="b", account_id=ACCOUNT)) is True
    assert await queue.send(B) is False


async def test_missing_are_those_without_a_job(queue: JobQueue) -> None:
    await queue.send(B)

    assert await queue.missing("run", ["a", "b", "c"]) == ("a", "c")


async def test_nothing_is_missing_of_nothing(queue: JobQueue) -> None:
    assert await queue.missing("run", []) == ()


async def test_missing_takes_more_ids_than_one_call_does(queue: JobQueue) -> None:
    await queue.send(A)
    ids = [f"id-{number}" for number in range(IDS_PER_CALL_MAX + 1)]

    assert await queue.missing("run", [*ids, "a"]) == tuple(ids)


async def test_an_entry_tells_how_often_it_was_taken_and_renewals_do_not_count(
    redis: Redis,
) -> None:
    await RedisJobs(redis).send(A)
    ticket = await _deliver(redis, "one")
    for times in (2, 3):
        await redis.xclaim(names.JOB_STREAM, names.GROUP, GHOST, 0, [ticket], justid=True)
        await redis.xclaim(
            names.JOB_STREAM, names.GROUP, GHOST, 0, [ticket], idle=3_600_000, justid=True
        )
        (entry,) = await _deliveries(redis, "two").reclaim(10, [])
        assert (entry.ticket, entry.times_taken) == (ticket, times)


async def test_a_delayed_job_is_there_and_not_sent_again(queue: JobQueue) -> None:
    assert await queue.send(A, delay_seconds=60.0) is True

    assert await queue.send(A) is False
    assert await queue.missing("run", ["a"]) == ()


@pytest.mark.parametrize("seconds", [-0.1, JOB_DELAY_SECONDS_MAX + 1, float("nan")])
async def test_a_delay_has_limits(queue: JobQueue, seconds: float) -> None:
    with pytest.raises(ValueError, match="delayed by 0 to"):
        await queue.send(A, delay_seconds=seconds)


@pytest.mark.parametrize("delay_seconds", [0.0, 60.0])
async def test_a_job_that_nobody_has_begun_can_be_cancelled_once(
    queue: JobQueue, delay_seconds: float
) -> None:
    await queue.send(A, delay_seconds=delay_seconds)

    assert await queue.cancel("run", "a") is True
    assert await queue.cancel("run", "a") is False
    assert await queue.missing("run", ["a"]) == ("a",)


async def test_there_is_nothing_to_cancel_or_hasten_where_nothing_is(queue: JobQueue) -> None:
    assert await queue.cancel("run", "a") is False
    assert await queue.hasten("run", "a") is False


@pytest.mark.parametrize("delay_seconds", [0.0, 60.0])
async def test_arq_485_a_cancelled_job_does_not_poison_the_next_one_of_its_id(
    queue: JobQueue, delay_seconds: float
) -> None:
    await queue.send(A, delay_seconds=delay_seconds)
    await queue.cancel("run", "a")

    assert await queue.send(A) is True
    assert await _taken(queue) == ["a"]
    assert await _taken(queue) == []


async def test_a_running_job_is_not_cancelled_here(queue: JobQueue) -> None:
    await queue.send(A)
    assert await _taken(queue) == ["a"]

    assert await queue.cancel("run", "a") is False
    assert await queue.missing("run", ["a"]) == ()


async def test_a_hastened_job_is_due_now(queue: JobQueue) -> None:
    await queue.send(A, delay_seconds=3600.0)
    assert await _taken(queue) == []

    assert await queue.hasten("run", "a") is True
    assert await _taken(queue) == ["a"]
    assert await queue.hasten("run", "a") is False


async def test_only_delayed_jobs_are_hastened(queue: JobQueue) -> None:
    await queue.send(A)

    assert await queue.hasten("run", "a") is False
    assert await _taken(queue) == ["a"]


async def test_a_job_that_waits_to_be_tried_again_can_be_hastened(redis: Redis) -> None:
    jobs, one = RedisJobs(redis), _deliveries(redis, "one")
    await jobs.send(A)
    await one.requeue(await _deliver(redis, "one"), A, retries=3, delay_ms=30_000)

    assert await jobs.hasten("run", "a") is True

    ((_, fields),) = await redis.xrange(names.JOB_STREAM)
    assert fields[b"retries"] == b"3"


async def test_an_entry_says_kind_id_account_and_cause(redis: Redis) -> None:
    await RedisJobs(redis).send(B)

    ((_, fields),) = await redis.xrange(names.JOB_STREAM)
    assert fields == {
        b"kind": b"run",
        b"id": b"b",
        b"account": ACCOUNT.encode(),
        b"cause": b"resent",
        b"retries": b"0",
        b"error": b"",
    }


async def test_what_was_sent_before_the_first_worker_came_is_read(redis: Redis) -> None:
    await RedisJobs(redis).send(A)

    groups = await redis.xinfo_groups(names.JOB_STREAM)
    assert [group["last-delivered-id"] for group in groups] == [b"0-0"]


async def test_a_job_whose_entry_is_gone_is_missing_and_can_be_sent_again(redis: Redis) -> None:
    jobs = RedisJobs(redis)
    await jobs.send(A)
    await redis.delete(names.JOB_STREAM)

    assert await jobs.missing("run", ["a"]) == ("a",)
    assert await jobs.send(A) is True
    assert await jobs.missing("run", ["a"]) == ()


async def test_a_job_that_went_with_a_deleted_consumer_is_missing(redis: Redis) -> None:
    """XGROUP DELCONSUMER drops what is pending: nobody would ever get the entry again."""
    jobs = RedisJobs(redis)
    await jobs.send(A)
    await redis.xreadgroup(names.GROUP, "ghost", {names.JOB_STREAM: ">"})
    await redis.xgroup_delconsumer(names.JOB_STREAM, names.GROUP, "ghost")

    assert await jobs.missing("run", ["a"]) == ("a",)
    assert await jobs.send(A) is True
    assert await redis.xlen(names.JOB_STREAM) == 1


async def test_only_unfinished_jobs_take_space(redis: Redis) -> None:
    jobs = RedisJobs(redis)
    await jobs.send(A)
    ticket = await _deliver(redis, "one")

    assert await _deliveries(redis, "one").finish(ticket, "run:a") is True

    assert await redis.xlen(names.JOB_STREAM) == 0
    assert await redis.hlen(names.JOB_INDEX) == 0
    assert await jobs.missing("run", ["a"]) == ("a",)


async def test_only_its_owner_finishes_a_job(redis: Redis) -> None:
    await RedisJobs(redis).send(A)
    ticket = await _deliver(redis, "one")

    assert await _deliveries(redis, "two").finish(ticket, "run:a") is False

    assert await RedisJobs(redis).missing("run", ["a"]) == ()


async def test_only_its_owner_gives_a_job_back(redis: Redis) -> None:
    await RedisJobs(redis).send(A)
    ticket = await _deliver(redis, "one")

    assert await _deliveries(redis, "two").requeue(ticket, A, retries=0) is False

    assert await redis.xlen(names.JOB_STREAM) == 1


async def test_a_job_given_back_is_one_new_entry(redis: Redis) -> None:
    await RedisJobs(redis).send(A)
    ticket = await _deliver(redis, "one")
    handover = Job(kind="run", id="a", account_id=ACCOUNT, cause="handover")

    assert await _deliveries(redis, "one").requeue(ticket, handover, retries=2) is True

    ((new_ticket, fields),) = await redis.xrange(names.JOB_STREAM)
    assert new_ticket.decode() != ticket
    assert (fields[b"cause"], fields[b"retries"]) == (b"handover", b"2")
    assert (await redis.xpending(names.JOB_STREAM, names.GROUP))["pending"] == 0


async def test_a_delayed_job_is_there_but_not_in_the_stream_until_it_is_due(redis: Redis) -> None:
    jobs = RedisJobs(redis)
    await jobs.send(A)
    one = _deliveries(redis, "one")
    await one.requeue(await _deliver(redis, "one"), A, retries=1, delay_ms=60_000)

    assert await jobs.send(A) is False
    assert await jobs.missing("run", ["a"]) == ()
    await one.reclaim(10, [])
    assert await redis.xlen(names.JOB_STREAM) == 0

    await redis.zadd(names.JOB_LATER, {"run:a": 1})
    await one.reclaim(10, [])
    assert await redis.xlen(names.JOB_STREAM) == 1
    assert await redis.zcard(names.JOB_LATER) == 0
    assert await redis.hlen(names.JOB_LATER_DATA) == 0


async def test_a_live_lease_is_not_reclaimed(redis: Redis) -> None:
    await RedisJobs(redis).send(A)
    await _deliver(redis, "one")

    assert await _deliveries(redis, "two").reclaim(10, []) == []


async def test_a_lease_that_ran_out_is_reclaimed_once(redis: Redis) -> None:
    await RedisJobs(redis).send(A)
    ticket = await _deliver(redis, "one")
    await _age(redis, ticket, "one")

    taken = await _deliveries(redis, "two").reclaim(10, [])
    again = await _deliveries(redis, "three").reclaim(10, [])

    assert [(entry.ticket, entry.key) for entry in taken] == [(ticket, "run:a")]
    assert again == []


async def test_a_worker_never_reclaims_what_it_runs(redis: Redis) -> None:
    """Also when a late renewal let the lease run out, and however little it may take."""
    jobs = RedisJobs(redis)
    await jobs.send(A)
    await jobs.send(B)
    running = await _deliver(redis, "one")
    other = await _deliver(redis, "ghost")
    await _age(redis, running, "one")
    await _age(redis, other, "ghost")

    taken = await _deliveries(redis, "one").reclaim(1, [running])

    assert [entry.ticket for entry in taken] == [other]


async def test_a_consumer_with_pending_jobs_is_never_deleted(redis: Redis) -> None:
    await RedisJobs(redis).send(A)
    ticket = await _deliver(redis, "one")
    one = _deliveries(redis, "one")

    await one.leave()
    assert len(await redis.xinfo_consumers(names.JOB_STREAM, names.GROUP)) == 1

    await one.finish(ticket, "run:a")
    await one.leave()
    assert await redis.xinfo_consumers(names.JOB_STREAM, names.GROUP) == []


async def _taken(queue: JobQueue) -> list[str]:
    """Ids of all that a worker gets now."""
    if isinstance(queue, MemoryJobs):
        return [job.id for job in iter(queue.take, None)]
    assert isinstance(queue, RedisJobs)
    reply = await queue._redis.xreadgroup(names.GROUP, "one", {names.JOB_STREAM: ">"})
    return [fields[b"id"].decode() for _, fields in reply[0][1]] if reply else []


def _deliveries(redis: Redis, consumer: str) -> JobDeliveries:
    """Without a connection for blocking reads, which these tests do not make."""
    return JobDeliveries(redis, Lane("redis://localhost:1"), consumer, lease_seconds=3.0)


async def _deliver(redis: Redis, consumer: str) -> str:
    reply = await redis.xreadgroup(names.GROUP, consumer, {names.JOB_STREAM: ">"}, count=1)
    return str(reply[0][1][0][0].decode())


async def _age(redis: Redis, ticket: str, owner: str) -> None:
    """Let the entry's lease be over, as if its owner had been dead for a while."""
    await redis.xclaim(
        names.JOB_STREAM, names.GROUP, owner, 0, [ticket], idle=3_600_000, justid=True
    )
