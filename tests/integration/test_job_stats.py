"""What operators see of the job system: the reading, and `scripts/jobs.py` that prints it."""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator

import pytest
import redis as blocking

from runs_domain.storage import redis_names as names
from runs_domain.storage.job_stats import (
    ACCOUNTS_MAX,
    ACCOUNTS_SHOWN_MAX,
    JOBS_MAX,
    read_stats,
)
from runs_domain.storage.redis_client import PipelinedRedis
from tests.support.desk import Desk, working
from tests.support.job_fleet import Fleet, account
from tests.support.operators import run_script, started_script
from tests.support.waiting import until

SECONDS_MAX = 30
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
async def fleet(redis_url: str) -> AsyncIterator[Fleet]:
    async with PipelinedRedis(redis_url) as redis:
        yield Fleet(redis)


def environment(redis_url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "COLUMNS": "200",
        "RUNLEDGER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "RUNLEDGER_REDIS_URL": redis_url,
        "RUNLEDGER_SECRET": "a server secret of the tests, 32 bytes or more",
    }


def run(redis_url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_script("jobs.py", *arguments, env=environment(redis_url))


async def test_an_empty_redis_reads_as_nothing(fleet: Fleet) -> None:
    stats = await read_stats(fleet.redis)

    assert (stats.queued, stats.taken, stats.waiting, stats.delayed, stats.held) == (0, 0, 0, 0, 0)
    assert (stats.oldest_queued_seconds, stats.slots, stats.accounts) == (None, 0, 0)
    assert (stats.busiest, stats.workers) == ((), ())
    assert set(stats.counters.values()) == {0}


async def test_a_reading_tells_where_every_job_is_and_who_has_it(fleet: Fleet) -> None:
    await fleet.has_slots(3)
    await fleet.send(1, "a", "b", "c", "d", "e")
    await fleet.send(2, "f")
    await fleet.jobs.send(fleet.job("g", 2), delay_seconds=60.0)
    await fleet.take(2)
    await fleet.lose("a")

    stats = await read_stats(fleet.redis)

    assert (stats.queued, stats.taken, stats.waiting, stats.delayed, stats.held) == (1, 2, 3, 1, 0)
    assert stats.slots == 3
    assert [(one.account, one.in_stream, one.waiting) for one in stats.busiest] == [
        (account(1), 2, 3),
        (account(2), 1, 0),
    ]
    (worker,) = stats.workers
    assert (worker.worker, worker.slots, worker.leases) == ("one", 3, 2)
    assert worker.lease_age_seconds >= 3600.0
    assert worker.silent_seconds is not None
    assert 0 <= worker.silent_seconds < SECONDS_MAX


async def test_the_oldest_job_is_the_one_that_stands_there_longest_queued_or_waiting(
    fleet: Fleet,
) -> None:
    await fleet.has_slots(1)
    await fleet.send(1, "a", "b")
    hour_ago = (await fleet.redis.time())[0] - 3600
    await fleet.redis.zadd(names.JOB_WAITING, {f"{account(1)}:{hour_ago}000000:run:b": 0})
    stats = await read_stats(fleet.redis)
    assert stats.oldest_queued_seconds is not None
    assert 3600 <= stats.oldest_queued_seconds < 3600 + SECONDS_MAX

    await fleet.redis.delete(names.JOB_WAITING)
    stats = await read_stats(fleet.redis)
    assert stats.oldest_queued_seconds is not None
    assert 0 <= stats.oldest_queued_seconds < SECONDS_MAX


async def test_a_job_that_runs_on_after_a_wipe_is_held(fleet: Fleet, redis_url: str) -> None:
    desk = Desk(open_by_default=False)
    job = fleet.job("00000000-0000-0000-0000-000000000001", 1)
    async with working(redis_url, desk):
        await fleet.jobs.send(job)
        await until(lambda: desk.begun)
        await fleet.redis.flushall()

        async def is_held() -> bool:
            stats = await read_stats(fleet.redis)
            return (stats.held, stats.delayed, stats.queued) == (1, 0, 0)

        await until(is_held)
        desk.gates[job.id].set()


async def test_a_reading_looks_at_so_many_accounts_and_jobs_and_shows_the_busiest(
    fleet: Fleet,
) -> None:
    many = ACCOUNTS_MAX + JOBS_MAX
    await fleet.has_slots(2 * many)
    for number in range(many):
        await fleet.send(number, f"job-{number}")
    await fleet.send(7, "another")
    await fleet.take(many)

    stats = await read_stats(fleet.redis)

    assert (stats.taken, stats.accounts) == (many, ACCOUNTS_MAX)
    assert len(stats.busiest) == ACCOUNTS_SHOWN_MAX
    assert stats.busiest[0].account == account(7)
    assert stats.workers[0].leases == JOBS_MAX


async def test_workers_add_up_what_they_count(fleet: Fleet, redis_url: str) -> None:
    async with working(redis_url, Desk()), working(redis_url, Desk()):
        for number in range(1, 9):
            await fleet.jobs.send(fleet.job(f"00000000-0000-0000-0000-{number:012}", 1))
        await until(lambda: _finished(fleet, 8))

    assert (await read_stats(fleet.redis)).counters["jobs_finished"] == 8


async def test_a_count_that_is_told_twice_counts_once(fleet: Fleet) -> None:
    """A reply that is lost leaves a worker in doubt, so it tells again."""
    one = fleet.deliveries("one")
    for number in (1, 1, 2, 2):
        await one.tell(number, {"jobs_garbage": 5}, slots=1)

    assert (await read_stats(fleet.redis)).counters["jobs_garbage"] == 10


async def test_the_script_prints_it_for_people_and_for_machines(
    fleet: Fleet, redis_url: str
) -> None:
    await fleet.has_slots(1)
    await fleet.send(1, "a", "b")
    await fleet.take(1)

    told, printed = run(redis_url, "--json"), run(redis_url)

    assert (told.returncode, printed.returncode) == (0, 0), (told.stderr, printed.stderr)
    answer = json.loads(told.stdout)
    assert (answer["taken"], answer["waiting"], answer["slots"]) == (1, 1, 1)
    assert answer["busiest"] == [{"account": account(1), "inStream": 1, "waiting": 1}]
    assert answer["workers"][0]["worker"] == "one"
    for word in ("queued 0", "taken 1", "waiting 1", account(1), "lease age"):
        assert word in printed.stdout


async def test_the_script_goes_on_until_it_is_told_to_stop(redis_url: str) -> None:
    with started_script("jobs.py", "--json", "--watch", env=environment(redis_url)) as script:
        assert script.stdout is not None
        readings = [json.loads(script.stdout.readline()) for _ in range(2)]
        script.send_signal(2)
        assert script.wait(SECONDS_MAX) == 0
    assert [reading["queued"] for reading in readings] == [0, 0]


def test_a_reader_who_has_read_enough_ends_the_script_quietly(redis_url: str) -> None:
    for arguments in (("--json", "--watch"), ("--watch",)):
        with started_script("jobs.py", *arguments, env=environment(redis_url)) as script:
            assert script.stdout is not None
            assert script.stderr is not None
            assert script.stdout.readline()
            script.stdout.close()
            assert script.stderr.read() == ""
            assert script.wait(SECONDS_MAX) == 128 + signal.SIGPIPE


def test_a_watch_without_a_terminal_prints_reading_after_reading(redis_url: str) -> None:
    with started_script("jobs.py", "--watch", env=environment(redis_url)) as script:
        assert script.stdout is not None
        lines = iter(script.stdout.readline, "")
        for _ in range(2):
            assert next(line for line in lines if line.startswith("queued "))
            assert next(line for line in lines if line.startswith("Counted by"))
        script.send_signal(signal.SIGINT)
        assert script.wait(SECONDS_MAX) == 0


async def test_no_title_is_broken_where_the_screen_is_narrow(fleet: Fleet, redis_url: str) -> None:
    await fleet.jobs.send(fleet.job("later", 1), delay_seconds=60.0)
    told = run_script("jobs.py", env=environment(redis_url) | {"COLUMNS": "80"})
    assert [
        line for line in told.stdout.splitlines() if line.startswith(("Bus", "Wor", "Cou"))
    ] == [
        "Busiest of 0 accounts with queued, taken or waiting jobs",
        "Workers (running: by their last word, up to 2 s old)",
        "Counted by all workers since Redis was last empty",
    ]


def test_the_script_says_in_a_sentence_that_redis_is_away() -> None:
    ended = run(NOBODY, "--json")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        "jobs: Redis cannot be reached, or refuses, at RUNLEDGER_REDIS_URL"
    )
    assert "Traceback" not in ended.stderr


async def test_invariant_6_the_script_tells_a_refusal_by_its_class_and_no_password(
    redis_url: str,
) -> None:
    with blocking.Redis.from_url(redis_url) as server:
        server.acl_setuser("blind", enabled=True, nopass=True, commands=["+auth", "+hello"])
    try:
        ended = run(redis_url.replace("unix://", "unix://blind:canary@"))
    finally:
        with blocking.Redis.from_url(redis_url) as server:
            server.acl_deluser("blind")

    assert ended.returncode == 1
    assert "ResponseError" in ended.stderr
    assert "canary" not in ended.stderr


async def _finished(fleet: Fleet, count: int) -> bool:
    return (await read_stats(fleet.redis)).counters["jobs_finished"] == count
