"""Follows the log into the views, each by itself: what stops one does not stop the others.

A view begins at once when it is woken, and then rests in proportion to the work that it had, and
to how much there was: alone it shows a commit within milliseconds; under load it takes many events
at a time, which costs the database far less than one by one.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from runs_domain.errors import StoreUnavailable
from runs_domain.ports import Clock
from runs_domain.settings import Secret
from runs_domain.storage.log_window import STRETCH_EVENTS_MAX, LogWindow
from runs_domain.storage.projection import (
    BATCH_SECONDS_MAX,
    BatchTooLarge,
    FoldFailed,
    NoCheckpoint,
    Projection,
)
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.views import all_views
from runs_domain.storage.waking import Signal, Wait

BATCH_EVENTS_MAX: Final = STRETCH_EVENTS_MAX
GROWING_SECONDS_MAX: Final = BATCH_SECONDS_MAX / 4
"""After one that took longer, the next is no larger: it might come to nothing."""
REST_SECONDS_MAX: Final = 0.1
"""After a batch at the log's end."""
EVENTS_PER_REST: Final = 50
"""A view rests as long as it worked, and as long again for so many events of its batch."""
POLL_SECONDS: Final = 0.25
"""How late a view is when a wake got lost."""
RETRY_SECONDS: Final = 0.5
"""Between two tries while PostgreSQL is away."""
MIGRATION_RETRY_SECONDS: Final = 5.0
"""Between two looks for a view that the database was not migrated to yet."""
STOPPED_RETRY_SECONDS: Final = 30.0
"""Between two tries of an event that a view cannot take."""

_logger = logging.getLogger(__name__)


class Projector:
    """One view's loop. `run` ends only by cancellation, or by an error that is a bug."""

    def __init__(self, projection: Projection, clock: Clock, wait: Wait) -> None:
        self._projection = projection
        self._clock = clock
        self._wait = wait
        self._events_max = BATCH_EVENTS_MAX
        self.trouble: str | None = None
        """What the log was last told to keep the view; None = nothing does."""
        self._is_stopped = False

    async def run(self) -> None:
        try:
            while True:
                await self._round()
        finally:
            await self._projection.close()

    async def _round(self) -> None:
        """Take what is there, and rest as long as is due."""
        began = self._clock.monotonic_seconds()
        try:
            taken = await self._take(began)
        except NoCheckpoint as error:
            self._say(logging.WARNING, "waits for a migration", error)
            await self._clock.sleep(MIGRATION_RETRY_SECONDS)
            return
        except StoreUnavailable as error:
            self._say(logging.WARNING, "waits", error)
            await self._clock.sleep(RETRY_SECONDS)
            return
        if taken is None:
            await self._clock.sleep(STOPPED_RETRY_SECONDS)
            return
        if taken == 0:
            await self._wait(POLL_SECONDS)
        elif not self._projection.goes_on and self._events_max == BATCH_EVENTS_MAX:
            worked = self._clock.monotonic_seconds() - began
            rest = worked * (1 + taken / EVENTS_PER_REST)
            await self._clock.sleep(min(rest, REST_SECONDS_MAX))

    async def _take(self, began: float) -> int | None:
        """One batch; None = the view is stopped. After one that fails, ever smaller ones, until
        the event is found; after one that takes too much, until one does not.
        """
        try:
            taken = await self._projection.advance(self._events_max)
        except BatchTooLarge as error:
            self._events_max = max(1, error.events // 2)
            raise
        except FoldFailed as failure:
            if failure.events > 1:
                self._events_max = failure.events // 2
                return failure.events
            await self._projection.stop(failure)
            self._say(logging.ERROR, f"is stopped at position {failure.position}", failure)
            self._is_stopped = True
            return None
        if self.trouble is not None and (taken or not self._is_stopped):
            _logger.info("view %s goes on", self._projection.name)
            self.trouble, self._is_stopped = None, False
        if taken and self._clock.monotonic_seconds() - began < GROWING_SECONDS_MAX:
            self._events_max = min(BATCH_EVENTS_MAX, self._events_max * 2)
        return taken

    def _say(self, level: int, trouble: str, error: Exception) -> None:
        """Once, however often it is tried again."""
        if trouble != self.trouble:
            _logger.log(level, "view %s %s: %s", self._projection.name, trouble, error)
        self.trouble = trouble


def all_projections(url: Secret, data_keys: DataKeys) -> tuple[Projection, ...]:
    """Every view there is, each on its own connection; they read the log together."""
    window = LogWindow(url)
    return tuple(Projection(url, view, data_keys, window) for view in all_views())


async def project(projections: Sequence[Projection], clock: Clock, wait: Wait) -> None:
    """Keep all views up, until cancelled. `wait` is for whatever may be new, for all of them."""
    wakes = [Signal() for _ in projections]
    async with asyncio.TaskGroup() as group:
        group.create_task(_wake(wakes, wait), name="wakes")
        for projection, woken in zip(projections, wakes, strict=True):
            projector = Projector(projection, clock, woken.wait)
            group.create_task(projector.run(), name=projection.name)


async def _wake(wakes: Sequence[Signal], wait: Wait) -> None:
    while True:
        await wait(POLL_SECONDS)
        for woken in wakes:
            woken.set()
