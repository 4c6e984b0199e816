"""Pub/sub: one connection a process; a lost message costs time, never truth."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runs_domain.ids import Attempt
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from runs_domain.storage.redis_push import CancelPushes, RedisCancelPush
from tests.support.redis_twins import OTHER_RUN, RUN, own_valkey, pubsub_of
from tests.support.waiting import until

LONG_SECONDS = 60.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[PipelinedRedis]:
    client = PipelinedRedis(redis_url)
    yield client
    await client.aclose()


async def test_a_cancel_reaches_the_one_run_it_is_for(redis: PipelinedRedis) -> None:
    async with pubsub_of(redis) as pubsub:
        pushes = CancelPushes(pubsub)
        async with (
            pushes.listening(),
            pushes.watching(RUN) as mine,
            pushes.watching(OTHER_RUN) as other,
        ):
            mine.clear()
            other.clear()
            await RedisCancelPush(redis).push(RUN)

            async with asyncio.timeout(LONG_SECONDS):
                await mine.wait()
            assert not other.is_set()


async def test_garbage_on_the_cancel_channel_is_nobodys(redis: PipelinedRedis) -> None:
    async with pubsub_of(redis) as pubsub:
        pushes = CancelPushes(pubsub)
        async with pushes.listening(), pushes.watching(RUN) as mine:
            mine.clear()
            await redis.publish(names.CANCEL_CHANNEL, b"garbage")
            await RedisCancelPush(redis).push(OTHER_RUN)
            await RedisCancelPush(redis).push(RUN)
            async with asyncio.timeout(LONG_SECONDS):
                await mine.wait()


async def test_all_watchers_of_a_process_share_one_connection(redis: PipelinedRedis) -> None:
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        async with chunks.watch(RUN), chunks.watch(RUN), chunks.watch(OTHER_RUN):
            clients = await redis.client_list(_type="pubsub")
            assert len(clients) == 1
            assert clients[0]["sub"] == "2"


async def test_a_channel_nobody_watches_any_more_is_given_up(redis: PipelinedRedis) -> None:
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        for _ in range(100):
            async with chunks.watch(RUN):
                pass
        async with chunks.watch(RUN) as changed:
            waiting = asyncio.ensure_future(changed(LONG_SECONDS))
            await chunks.wake(RUN)
            await waiting

        await until(lambda: _subscriptions(redis, 0))
        assert pubsub._channels == {}


async def test_after_a_reconnect_every_watcher_is_woken_and_hears_again() -> None:
    with own_valkey() as valkey:
        redis = PipelinedRedis(valkey.url())
        async with pubsub_of(redis) as pubsub:
            chunks = RedisChunks(redis, pubsub)
            async with chunks.watch(RUN) as changed:
                await changed(0.01)
                woken = asyncio.ensure_future(changed(LONG_SECONDS))
                valkey.stop()
                valkey.start()
                await woken

                heard = asyncio.ensure_future(changed(LONG_SECONDS))
                await until(lambda: _written(chunks))
                await heard
        await redis.aclose()


async def test_watching_works_while_redis_is_down() -> None:
    with own_valkey() as valkey:
        redis = PipelinedRedis(valkey.url())
        valkey.stop()
        pubsub = RedisPubSub(redis)
        async with RedisChunks(redis, pubsub).watch(RUN) as changed:
            await changed(0.01)
        await pubsub.close()
        await redis.aclose()


async def _subscriptions(redis: PipelinedRedis, count: int) -> bool:
    return len(await redis.pubsub_channels()) == count


async def _written(chunks: RedisChunks) -> bool:
    try:
        await chunks.restart(RUN, Attempt(1), 0, [b"a"])
    except Exception:  # noqa: BLE001 - until Redis is there
        return False
    return True
