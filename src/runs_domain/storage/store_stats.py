"""One cheap reading of what is not done, runs and views, as PostgreSQL knows it: for metrics."""

from typing import Final

import msgspec

from runs_domain.storage.connection import Fetches
from runs_domain.storage.lean_reads import UNFINISHED
from runs_domain.storage.view_stats import ViewStats, read_view_stats

OPEN_RUNS_MAX: Final = 5_000
"""Counted and looked at, by id; it bounds a reading to some 10 ms however many wait."""

_STATS: Final = f"""
    SELECT (SELECT count(*) FROM dead_letters WHERE closed_at IS NULL), count(*),
        coalesce(extract(epoch FROM now() - min(updated_at)), 0)::double precision
    FROM (
        SELECT updated_at FROM run_heads WHERE {UNFINISHED}
        ORDER BY run_id LIMIT %b) AS unfinished"""  # noqa: S608 - our own words


class StoreStats(msgspec.Struct, frozen=True):
    open_letters: int
    open_runs: int
    """At most OPEN_RUNS_MAX. Without those that are withheld: each has, or had, its letter."""
    still_seconds_max: float
    """Since the last event of the open run that has been without one for longest; 0 = none."""
    views: tuple[ViewStats, ...] = ()


async def read_store_stats(connection: Fetches) -> StoreStats:
    """Raises StoreUnavailable. `connection` is one with LOOK_UP_SETTINGS: no scan of all runs."""
    ((letters, runs, still),) = await connection.fetch(_STATS, (OPEN_RUNS_MAX,))
    return StoreStats(
        open_letters=letters,
        open_runs=runs,
        still_seconds_max=max(0.0, still),
        views=await read_view_stats(connection),
    )
