"""Tells held runs that a client asked to cancel: at once by a push, else within a second."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from runs_domain import events
from runs_domain.errors import StoreUnavailable
from runs_domain.faults import log_fault
from runs_domain.ports import Clock, EventLog
from runs_domain.storage.redis_push import CancelPushes
from workers.held_run import HeldRun

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often the heads of held runs are looked at, for a push that was lost."""


class CancelWatch:
    def __init__(self, log: EventLog, pushes: CancelPushes, clock: Clock) -> None:
        self._log = log
        self._pushes = pushes
        self._clock = clock
        self._held: set[HeldRun] = set()

    @asynccontextmanager
    async def watching(self, held: HeldRun) -> AsyncIterator[None]:
        async with self._pushes.watching(held.run_id) as pushed:
            self._held.add(held)
            task = asyncio.create_task(self._listen(held, pushed))
            try:
                yield
            finally:
                self._held.discard(held)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _listen(self, held: HeldRun, pushed: asyncio.Event) -> None:
        while True:
            await pushed.wait()
            pushed.clear()
            await self._check(held)

    async def look_for_ever(self) -> None:
        """The net under the pushes; runs for the life of the worker."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            held_runs = list(self._held)
            heads = await asyncio.gather(
                *(self._log.head(held.run_id) for held in held_runs), return_exceptions=True
            )
            for held, head in zip(held_runs, heads, strict=True):
                if isinstance(head, BaseException) or head is None:
                    continue  # the store is away; the next look will tell
                if head.version > held.state.version:
                    await self._check(held)

    async def _check(self, held: HeldRun) -> None:
        """Interrupt the run if the log says that it must stop; the driver reads why.

        What cannot be read now is looked at again a second later, whatever the reason.
        """
        try:
            newer = await self._log.read(held.run_id, after=held.state.version)
        except StoreUnavailable:
            logger.warning("run %s: a cancel may wait until the event log answers", held.run_id)
            return
        except Exception as error:  # noqa: BLE001 - one run's history must not stop the watch
            log_fault(logger, f"run {held.run_id}: its newest events cannot be read", error)
            return
        if any(_must_stop(recorded.event) for recorded in newer):
            held.interrupt.set()


def _must_stop(event: events.Event) -> bool:
    return isinstance(event, events.CancelRequested | events.Cancelled | events.Resumed)
