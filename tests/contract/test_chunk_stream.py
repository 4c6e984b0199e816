"""The ChunkStream port behaves the same in memory, on fakeredis and on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest
from redis.asyncio import Redis

from runs_domain.errors import FenceDown, StaleAttempt
from runs_domain.ids import Attempt
from runs_domain.ports import ChunkStream, ChunkTail, Fence
from runs_domain.storage import redis_names as names
from runs_domain.storage.memory_chunks import MemoryChunks
from runs_domain.storage.redis_chunks import FRAMES_PER_CALL_MAX, RedisChunks
from tests.support.redis_twins import KINDS, OTHER_RUN, RUN, pubsub_of, redis_of

ONE, TWO, THREE = Attempt(1), Attempt(2), Attempt(3)
LONG_SECONDS = 30.0
Wipe: TypeAlias = Callable[[], Awaitable[object]]


@pytest.fixture(params=("memory", *KINDS))
async def chunks(request: pytest.FixtureRequest) -> AsyncIterator[ChunkStream]:
    if request.param == "memory":
        yield MemoryChunks()
        return
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client, pubsub_of(client) as pubsub:
        yield RedisChunks(client, pubsub)


@pytest.fixture
def wipe(chunks: ChunkStream) -> Wipe:
    """FLUSHALL under `chunks`."""

    async def flush() -> None:
        if isinstance(chunks, MemoryChunks):
            chunks.wipe()
        else:
            assert isinstance(chunks, RedisChunks)
            await chunks._redis.flushall()

    return flush


@pytest.fixture(params=KINDS)
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client:
        yield client


async def up(chunks: ChunkStream, attempt: Attempt) -> Fence:
    return await chunks.raise_attempt(RUN, attempt)


async def test_frames_come_back_under_the_indexes_they_were_written_at(chunks: ChunkStream) -> None:
    fence = await up(chunks, ONE)
    assert await chunks.write(RUN, fence, 0, [b"a", b"b"]) is True
    assert await chunks.write(RUN, fence, 2, [b"c"]) is True

    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a", b"b", b"c"), ONE)
    assert await chunks.read(RUN, 1, count=1) == ChunkTail(1, (b"b",), ONE)
    assert await chunks.next_index(RUN) == 3


async def test_a_wrong_next_index_is_refused_and_changes_nothing(chunks: ChunkStream) -> None:
    fence = await up(chunks, ONE)
    await chunks.write(RUN, fence, 0, [b"a"])

    assert await chunks.write(RUN, fence, 0, [b"again"]) is False
    assert await chunks.write(RUN, fence, 2, [b"hole"]) is False

    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a",), ONE)


async def test_a_stream_that_is_not_there_reads_as_none(chunks: ChunkStream) -> None:
    assert await chunks.read(RUN, 0, count=1) is None
    assert await chunks.next_index(RUN) is None


async def test_a_fence_alone_is_no_stream(chunks: ChunkStream) -> None:
    fence = await up(chunks, TWO)

    assert await chunks.read(RUN, 0, count=1) is None
    assert await chunks.next_index(RUN) is None
    assert await chunks.tail(RUN, fence, 0) is None


async def test_a_stream_without_frames_begins_at_0(chunks: ChunkStream) -> None:
    """A writer whose frames were wiped must hear of it."""
    fence = await up(chunks, TWO)
    assert await chunks.write(RUN, fence, 7, [b"h"]) is False

    assert await chunks.next_index(RUN) is None


async def test_what_is_before_the_base_reads_as_none(chunks: ChunkStream) -> None:
    fence = await up(chunks, TWO)
    await chunks.restart(RUN, fence, 7, [b"h"])

    assert await chunks.read(RUN, 6, count=10) is None
    assert await chunks.read(RUN, 7, count=10) == ChunkTail(7, (b"h",), TWO)
    assert await chunks.next_index(RUN) == 8


async def test_a_reader_at_the_end_gets_no_frames(chunks: ChunkStream) -> None:
    await chunks.write(RUN, await up(chunks, ONE), 0, [b"a"])

    assert await chunks.read(RUN, 1, count=10) == ChunkTail(1, (), ONE)


async def test_a_reader_beyond_the_end_is_told_where_the_end_is(chunks: ChunkStream) -> None:
    await chunks.write(RUN, await up(chunks, ONE), 0, [b"a"])

    assert await chunks.read(RUN, 5, count=10) == ChunkTail(1, (), ONE)


async def test_invariant_3_a_lower_attempt_writes_nothing(chunks: ChunkStream) -> None:
    low = await up(chunks, ONE)
    await chunks.write(RUN, low, 0, [b"a"])
    high = await up(chunks, TWO)

    for late in (
        chunks.write(RUN, low, 1, [b"late"]),
        chunks.restart(RUN, low, 0, [b"late"]),
        chunks.tail(RUN, low, 0),
        chunks.raise_attempt(RUN, ONE),
    ):
        with pytest.raises(StaleAttempt):
            await late
    assert await chunks.tail(RUN, high, 0) == ChunkTail(0, (b"a",), ONE)


async def test_invariant_3_the_fence_stands_before_the_first_frame(chunks: ChunkStream) -> None:
    low, high = await up(chunks, ONE), await up(chunks, TWO)

    with pytest.raises(StaleAttempt):
        await chunks.write(RUN, low, 0, [b"late"])
    assert await chunks.read(RUN, 0, count=1) is None
    assert await chunks.write(RUN, high, 0, [b"a"]) is True


async def test_invariant_3_where_the_fence_was_wiped_nobody_writes(
    chunks: ChunkStream, wipe: Wipe
) -> None:
    """Not even at index 0, and not even the highest attempt: it cannot know that it is."""
    low, high = await up(chunks, ONE), await up(chunks, TWO)
    await chunks.write(RUN, high, 0, [b"a"])

    await wipe()

    for fence in (low, high):
        for index in (0, 1):
            with pytest.raises(FenceDown):
                await chunks.write(RUN, fence, index, [b"late"])
        with pytest.raises(FenceDown):
            await chunks.restart(RUN, fence, 0, [b"late"])
        with pytest.raises(FenceDown):
            await chunks.tail(RUN, fence, 0)
    assert await chunks.next_index(RUN) is None


async def test_invariant_3_nobody_writes_behind_a_fence_that_another_put_up(
    chunks: ChunkStream, wipe: Wipe
) -> None:
    """A stalled worker of a still lower attempt was the first to come to a wiped Redis."""
    middle = await up(chunks, TWO)
    await wipe()
    await up(chunks, ONE)

    with pytest.raises(FenceDown):
        await chunks.write(RUN, middle, 0, [b"late"])
    with pytest.raises(FenceDown):
        await chunks.restart(RUN, middle, 0, [b"late"])


async def test_a_fence_that_was_wiped_is_not_the_one_put_up_after(
    chunks: ChunkStream, wipe: Wipe
) -> None:
    """Of one attempt and one worker: what it saw in the log before the wipe counts no more."""
    before = await up(chunks, ONE)
    await wipe()
    after = await up(chunks, ONE)

    with pytest.raises(FenceDown):
        await chunks.write(RUN, before, 0, [b"a"])
    assert await chunks.write(RUN, after, 0, [b"a"]) is True


async def test_two_of_one_attempt_do_not_write_in_turns(chunks: ChunkStream) -> None:
    first, second = await up(chunks, ONE), await up(chunks, ONE)

    with pytest.raises(FenceDown):
        await chunks.write(RUN, first, 0, [b"a"])
    assert await chunks.write(RUN, second, 0, [b"b"]) is True


async def test_a_fence_changes_nothing_of_what_is_there(chunks: ChunkStream) -> None:
    """Its attempt vouches for frames once it has written some, and not before."""
    await chunks.write(RUN, await up(chunks, ONE), 0, [b"a"])

    high = await up(chunks, TWO)

    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a",), ONE)
    await chunks.write(RUN, high, 1, [b"b"])
    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a", b"b"), TWO)


async def test_the_tail_is_what_is_there_from_an_index_on(chunks: ChunkStream) -> None:
    await chunks.restart(RUN, await up(chunks, ONE), 5, [b"f", b"g", b"h"])
    fence = await up(chunks, TWO)

    for index, tail in (
        (0, ChunkTail(5, (b"f", b"g", b"h"), ONE)),
        (5, ChunkTail(5, (b"f", b"g", b"h"), ONE)),
        (7, ChunkTail(7, (b"h",), ONE)),
        (8, ChunkTail(8, (), ONE)),
        (99, ChunkTail(8, (), ONE)),
    ):
        assert await chunks.tail(RUN, fence, index) == tail


async def test_restart_forgets_and_begins_again(chunks: ChunkStream) -> None:
    fence = await up(chunks, ONE)
    await chunks.write(RUN, fence, 0, [b"a", b"b"])

    await chunks.restart(RUN, fence, 5, [b"f"])

    assert await chunks.read(RUN, 4, count=1) is None
    assert await chunks.read(RUN, 5, count=10) == ChunkTail(5, (b"f",), ONE)
    assert await chunks.write(RUN, fence, 6, [b"g"]) is True


async def test_more_frames_than_one_call_takes_are_all_there(chunks: ChunkStream) -> None:
    frames = tuple(b"%d" % number for number in range(2 * FRAMES_PER_CALL_MAX + 1))
    fence = await up(chunks, ONE)
    assert await chunks.write(RUN, fence, 0, frames) is True

    assert await chunks.tail(RUN, fence, 0) == ChunkTail(0, frames, ONE)
    assert await chunks.tail(RUN, fence, 3) == ChunkTail(3, frames[3:], ONE)
    await chunks.restart(RUN, fence, 1, frames)
    assert await chunks.tail(RUN, fence, 0) == ChunkTail(1, frames, ONE)


async def test_runs_do_not_share_frames(chunks: ChunkStream) -> None:
    await chunks.write(RUN, await up(chunks, ONE), 0, [b"a"])

    assert await chunks.read(OTHER_RUN, 0, count=1) is None


async def test_a_write_wakes_every_watcher_of_its_run(chunks: ChunkStream) -> None:
    async with chunks.watch(RUN) as first, chunks.watch(RUN) as second:
        waiting = asyncio.gather(first(LONG_SECONDS), second(LONG_SECONDS))
        await chunks.write(RUN, await up(chunks, ONE), 0, [b"a"])
        async with asyncio.timeout(LONG_SECONDS / 3):
            await waiting


async def test_a_change_before_the_wait_is_not_missed(chunks: ChunkStream) -> None:
    async with chunks.watch(RUN) as changed:
        await chunks.wake(RUN)
        async with asyncio.timeout(LONG_SECONDS / 3):
            await changed(LONG_SECONDS)


async def test_waiting_ends_without_a_change(chunks: ChunkStream) -> None:
    async with chunks.watch(RUN) as changed:
        await changed(0.01)
        await changed(0.01)


async def test_no_chunk_key_is_without_an_end(redis: Redis) -> None:
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        await chunks.raise_attempt(OTHER_RUN, TWO)
        await chunks.write(RUN, await up(chunks, ONE), 0, [b"a"])
        for key in await redis.keys("*"):
            assert 0 < await redis.ttl(key) <= names.CHUNKS_LIVE_SECONDS

        await chunks.expire(RUN, seconds=9)

        assert await redis.ttl(names.chunk_state(RUN)) <= 9
        assert await redis.ttl(names.chunk_frames(RUN)) <= 9


async def test_frames_without_their_state_are_forgotten(redis: Redis) -> None:
    """A Redis that evicts may drop one key of the two."""
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        await chunks.write(RUN, await up(chunks, ONE), 0, [b"old", b"old"])
        await redis.delete(names.chunk_state(RUN))

        fence = await up(chunks, ONE)
        assert await chunks.tail(RUN, fence, 0) is None
        assert await chunks.write(RUN, fence, 2, [b"c"]) is False
        assert await chunks.write(RUN, fence, 0, [b"a"]) is True

        assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a",), ONE)


async def test_state_without_its_frames_refuses_so_that_the_writer_begins_again(
    redis: Redis,
) -> None:
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        fence = await up(chunks, ONE)
        await chunks.write(RUN, fence, 0, [b"a"])
        await redis.delete(names.chunk_frames(RUN))

        assert await chunks.write(RUN, fence, 1, [b"b"]) is False
