"""The ChunkStream port: a list of frames a run, and a hash that says where it begins."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError
from typing_extensions import override

from runs_domain.errors import FenceDown, QueueUnavailable, StaleAttempt
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import ChunkStream, ChunkTail, Fence
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import LuaScript
from runs_domain.storage.redis_pubsub import RedisPubSub
from runs_domain.storage.waking import Signal

FRAMES_PER_CALL_MAX: Final = 512
"""More go in several calls; Redis runs each script alone, and Lua unpacks no more than some."""
STALE: Final = -1
DOWN: Final = -2
ABOVE_ALL: Final = Attempt(2**53 - 1)
"""The highest that Lua counts to: no worker comes there."""

_WRITE: Final = LuaScript("chunk_write")
_RAISE: Final = LuaScript("chunk_raise")
_TAIL: Final = LuaScript("chunk_tail")
_READ: Final = LuaScript("chunk_read")
_BAR: Final = LuaScript("chunk_bar")
_HEAD: Final = 3
"""What a page says before its frames: base, length, attempt."""


class RedisChunks(ChunkStream):
    def __init__(self, redis: Redis, pubsub: RedisPubSub) -> None:
        self._redis = redis
        self._pubsub = pubsub

    @override
    async def raise_attempt(self, run_id: RunId, attempt: Attempt) -> Fence:
        fence = Fence(attempt, token_hex(8))
        args = (attempt, fence.mark, names.CHUNKS_LIVE_SECONDS)
        _refuse(await _RAISE(self._redis, _keys(run_id), args), run_id, fence)
        return fence

    @override
    async def tail(self, run_id: RunId, fence: Fence, index: int) -> ChunkTail | None:
        frames: list[bytes] = []
        while True:
            args = (fence.attempt, fence.mark, index + len(frames), FRAMES_PER_CALL_MAX)
            page = await _TAIL(self._redis, _keys(run_id), args)
            _refuse(page, run_id, fence)
            if not page:
                return None
            base, length, attempt = page[:_HEAD]
            index = min(max(index, base), base + length)
            frames += page[_HEAD:]
            if index + len(frames) >= base + length:
                return ChunkTail(index, tuple(frames), Attempt(attempt))

    @override
    async def write(self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]) -> bool:
        return await self._write(run_id, fence, index, frames, restart=False)

    @override
    async def restart(
        self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]
    ) -> None:
        await self._write(run_id, fence, index, frames, restart=True)

    async def _write(
        self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes], *, restart: bool
    ) -> bool:
        channel = names.wake_channel(run_id)
        for start in range(0, max(len(frames), 1), FRAMES_PER_CALL_MAX):
            where = (index + start, names.CHUNKS_LIVE_SECONDS, channel, int(restart and start == 0))
            part = frames[start : start + FRAMES_PER_CALL_MAX]
            args = (fence.attempt, fence.mark, *where, *part)
            reply = await _WRITE(self._redis, _keys(run_id), args)
            _refuse(reply, run_id, fence)
            if reply == 0:
                return False
        return True

    @override
    async def read(self, run_id: RunId, index: int, *, count: int) -> ChunkTail | None:
        """`first` below `index`, without frames, = the stream ends before `index`."""
        page = await self._read(run_id, index, min(count, FRAMES_PER_CALL_MAX))
        if not page or index < page[0]:
            return None
        base, length, attempt = page[:_HEAD]
        return ChunkTail(min(index, base + length), tuple(page[_HEAD:]), Attempt(attempt))

    @override
    async def next_index(self, run_id: RunId) -> int | None:
        page = await self._read(run_id, 0, 0)
        return page[0] + page[1] if page else None

    async def _read(self, run_id: RunId, index: int, count: int) -> list[Any]:
        page: list[Any] = await _READ(self._redis, _keys(run_id), (index, count))
        return page

    @override
    @asynccontextmanager
    async def watch(self, run_id: RunId) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        signal = Signal()
        async with self._pubsub.listening(names.wake_channel(run_id), lambda _: signal.set()):
            yield signal.wait

    @override
    async def wake(self, run_id: RunId) -> None:
        try:
            await self._redis.publish(names.wake_channel(run_id), b"")
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"wake: {type(error).__name__}") from error

    @override
    async def expire(self, run_id: RunId, *, seconds: int) -> None:
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in _keys(run_id):
                    pipe.expire(key, seconds)
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"expire: {type(error).__name__}") from error


async def bar(redis: Redis, run_ids: Sequence[RunId]) -> int:
    """Forget what the runs, which have ended, streamed, and write nothing of them again; how many
    keys went. A worker that was asleep at the end finds a fence that it cannot pass.

    Raises QueueUnavailable.
    """
    args = (ABOVE_ALL, token_hex(8), names.CHUNKS_LIVE_SECONDS)
    gone = await asyncio.gather(*(_BAR(redis, _keys(run_id), args) for run_id in run_ids))
    return sum(map(int, gone))


async def forget(redis: Redis, run_ids: Sequence[RunId]) -> int:
    """Delete what the runs streamed; how many keys went. Raises QueueUnavailable."""
    try:
        async with redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.unlink(*_keys(run_id))
            return sum(map(int, await pipe.execute()))
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"forget: {type(error).__name__}") from error


def _keys(run_id: RunId) -> tuple[str, str]:
    return names.chunk_state(run_id), names.chunk_frames(run_id)


def _refuse(reply: Any, run_id: RunId, fence: Fence) -> None:
    if reply == STALE:
        raise StaleAttempt(f"the chunks of run {run_id} have passed attempt {fence.attempt}")
    if reply == DOWN:
        raise FenceDown(f"attempt {fence.attempt} has no fence at the chunks of run {run_id}")
