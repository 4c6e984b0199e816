"""What a worker says to who reads its log: of Redis, of its end, and of what it is called."""

import logging
import re
from uuid import UUID

import pytest

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.desk import Desk, working
from tests.support.redis_twins import ACCOUNT
from tests.support.waiting import until
from workers.stack.valkey import Valkey
from workers.worker_id import new_worker_id


def job(number: int) -> Job:
    return Job(kind="run", id=str(UUID(int=number)), account_id=ACCOUNT)


async def test_it_is_said_once_when_redis_is_back_and_after_how_long(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with working(valkey.url(), Desk()) as worker:
            await until(lambda: worker._group_is_open)
            valkey.stop()
            await until(lambda: worker.counters.redis_failures > 2)
            valkey.start()
            await until(lambda: worker._group_is_open)
            await until(lambda: "answers again" in caplog.text)

    assert len(re.findall(r"Redis answers again after \d+\.\d s", caplog.text)) == 1
    assert "forgotten" not in caplog.text


async def test_an_emptied_redis_is_called_that_and_not_away(
    redis_url: str, redis: PipelinedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with working(redis_url, Desk()) as worker:
            for times in range(1, 6):
                await until(lambda: worker._group_is_open)
                await redis.flushall()
                await until(lambda times=times: caplog.text.count("has forgotten") == times)
                await until(lambda: redis.exists(names.JOB_STREAM))

    assert "Redis has forgotten the job stream; it is made again" in caplog.text
    assert "cannot take jobs" not in caplog.text
    assert "answers again" not in caplog.text


async def test_at_the_end_of_a_stop_it_is_said_what_became_of_the_jobs(
    redis_url: str, redis: PipelinedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(open_by_default=False)
    with caplog.at_level(logging.INFO):
        async with working(redis_url, desk, slots=8) as worker:
            for number in range(4):
                await RedisJobs(redis).send(job(number))
            await until(lambda: len(desk.begun) == 4)
            desk.gates[job(0).id].set()  # this one ends before the stop: it is not counted
            await until(lambda: worker.counters.finished == 1 and len(worker._running) == 3)
            desk.gates[job(1).id].set()
            worker.stop()

    assert len(re.findall(r"stopped after \d+\.\d s: 2 handed over, 1 finished", caplog.text)) == 1


async def test_a_worker_is_called_what_it_is_told_to_be(redis_url: str) -> None:
    async with working(redis_url, Desk(), consumer="host:1:abcd") as worker:
        assert worker.consumer == "host:1:abcd"
    async with working(redis_url, Desk()) as one, working(redis_url, Desk()) as other:
        assert one.consumer != other.consumer


def test_no_two_worker_ids_are_alike() -> None:
    assert len({new_worker_id() for _ in range(100)}) == 100
