"""StreamWorker on a real Valkey: dispatch, leases, retries, hand-over, weather."""

import asyncio
import logging
import re
from uuid import UUID

import pytest
from arq.cron import cron

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.desk import Begun, Desk, working
from tests.support.redis_twins import ACCOUNT
from tests.support.waiting import until
from workers import job_entry, stream_worker
from workers.stack.valkey import Valkey
from workers.stream_worker import StreamWorker

GHOST = "ghost"


def job(number: int, cause: str = "fresh") -> Job:
    return Job(kind="run", id=str(UUID(int=number)), account_id=ACCOUNT, cause=cause)  # type: ignore[arg-type]


@pytest.fixture
def jobs(redis: PipelinedRedis) -> RedisJobs:
    return RedisJobs(redis)


# ------------------------------------------------------------------------------ dispatch


async def test_a_job_runs_once_and_leaves_nothing_but_the_group_and_its_counts(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk = Desk()
    async with working(redis_url, desk) as worker:
        await jobs.send(job(1))
        await until(lambda: worker.jobs_complete == 1)
        await until(lambda: _idle(redis))

    assert desk.begun == [Begun(job(1).id)]
    left = {names.JOB_STREAM, names.JOB_EPOCH, names.JOB_COUNTERS, names.JOB_TURNS}
    left.add(names.duty("heal"))
    assert {key.decode() for key in await redis.keys("*")} == left
    assert await redis.xinfo_consumers(names.JOB_STREAM, names.GROUP) == []


async def test_what_was_sent_before_any_worker_runs(redis_url: str, jobs: RedisJobs) -> None:
    for number in range(5):
        await jobs.send(job(number))
    desk = Desk()
    async with working(redis_url, desk):
        await until(lambda: len(desk.ended) == 5)

    assert [begun.id for begun in desk.begun] == [job(number).id for number in range(5)]


async def test_no_more_jobs_run_at_once_than_there_are_slots(
    redis_url: str, jobs: RedisJobs
) -> None:
    desk = Desk(open_by_default=False)
    async with working(redis_url, desk, slots=2):
        for number in range(5):
            await jobs.send(job(number))
        for number in range(5):
            running = await until(lambda done=number: len(desk.begun) >= min(done + 2, 5))
            assert running
            assert len(desk.begun) - len(desk.ended) <= 2
            desk.gates[job(number).id].set()
        await until(lambda: len(desk.ended) == 5)


async def test_burst_ends_when_nothing_is_left(redis_url: str, jobs: RedisJobs) -> None:
    for number in range(3):
        await jobs.send(job(number))
    desk = Desk()
    worker = StreamWorker(redis_url, {"run": desk.run}, handle_signals=False, burst=True)

    await worker.serve()

    assert len(desk.ended) == 3


async def test_garbage_is_dropped_and_counted_and_the_rest_goes_on(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs, caplog: pytest.LogCaptureFixture
) -> None:
    await jobs.send(job(1))
    good = {"kind": "run", "id": job(2).id, "account": ACCOUNT, "cause": "fresh", "retries": "0"}
    for bad in (
        {"\xff": b"\xff\xfe"},
        {"kind": "run"},
        {**good, "id": "not-a-run-id"},
        {**good, "kind": "unheard-of"},
        {**good, "cause": "whim"},
        {**good, "retries": "many"},
        {**good, "retries": "-1"},
        {**good, "account": "canary-" + "x" * 5000},
    ):
        await redis.xadd(names.JOB_STREAM, bad)
    await jobs.send(job(3))
    desk = Desk()
    with caplog.at_level(logging.WARNING):
        async with working(redis_url, desk) as worker:
            await until(lambda: len(desk.ended) == 2)
            await until(lambda: _idle(redis))

    assert worker.counters.garbage == 8
    assert {begun.id for begun in desk.begun} == {job(1).id, job(3).id}
    assert "canary" not in caplog.text


# ------------------------------------------------------------------------------ leases


async def test_what_a_dead_worker_held_comes_before_new_jobs(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    await jobs.send(job(1))
    await _die_with(redis, 1)
    await jobs.send(job(2))
    desk = Desk()
    async with working(redis_url, desk, slots=1) as worker:
        await until(lambda: len(desk.ended) == 2)

    assert desk.begun == [Begun(job(1).id, redelivered=True), Begun(job(2).id)]
    assert worker.counters.reclaimed == 1


async def test_losing_its_lease_cancels_a_job_and_leaves_the_entry_alone(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk = Desk(open_by_default=False)
    async with working(redis_url, desk) as worker:
        await jobs.send(job(1))
        await until(lambda: desk.begun)
        ticket = (await redis.xrange(names.JOB_STREAM))[0][0]
        await redis.xclaim(names.JOB_STREAM, names.GROUP, GHOST, 0, [ticket])

        await until(lambda: desk.ended == [(job(1).id, "cancelled")])
        await until(lambda: not worker.tasks)
        assert worker.counters.leases_lost == 1
        owners = await redis.xpending_range(names.JOB_STREAM, names.GROUP, "-", "+", 10)
        assert [row["consumer"] for row in owners] == [GHOST.encode()]


async def test_finishing_a_job_that_another_worker_took_over_changes_nothing(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk = Desk(open_by_default=False)
    async with working(redis_url, desk, lease_seconds=60.0):  # its renewal comes too late
        await jobs.send(job(1))
        await until(lambda: desk.begun)
        ticket = (await redis.xrange(names.JOB_STREAM))[0][0]
        await redis.xclaim(names.JOB_STREAM, names.GROUP, GHOST, 0, [ticket])
        desk.gates[job(1).id].set()
        await until(lambda: desk.ended)

    assert await redis.xlen(names.JOB_STREAM) == 1
    assert await jobs.missing("run", [job(1).id]) == ()


async def test_a_job_that_another_worker_finished_meanwhile_is_not_held_on_to(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    """Its entry is gone, but not because Redis was wiped."""
    desk = Desk(open_by_default=False)
    async with working(redis_url, desk):
        await jobs.send(job(1))
        await until(lambda: desk.begun)
        ticket = (await redis.xrange(names.JOB_STREAM))[0][0]
        async with redis.pipeline(transaction=True) as finished:
            finished.xack(names.JOB_STREAM, names.GROUP, ticket)
            finished.xdel(names.JOB_STREAM, ticket)
            finished.hdel(names.JOB_INDEX, f"run:{job(1).id}")
            await finished.execute()

        await until(lambda: desk.ended == [(job(1).id, "cancelled")])
        assert await _idle(redis)


async def test_the_same_job_never_runs_twice_at_once_in_one_worker(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    """A lost job may come back to the worker that still winds it down."""
    desk, winding_down = Desk(open_by_default=False), asyncio.Event()
    at_once = most = 0

    async def run(ctx: object, one: Job, delivery: object) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await desk.run(ctx, one, delivery)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            await winding_down.wait()
            raise
        finally:
            at_once -= 1

    worker = StreamWorker(redis_url, {"run": run}, handle_signals=False, lease_seconds=1.0)
    serving = asyncio.create_task(worker.serve())
    await jobs.send(job(1))
    await until(lambda: desk.begun)
    ticket = (await redis.xrange(names.JOB_STREAM))[0][0]
    await redis.xclaim(names.JOB_STREAM, names.GROUP, GHOST, 0, [ticket])
    await until(lambda: desk.ended == [(job(1).id, "cancelled")])
    await redis.xack(names.JOB_STREAM, names.GROUP, ticket)
    await redis.xdel(names.JOB_STREAM, ticket)
    assert await jobs.send(job(1, "resent")) is True
    await until(lambda: len(worker._running) == 2)
    for _ in range(100):  # it would begin within a few turns of the loop, if it did
        await asyncio.sleep(0)  # noqa: TID251 - no time
    winding_down.set()
    await until(lambda: len(desk.begun) == 2)
    desk.gates[job(1).id].set()
    await until(lambda: (job(1).id, "done") in desk.ended)
    worker.stop()
    await serving

    assert most == 1


# ------------------------------------------------------------------------------ ends


async def test_a_job_that_raises_is_tried_again_after_a_pause(
    redis_url: str,
    redis: PipelinedRedis,
    jobs: RedisJobs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(job_entry, "RETRY_SECONDS_MIN", 0.01)
    told: list[tuple[str, int, bool]] = []

    async def run(_ctx: object, one: Job, delivery: object) -> bool:
        told.append((delivery.cause, delivery.retries, delivery.redelivered))  # type: ignore[attr-defined]
        if len(told) < 3:
            raise RuntimeError("canary text of an error")
        return one.id == job(1).id

    worker = StreamWorker(redis_url, {"run": run}, handle_signals=False, lease_seconds=1.0)
    serving = asyncio.create_task(worker.serve())
    with caplog.at_level(logging.INFO):
        await jobs.send(job(1))
        await until(lambda: worker.jobs_complete == 1)
        await until(lambda: _idle(redis))
    worker.stop()
    await serving

    assert told == [("fresh", 0, False), ("resent", 1, False), ("resent", 2, False)]
    assert re.search(r"RuntimeError\n(  .+\n)*  .+test_stream_worker\.py:\d+ in run", caplog.text)
    assert "canary" not in caplog.text


async def test_a_job_over_its_time_out_is_ended(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk = Desk(open_by_default=False)
    async with working(redis_url, desk, job_timeout_seconds=0.1) as worker:
        await jobs.send(job(1))
        await until(lambda: worker.jobs_failed == 1)
        await until(lambda: _idle(redis))

    assert desk.ended == [(job(1).id, "cancelled")]


async def test_stopping_hands_a_job_over_at_its_steps_end_and_gives_the_try_back(
    redis_url: str, jobs: RedisJobs
) -> None:
    leaving, staying = Desk(open_by_default=False), Desk()
    async with working(redis_url, leaving, lease_seconds=60.0) as worker:
        await jobs.send(job(1))
        await until(lambda: leaving.begun)
        async with working(redis_url, staying, lease_seconds=60.0):
            worker.stop()
            await until(lambda: staying.ended == [(job(1).id, "done")])

    assert leaving.ended == [(job(1).id, "stopped")]
    assert staying.begun == [Begun(job(1).id, cause="handover", redelivered=False, retries=0)]
    assert worker.counters.handed_over == 1


async def test_a_step_that_does_not_end_in_its_grace_is_cut_off_and_handed_over(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    begun = asyncio.Event()

    async def run(_ctx: object, _job: object, _delivery: object) -> bool:
        begun.set()
        await asyncio.Event().wait()
        return True

    worker = StreamWorker(
        redis_url, {"run": run}, handle_signals=False, step_grace_seconds=0.05, lease_seconds=60.0
    )
    serving = asyncio.create_task(worker.serve())
    await jobs.send(job(1))
    await begun.wait()
    worker.stop()
    await serving

    assert await _waiting(redis) == [("handover", job(1).id)]


async def test_a_job_that_ignores_its_cancellation_is_handed_over_all_the_same(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_worker, "HAND_OVER_SECONDS", 0.05)
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def run(_ctx: object, _job: object, _delivery: object) -> bool:
        begun.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return True

    worker = StreamWorker(
        redis_url, {"run": run}, handle_signals=False, step_grace_seconds=0.05, lease_seconds=60.0
    )
    serving = asyncio.create_task(worker.serve())
    await jobs.send(job(1))
    await begun.wait()
    worker.stop()
    await serving

    assert await _waiting(redis) == [("handover", job(1).id)]
    let_go.set()
    await until(lambda: not worker.tasks)


# ------------------------------------------------------------------------------ cron


async def test_a_tick_of_cron_runs_on_one_worker_also_when_no_slot_is_free(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk, ticks = Desk(open_by_default=False), []

    async def tick(ctx: dict[str, object]) -> None:
        ticks.append(ctx["job_id"])

    def every_second() -> list[object]:
        return [cron(tick, name="tick", second=set(range(60)))]  # type: ignore[arg-type]

    async with (
        working(redis_url, desk, slots=1, cron_jobs=every_second()),
        working(redis_url, desk, slots=1, cron_jobs=every_second()),
    ):
        await jobs.send(job(1))
        await jobs.send(job(2))
        await until(lambda: len(desk.begun) == 2)
        await until(lambda: len(ticks) >= 3)
        locks = await redis.keys("*cron*")
        assert locks
        for lock in locks:
            assert 0 < await redis.ttl(lock) <= names.CRON_LOCK_SECONDS
        assert await redis.keys("arq*") == []

    assert len(set(ticks)) == len(ticks)


async def test_a_worker_tells_how_it_is(redis_url: str, redis: PipelinedRedis) -> None:
    async with working(redis_url, Desk(), slots=7) as worker:
        line = await until(lambda: redis.get(names.health(worker.consumer)))
        assert b"slots=7" in line

    assert await redis.get(names.health(worker.consumer)) is None


# ------------------------------------------------------------------------------ weather


async def test_an_idle_worker_goes_on_after_flushall(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    """streaq died of it and taskiq went deaf; a blocked read is told UNBLOCKED or NOGROUP."""
    desk = Desk()
    async with working(redis_url, desk):
        await jobs.send(job(1))
        await until(lambda: len(desk.ended) == 1)
        for number in range(2, 6):
            await redis.flushall()
            await jobs.send(job(number))
            await until(lambda: desk.ended[-1] == (job(number).id, "done"))  # noqa: B023 - awaited here

    assert len(desk.begun) == 5


async def test_a_running_job_outlives_flushall_and_stays_the_only_one(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk, other = Desk(open_by_default=False), Desk()
    async with working(redis_url, desk), working(redis_url, other, slots=4):
        # Whichever takes it, holds it; the other must not get it.
        other.open_by_default = False
        await jobs.send(job(1))
        await until(lambda: desk.begun or other.begun)
        holder = desk if desk.begun else other
        await redis.flushall()
        await until(lambda: _is_held(jobs, 1))

        assert await jobs.send(job(1, "resent")) is False
        holder.gates[job(1).id].set()
        await until(lambda: holder.ended == [(job(1).id, "done")])
        await until(lambda: _idle(redis))

    assert len(desk.begun) + len(other.begun) == 1


async def test_a_job_held_since_flushall_goes_on_elsewhere_when_its_worker_dies(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    await jobs.send(job(1))
    desk, heir = Desk(open_by_default=False), Desk()
    worker = StreamWorker(
        redis_url, {"run": desk.run}, handle_signals=False, lease_seconds=1.0, slots=1
    )
    serving = asyncio.create_task(worker.serve())
    await until(lambda: desk.begun)
    await redis.flushall()
    await until(lambda: _is_held(jobs, 1))
    await worker._leases.stop()  # as a process that is gone: nothing renews

    async with working(redis_url, heir):
        await until(lambda: heir.ended == [(job(1).id, "done")])
    desk.gates[job(1).id].set()
    worker.stop()
    await serving

    assert heir.begun == [Begun(job(1).id, cause="resent")]


async def test_jobs_held_since_flushall_are_handed_over_like_others(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk = Desk(open_by_default=False)
    async with working(redis_url, desk):
        await jobs.send(job(1))
        await until(lambda: desk.begun)
        await redis.flushall()
        await until(lambda: _is_held(jobs, 1))

    assert await _waiting(redis) == [("handover", job(1).id)]
    assert await redis.zcard(names.JOB_LATER) == 0


async def test_a_job_that_ends_while_redis_is_down_is_finished_when_it_is_back(
    valkey: Valkey,
) -> None:
    desk = Desk(open_by_default=False)
    redis = PipelinedRedis(valkey.url())
    async with working(valkey.url(), desk, lease_seconds=30.0) as worker:
        await until(lambda: _sent(redis, 1))
        await until(lambda: desk.begun)
        valkey.stop()
        desk.gates[job(1).id].set()
        await until(lambda: desk.ended)
        await until(lambda: worker.counters.redis_failures >= 2)
        valkey.start()
        await until(lambda: not worker.tasks)
        await until(lambda: _idle(redis))
    await redis.aclose()

    assert len(desk.begun) == 1


async def test_redis_may_be_down_when_a_worker_starts(valkey: Valkey) -> None:
    valkey.stop()
    desk = Desk()
    redis = PipelinedRedis(valkey.url())
    async with working(valkey.url(), desk) as worker:
        await until(lambda: worker.counters.redis_failures >= 2)
        valkey.start()
        await until(lambda: _sent(redis, 1))
        await until(lambda: desk.ended == [(job(1).id, "done")])
    await redis.aclose()


async def test_a_worker_stops_also_while_redis_is_down(valkey: Valkey) -> None:
    desk = Desk(open_by_default=False)
    redis = PipelinedRedis(valkey.url())
    async with working(valkey.url(), desk):
        await until(lambda: _sent(redis, 1))
        await until(lambda: desk.begun)
        valkey.stop()
    await redis.aclose()

    assert desk.ended == [(job(1).id, "stopped")]


async def test_faststream_2611_destroying_the_group_redelivers_instead_of_losing(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    """A consumer that met NOGROUP met it for ever."""
    await jobs.send(job(1))
    await redis.xgroup_destroy(names.JOB_STREAM, names.GROUP)
    desk = Desk()
    async with working(redis_url, desk):
        await until(lambda: desk.ended == [(job(1).id, "done")])


async def test_faststream_2611_a_group_that_is_destroyed_under_a_worker_is_made_again(
    redis_url: str, redis: PipelinedRedis, jobs: RedisJobs
) -> None:
    desk = Desk()
    async with working(redis_url, desk) as worker:
        await jobs.send(job(1))
        await until(lambda: len(desk.ended) == 1)
        await until(lambda: _idle(redis))  # else the first job may rightly come again
        await redis.xgroup_destroy(names.JOB_STREAM, names.GROUP)
        await until(lambda: worker.counters.redis_failures)
        await jobs.send(job(2))
        await until(lambda: len(desk.ended) == 2)


# ------------------------------------------------------------------------------ helpers


async def _idle(redis: PipelinedRedis) -> bool:
    """No job is left anywhere."""
    lengths = await asyncio.gather(
        redis.xlen(names.JOB_STREAM), redis.hlen(names.JOB_INDEX), redis.zcard(names.JOB_LATER)
    )
    return not any(lengths)


async def _waiting(redis: PipelinedRedis) -> list[tuple[str, str]]:
    """(cause, id) of entries that nobody has taken."""
    pending = await redis.xpending(names.JOB_STREAM, names.GROUP)
    assert pending["pending"] == 0
    entries = await redis.xrange(names.JOB_STREAM)
    return [(fields[b"cause"].decode(), fields[b"id"].decode()) for _, fields in entries]


async def _die_with(redis: PipelinedRedis, count: int) -> None:
    """Take `count` entries as a worker that was killed long ago."""
    taken = await redis.execute_command(
        *("XREADGROUP", "GROUP", names.GROUP, GHOST, "COUNT", count, "STREAMS"),
        *(names.JOB_STREAM, ">"),
    )
    entries = next(iter(taken))[1]
    tickets = [ticket for ticket, _ in entries]
    await redis.xclaim(names.JOB_STREAM, names.GROUP, GHOST, 0, tickets, idle=3_600_000)


async def _is_held(jobs: RedisJobs, number: int) -> bool:
    return await jobs.missing("run", [job(number).id]) == ()


async def _sent(redis: PipelinedRedis, number: int) -> bool:
    """Sent, or sent before: a lost reply is no lost job."""
    try:
        await RedisJobs(redis).send(job(number))
    except Exception:  # noqa: BLE001 - until Redis is there
        return False
    return True
