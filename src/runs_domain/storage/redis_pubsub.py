"""All of a process's Redis channels on one connection.

A message is a hint, never the truth: one can be lost, and after a reconnect every listener is
told that something may have happened.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from runs_domain.storage.waking import Signal

logger = logging.getLogger(__name__)

PING_SECONDS: Final = 5.0
"""After this long without a message the server is asked; without an answer in as long, dropped."""
PAUSE_SECONDS_MIN: Final = 0.05
PAUSE_SECONDS_MAX: Final = 1.0
SUBSCRIBE_SECONDS: Final = 1.0
"""How long a listener waits for the server's word that it listens; then it goes on without."""

Handler = Callable[[bytes | None], None]
"""Gets a message's payload, or None: something may have been missed."""


class _Channel:
    def __init__(self) -> None:
        self.handlers: set[Handler] = set()
        self.confirmed = asyncio.Event()


class RedisPubSub:
    """Starts with the first listener. `close` it before the client that it was given."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._channels: dict[str, _Channel] = {}
        self._connection: PubSub | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @asynccontextmanager
    async def listening(self, channel: str, handler: Handler) -> AsyncIterator[None]:
        """Call `handler` for each message while inside. Never raises because Redis is away."""
        state = self._channels.get(channel)
        if state is None:
            state = self._channels[channel] = _Channel()
            await self._tell(channel, listen=True)
        state.handlers.add(handler)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(SUBSCRIBE_SECONDS):
                    await state.confirmed.wait()
            yield
        finally:
            state.handlers.discard(handler)
            if not state.handlers and self._channels.get(channel) is state:
                del self._channels[channel]
                await self._tell(channel, listen=False)

    async def close(self) -> None:
        self._closing = True  # a client may swallow a cancellation that meets its time-out
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _tell(self, channel: str, *, listen: bool) -> None:
        if self._connection is not None:
            with suppress(RedisError, OSError):  # the reader notices and subscribes anew
                if listen:
                    await self._connection.subscribe(channel)
                else:
                    await self._connection.unsubscribe(channel)

    async def _run(self) -> None:
        pause = PAUSE_SECONDS_MIN
        while not self._closing:
            try:
                async for message in self._messages():
                    pause = PAUSE_SECONDS_MIN
                    self._handle(message)
            except (RedisError, OSError) as error:
                logger.warning("pub/sub lost its connection: %s", type(error).__name__)
            await Signal().wait(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    async def _messages(self) -> AsyncIterator[dict[str, Any]]:
        connection = self._redis.pubsub()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            self._connection = connection
            for channel in tuple(self._channels):
                await connection.subscribe(channel)
            asked = False
            while not self._closing:
                message = await connection.get_message(timeout=PING_SECONDS)
                if message is not None:
                    asked = False
                    yield message
                elif asked:
                    raise ConnectionResetError("no answer to a ping")
                else:
                    asked = True
                    await connection.ping()
        finally:
            self._connection = None
            for state in self._channels.values():
                state.confirmed.clear()
            await connection.aclose()  # type: ignore[no-untyped-call]

    def _handle(self, message: dict[str, Any]) -> None:
        if message["channel"] is None:
            return  # a pong
        state = self._channels.get(message["channel"].decode())
        if state is None:
            return
        if message["type"] == "subscribe":
            state.confirmed.set()
        payload = message["data"] if message["type"] == "message" else None
        for handler in tuple(state.handlers):
            handler(payload)
