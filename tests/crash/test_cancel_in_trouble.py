"""Cancels that come while the worker or Redis is away."""

import secrets
import signal

import pytest
import redis

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_deliveries import JobDeliveries
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_lane import Lane
from tests.support.redis_twins import ACCOUNT
from tests.support.rest import SPEAK, SPEECH, Rest, bash, parts_of, tag_of
from tests.support.run_key import key_is_good
from tests.support.run_story import END, check_story
from tests.support.sandboxes import processes_naming
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until

pytestmark = pytest.mark.crash


@pytest.mark.settings(lease_seconds="1")
async def test_a_cancel_while_nobody_holds_the_run_is_what_the_next_worker_does(
    broken: BreakableStack, client: Rest
) -> None:
    token = f"token-{secrets.token_hex(8)}"
    first = broken.start_worker()
    run = await client.play(bash(f"exec -a {token} sleep 600"), {"text": "never said"})
    async with client.watching(run) as watch:
        await until(lambda: processes_naming(token))
        kill(first)
        assert (await client.cancel(run)).status_code == 202
        broken.start_worker()
        reader = await check_story(client, run, watch)

    assert (await client.tags(run))[-3:] == ["cancelled", *END[1:]]
    assert await client.status(run) == "cancelled"
    (call,) = parts_of(reader.message, "tool-bash")
    assert call["state"] == "output-error"
    assert not await key_is_good(broken.details, run)


@pytest.mark.settings(sandbox="none")
async def test_a_run_that_is_to_be_tried_again_later_sees_its_cancel_at_once(
    broken: BreakableStack, client: Rest
) -> None:
    worker = broken.start_worker()
    run = await client.play(SPEAK | {"text": SPEECH * 100})
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        kill(worker)
        async with PipelinedRedis(broken.details["redisUrl"]) as server:
            await _pause_for_an_hour(server, run.run_id)
            broken.start_worker()
            assert (await client.cancel(run)).status_code == 202
            await check_story(client, run, watch)
            await until(lambda: _has_no_job(server, run.run_id))

    assert await client.status(run) == "cancelled"


@pytest.mark.settings(sandbox="none")
async def test_a_cancel_whose_push_is_lost_is_seen_all_the_same(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    run = await client.play(SPEAK | {"text": SPEECH * 100})
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        broken.valkey.stop(at_once=True)
        assert (await client.cancel(run)).status_code == 202
        await client.reached(run, "sandbox_released")
        broken.valkey.start()
        await check_story(client, run, watch)

    assert await client.status(run) == "cancelled"


@pytest.mark.settings(sandbox="none")
async def test_I_31_a_cancel_is_seen_though_redis_lives_and_carries_no_push(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    run = await client.play(SPEAK | {"text": SPEECH * 100})
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        with redis.Redis.from_url(broken.details["redisUrl"]) as server:
            server.acl_setuser("default", reset_channels=True)  # no one may publish or listen
            assert (await client.cancel(run)).status_code == 202
            await client.reached(run, "sandbox_released")
            server.acl_setuser("default", channels=["*"])
        await check_story(client, run, watch)

    assert await client.status(run) == "cancelled"


@pytest.mark.settings(sandbox="none", lease_seconds="1")
async def test_a_cancel_while_the_worker_sleeps_is_what_another_worker_does(
    broken: BreakableStack, client: Rest
) -> None:
    sleeper = broken.start_worker()
    run = await client.play(SPEAK | {"text": SPEECH * 100})
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        sleeper.child.kill(signal.SIGSTOP)
        assert (await client.cancel(run)).status_code == 202
        other = broken.start_worker()
        reader = await check_story(client, run, watch)
        history = await client.history(run)

        sleeper.child.kill(signal.SIGCONT)
        kill(other, signal.SIGTERM)
        after = await client.start("for the one that woke up")
        await client.ended(after)

    assert await client.history(run) == history
    assert await client.status(run) == "cancelled"
    said = "".join(part["text"] for part in parts_of(reader.message, "text"))
    assert said.startswith("word0 word1 word2 word3 word4 word5")
    assert [tag_of(event) for event in history].count("message_persisted") == 1


@pytest.mark.settings(sandbox="none", lease_seconds="1")
async def test_a_cancel_while_the_worker_sleeps_is_its_own_when_it_wakes_in_time(
    broken: BreakableStack, client: Rest
) -> None:
    sleeper = broken.start_worker()
    run = await client.play(SPEAK | {"text": SPEECH * 100})
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        sleeper.child.kill(signal.SIGSTOP)
        assert (await client.cancel(run)).status_code == 202
        sleeper.child.kill(signal.SIGCONT)
        await check_story(client, run, watch)

    assert await client.status(run) == "cancelled"


async def _pause_for_an_hour(server: PipelinedRedis, run_id: str) -> None:
    """As a worker does for 30 s at most; longer than this test may take."""
    ((ticket, _),) = await server.xrange(names.JOB_STREAM)
    (row,) = await server.xpending_range(names.JOB_STREAM, names.GROUP, "-", "+", 1)
    lane = Lane("redis://localhost:1")
    owner = JobDeliveries(server, lane, row["consumer"].decode(), lease_seconds=3.0)
    job = Job(kind="run", id=run_id, account_id=ACCOUNT, cause="resent")
    assert await owner.requeue(ticket.decode(), job, retries=9, delay_ms=3_600_000)


async def _has_no_job(server: PipelinedRedis, run_id: str) -> bool:
    return await RedisJobs(server).missing("run", [run_id]) == (run_id,)
