"""How a job leaves this worker: finished, handed over, or given back to be tried again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from runs_domain.errors import QueueUnavailable
from runs_domain.ports import Cause
from runs_domain.storage.redis_deliveries import JobDeliveries
from runs_domain.storage.waking import wait_for
from workers.delivery import RunningJob, WorkerCounters
from workers.lease import LeaseKeeper

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 30.0
"""How long an ended job tries to tell Redis so; then its entry is left to be redelivered."""
NOT_OURS: Final = "%s ended, but its entry is not ours any more"
BACK_OFF_SECONDS_MIN: Final = 0.05
BACK_OFF_SECONDS_MAX: Final = 1.0


class JobEnds:
    """Each tells Redis as long as the lease is ours and patience lasts; none raises."""

    def __init__(
        self,
        deliveries: JobDeliveries,
        leases: LeaseKeeper,
        counters: WorkerCounters,
        stopping: asyncio.Event,
    ) -> None:
        self._deliveries = deliveries
        self._leases = leases
        self._counters = counters
        self._stopping = stopping

    async def finish(self, running: RunningJob) -> None:
        self._counters.finished += 1
        await self._settle(running, lambda: self._deliveries.finish(running.ticket, running.key))

    async def hand_over(self, running: RunningJob) -> None:
        """Another worker goes on at once and counts no loss: the try is given back."""
        self._counters.handed_over += 1
        await self._give_back(running, "handover")

    async def return_untouched(self, running: RunningJob, *, delay_ms: int = 0) -> None:
        """It came while this worker was about to stop, or is not for it, and was not begun."""
        cause: Cause = "resent" if running.delivery.redelivered else running.job.cause
        await self._give_back(running, cause, delay_ms=delay_ms)

    async def retry(self, running: RunningJob, *, delay_ms: int) -> None:
        if running.why_left == "unfit":
            self._counters.unfit += 1
            await self.return_untouched(running, delay_ms=delay_ms)
            return
        self._counters.retried += 1
        if running.why_left is not None:  # let go of in good order, as at a hand-over
            await self._give_back(running, "handover", delay_ms=delay_ms)
        else:
            await self._give_back(running, "resent", retries=1, delay_ms=delay_ms)

    async def _give_back(
        self, running: RunningJob, cause: Cause, *, retries: int = 0, delay_ms: int = 0
    ) -> None:
        job = msgspec.structs.replace(running.job, cause=cause)
        delivery = running.delivery
        await self._settle(
            running,
            lambda: self._deliveries.requeue(
                running.ticket,
                job,
                retries=delivery.retries + retries,
                delay_ms=delay_ms,
                error=running.error or delivery.last_error,
            ),
        )

    async def _settle(self, running: RunningJob, tell: Callable[[], Awaitable[bool]]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_SECONDS
        pause = BACK_OFF_SECONDS_MIN
        in_doubt = False
        self._leases.settle(running.ticket)
        while not running.lost:
            if not self._leases.holds(running.ticket):  # another's, or told with the reply lost
                logger.warning(NOT_OURS, running.key)
                return
            try:
                ours = await tell()
            except QueueUnavailable as error:
                in_doubt = True
                self._counters.redis_failures += 1
                if loop.time() > deadline or self._stopping.is_set():
                    logger.warning("%s is left to be redelivered: %s", running.key, error)
                    return
                await wait_for(self._stopping, pause)
                pause = min(pause * 2, BACK_OFF_SECONDS_MAX)
            else:
                if not ours:
                    self._counters.leases_lost += 0 if in_doubt else 1
                    logger.warning(NOT_OURS, running.key)
                self._leases.drop(running.ticket)
                return
