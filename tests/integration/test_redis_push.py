"""Pub/sub: one connection a process; a lost message costs time, never truth."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from runs_domain.ids import Attempt, Position
from runs_domain.storage import redis_names as names
from runs_domain.storage import redis_pubsub
from runs_domain.storage.appender import Commit
from runs_domain.storage.log_wakes import LogWakes
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from runs_domain.storage.redis_push import CancelPushes, RedisCancelPush
from tests.support.redis_twins import OTHER_RUN, RUN, own_valkey, pubsub_of
from tests.support.waiting import until

LONG_SECONDS = 60.0


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


class Gate:
    """Holds back what is sent to the server until it is opened."""

    def __init__(self, pubsub: RedisPubSub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = 0
        self._opened = asyncio.Event()
        assert pubsub._connection is not None
        self._subscribe = pubsub._connection.subscribe
        monkeypatch.setattr(pubsub._connection, "subscribe", self._held)

    async def _held(self, *channels: str) -> None:
        self.waiting += 1
        await self._opened.wait()
        await self._subscribe(*channels)

    def open(self) -> None:
        self._opened.set()


async def test_a_watcher_who_leaves_while_another_subscribes_does_not_make_it_deaf(
    redis: PipelinedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pubsub, "SUBSCRIBE_SECONDS", 0.05)
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        async with chunks.watch(OTHER_RUN), AsyncExitStack() as stays:
            await until(lambda: _subscriptions(redis, 1))
            gate = Gate(pubsub, monkeypatch)
            entering = asyncio.ensure_future(stays.enter_async_context(chunks.watch(RUN)))
            await until(lambda: gate.waiting)
            async with chunks.watch(RUN):
                pass
            gate.open()
            changed = await entering
            await until(lambda: _subscriptions(redis, 2))
            await changed(0.01)
            heard = asyncio.ensure_future(changed(LONG_SECONDS))
            await chunks.wake(RUN)
            await asyncio.wait_for(heard, LONG_SECONDS / 3)


async def test_a_watcher_who_gives_up_while_it_subscribes_leaves_nothing_behind(
    redis: PipelinedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        async with chunks.watch(OTHER_RUN) as changed:
            await until(lambda: _subscriptions(redis, 1))
            gate = Gate(pubsub, monkeypatch)
            entering = asyncio.ensure_future(chunks.watch(RUN).__aenter__())
            await until(lambda: gate.waiting)
            entering.cancel()
            await asyncio.wait({entering})
            gate.open()

            assert list(pubsub._channels) == [names.wake_channel(OTHER_RUN)]
            await until(lambda: _subscriptions(redis, 1))
            heard = asyncio.ensure_future(changed(LONG_SECONDS))
            await chunks.wake(OTHER_RUN)
            await asyncio.wait_for(heard, LONG_SECONDS / 3)


async def test_invariant_6_a_listener_that_breaks_is_logged_without_its_text_and_the_rest_hear_on(
    redis: PipelinedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes | None] = []

    def broken(payload: bytes | None) -> None:
        if payload == b"break":
            raise KeyError("s3CRET-canary")

    async with (
        pubsub_of(redis) as pubsub,
        pubsub.listening("broken", broken),
        pubsub.listening("sound", heard.append),
    ):
        await redis.publish("broken", b"break")
        await until(lambda: "KeyError" in caplog.text)
        await until(lambda: _heard(redis, heard, b"after"))

    assert "canary" not in caplog.text


async def _heard(redis: PipelinedRedis, heard: list[bytes | None], payload: bytes) -> bool:
    await redis.publish("sound", payload)
    return payload in heard


async def test_invariant_6_an_unforeseen_fault_does_not_end_the_waking_of_followers(
    redis: PipelinedRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wakes, sent = LogWakes(redis), redis.publish
    calls: list[str] = []

    async def publish(channel: str, payload: bytes) -> None:
        calls.append(channel)
        if len(calls) == 1:
            raise KeyError("s3CRET-canary")
        await sent(channel, payload)

    monkeypatch.setattr(redis, "publish", publish)
    commit = Commit((RUN,), Position(1))
    async with wakes.announcing():
        wakes.announce(commit)
        await until(lambda: len(calls) == 1)
        wakes.announce(commit)
        await until(lambda: len(calls) == 2)

    assert "KeyError" in caplog.text
    assert "canary" not in caplog.text


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
        await chunks.restart(RUN, await chunks.raise_attempt(RUN, Attempt(1)), 0, [b"a"])
    except Exception:  # noqa: BLE001 - until Redis is there
        return False
    return True
