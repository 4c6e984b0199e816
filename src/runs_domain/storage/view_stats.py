"""How far the views are, for metrics and ops: a few look-ups in indexes, however long the log."""

from typing import Final

import msgspec

from runs_domain.ids import Position
from runs_domain.storage.connection import Fetches

# The time stands near the begin of the stored bytes. What is not what this system writes has none.
_NEXT: Final = """
    LEFT JOIN LATERAL (
        SELECT substring(
            encode(substring(state FROM 1 FOR 256), 'escape') FROM '"at":"([0-9T:.-]+Z)"') AS at,
            true AS is_there
        FROM stored_events WHERE notification_id > position
        ORDER BY notification_id LIMIT 1
    ) AS next_event ON true"""
_AGE: Final = """
        CASE WHEN pg_input_is_valid(at, 'timestamptz')
            THEN extract(epoch FROM now() - at::timestamptz)::double precision
            WHEN is_there IS NULL THEN 0 END"""
_STATS: Final = f"""
    SELECT name, position, stopped_position IS NOT NULL, head, {_AGE}
    FROM checkpoints
    CROSS JOIN (SELECT coalesce(max(notification_id), 0) AS head FROM stored_events) AS log
    {_NEXT}
    ORDER BY name"""  # noqa: S608 - our own words
_BEHIND: Final = f"SELECT {_AGE} FROM checkpoints {_NEXT} WHERE name = %b"  # noqa: S608


class ViewStats(msgspec.Struct, frozen=True):
    name: str
    position: Position
    """Of the last event that is in the view."""
    is_stopped: bool
    """It waits before an event that its fold cannot take."""
    head: Position
    """Of the log's last event."""
    behind_seconds: float | None
    """Since the oldest event that is not in it; 0 = all are, None = that one cannot be read."""

    @property
    def behind(self) -> int:
        """Positions that are not in it: at least as many as events."""
        return max(0, self.head - self.position)


async def read_view_stats(connection: Fetches) -> tuple[ViewStats, ...]:
    """By name. Raises StoreUnavailable. `connection` is one with LOOK_UP_SETTINGS."""
    return tuple(
        ViewStats(name, position, stopped, head, _not_negative(age))
        for name, position, stopped, head, age in await connection.fetch(_STATS)
    )


async def read_behind_seconds(connection: Fetches, view: str) -> float | None:
    """`ViewStats.behind_seconds` of one view. Raises StoreUnavailable."""
    ((age,),) = await connection.fetch(_BEHIND, (view,))
    return _not_negative(age)


def _not_negative(age: float | None) -> float | None:
    return None if age is None else max(0.0, age)
