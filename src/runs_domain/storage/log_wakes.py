"""Wakes those who follow the log, through Redis, after a commit and never inside it.

A wake is a hint: followers poll as well, so a lost one costs a moment.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from runs_domain.errors import QueueUnavailable
from runs_domain.faults import log_fault
from runs_domain.storage import redis_names as names
from runs_domain.storage.appender import Commit
from runs_domain.storage.redis_pubsub import RedisPubSub
from runs_domain.storage.waking import Signal

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.02
"""At most one wake in this time, however many commits."""


class LogWakes:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._committed = asyncio.Event()

    def announce(self, _commit: Commit) -> None:
        """The appender's `on_commit`: cheap, and never in a commit's way."""
        self._committed.set()

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._announce_for_ever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _announce_for_ever(self) -> None:
        is_away = False
        pace = Signal()
        while True:
            await self._committed.wait()
            self._committed.clear()
            try:
                await self._redis.publish(names.LOG_CHANNEL, b"")
                is_away = False
            except (QueueUnavailable, RedisError, OSError) as error:
                if not is_away:
                    logger.warning("followers must poll: %s", type(error).__name__)
                is_away = True
            except Exception as error:  # noqa: BLE001 - a loop that ends would wake nobody again
                log_fault(logger, "followers must poll", error)
            await pace.wait(PAUSE_SECONDS)


@asynccontextmanager
async def woken(pubsub: RedisPubSub) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
    """A follower's wait: returns at a wake, or after so many seconds."""
    signal = Signal()
    async with pubsub.listening(names.LOG_CHANNEL, lambda _: signal.set()):
        yield signal.wait
