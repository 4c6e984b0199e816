"""One connection to Redis on which whatever is queued goes out in one write.

Replies come in the order of the commands, so each reply settles the oldest waiting future, also
if nobody waits for it any more: a cancelled command never leaves the connection off by one. The
lane reconnects by itself when it is next used, with a pause between failures; while it pauses,
calls fail at once. A command that was written when the connection broke may have run: its caller
gets ConnectionError and must be able to ask again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runs_domain.storage.redis_wire import Args, Pending, Wire, open_wire, pack

logger = logging.getLogger(__name__)

COMMAND_SECONDS: Final = 2.0
"""From the call to its reply, waiting and connecting included."""
CONNECT_SECONDS: Final = 1.0
WAITING_COMMANDS_MAX: Final = 20_000
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
"""Not counting the call that reaches it."""
PAUSE_SECONDS_MIN: Final = 0.05
PAUSE_SECONDS_MAX: Final = 1.0
CHECK_SECONDS: Final = 0.1


class Lane:
    """Raises redis' own errors: ConnectionError, TimeoutError, ResponseError and their kin."""

    def __init__(self, url: str, *, command_seconds: float = COMMAND_SECONDS) -> None:
        self._target = parse_url(url)
        self._command_seconds = command_seconds
        self._queued: deque[Pending] = deque()
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._check_handle: asyncio.TimerHandle | None = None
        self._failures = 0
        self._paused_until = 0.0
        self._queued_bytes = 0
        self._closed = False

    async def call(self, *args: Any) -> Any:
        (reply,) = self.submit((args,))
        return await reply

    def submit(self, commands: Sequence[Args]) -> list[asyncio.Future[Any]]:
        """Queue `commands` side by side; all of them, or an error and none."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._refuse_if_hopeless(now, len(commands))
        packed = [pack(command) for command in commands]
        self._queued_bytes += sum(map(len, packed))
        pending = [Pending(loop.create_future(), data, now) for data in packed]
        self._queued.extend(pending)
        if self._wire is None:
            self._start_connecting(loop)
        elif self._flush_handle is None:
            self._flush_handle = loop.call_soon(self._flush)
        if self._check_handle is None:
            self._check_handle = loop.call_later(CHECK_SECONDS, self._check)
        return [one.reply for one in pending]

    async def close(self) -> None:
        self._closed = True
        for handle in (self._flush_handle, self._check_handle):
            if handle is not None:
                handle.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._connecting
        self._fail_queued(RedisConnectionError("the connection was closed"))
        if self._wire is not None:
            await self._wire.close()

    def _refuse_if_hopeless(self, now: float, count: int) -> None:
        if self._closed:
            raise RedisConnectionError("the connection was closed")
        if self._wire is None and now < self._paused_until:
            raise RedisConnectionError("Redis cannot be reached now")
        in_flight = 0 if self._wire is None else len(self._wire.in_flight)
        unsent = 0 if self._wire is None else self._wire.unsent_bytes()
        if (
            len(self._queued) + in_flight + count > WAITING_COMMANDS_MAX
            or self._queued_bytes + unsent > WAITING_BYTES_MAX
        ):
            raise RedisConnectionError("too much is waiting for Redis")

    # -------------------------------------------------------------------- connecting

    def _start_connecting(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._connecting is None and not self._closed:
            self._connecting = loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                wire = await open_wire(self._target, self._lost)
                if not wire.is_open:
                    raise RedisConnectionError("the connection broke at once")
        except (OSError, TimeoutError, RedisError) as error:
            self._pause(error)
        else:
            if self._failures:
                logger.info("Redis is back after %d failed connects", self._failures)
            self._failures = 0
            self._wire = wire
            self._flush()
        finally:
            self._connecting = None

    def _pause(self, error: Exception) -> None:
        seconds = min(PAUSE_SECONDS_MIN * 2**self._failures, PAUSE_SECONDS_MAX)
        self._failures = min(self._failures + 1, 30)
        self._paused_until = asyncio.get_running_loop().time() + seconds
        logger.warning("cannot connect to Redis: %s", type(error).__name__)
        self._fail_queued(RedisConnectionError(f"cannot connect: {type(error).__name__}"))

    def _lost(self, wire: Wire) -> None:
        if self._wire is wire:
            self._wire = None
            if self._queued:
                self._start_connecting(asyncio.get_running_loop())

    # -------------------------------------------------------------------- sending

    def _flush(self) -> None:
        self._flush_handle = None
        if self._wire is None or not self._queued:
            return
        wanted = [one for one in self._queued if not one.reply.cancelled()]
        self._queued.clear()
        self._queued_bytes = 0
        self._wire.send(wanted)

    def _check(self) -> None:
        """Fail what waits too long. The oldest command stands first, so one look is enough."""
        loop = asyncio.get_running_loop()
        self._check_handle = None
        too_old = loop.time() - self._command_seconds
        wire = self._wire
        if wire is not None and wire.in_flight and wire.in_flight[0].since < too_old:
            logger.warning("Redis did not answer in %g s", self._command_seconds)
            wire.abort(RedisTimeoutError("Redis did not answer in time"))
        while self._queued and self._queued[0].since < too_old:
            oldest = self._queued.popleft()
            self._queued_bytes -= len(oldest.data)
            oldest.fail(RedisTimeoutError("Redis could not be asked in time"))
        if self._queued or (self._wire is not None and self._wire.in_flight):
            self._check_handle = loop.call_later(CHECK_SECONDS, self._check)

    def _fail_queued(self, error: Exception) -> None:
        self._queued_bytes = 0
        while self._queued:
            self._queued.popleft().fail(error)
