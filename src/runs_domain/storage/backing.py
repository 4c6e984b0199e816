"""What every process opens first: Redis, its pub/sub, and the log, whose commits it announces."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from runs_domain.keys import ServerSecrets, secrets_of
from runs_domain.ports import Clock
from runs_domain.settings import Settings
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.log_wakes import LogWakes
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub


@dataclass(frozen=True)
class Backing:
    redis: PipelinedRedis
    pubsub: RedisPubSub
    log: PostgresEventLog
    clock: Clock
    secrets: ServerSecrets


@asynccontextmanager
async def backing(settings: Settings) -> AsyncIterator[Backing]:
    """Works while PostgreSQL or Redis are away; what needs them is refused until they are back."""
    clock, secrets = SystemClock(), secrets_of(settings)
    async with AsyncExitStack() as opened:
        redis = PipelinedRedis(settings.redis_url.reveal())
        opened.push_async_callback(redis.aclose)
        pubsub = RedisPubSub(redis)
        opened.push_async_callback(pubsub.close)
        wakes = LogWakes(redis)
        await opened.enter_async_context(wakes.announcing())
        log = await opened.enter_async_context(
            open_log(settings.database_url, secrets, clock, on_commit=wakes.announce)
        )
        yield Backing(redis, pubsub, log, clock, secrets)
