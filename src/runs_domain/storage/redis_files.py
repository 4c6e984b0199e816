"""Redis's own files: what was deleted from memory still stands in its append-only file, and in the
last dump, until they are written anew.
"""

from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from runs_domain.errors import QueueUnavailable
from runs_domain.ports import Clock

LOOK_SECONDS: Final = 0.1
WRITE_SECONDS_MAX: Final = 120.0
"""How long Redis may take to write one of its files anew."""
REFUSED: Final = "Redis does not let this client have its files written anew"
LATE: Final = f"Redis has not written its files anew within {WRITE_SECONDS_MAX:g} s"


async def write_anew(redis: Redis, clock: Clock) -> str | None:
    """Have Redis's files hold what it holds now and nothing older; None, or why they may not.

    Raises QueueUnavailable.
    """
    try:
        deadline = clock.monotonic_seconds() + WRITE_SECONDS_MAX
        persistence = await redis.info("persistence")
        if persistence.get("aof_enabled") and not await _rewritten(redis, clock, deadline):
            return LATE
        if (await redis.config_get("save")).get("save") and not await _dumped(
            redis, clock, deadline
        ):
            return LATE
    except ResponseError:  # a managed Redis, or a user without the right
        return REFUSED
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"writing Redis's files: {type(error).__name__}") from error
    return None


async def _rewritten(redis: Redis, clock: Clock, deadline: float) -> bool:
    """One rewrite under way may have begun before: it is let end, then one is begun."""
    if not await _idle(redis, clock, deadline):
        return False
    await redis.bgrewriteaof()  # type: ignore[no-untyped-call]
    if not await _idle(redis, clock, deadline):
        return False
    return bool((await redis.info("persistence")).get("aof_last_bgrewrite_status") == "ok")


async def _dumped(redis: Redis, clock: Clock, deadline: float) -> bool:
    if not await _idle(redis, clock, deadline):
        return False
    await redis.bgsave()
    if not await _idle(redis, clock, deadline):
        return False
    return bool((await redis.info("persistence")).get("rdb_last_bgsave_status") == "ok")


async def _idle(redis: Redis, clock: Clock, deadline: float) -> bool:
    while True:
        now = await redis.info("persistence")
        if not any(now.get(name) for name in _UNDER_WAY):
            return True
        if clock.monotonic_seconds() >= deadline:
            return False
        await clock.sleep(LOOK_SECONDS)


_UNDER_WAY: Final = (
    "aof_rewrite_in_progress",
    "aof_rewrite_scheduled",
    "rdb_bgsave_in_progress",
)
