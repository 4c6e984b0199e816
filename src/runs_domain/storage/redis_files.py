"""Redis's own files: what was deleted from memory still stands in its append-only file, and in the
last dump, until they are written anew.
"""

from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from runs_domain.errors import QueueUnavailable, RunledgerError
from runs_domain.ports import Clock

LOOK_SECONDS: Final = 0.1
WRITE_SECONDS_MAX: Final = 120.0
"""How long Redis may take to write one of its files anew."""
REFUSED: Final = "Redis does not let this client have its files written anew"
LATE: Final = f"Redis has not written its files anew within {WRITE_SECONDS_MAX:g} s"
FAILED: Final = "Redis could not write its files anew: its log says why"

_REFUSALS: Final = ("NOPERM", "no permissions", "unknown command")
"""Of a user without the right, of a managed Redis; redis-py drops some errors' first word."""


class FilesNotWritten(RunledgerError):
    """They may still have what was deleted. The message is a sentence for operators."""


async def write_anew(redis: Redis, clock: Clock) -> str | None:
    """Have Redis's files hold what it holds now and nothing older; None, or why this client never
    can.

    Raises FilesNotWritten, QueueUnavailable.
    """
    try:
        deadline = clock.monotonic_seconds() + WRITE_SECONDS_MAX
        persistence = await redis.info("persistence")
        if persistence.get("aof_enabled"):
            await _idle(redis, clock, deadline)
            await redis.bgrewriteaof()  # type: ignore[no-untyped-call]
            await _written(redis, clock, deadline, "aof_last_bgrewrite_status")
        if (await redis.config_get("save")).get("save"):
            await _idle(redis, clock, deadline)
            await redis.bgsave()
            await _written(redis, clock, deadline, "rdb_last_bgsave_status")
    except ResponseError as error:
        if any(words in str(error) for words in _REFUSALS):
            return REFUSED
        raise FilesNotWritten(FAILED) from error
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"writing Redis's files: {type(error).__name__}") from error
    return None


async def _written(redis: Redis, clock: Clock, deadline: float, status: str) -> None:
    await _idle(redis, clock, deadline)
    if (await redis.info("persistence")).get(status) != "ok":
        raise FilesNotWritten(FAILED)


async def _idle(redis: Redis, clock: Clock, deadline: float) -> None:
    """What is under way before a rewrite began may have begun before the deletion, too."""
    while True:
        now = await redis.info("persistence")
        if not any(now.get(name) for name in _UNDER_WAY):
            return
        if clock.monotonic_seconds() >= deadline:
            raise FilesNotWritten(LATE)
        await clock.sleep(LOOK_SECONDS)


_UNDER_WAY: Final = (
    "aof_rewrite_in_progress",
    "aof_rewrite_scheduled",
    "rdb_bgsave_in_progress",
)
