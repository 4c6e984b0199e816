"""Both kinds of Redis that contract tests run on, and the ports on top of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import fakeredis
from redis.asyncio import Redis

from runs_domain.ids import RunId
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from tests.support.servers import temporary_servers
from workers.stack.valkey import Valkey

RUN = RunId(UUID("01890000-0000-7000-8000-000000000001"))
OTHER_RUN = RunId(UUID("01890000-0000-7000-8000-000000000002"))
ACCOUNT = "01890000-0000-7000-8000-0000000000aa"

KINDS = ("fakeredis", "valkey")
GHOST = "ghost"


@asynccontextmanager
async def redis_of(kind: str, url: str) -> AsyncIterator[Redis]:
    redis = fakeredis.FakeAsyncRedis() if kind == "fakeredis" else PipelinedRedis(url)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def pubsub_of(redis: Redis) -> AsyncIterator[RedisPubSub]:
    pubsub = RedisPubSub(redis)
    try:
        yield pubsub
    finally:
        await pubsub.close()


async def take_as_a_ghost(redis: Redis, count: int = 1) -> list[str]:
    """Take the next `count` entries as a worker that was killed long ago; their tickets."""
    taken = await redis.execute_command(  # type: ignore[no-untyped-call]
        *("XREADGROUP", "GROUP", names.GROUP, GHOST, "COUNT", count, "STREAMS"),
        *(names.JOB_STREAM, ">"),
    )
    tickets = [ticket for ticket, _ in next(iter(taken))[1]]
    await redis.xclaim(names.JOB_STREAM, names.GROUP, GHOST, 0, tickets, idle=3_600_000)
    return [ticket.decode() for ticket in tickets]


@contextmanager
def own_valkey() -> Iterator[Valkey]:
    """A Valkey of the test's own, started: it may be stopped, killed, emptied and started."""
    with temporary_servers() as servers:
        servers.valkey.start()
        try:
            yield servers.valkey
        finally:
            servers.valkey.stop()
