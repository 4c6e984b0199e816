"""One cheap reading of what PostgreSQL knows of work that is not done: for metrics."""

from typing import Final

import msgspec

from runs_domain.storage.connection import Fetches

OPEN_RUNS_MAX: Final = 5_000
"""Counted and looked at, by id; it bounds a reading to some 10 ms however many wait."""

_STATS: Final = """
    SELECT (SELECT count(*) FROM dead_letters WHERE closed_at IS NULL), count(*),
        coalesce(extract(epoch FROM now() - min(updated_at)), 0)::double precision
    FROM (
        SELECT updated_at FROM run_heads WHERE open AND NOT EXISTS (
            SELECT FROM dead_letters AS letter WHERE letter.id = run_id AND letter.withheld)
        ORDER BY run_id LIMIT %b) AS unfinished"""


class StoreStats(msgspec.Struct, frozen=True):
    open_letters: int
    open_runs: int
    """At most OPEN_RUNS_MAX. Without those that are withheld: each has, or had, its letter."""
    still_seconds_max: float
    """Since the last event of the open run that has been without one for longest; 0 = none."""


async def read_store_stats(connection: Fetches) -> StoreStats:
    """Raises StoreUnavailable. `connection` is one with LOOK_UP_SETTINGS: no scan of all runs."""
    ((letters, runs, still),) = await connection.fetch(_STATS, (OPEN_RUNS_MAX,))
    return StoreStats(open_letters=letters, open_runs=runs, still_seconds_max=max(0.0, still))
