"""What a worker tells Redis about itself, and the tidying that workers do for all."""

import logging
import time
from typing import Final

from redis.asyncio import Redis

from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_deliveries import JobDeliveries
from workers.tally import Tally

logger = logging.getLogger(__name__)

TELL_SECONDS: Final = 2.0
"""Well under WORKER_SILENT_SECONDS."""
FORGET_SECONDS: Final = 60.0


class Upkeep:
    """Every method raises QueueUnavailable, RedisError or OSError: the next tick does it."""

    def __init__(
        self, redis: Redis, deliveries: JobDeliveries, tally: Tally, *, consumer: str, slots: int
    ) -> None:
        self._redis = redis
        self._deliveries = deliveries
        self._tally = tally
        self._health = names.health(consumer)
        self._slots = slots
        self._next_tell = self._next_health = self._next_forget = 0.0

    async def tell(self, running: int) -> None:
        """What fair share and the statistics must know of this worker."""
        await self._tell(self._slots, running)

    async def leave(self) -> None:
        await self._redis.delete(self._health)
        await self._tell(None, 0)
        await self._deliveries.leave()

    async def _tell(self, slots: int | None, running: int) -> None:
        number, counts = self._tally.next_set()
        await self._deliveries.tell(number, counts, slots=slots, running=running)
        self._tally.settle(number)

    async def tick(self, running: int, line: str, *, may_tell: bool) -> None:
        """Whatever is due. `line` says how the worker is; `may_tell` once the group is open."""
        now = time.monotonic()
        if now >= self._next_tell and may_tell:
            self._next_tell = now + TELL_SECONDS
            await self.tell(running)
        if now >= self._next_health:
            self._next_health = now + names.HEALTH_SECONDS
            await self._redis.set(self._health, line, ex=2 * names.HEALTH_SECONDS)
        if now >= self._next_forget:
            self._next_forget = now + FORGET_SECONDS
            await self._tidy()

    async def _tidy(self) -> None:
        await self._deliveries.forget_dead_consumers()
        if await self._deliveries.has_duty("heal") and (wrong := await self._deliveries.heal()):
            logger.warning("%d job records disagreed with each other and were put right", wrong)
