"""Dead letters in PostgreSQL: `DeadLetters` for the workers, and what operators look at."""

from datetime import datetime
from typing import Any, Final

from msgspec import UNSET, UnsetType
from typing_extensions import override

from runs_domain.dead_letters_port import Burial, DeadLetter, DeadLetters, Reason
from runs_domain.errors import HistoryCorrupt
from runs_domain.events import Struct
from runs_domain.ids import RunId
from runs_domain.ports import JobKind
from runs_domain.storage.codec import StoredRow, open_row
from runs_domain.storage.connection import ReconnectingConnection

LETTERS_MAX: Final = 1_000
"""Of one list."""

_BURY: Final = """
    INSERT INTO dead_letters (kind, id, reason, account_id, last_error, tries, withheld)
    SELECT %(kind)b, run_id, %(reason)b, account_id, %(error)b, %(tries)b, %(reason)b = 'broken'
    FROM run_heads WHERE run_id = %(id)b
    ON CONFLICT (kind, id, reason) DO UPDATE SET
        last_error = excluded.last_error, tries = excluded.tries, buried_at = now(),
        withheld = true, closed_at = NULL, closed_how = NULL, closed_by = NULL
    WHERE dead_letters.reason = 'broken' AND NOT dead_letters.withheld
    RETURNING id"""
_WITHHELD: Final = """
    SELECT id FROM dead_letters WHERE kind = %b AND id = %b AND reason = 'broken' AND withheld"""
_LETTERS: Final = """
    SELECT kind, id, reason, account_id, last_error, tries, buried_at, withheld, closed_at,
           closed_how, closed_by, retried_as
    FROM dead_letters"""
_OF_RUN: Final = f"{_LETTERS} WHERE id = %b ORDER BY reason"
_OPEN: Final = (
    f"{_LETTERS} WHERE closed_at IS NULL AND (%b::text IS NULL OR reason = %b)"
    " ORDER BY buried_at, id LIMIT %b"
)
_ALL: Final = f"{_LETTERS} WHERE %b::text IS NULL OR reason = %b ORDER BY buried_at, id LIMIT %b"
_RETRIED: Final = """
    UPDATE dead_letters SET closed_at = now(), closed_how = 'retried', closed_by = %b,
        retried_as = %b, withheld = false
    WHERE kind = %b AND id = %b AND reason = %b AND closed_how IS DISTINCT FROM 'retried'
    RETURNING id"""
_DROPPED: Final = """
    UPDATE dead_letters SET closed_at = now(), closed_how = 'dropped', closed_by = %b,
        withheld = %b
    WHERE kind = %b AND id = %b AND reason = %b AND closed_at IS NULL
    RETURNING id"""
_LAST_EVENTS: Final = """
    SELECT originator_id, originator_version, topic, state, notification_id FROM stored_events
    WHERE originator_id = %b ORDER BY originator_version DESC LIMIT %b"""
_COUNT: Final = "SELECT count(*) FROM dead_letters WHERE closed_at IS NULL"


class PostgresDeadLetters(DeadLetters):
    def __init__(self, connection: ReconnectingConnection) -> None:
        self._connection = connection

    @override
    async def bury(self, burial: Burial) -> bool:
        values = {
            "kind": burial.kind,
            "id": burial.id,
            "reason": burial.reason,
            "error": burial.last_error,
            "tries": burial.tries,
        }
        return bool(await self._connection.fetch(_BURY, values))

    @override
    async def is_withheld(self, kind: JobKind, run_id: RunId) -> bool:
        return bool(await self._connection.fetch(_WITHHELD, (kind, run_id)))

    @override
    async def letters_of(self, run_id: RunId) -> tuple[DeadLetter, ...]:
        return await self._letters(_OF_RUN, run_id)

    @override
    async def close_retried(
        self, letter: DeadLetter, *, by: str, retried_as: RunId | None = None
    ) -> None:
        values = (by, retried_as, letter.kind, letter.id, letter.reason)
        await self._connection.fetch(_RETRIED, values)

    @override
    async def close_dropped(self, letter: DeadLetter, *, by: str, withheld: bool) -> bool:
        values = (by, withheld, letter.kind, letter.id, letter.reason)
        return bool(await self._connection.fetch(_DROPPED, values))

    async def listed(
        self, *, reason: Reason | None = None, closed_too: bool = False, limit: int = LETTERS_MAX
    ) -> tuple[DeadLetter, ...]:
        """The oldest first, the open ones unless `closed_too`."""
        return await self._letters(_ALL if closed_too else _OPEN, reason, reason, limit)

    async def count_open(self) -> int:
        """Cheap: an index holds the open ones alone."""
        ((count,),) = await self._connection.fetch(_COUNT)
        return int(count)

    async def _letters(self, sql: str, *values: Any) -> tuple[DeadLetter, ...]:
        rows = await self._connection.fetch(sql, values)
        names = DeadLetter.__struct_fields__
        return tuple(DeadLetter(**dict(zip(names, row, strict=True))) for row in rows)


class EventLine(Struct, frozen=True):
    """An event as far as it can be told in any case, whatever this release makes of it."""

    version: int
    type: str
    at: datetime | UnsetType = UNSET
    actor: str | UnsetType = UNSET
    attempt: int | UnsetType = UNSET


async def last_events(
    connection: ReconnectingConnection, run_id: RunId, count: int
) -> list[EventLine]:
    """The stream's last `count` events in order, without content."""
    rows = await connection.fetch(_LAST_EVENTS, (run_id, count))
    return [_line(StoredRow(*row)) for row in reversed(rows)]


def _line(row: StoredRow) -> EventLine:
    try:
        envelope = open_row(row)
    except HistoryCorrupt:
        return EventLine(version=row.version, type=row.tag)
    return EventLine(
        version=row.version,
        type=row.tag,
        at=envelope.at,
        actor=envelope.actor,
        attempt=envelope.attempt,
    )
