"""All of a process's Redis channels on one connection.

A message is a hint, never the truth: one can be lost, and after a reconnect every listener is
told that something may have happened.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from runs_domain.faults import log_fault
from runs_domain.storage.waking import Signal, wait_for

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
        self.handlers: list[Handler] = []
        self.confirmed = asyncio.Event()


class RedisPubSub:
    """Starts with the first listener. `close` it before the client that it was given.

    Listeners only say which channels they want; one task tells the server, so that it hears in
    order, and that no listener's cancellation meets the shared connection.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._channels: dict[str, _Channel] = {}
        self._untold: set[str] = set()
        """Channels that somebody began or ceased to want since the server was told."""
        self._connection: PubSub | None = None
        self._reader: asyncio.Task[None] | None = None
        self._teller: asyncio.Task[None] | None = None
        self._closing = False

    @asynccontextmanager
    async def listening(self, channel: str, handler: Handler) -> AsyncIterator[None]:
        """Call `handler` for each message while inside. Never raises because Redis is away."""
        state = self._channels.get(channel)
        if state is None:
            state = self._channels[channel] = _Channel()
            self._tell({channel})
        state.handlers.append(handler)
        if self._reader is None:
            self._reader = asyncio.create_task(self._run())
        try:
            await wait_for(state.confirmed, SUBSCRIBE_SECONDS)
            yield
        finally:
            state.handlers.remove(handler)
            if not state.handlers:
                del self._channels[channel]
                self._tell({channel})

    async def close(self) -> None:
        self._closing = True  # a client may swallow a cancellation that meets its time-out
        tasks = [task for task in (self._teller, self._reader) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -------------------------------------------------------------------------- telling

    def _tell(self, channels: Iterable[str]) -> None:
        if self._connection is None:
            return  # whoever connects tells all
        self._untold.update(channels)
        if self._teller is None or self._teller.done():
            self._teller = asyncio.create_task(self._tell_server())

    async def _tell_server(self) -> None:
        while self._untold and (connection := self._connection) is not None:
            channels, self._untold = self._untold, set()
            try:
                if wanted := channels & self._channels.keys():
                    await connection.subscribe(*wanted)
                unwanted = channels - self._channels.keys()
                if unwanted and connection is self._connection:  # a closed one would open another
                    await connection.unsubscribe(*unwanted)
            except Exception as error:  # noqa: BLE001 - told again, here or by the next connection
                if not isinstance(error, RedisError | OSError):
                    log_fault(logger, "pub/sub cannot tell its channels", error)
                self._untold |= channels
                await Signal().wait(PAUSE_SECONDS_MIN)

    # -------------------------------------------------------------------------- reading

    async def _run(self) -> None:
        pause = PAUSE_SECONDS_MIN
        while not self._closing:
            try:
                async with aclosing(self._messages()) as messages:
                    async for message in messages:
                        pause = PAUSE_SECONDS_MIN
                        self._handle(message)
            except (RedisError, OSError) as error:
                logger.warning("pub/sub lost its connection: %s", type(error).__name__)
            except Exception as error:  # noqa: BLE001 - all of the process's listeners need it
                log_fault(logger, "pub/sub begins again", error)
            await Signal().wait(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    async def _messages(self) -> AsyncGenerator[dict[str, Any], None]:
        connection = self._redis.pubsub()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            self._connection = connection
            self._tell(self._channels)
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
            self._untold.clear()
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
