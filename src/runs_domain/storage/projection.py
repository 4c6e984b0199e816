"""One view and its place in the log: rows and checkpoint move in one transaction, or not at all.

The checkpoint's row is locked for that long, so that any number of projectors may run: one is at
it, the others pass. Its commit is not flushed; after a crash rows and checkpoint are back at the
same earlier place together, and the log is folded again from there.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import psycopg

from runs_domain.errors import RunledgerError, StoreUnavailable
from runs_domain.events import Struct
from runs_domain.ids import Position
from runs_domain.ports import Recorded
from runs_domain.settings import Secret
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import Connection, ReconnectingConnection, is_away
from runs_domain.storage.postgres_log import READ_SETTINGS
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.view import View

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
BATCH_SECONDS_MAX: Final = 30.0

_CHECKPOINT: Final = "SELECT position FROM checkpoints WHERE name = %s FOR UPDATE SKIP LOCKED"
_EVENTS: Final = """
SELECT originator_id, originator_version, topic, state, notification_id
FROM (
    SELECT *, sum(octet_length(state)) OVER (ORDER BY notification_id) - octet_length(state)
        AS bytes_before
    FROM stored_events WHERE notification_id > %s ORDER BY notification_id LIMIT %s
) AS batch
WHERE bytes_before < %s
ORDER BY notification_id
"""
_ADVANCE: Final = """
UPDATE checkpoints SET
    position = %s, stopped_position = NULL, stopped_error = NULL, stopped_at = NULL
WHERE name = %s
"""
_STOP: Final = """
UPDATE checkpoints SET stopped_position = %s, stopped_error = %s, stopped_at = now()
WHERE name = %s AND position < %s
RETURNING name
"""
_BEHIND: Final = """
SELECT EXISTS (SELECT FROM stored_events WHERE notification_id > position)
FROM checkpoints WHERE name = %s
"""
_CHECKPOINTS: Final = """
SELECT name, position, stopped_position, stopped_error, stopped_at FROM checkpoints ORDER BY name
"""


class Checkpoint(Struct, frozen=True):
    """`stopped_*`: the event that the view's fold cannot take, and why; it waits before it."""

    name: str
    position: Position
    stopped_position: Position | None = None
    stopped_error: str | None = None
    stopped_at: datetime | None = None


class FoldFailed(RunledgerError):
    """A batch that the view cannot take; nothing of it was written."""

    def __init__(self, rows: Sequence[StoredRow], error: Exception) -> None:
        first = rows[0]
        super().__init__(
            f"event {first.version} of run {first.run_id} ({first.tag}): {_reason(error)}"
        )
        self.events = len(rows)
        self.position = first.position


class Projection:
    def __init__(self, url: Secret, view: View, data_keys: DataKeys) -> None:
        self._view = view
        self._data_keys = data_keys
        self._connection = ReconnectingConnection(
            url,
            name=f"runledger projector {view.name}",
            seconds_max=BATCH_SECONDS_MAX,
            parameters={**READ_SETTINGS, "synchronous_commit": "off"},
        )

    @property
    def name(self) -> str:
        return self._view.name

    async def close(self) -> None:
        await self._connection.close()

    async def is_behind(self) -> bool:
        """Whether the log goes on after the checkpoint: cheaper than a batch of nothing.

        Raises StoreUnavailable, and LookupError for a view that no migration knows.
        """
        rows = await self._connection.fetch(_BEHIND, (self.name,))
        if not rows:
            raise LookupError(f"view {self.name} has no checkpoint; was the database migrated?")
        return rows[0][0] is True

    async def advance(self, events_max: int) -> int:
        """Take the next batch; how many events it had. 0 = nothing is there, or another
        projector is at it. Raises FoldFailed, StoreUnavailable.
        """

        async def work(connection: Connection) -> int:
            async with connection.transaction():
                return await self._advance(connection, events_max)

        return await self._connection.run(work)

    async def stop(self, failure: FoldFailed) -> None:
        """Show ops where the view waits, unless another projector has passed the place."""
        await self._connection.fetch(
            _STOP, (failure.position, str(failure), self.name, failure.position)
        )

    async def _advance(self, connection: Connection, events_max: int) -> int:
        cursor = await connection.execute(_CHECKPOINT, (self.name,), prepare=True)
        checkpoint = await cursor.fetchone()
        if checkpoint is None:
            return 0
        cursor = await connection.execute(
            _EVENTS, (checkpoint[0], events_max, BATCH_BYTES_MAX), prepare=True, binary=True
        )
        rows = [StoredRow(*row) for row in await cursor.fetchall()]
        if not rows:
            return 0
        try:
            await self._view.apply(connection, await self._decoded(rows), self.name)
        except Exception as error:  # whatever it is: a fold that fails must not look like a lag
            if isinstance(error, StoreUnavailable) or is_away(error):
                raise
            raise FoldFailed(rows, error) from error
        await connection.execute(_ADVANCE, (rows[-1].position, self.name), prepare=True)
        return len(rows)

    async def _decoded(self, rows: Sequence[StoredRow]) -> Sequence[Recorded]:
        opened = [(row, codec.open_row(row)) for row in rows]
        if not self._view.needs_content:
            return [codec.decode(row, one, None, outline=True) for row, one in opened]
        keys = await self._data_keys.for_reading(one.subject for _, one in opened if one.sealed)
        return [codec.decode(row, one, keys.get(one.subject)) for row, one in opened]


async def checkpoints(connection: ReconnectingConnection) -> tuple[Checkpoint, ...]:
    """How far the views are, and which of them wait for ops. Raises StoreUnavailable."""
    return tuple(
        Checkpoint(
            name=name,
            position=position,
            stopped_position=stopped_position,
            stopped_error=stopped_error,
            stopped_at=stopped_at,
        )
        for name, position, stopped_position, stopped_error, stopped_at in await connection.fetch(
            _CHECKPOINTS
        )
    )


def _reason(error: Exception) -> str:
    """Without anything that a client or a model wrote."""
    if isinstance(error, RunledgerError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, psycopg.Error):
        return f"{type(error).__name__} {error.sqlstate or ''}".strip()
    return type(error).__name__
