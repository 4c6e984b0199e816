"""What was appended while a shadow was filled, and the moment in which the shadow takes over.

The projector stands still for that moment, because the checkpoint's row is locked; readers wait
for the renames alone, and never longer than LOCK_WAIT.
"""

import time
from collections.abc import Sequence
from typing import Final

import psycopg

from runs_domain.errors import StoreUnavailable
from runs_domain.ports import Recorded
from runs_domain.storage import lean_codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import Connection
from runs_domain.storage.lean_reads import BOUNDED_BATCH
from runs_domain.storage.long_work import LongConnection
from runs_domain.storage.projection import ADVANCE
from runs_domain.storage.rebuild_book import Entry
from runs_domain.storage.rebuild_likeness import Likeness
from runs_domain.storage.rebuild_shadow import shadow_of, swap_statements
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.view import Keys, View
from runs_domain.storage.view_folds import CannotFold

BATCH_EVENTS_MAX: Final = 5_000
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
LAST_EVENTS_MAX: Final = 500
"""What is left for the moment of the swap."""
LOCK_WAIT: Final = "100ms"
"""For a lock that others queue behind."""

_EVENTS: Final = f"""
SELECT originator_id, originator_version, coalesce(topic, ''), coalesce(state, ''), notification_id
FROM {BOUNDED_BATCH}
ORDER BY notification_id
"""  # noqa: S608 - our own words
_CHECKPOINT: Final = "SELECT position FROM checkpoints WHERE name = %s FOR UPDATE"
_CAUGHT_UP: Final = "UPDATE view_rebuilds SET position = %s WHERE view = %s"
_SWAPPED: Final = "DELETE FROM view_rebuilds WHERE view = %s"
# Rows of accounts that were erased since: their range may have been loaded before that.
_ERASED: Final = """
DELETE FROM {shadow} USING account_data_keys AS key
WHERE key.account_id = {shadow}.account_id AND key.destroyed_at >= %s
"""


class Behind(Exception):
    """There is more to catch up on than fits into the moment of a swap."""


class CatchUp:
    """Of one view. Its methods raise CannotFold, StoreUnavailable, ServerFailed."""

    def __init__(
        self, owner: LongConnection, view: View, data_keys: DataKeys, entry: Entry
    ) -> None:
        self.name = view.name
        self.position = entry.position
        self._owner = owner
        self._view = view
        self._data_keys = data_keys
        self._entry = entry
        self._shadow = shadow_of(view.name)

    async def advance(self) -> int:
        """One batch; how many events it had."""
        events_max = BATCH_EVENTS_MAX
        while True:
            try:
                return await self._advance(events_max)
            except CannotFold:
                if events_max == 1:
                    raise
                events_max //= 2  # ever fewer, until it is the event itself that is named

    async def _advance(self, events_max: int) -> int:
        async def work(connection: Connection) -> int:
            async with connection.transaction():
                taken = await self._take(connection, events_max)
                if taken:
                    await connection.execute(_CAUGHT_UP, (taken[-1].position, self._view.name))
                await self._drop_erased(connection)
            if taken:
                self.position = taken[-1].position
            return len(taken)

        return await self._owner.run(work, doing=f"catching up with {self._view.name}")

    async def swap(self, like: Likeness) -> float | None:
        """Put the shadow in the view's place, at the log's end: for how many seconds readers may
        have waited. None = somebody has a lock that it needs. Raises Behind.
        """

        async def work(connection: Connection) -> float | None:
            try:
                return await self._swap(connection, like)
            except psycopg.errors.LockNotAvailable:
                return None

        return await self._owner.run(work, doing=f"swapping {self._view.name}")

    async def _swap(self, connection: Connection, like: Likeness) -> float:
        name = self._view.name
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
            await connection.execute("SET LOCAL synchronous_commit = on")
            await connection.execute(_CHECKPOINT, (name,))
            taken = await self._take(connection, LAST_EVENTS_MAX + 1)
            if len(taken) > LAST_EVENTS_MAX:
                raise Behind
            position = taken[-1].position if taken else self.position
            begun = time.monotonic()
            await connection.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE".encode())
            await self._drop_erased(connection)
            await connection.execute(swap_statements(name, like).encode())
            await connection.execute(ADVANCE, (position, name))
            await connection.execute(_SWAPPED, (name,))
        self.position = position
        return time.monotonic() - begun

    async def _take(self, connection: Connection, events_max: int) -> Sequence[StoredRow]:
        cursor = await connection.execute(
            _EVENTS, (self.position, events_max, BATCH_BYTES_MAX), binary=True
        )
        rows = [StoredRow(*row) for row in await cursor.fetchall()]
        if not rows:
            return rows
        try:
            batch, keys = await self._decoded(rows)
            await self._view.apply(connection, batch, self._shadow, keys)
        except (psycopg.OperationalError, StoreUnavailable):
            raise
        except Exception as error:
            first = rows[0]
            raise CannotFold(
                f"view {self._view.name} cannot take event {first.version} of run {first.run_id}"
                f" at position {first.position} ({first.tag}): {type(error).__name__}"
            ) from error
        return rows

    async def _decoded(self, rows: Sequence[StoredRow]) -> tuple[Sequence[Recorded], Keys]:
        outlines = [lean_codec.outline(row) for row in rows]
        if not self._view.needs_content:
            return outlines, {}
        keys = await self._data_keys.for_reading(one.subject for one in outlines)
        opened = [
            lean_codec.with_content(row, one, keys[one.subject])
            for row, one in zip(rows, outlines, strict=True)
        ]
        return opened, keys

    async def _drop_erased(self, connection: Connection) -> None:
        if self._view.needs_content:
            statement = _ERASED.format(shadow=self._shadow)
            await connection.execute(statement.encode(), (self._entry.started_at,))
