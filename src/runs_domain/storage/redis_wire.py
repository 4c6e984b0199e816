"""The bytes of one Redis connection: commands out, replies in, in the same order."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import hiredis
from redis.asyncio.connection import SSLConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from typing_extensions import override

Args: TypeAlias = Sequence[Any]

CLOSE_SECONDS: Final = 1.0
_NOT_YET: Final = object()
_ERRORS: Final[Mapping[str, type[RedisError]]] = {
    "NOSCRIPT": NoScriptError,
    "LOADING": BusyLoadingError,
    "READONLY": ReadOnlyError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
}


@dataclass(slots=True)
class Pending:
    """A command and who waits for it; `since` is the loop's time of the call."""

    reply: asyncio.Future[Any]
    data: bytes
    since: float

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


def pack(args: Args) -> bytes:
    """`("CLIENT INFO", 1)` and the like: redis-py names some commands with a space."""
    name = args[0]
    words = name.split() if " " in name else [name]
    packed: bytes = hiredis.pack_command((*words, *args[1:]))
    return packed


def to_error(text: str) -> RedisError:
    return _ERRORS.get(text.partition(" ")[0], ResponseError)(text)


class Wire(asyncio.Protocol):
    def __init__(self, on_lost: "Callable[[Wire], None]") -> None:
        self.in_flight: deque[Pending] = deque()
        self._on_lost = on_lost
        self._reader = hiredis.Reader(replyError=to_error, notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport | None = None
        self._reason: Exception | None = None
        self._gone = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, commands: Sequence[Pending]) -> None:
        if self._transport is None:
            for one in commands:
                one.fail(RedisConnectionError("the connection broke before the command went out"))
        elif commands:
            self.in_flight.extend(commands)
            self._transport.write(b"".join([one.data for one in commands]))

    def unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def abort(self, reason: Exception) -> None:
        """Give up on all that is in flight; the callers get `reason`."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()
        self._drop(reason)

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait((self._gone,), timeout=CLOSE_SECONDS)

    # -------------------------------------------------------------------- asyncio.Protocol

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    @override
    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOT_YET:
                waiting = self.in_flight.popleft().reply
                if waiting.done():
                    continue  # cancelled meanwhile; its reply is used up all the same
                if isinstance(reply, Exception):
                    waiting.set_exception(reply)
                    if isinstance(reply, ReadOnlyError):  # a failover: the master is elsewhere now
                        self.abort(RedisConnectionError("the server is a replica now"))
                else:
                    waiting.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort(RedisConnectionError("Redis sent what cannot be read"))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._gone.done():
            self._gone.set_result(None)
        self._drop(self._reason or RedisConnectionError(f"the connection broke: {exc!r}"))

    def _drop(self, reason: Exception) -> None:
        while self.in_flight:
            self.in_flight.popleft().fail(reason)
        self._on_lost(self)


async def open_wire(target: Mapping[str, Any], on_lost: Callable[[Wire], None]) -> Wire:
    """Connect, authenticate, select the database. The caller sets the deadline.

    `target` is what redis-py's `parse_url` makes of a URL.
    """
    loop = asyncio.get_running_loop()
    if "path" in target:
        _, wire = await loop.create_unix_connection(lambda: Wire(on_lost), target["path"])
    else:
        secure = target.get("connection_class") is SSLConnection
        _, wire = await loop.create_connection(
            lambda: Wire(on_lost),
            target.get("host", "localhost"),
            target.get("port", 6379),
            ssl=ssl.create_default_context() if secure else None,
        )
    try:
        await _introduce(wire, target)
    except BaseException:
        wire.abort(RedisConnectionError("the connection was refused"))
        raise
    return wire


async def _introduce(wire: Wire, target: Mapping[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    commands: list[Args] = []
    if target.get("password"):
        user = [target["username"]] if target.get("username") else []
        commands.append(("AUTH", *user, target["password"]))
    if target.get("db"):
        commands.append(("SELECT", target["db"]))
    if commands:
        pending = [Pending(loop.create_future(), pack(one), loop.time()) for one in commands]
        wire.send(pending)
        await asyncio.gather(*(one.reply for one in pending))
