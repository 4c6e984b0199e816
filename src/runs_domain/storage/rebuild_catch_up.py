"""What was appended while a shadow was filled: folded into it by batches, to the log's end."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import psycopg

from runs_domain.errors import StoreUnavailable
from runs_domain.ids import Position
from runs_domain.ports import Recorded
from runs_domain.storage import lean_codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import Connection, is_away
from runs_domain.storage.lean_reads import BOUNDED_BATCH
from runs_domain.storage.long_work import LongConnection, ServerFailed
from runs_domain.storage.rebuild_book import Entry
from runs_domain.storage.rebuild_shadow import shadow_of
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.view import Keys, View
from runs_domain.storage.view_folds import CannotFold, cannot_take

BATCH_EVENTS_MAX: Final = 5_000
BATCH_BYTES_MAX: Final = 16 * 1024 * 1024

_EVENTS: Final = f"""
SELECT originator_id, originator_version, coalesce(topic, ''), coalesce(state, ''), notification_id
FROM {BOUNDED_BATCH}
ORDER BY notification_id
"""  # noqa: S608 - our own words
_CAUGHT_UP: Final = "UPDATE view_rebuilds SET position = %s WHERE view = %s"
# A moment before the rebuild too: its first ranges may have been loaded before that was visible.
_ERASED: Final = """
SELECT account_id FROM account_data_keys WHERE destroyed_at >= %s::timestamptz - interval '1 minute'
"""


class Taken(NamedTuple):
    events: int
    position: Position
    """Of the shadow, with them."""
    goes_on: bool
    """The log goes on after them, or may."""


class CatchUp:
    """Of one view. Its methods raise CannotFold, StoreUnavailable, ServerFailed."""

    def __init__(
        self, owner: LongConnection, view: View, data_keys: DataKeys, entry: Entry
    ) -> None:
        self.name = view.name
        self.shadow = shadow_of(view.name)
        self.position = entry.position
        """Of the shadow, as it is committed."""
        self._owner = owner
        self._view = view
        self._data_keys = data_keys
        self._entry = entry

    async def advance(self) -> Taken:
        """One batch, committed."""
        events_max = BATCH_EVENTS_MAX
        while True:
            try:
                return await self._advance(events_max)
            except CannotFold:
                if events_max == 1:
                    raise
                events_max //= 2  # ever fewer, until it is the event itself that is named

    async def _advance(self, events_max: int) -> Taken:
        async def work(connection: Connection) -> Taken:
            async with connection.transaction():
                await self.drop_erased(connection)
                taken = await self.take(connection, events_max)
                if taken.events:
                    await connection.execute(_CAUGHT_UP, (taken.position, self.name))
            self.position = taken.position
            return taken

        return await self._owner.run(work, doing=f"catching up with {self.name}")

    async def take(self, connection: Connection, events_max: int) -> Taken:
        """A batch, in the caller's transaction; the event that passes BATCH_BYTES_MAX is its last.
        A CannotFold names its first event, at fault or not.
        """
        cursor = await connection.execute(
            _EVENTS, (self.position, events_max, BATCH_BYTES_MAX), binary=True
        )
        rows = [StoredRow(*row) for row in await cursor.fetchall()]
        if not rows:
            return Taken(0, self.position, goes_on=False)
        try:
            batch, keys = await self._decoded(rows)
            await self._view.apply(connection, batch, self.shadow, keys)
        except Exception as error:
            if _is_about_the_moment(error):
                raise
            raise cannot_take(self.name, rows[0], rows[0].tag, error) from error
        size = sum(len(row.state) for row in rows)
        goes_on = len(rows) >= events_max or size >= BATCH_BYTES_MAX
        return Taken(len(rows), rows[-1].position, goes_on)

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

    async def drop_erased(self, connection: Connection) -> None:
        """Drop the rows of accounts erased meanwhile, and their keys from memory: with those, the
        next event of a run would be held to a row that is no longer there.
        """
        if not self._view.needs_content:
            return
        cursor = await connection.execute(_ERASED, (self._entry.started_at,), binary=True)
        accounts = [account for (account,) in await cursor.fetchall()]
        for account in accounts:
            self._data_keys.forget(account)
        if accounts:
            statement = f"DELETE FROM {self.shadow} WHERE account_id = ANY(%s)"  # noqa: S608
            await connection.execute(statement.encode(), (accounts,))


def _is_about_the_moment(error: Exception) -> bool:
    """And not about the events."""
    passing = StoreUnavailable | ServerFailed | psycopg.ProgrammingError
    return isinstance(error, passing) or is_away(error)
