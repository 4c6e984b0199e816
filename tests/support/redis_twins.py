"""Both kinds of Redis that contract tests run on, and the ports on top of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import fakeredis
from redis.asyncio import Redis

from runs_domain.ids import RunId
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from tests.support.servers import temporary_servers
from workers.stack.valkey import Valkey

RUN = RunId(UUID("01890000-0000-7000-8000-000000000001"))
OTHER_RUN = RunId(UUID("01890000-0000-7000-8000-000000000002"))
ACCOUNT = "01890000-0000-7000-8000-0000000000aa"

KINDS = ("fakeredis", "valkey")


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


@contextmanager
def own_valkey() -> Iterator[Valkey]:
    """A Valkey of the test's own, started: it may be stopped, killed, emptied and started."""
    with temporary_servers() as servers:
        servers.valkey.start()
        try:
            yield servers.valkey
        finally:
            servers.valkey.stop()
