"""How many jobs a worker begins while PostgreSQL may be away: one, now and then, to find out.

Each job finds it away for itself, and is given back. Without this a worker would begin all that
waits, for nothing, and again.
"""

import time
from collections.abc import Container
from typing import Final

STORE_AWAY_SECONDS: Final = 1.0
"""How long no job is taken after one found PostgreSQL away, then after one that is to find out
whether it is back."""


class StorePace:
    def __init__(self) -> None:
        self._is_away = False
        self._next_try = 0.0
        self._scout = ""

    def allowed(self, free: int, running: Container[str]) -> int:
        """How many of `free` slots may be filled now; `running` has the tickets in hand."""
        if not self._is_away:
            return free
        if time.monotonic() < self._next_try:
            return 0
        if self._scout in running:  # it got by, or PostgreSQL hangs: then this is no rush
            self._is_away = False
            return free
        return min(free, 1)

    def began(self, ticket: str) -> None:
        if self._is_away:
            self._scout, self._next_try = ticket, time.monotonic() + STORE_AWAY_SECONDS

    def ended(self, *, store_away: bool) -> None:
        self._is_away = store_away
        if store_away:
            self._next_try = time.monotonic() + STORE_AWAY_SECONDS
