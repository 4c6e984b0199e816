"""A span of time as a range of positions: found once, it gives the same events for ever.

Times are inside the events, and rise with their positions (decision 0002): a time is found by
halving, through the index of positions.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from runs_domain.errors import HistoryCorrupt, RunledgerError
from runs_domain.events import Struct
from runs_domain.ids import Position
from runs_domain.storage.batch_call import APPEND_LOCK
from runs_domain.storage.codec import time_text
from runs_domain.storage.connection import Connection, Fetches, ReconnectingConnection

NEIGHBOURS: Final = 8
"""Events on either side of a moment whose times must agree with where it was found."""

_LOCK: Final = f"SELECT pg_advisory_xact_lock_shared({APPEND_LOCK})"
"""The appends' own lock. Once it was ours for a moment, whatever has a time before that moment is
committed."""
_NOW: Final = """
    SELECT clock_timestamp(), 'epoch'::timestamptz + last_value * interval '1 microsecond',
           coalesce((SELECT max(notification_id) FROM stored_events), 0)
    FROM log_clock"""
_AROUND: Final = """
    (SELECT notification_id, coalesce(state, '') FROM stored_events
     WHERE notification_id < %b::bigint ORDER BY notification_id DESC LIMIT %b::bigint)
    UNION ALL
    (SELECT notification_id, coalesce(state, '') FROM stored_events
     WHERE notification_id >= %b::bigint ORDER BY notification_id LIMIT %b::bigint)"""
_EDGES: Final = """
    (SELECT coalesce(state, '') FROM stored_events ORDER BY notification_id LIMIT 1)
    UNION ALL
    (SELECT coalesce(state, '') FROM stored_events WHERE notification_id = %b::bigint)"""


class SpanRefused(RunledgerError):
    """The message is a sentence about the span that was asked for."""


class Span(Struct, frozen=True):
    """The events at positions `after` < position ≤ `through`: all of since ≤ `at` < until.

    Times are written as events have them (`codec.time_text`), so that texts compare as times do.
    """

    since: str | None
    until: str
    after: Position
    through: Position


class _When(msgspec.Struct, frozen=True):
    at: datetime


_WHEN: Final = msgspec.json.Decoder(_When)


async def pin(
    connection: ReconnectingConnection, since: datetime | None, until: datetime | None
) -> Span:
    """Raises SpanRefused, HistoryCorrupt, StoreUnavailable."""

    async def look(used: Connection) -> Any:
        async with used.transaction():
            await used.execute(_LOCK)
            return await (await used.execute(_NOW, binary=True)).fetchone()

    now, newest, top = await connection.run(look, repeatable=True)
    if until is None and newest >= now:
        raise SpanRefused(
            "the database's clock was set back behind the log's newest event"
            f" ({time_text(newest)}): give --until"
        )
    if until is not None and until > now:
        raise SpanRefused(f"--until lies in the future: the database's clock says {time_text(now)}")
    if since is not None and since >= (until or now):
        raise SpanRefused("--since must lie before --until, which is now if it is not given")
    return Span(
        since=None if since is None else time_text(since),
        until=time_text(until or now),
        after=Position(0) if since is None else await _before(connection, since, top),
        # Nothing is searched where nothing need be: a time that was changed cannot mislead.
        through=top if until is None else await _before(connection, until, top),
    )


async def _before(connection: Fetches, moment: datetime, top: Position) -> Position:
    """The last position whose event is older than `moment`, 0 if there is none."""
    low, high = 1, top + 1
    while low < high:
        middle = (low + high) // 2
        ((position, state),) = await connection.fetch(_AROUND, (middle, 0, middle, 1))
        if _at(position, state) >= moment:
            high = middle
        else:
            low = position + 1
    around = await connection.fetch(_AROUND, (high, NEIGHBOURS, high, NEIGHBOURS))
    for position, state in around:
        if (_at(position, state) < moment) != (position < high):
            raise HistoryCorrupt(
                f"the times of the events around position {position} are not in order, so that"
                " no span can begin or end there: scripts/verify_history.py tells which is wrong"
            )
    return Position(max((position for position, _ in around if position < high), default=0))


def _at(position: int, state: bytes) -> datetime:
    try:
        return _WHEN.decode(state).at.astimezone(UTC)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        raise HistoryCorrupt(
            f"the event at position {position} does not say when it was committed:"
            " scripts/verify_history.py tells more"
        ) from None


async def log_mark(connection: Fetches, through: Position) -> str:
    """The same for the same log, wherever it was restored to; another one for any other."""
    rows = await connection.fetch(_EDGES, (through,))
    return hashlib.sha256(b"".join(hashlib.sha256(state).digest() for (state,) in rows)).hexdigest()
