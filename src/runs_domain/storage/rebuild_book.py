"""What a rebuild has written down of itself: `view_rebuilds` and the tables beside it.

At most one rebuild is under way. Whoever holds its lock may change its rows; its workers mark the
ranges that they have loaded, each in the transaction that loads it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from runs_domain.ids import Position, RunId
from runs_domain.storage.long_work import LONG_SECONDS_MAX, LongConnection, SyncConnection
from runs_domain.storage.run_streams import Range

REBUILD_LOCK: Final = 125848689340265
"""Held by the session of the rebuild that is under way."""

_BOOK: Final = """
SELECT view, rebuild_id, started_at, release, likeness, asked, from_position, changed_after,
    pinned_position, position, phase
FROM view_rebuilds ORDER BY view
"""
_PROGRESS: Final = """
SELECT coalesce(sum(events), 0)::bigint,
    coalesce(sum(events) FILTER (WHERE loaded IS NOT NULL), 0)::bigint,
    count(*) FILTER (WHERE loaded IS NULL)
FROM view_rebuild_ranges WHERE rebuild_id = %s
"""
_BEGIN: Final = """
INSERT INTO view_rebuilds (view, rebuild_id, started_at, release, likeness, asked, from_position,
    changed_after, pinned_position, position)
VALUES (%s, %s, now(), %s, %s, %s, %s, %s, %s, %s)
"""
_CHANGED: Final = """
INSERT INTO view_rebuild_runs (rebuild_id, run_id)
SELECT DISTINCT %s::uuid, originator_id FROM stored_events
WHERE notification_id > %s AND notification_id <= %s
"""
_ADD_RANGE: Final = """
INSERT INTO view_rebuild_ranges (rebuild_id, first, last, events) VALUES (%s, %s, %s, %s)
"""
_COUNT_CHANGED: Final = """
UPDATE view_rebuild_ranges AS one SET events = (
    SELECT coalesce(sum(head.version), 0)
    FROM view_rebuild_runs AS changed JOIN run_heads AS head USING (run_id)
    WHERE changed.rebuild_id = one.rebuild_id AND changed.run_id BETWEEN one.first AND one.last)
WHERE rebuild_id = %s
"""
_CLAIM: Final = """
SELECT first, last, events FROM view_rebuild_ranges WHERE rebuild_id = %s AND loaded IS NULL
ORDER BY first LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_LOADED: Final = """
UPDATE view_rebuild_ranges SET loaded = %s WHERE rebuild_id = %s AND first = %s
"""
_RUNS_OF_RANGE: Final = """
SELECT run_id FROM view_rebuild_runs
WHERE rebuild_id = %(rebuild)s AND run_id BETWEEN %(first)s AND %(last)s
UNION
SELECT originator_id FROM stored_events
WHERE notification_id > %(pinned)s AND originator_id BETWEEN %(first)s AND %(last)s
ORDER BY 1
"""

# Not the whole tables at one stroke: that would wait for a dump to end.
_FORGET: Final = (
    "DELETE FROM view_rebuilds",
    "DELETE FROM view_rebuild_ranges",
    "DELETE FROM view_rebuild_runs",
)


class Entry(msgspec.Struct, frozen=True):
    """A row of `view_rebuilds`: a view that is not swapped in yet."""

    view: str
    rebuild_id: UUID
    started_at: datetime
    release: str
    likeness: str
    asked: list[str]
    from_position: Position | None
    changed_after: Position | None
    pinned_position: Position
    position: Position
    phase: str


class Progress(msgspec.Struct, frozen=True):
    """Of the load, in events, and the ranges that are left."""

    events: int
    loaded: int
    ranges_left: int


async def entries(owner: LongConnection) -> tuple[Entry, ...]:
    return tuple(Entry(*row) for row in await owner.fetch(_BOOK))


async def progress(owner: LongConnection, rebuild_id: UUID) -> Progress:
    ((events, loaded, left),) = await owner.fetch(_PROGRESS, (rebuild_id,))
    return Progress(events, loaded, left)


async def begin(owner: LongConnection, some: Sequence[Entry]) -> None:
    """Write down what is about to be done; the caller's transaction makes the shadows too."""
    for one in some:
        what = (one.view, one.rebuild_id, one.release, one.likeness, one.asked)
        span = (one.from_position, one.changed_after, one.pinned_position, one.position)
        await owner.do(_BEGIN, (*what, *span))
    first = some[0]
    if first.changed_after is not None:
        changed = (first.rebuild_id, first.changed_after, first.pinned_position)
        await owner.do(_CHANGED, changed, seconds_max=LONG_SECONDS_MAX)


async def add_ranges(
    owner: LongConnection, rebuild_id: UUID, ranges: Sequence[Range], *, all_runs: bool
) -> None:
    for one in ranges:
        await owner.do(_ADD_RANGE, (rebuild_id, one.first, one.last, one.events))
    if not all_runs:
        await owner.do(_COUNT_CHANGED, (rebuild_id,), seconds_max=LONG_SECONDS_MAX)


async def set_phase(owner: LongConnection, views: Sequence[str], phase: str) -> None:
    sql = "UPDATE view_rebuilds SET phase = %s WHERE view = ANY(%s)"
    await owner.do(sql, (phase, list(views)))


async def forget(owner: LongConnection) -> None:
    async with owner.connection.transaction():
        for statement in _FORGET:
            await owner.do(statement, seconds_max=LONG_SECONDS_MAX)


# ------------------------------------------------------------------------------ for workers


def claim(connection: SyncConnection, rebuild_id: UUID) -> Range | None:
    """A range that nobody has loaded or is at, locked until the transaction ends."""
    row = connection.execute(_CLAIM, (rebuild_id,), binary=True).fetchone()
    return None if row is None else Range(*row)


def mark_loaded(connection: SyncConnection, rebuild_id: UUID, some: Range, events: int) -> None:
    connection.execute(_LOADED, (events, rebuild_id, some.first))


def changed_runs(
    connection: SyncConnection, rebuild_id: UUID, some: Range, pinned: Position
) -> list[RunId]:
    """Those of the range that have an event after the position that a rebuild begins from."""
    where = {"rebuild": rebuild_id, "first": some.first, "last": some.last, "pinned": pinned}
    return [run for (run,) in connection.execute(_RUNS_OF_RANGE, where, binary=True).fetchall()]
