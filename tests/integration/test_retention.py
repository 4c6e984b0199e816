"""docs/retention.md against a real database and a real Valkey."""

from collections.abc import Awaitable, Callable

import psycopg

from runs_domain.ids import Attempt
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from tests.domain.test_retention_listed import listed
from tests.support.redis_twins import RUN, pubsub_of
from tests.support.servers import Database, as_owner
from tests.support.waiting import until

ONE, TWO = Attempt(1), Attempt(2)
KEYS = (names.chunk_state(RUN), names.chunk_frames(RUN))


def test_every_table_is_listed_once_with_how_long_it_is_kept(database: Database) -> None:
    rows = as_owner(
        database,
        "SELECT tablename FROM pg_tables WHERE schemaname NOT IN"
        " ('pg_catalog', 'information_schema')",
    )
    assert sorted(listed("PostgreSQL")) == sorted(name for (name,) in rows)


def test_the_service_may_remove_from_few_tables_and_never_from_the_log(database: Database) -> None:
    """Whatever its code says, PostgreSQL lets it delete receipts and rows of views alone."""
    with psycopg.connect(database.url) as service:
        rows = service.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'public'::regnamespace"
            " AND (has_table_privilege(oid, 'DELETE') OR has_table_privilege(oid, 'TRUNCATE'))"
        ).fetchall()
    assert {name for (name,) in rows} == {
        *("log_receipts", "runs", "messages", "credits", "sandboxes")
    }


async def test_live_frames_have_a_time_to_live_after_every_call(redis: PipelinedRedis) -> None:
    """Whoever dies after whichever call leaves no frame behind for ever, the half of an `expire`
    included.
    """
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        fence = await chunks.raise_attempt(RUN, ONE)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: chunks.write(RUN, fence, 0, [b"a", b"b"]),
            lambda: chunks.write(RUN, fence, 9, [b"no"]),
            lambda: chunks.restart(RUN, fence, 5, [b"c"]),
            lambda: redis.delete(KEYS[0]),
            lambda: chunks.raise_attempt(RUN, TWO),
            lambda: redis.expire(KEYS[0], 1000),
            lambda: chunks.expire(RUN, seconds=100),
            lambda: chunks.raise_attempt(RUN, TWO),
        ]
        for call in calls:
            await call()
            for key in KEYS:
                assert await redis.ttl(key) != -1, "it would stay"
        assert max([await redis.ttl(key) for key in KEYS]) <= names.CHUNKS_LIVE_SECONDS


async def test_an_ended_runs_frames_really_go(redis: PipelinedRedis) -> None:
    async with pubsub_of(redis) as pubsub:
        chunks = RedisChunks(redis, pubsub)
        fence = await chunks.raise_attempt(RUN, ONE)
        await chunks.write(RUN, fence, 0, [b"a"])
        assert await redis.exists(*KEYS) == 2
        await chunks.expire(RUN, seconds=1)

        async def are_gone() -> bool:
            return await redis.exists(*KEYS) == 0

        await until(are_gone)
        assert await chunks.read(RUN, 0, count=1) is None
