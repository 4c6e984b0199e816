"""Cancel pushes: from whoever appended `cancel_requested` to the worker that drives the run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError
from typing_extensions import override

from runs_domain.errors import QueueUnavailable
from runs_domain.ids import RunId
from runs_domain.ports import CancelPush
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_pubsub import RedisPubSub


class RedisCancelPush(CancelPush):
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @override
    async def push(self, run_id: RunId) -> None:
        """Raises QueueUnavailable."""
        try:
            await self._redis.publish(names.CANCEL_CHANNEL, run_id.bytes)
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"push: {type(error).__name__}") from error


class CancelPushes:
    """The worker's side: one channel for all runs, an event for each run that is driven here.

    Every worker hears of every cancel; cancels are rare and ids are short.
    """

    def __init__(self, pubsub: RedisPubSub) -> None:
        self._pubsub = pubsub
        self._events: dict[UUID, set[asyncio.Event]] = {}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """For the life of the worker; `watching` works only inside."""
        async with self._pubsub.listening(names.CANCEL_CHANNEL, self._heard):
            yield

    @asynccontextmanager
    async def watching(self, run_id: RunId) -> AsyncIterator[asyncio.Event]:
        """The event is set when a cancel may have been asked for: clear it, look at the log."""
        event = asyncio.Event()
        events = self._events.setdefault(run_id, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events:
                self._events.pop(run_id, None)

    def _heard(self, payload: bytes | None) -> None:
        if payload is None:  # pushes may have been missed
            for events in self._events.values():
                for event in events:
                    event.set()
        elif len(payload) == len(UUID(int=0).bytes):
            for event in self._events.get(UUID(bytes=payload), ()):
                event.set()
