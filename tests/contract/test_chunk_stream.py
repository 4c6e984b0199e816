"""The ChunkStream port behaves the same in memory, on fakeredis and on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from runs_domain.errors import StaleAttempt
from runs_domain.ids import Attempt
from runs_domain.ports import ChunkStream, ChunkTail
from runs_domain.storage import redis_names as names
from runs_domain.storage.memory_chunks import MemoryChunks
from runs_domain.storage.redis_chunks import FRAMES_PER_CALL_MAX, RedisChunks
from tests.support.redis_twins import KINDS, OTHER_RUN, RUN, pubsub_of, redis_of

ONE, TWO = Attempt(1), Attempt(2)
LONG_SECONDS = 30.0


@pytest.fixture(params=("memory", *KINDS))
async def chunks(request: pytest.FixtureRequest) -> AsyncIterator[ChunkStream]:
    if request.param == "memory":
        yield MemoryChunks()
        return
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client, pubsub_of(client) as pubsub:
        yield RedisChunks(client, pubsub)


@pytest.fixture(params=KINDS)
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client:
        yield client


async def test_frames_come_back_under_the_indexes_they_were_written_at(chunks: ChunkStream) -> None:
    assert await chunks.write(RUN, ONE, 0, [b"a", b"b"]) is True
    assert await chunks.write(RUN, ONE, 2, [b"c"]) is True

    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a", b"b", b"c"), ONE)
    assert await chunks.read(RUN, 1, count=1) == ChunkTail(1, (b"b",), ONE)
    assert await chunks.next_index(RUN) == 3


async def test_a_wrong_next_index_is_refused_and_changes_nothing(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a"])

    assert await chunks.write(RUN, ONE, 0, [b"again"]) is False
    assert await chunks.write(RUN, ONE, 2, [b"hole"]) is False

    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a",), ONE)


async def test_a_stream_that_is_not_there_reads_as_none(chunks: ChunkStream) -> None:
    assert await chunks.read(RUN, 0, count=1) is None
    assert await chunks.next_index(RUN) is None


async def test_a_stream_that_is_not_there_begins_at_0(chunks: ChunkStream) -> None:
    """A writer whose frames were wiped must hear of it."""
    assert await chunks.write(RUN, TWO, 7, [b"h"]) is False

    assert await chunks.next_index(RUN) is None


async def test_what_is_before_the_base_reads_as_none(chunks: ChunkStream) -> None:
    await chunks.restart(RUN, TWO, 7, [b"h"])

    assert await chunks.read(RUN, 6, count=10) is None
    assert await chunks.read(RUN, 7, count=10) == ChunkTail(7, (b"h",), TWO)
    assert await chunks.next_index(RUN) == 8


async def test_a_reader_at_the_end_gets_no_frames(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a"])

    assert await chunks.read(RUN, 1, count=10) == ChunkTail(1, (), ONE)


async def test_a_reader_beyond_the_end_is_told_where_the_end_is(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a"])

    assert await chunks.read(RUN, 5, count=10) == ChunkTail(1, (), ONE)


async def test_invariant_3_a_lower_attempt_writes_nothing(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a"])
    assert await chunks.raise_attempt(RUN, TWO, 0) == ChunkTail(0, (b"a",), TWO)

    with pytest.raises(StaleAttempt):
        await chunks.write(RUN, ONE, 1, [b"late"])
    with pytest.raises(StaleAttempt):
        await chunks.restart(RUN, ONE, 0, [b"late"])
    with pytest.raises(StaleAttempt):
        await chunks.raise_attempt(RUN, ONE, 0)
    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a",), TWO)


async def test_invariant_3_the_fence_stands_before_the_first_frame(chunks: ChunkStream) -> None:
    assert await chunks.raise_attempt(RUN, TWO, 0) is None

    with pytest.raises(StaleAttempt):
        await chunks.write(RUN, ONE, 0, [b"late"])
    assert await chunks.read(RUN, 0, count=1) is None
    assert await chunks.write(RUN, TWO, 0, [b"a"]) is True


async def test_raising_an_attempt_twice_gives_the_same_tail(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a"])

    assert await chunks.raise_attempt(RUN, TWO, 0) == await chunks.raise_attempt(RUN, TWO, 0)


async def test_raising_an_attempt_gives_what_is_there_from_an_index_on(
    chunks: ChunkStream,
) -> None:
    await chunks.restart(RUN, ONE, 5, [b"f", b"g", b"h"])

    for index, tail in (
        (0, ChunkTail(5, (b"f", b"g", b"h"), TWO)),
        (5, ChunkTail(5, (b"f", b"g", b"h"), TWO)),
        (7, ChunkTail(7, (b"h",), TWO)),
        (8, ChunkTail(8, (), TWO)),
        (99, ChunkTail(8, (), TWO)),
    ):
        assert await chunks.raise_attempt(RUN, TWO, index) == tail


async def test_a_higher_attempt_fences_by_writing(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a"])
    assert await chunks.write(RUN, TWO, 1, [b"b"]) is True

    with pytest.raises(StaleAttempt):
        await chunks.write(RUN, ONE, 2, [b"late"])


async def test_restart_forgets_and_begins_again(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a", b"b"])

    await chunks.restart(RUN, ONE, 5, [b"f"])

    assert await chunks.read(RUN, 4, count=1) is None
    assert await chunks.read(RUN, 5, count=10) == ChunkTail(5, (b"f",), ONE)
    assert await chunks.write(RUN, ONE, 6, [b"g"]) is True


async def test_more_frames_than_one_call_takes_are_all_there(chunks: ChunkStream) -> None:
    frames = tuple(b"%d" % number for number in range(2 * FRAMES_PER_CALL_MAX + 1))
    assert await chunks.write(RUN, ONE, 0, frames) is True

    assert await chunks.raise_attempt(RUN, TWO, 0) == ChunkTail(0, frames, TWO)
    await chunks.restart(RUN, TWO, 1, frames)
    assert await chunks.raise_attempt(RUN, TWO, 0) == ChunkTail(1, frames, TWO)


async def test_runs_do_not_share_frames(chunks: ChunkStream) -> None:
    await chunks.write(RUN, ONE, 0, [b"a"])

    assert await chunks.read(OTHER_RUN, 0, count=1) is None


async def test_a_write_wakes_every_watcher_of_its_run(chunks: ChunkStream) -> None:
    async with chunks.watch(RUN) as first, chunks.watch(RUN) as second:
        waiting = asyncio.gather(first(LONG_SECONDS), second(LONG_SECONDS))
        await chunks.write(RUN, ONE, 0, [b"a"])
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
        await chunks.raise_attempt(OTHER_RUN, TWO, 0)
        await chunks.write(RUN, ONE, 0, [b"a"])
        for key in await redis.keys("*"):
            assert 0 < await redis.ttl(key) <= names.CHUNKS_LIVE_SECONDS

        await chunks.expire(RUN, seconds=9)

        assert await redis.ttl(names.chunk_state(RUN)) <= 9
        assert await redis.ttl(names.chunk_frames(RUN)) <= 9


async def test_frames_without_their_state_are_forgotten(redis: Redis) -> None:
    """A Redis that evicts may drop one key of the two."""
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        await chunks.write(RUN, ONE, 0, [b"old", b"old"])
        await redis.delete(names.chunk_state(RUN))

        assert await chunks.write(RUN, ONE, 2, [b"c"]) is False
        assert await chunks.write(RUN, ONE, 0, [b"a"]) is True

        assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"a",), ONE)


async def test_state_without_its_frames_refuses_so_that_the_writer_begins_again(
    redis: Redis,
) -> None:
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        await chunks.write(RUN, ONE, 0, [b"a"])
        await redis.delete(names.chunk_frames(RUN))

        assert await chunks.write(RUN, ONE, 1, [b"b"]) is False
