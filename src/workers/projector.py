"""Follows the log into the views, each by itself: what stops one does not stop the others.

Lazy on purpose: a batch a moment costs the database far less than a batch an event, and a list
may be a moment late.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from runs_domain.errors import StoreUnavailable
from runs_domain.ports import Clock
from runs_domain.settings import Secret
from runs_domain.storage.projection import FoldFailed, Projection
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.views import all_views
from runs_domain.storage.waking import Wait

BATCH_EVENTS_MAX: Final = 2000
BATCH_INTERVAL_SECONDS: Final = 0.1
"""At most one batch that is not full in this time."""
POLL_SECONDS: Final = 0.25
"""How late a view is when a wake got lost."""
RETRY_SECONDS: Final = 0.5
"""Between two tries while PostgreSQL is away."""
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
        self._is_away = False

    async def run(self) -> None:
        try:
            while True:
                await self._round()
        finally:
            await self._projection.close()

    async def _round(self) -> None:
        """Look, take what is there, and rest as long as is due."""
        try:
            taken = await self._take() if await self._projection.is_behind() else 0
        except StoreUnavailable as error:
            if not self._is_away:
                _logger.warning("view %s waits: %s", self._projection.name, error)
            self._is_away = True
            await self._clock.sleep(RETRY_SECONDS)
            return
        if self._is_away:
            _logger.info("view %s goes on", self._projection.name)
        self._is_away = False
        if taken == 0:
            await self._wait(POLL_SECONDS)
        elif taken < BATCH_EVENTS_MAX and self._events_max == BATCH_EVENTS_MAX:
            await self._clock.sleep(BATCH_INTERVAL_SECONDS)

    async def _take(self) -> int:
        """One batch. After one that fails, ever smaller ones, until the event is found."""
        try:
            taken = await self._projection.advance(self._events_max)
        except FoldFailed as failure:
            if failure.events > 1:
                self._events_max = failure.events // 2
                return failure.events
            await self._stop(failure)
            return 0
        self._events_max = min(BATCH_EVENTS_MAX, self._events_max * 2)
        return taken

    async def _stop(self, failure: FoldFailed) -> None:
        _logger.error(
            "view %s is stopped at position %d: %s",
            self._projection.name,
            failure.position,
            failure,
        )
        await self._projection.stop(failure)
        await self._clock.sleep(STOPPED_RETRY_SECONDS)


def all_projections(url: Secret, data_keys: DataKeys) -> tuple[Projection, ...]:
    """Every view there is, each on its own connection."""
    return tuple(Projection(url, view, data_keys) for view in all_views(data_keys))


async def project(projections: Sequence[Projection], clock: Clock, wait: Wait) -> None:
    """Keep all views up, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for projection in projections:
            group.create_task(Projector(projection, clock, wait).run(), name=projection.name)
