"""Real worker processes and a job stream that holds what no program of ours put there."""

import os
from uuid import UUID

import pytest
import redis

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.fleet_counters import counters_of
from runs_domain.storage.job_stats import read_stats
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.job_desk import job_id
from tests.support.redis_twins import ACCOUNT
from tests.support.rest import Rest
from tests.support.stacks import BreakableStack
from tests.support.waiting import until, until_sync
from tests.support.worker_processes import FIRST, WAIT_SECONDS, WorkerProcesses

pytestmark = pytest.mark.crash

OURS = {"kind": "run", "id": job_id(7), "account": ACCOUNT, "cause": "fresh", "retries": "0"}
HUGE = 5_000_000
BAD = {
    "bytes that are no text": {b"\xff\xfe": b"\x00\x80", b"kind": b"\xff"},
    "an empty field": {"": ""},
    "other fields": {"task": "mail", "args": "[]"},
    "no id": {"kind": "run"},
    "an id that is none": OURS | {"id": "../../etc/passwd"},
    "a kind of another release": OURS | {"kind": "unheard-of"},
    "a cause that is none": OURS | {"cause": "whim"},
    "a number that is none": OURS | {"retries": "1e9"},
    "a huge id": OURS | {"id": "x" * HUGE},
    "a huge field beside ours": OURS | {"more": b"\x00" * HUGE},
    "ten thousand fields": {f"field-{number}": "" for number in range(10_000)},
    "a job that nobody sent": OURS,
}


def test_whatever_stands_in_the_stream_is_dropped_and_counted_and_other_jobs_go_on(
    workers: WorkerProcesses,
) -> None:
    workers.send(FIRST)
    for bad in BAD.values():
        workers.redis.xadd(names.JOB_STREAM, bad)  # type: ignore[arg-type]
    last = job_id(2)
    workers.send(last)
    worker = workers.start("worker", slots=3)

    workers.all_done([FIRST, last])
    until_sync(lambda: _dropped(workers.redis) == len(BAD), timeout_seconds=WAIT_SECONDS)
    workers.nothing_left()
    assert worker.poll() is None
    assert {note.job_id for note in workers.desk.notes()} == {FIRST, last}


def test_a_second_entry_of_a_job_that_runs_is_dropped(workers: WorkerProcesses) -> None:
    """An operator's XADD, or a tool that copies streams: the index knows each job's one entry."""
    workers.desk.plan("hold", FIRST)
    workers.send(FIRST)
    workers.start("worker")
    workers.noted("worker begun fresh new")
    workers.redis.xadd(names.JOB_STREAM, OURS | {"id": FIRST})
    until_sync(lambda: _dropped(workers.redis) == 1, timeout_seconds=WAIT_SECONDS)

    workers.desk.open(FIRST)
    workers.noted("worker done")
    assert workers.begun() == ["worker"]
    workers.nothing_left()


def test_garbage_that_a_dead_worker_held_is_dropped_by_the_next(workers: WorkerProcesses) -> None:
    workers.send(FIRST)
    for bad in BAD.values():
        workers.redis.xadd(names.JOB_STREAM, bad)  # type: ignore[arg-type]
    taken = workers.redis.xreadgroup(names.GROUP, "ghost", {names.JOB_STREAM: ">"}, count=100)
    tickets = [ticket for ticket, _ in taken[0][1]]
    workers.redis.xclaim(names.JOB_STREAM, names.GROUP, "ghost", 0, tickets, idle=3_600_000)
    worker = workers.start("worker", slots=3)

    workers.noted("worker begun fresh redelivered")
    workers.nothing_left()
    until_sync(lambda: _dropped(workers.redis) == len(BAD), timeout_seconds=WAIT_SECONDS)
    assert worker.poll() is None


@pytest.mark.parametrize("kind", ["string", "list"])
def test_a_stream_key_of_another_type_is_weather_and_no_crash_loop(
    workers: WorkerProcesses, kind: str
) -> None:
    if kind == "string":
        workers.redis.set(names.JOB_STREAM, os.urandom(16))
    else:
        workers.redis.rpush(names.JOB_STREAM, "a")
    worker = workers.start("worker")
    heard = f"{names.health('*')}"
    until_sync(lambda: list(workers.redis.scan_iter(heard)), timeout_seconds=WAIT_SECONDS)
    assert worker.poll() is None
    workers.redis.delete(names.JOB_STREAM)
    workers.send(FIRST)

    workers.noted("worker done")
    assert worker.poll() is None


@pytest.mark.settings(sandbox="none", log_level="INFO")
async def test_jobs_of_unknown_and_of_ended_runs_are_dropped_with_a_line_and_a_count(
    broken: BreakableStack, client: Rest
) -> None:
    worker = broken.start_worker()
    ended = await client.start("the first")
    await client.ended(ended)
    history = await client.history(ended)
    unknown = str(UUID(int=404))
    async with PipelinedRedis(broken.details["redisUrl"]) as server:
        jobs = RedisJobs(server)
        for one in (unknown, ended.run_id):
            await until(lambda one=one: _gone(jobs, one))
            assert await jobs.send(Job(kind="run", id=one, account_id=ACCOUNT, cause="resent"))
        for one in (unknown, ended.run_id):
            await until(lambda one=one: _gone(jobs, one))
        after = await client.start("the second")
        await client.ended(after)

        async def are_counted() -> bool:
            told = (await read_stats(server)).counters
            return (told["driver_unknown_runs"], told["driver_ended_runs"]) == (1, 1)

        await until(are_counted)

    said = [line for line in broken.log_of(worker).splitlines() if "dropped a job" in line]
    assert [unknown in line for line in said] == [True, False]
    assert ended.run_id in said[1]
    assert worker.child.exit_code is None
    assert await client.history(ended) == history


async def _gone(jobs: RedisJobs, one: str) -> bool:
    return await jobs.missing("run", [one]) == (one,)


def _dropped(client: redis.Redis) -> int:
    return counters_of(client.hgetall(names.JOB_COUNTERS))["jobs_garbage"]
