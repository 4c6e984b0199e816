"""Heads of the runs that streams wait for: one look-up serves all readers of a run."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from runs_domain.ids import RunId
from runs_domain.ports import Clock, EventLog, Head

READERS_MAX: Final = 10_000
"""Of all runs together, in one process; each costs about 15 kB and a socket."""
NEVER: Final = float("-inf")


class _Watched:
    __slots__ = ("head", "lock", "looked_at", "readers")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.looked_at = NEVER
        self.readers = 0
        self.lock = asyncio.Lock()


class HeadWatch:
    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._watched: dict[RunId, _Watched] = {}
        self._readers = 0

    @property
    def is_full(self) -> bool:
        return self._readers >= READERS_MAX

    @contextmanager
    def watching(self, run_id: RunId) -> Iterator[None]:
        """`look` is for readers inside this; the last one to leave forgets the run."""
        watched = self._watched.setdefault(run_id, _Watched())
        watched.readers += 1
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            watched.readers -= 1
            if watched.readers == 0:
                del self._watched[run_id]

    async def look(self, run_id: RunId, *, age_seconds_max: float) -> Head | None:
        """A head that was looked up at most so long ago. Raises StoreUnavailable."""
        watched = self._watched[run_id]
        asked_at = self._clock.monotonic_seconds()
        async with watched.lock:
            if watched.looked_at < asked_at - age_seconds_max:
                began = self._clock.monotonic_seconds()
                watched.head = await self._log.head(run_id)
                watched.looked_at = began
            return watched.head
