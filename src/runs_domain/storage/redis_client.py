"""The process's one Redis client, and the Lua scripts that go through it.

`PipelinedRedis` is redis-py's own client, so scripts and libraries work on it unchanged, but its
commands share one auto-pipelined connection (see `redis_lane`). What needs a connection of its own
has one: blocking reads a `Lane`, pub/sub and WATCH the client's small pool.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoScriptError, RedisError, ResponseError
from typing_extensions import override

from runs_domain.errors import QueueUnavailable
from runs_domain.storage.redis_lane import COMMAND_SECONDS, CONNECT_SECONDS, Lane

POOL_CONNECTIONS_MAX: Final = 8
_BLOCKING: Final = frozenset({"BLPOP", "BRPOP", "BLMOVE", "BZPOPMIN", "BZPOPMAX", "WAIT"})
_MAY_BLOCK: Final = frozenset({"XREAD", "XREADGROUP"})
_BLOCK: Final = frozenset({b"BLOCK", "BLOCK"})


class PipelinedRedis(Redis):
    def __init__(self, url: str, *, command_seconds: float = COMMAND_SECONDS) -> None:
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=command_seconds,
            socket_connect_timeout=CONNECT_SECONDS,
            max_connections=POOL_CONNECTIONS_MAX,
        )
        super().__init__(connection_pool=pool)
        self._lane = Lane(url, command_seconds=command_seconds)

    @override
    async def execute_command(self, *args: Any, **options: Any) -> Any:
        name = args[0]
        if name in _BLOCKING or (name in _MAY_BLOCK and not _BLOCK.isdisjoint(args)):
            raise ValueError(f"{name} would stop everybody else on this connection")
        return self._parsed(name, await self._lane.call(*args), options)

    @override
    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "LanePipeline":
        return LanePipeline(self, transaction, shard_hint)

    @override
    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self._lane.close()
        await super().aclose(close_connection_pool=True)

    def _parsed(self, name: str, reply: Any, options: Mapping[str, Any]) -> Any:
        callback = self.response_callbacks.get(name)
        if callback is None:
            return reply
        # `keys` is redis-py's own note for its client-side cache.
        return callback(reply, **{key: options[key] for key in options if key != "keys"})


class LanePipeline(Pipeline):
    """Commands side by side on the shared connection; with WATCH, redis-py's own way."""

    def __init__(
        self, client: PipelinedRedis, transaction: bool, shard_hint: str | None = None
    ) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    @override
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        if self.watching or self.explicit_transaction or self.scripts:
            own: list[Any] = await super().execute(raise_on_error)
            return own
        stack = list(self.command_stack)
        await self.reset()  # type: ignore[no-untyped-call]
        if not stack:
            return []
        replies = await self._exchange([args for args, _ in stack])
        parsed = self._client._parsed  # noqa: SLF001 - one class in two
        results = [
            reply if isinstance(reply, Exception) else parsed(str(args[0]), reply, options)
            for (args, options), reply in zip(stack, replies, strict=True)
        ]
        if raise_on_error:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results

    async def _exchange(self, commands: list[Any]) -> list[Any]:
        wrapped = [("MULTI",), *commands, ("EXEC",)] if self.is_transaction else commands
        futures = self._client._lane.submit(wrapped)  # noqa: SLF001 - one class in two
        replies = await asyncio.gather(*futures, return_exceptions=True)
        if not self.is_transaction:
            return replies
        outcome = replies[-1]
        if isinstance(outcome, BaseException):
            refused = next((one for one in replies if isinstance(one, ResponseError)), outcome)
            raise refused
        return list(outcome)


class LuaScript:
    """A file of `lua/`, run by its hash. Calls raise QueueUnavailable, whatever went wrong.

    Every script may be called again after a lost reply: doing it twice changes nothing more.
    """

    def __init__(self, name: str, *, preludes: Sequence[str] = ()) -> None:
        self.name = name
        self.text = "\n".join(_lua(part) for part in (*preludes, name))
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            try:
                return await client.evalsha(self.sha, len(keys), *keys, *args)  # type: ignore[misc]
            except NoScriptError:
                return await client.eval(self.text, len(keys), *keys, *args)  # type: ignore[misc]
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"{self.name}: {type(error).__name__}") from error


def _lua(name: str) -> str:
    return files("runs_domain.storage").joinpath("lua", f"{name}.lua").read_text("utf-8")
