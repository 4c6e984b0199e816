"""One view and its place in the log: rows and checkpoint move in one transaction, or not at all.

The checkpoint's row is locked for that long, so that any number of projectors may run: one is at
it, the others pass; and so that a rebuild may put another table in the view's place in between.
Its commit is not flushed; after a crash rows and checkpoint are back at the same earlier place
together, and the log is folded again from there.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from psycopg import errors
from psycopg.rows import TupleRow

from runs_domain.errors import RunledgerError, StoreUnavailable, ViewDamaged
from runs_domain.events import Struct
from runs_domain.ids import Position
from runs_domain.ports import Recorded
from runs_domain.settings import Secret
from runs_domain.storage import lean_codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import (
    Connection,
    Fetches,
    NoAnswer,
    ReconnectingConnection,
    is_away,
)
from runs_domain.storage.log_window import LogWindow, Part
from runs_domain.storage.postgres_log import READ_SETTINGS
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.view import Keys, View
from runs_domain.storage.view_folds import reason

BATCH_SECONDS_MAX: Final = 30.0

_SETTINGS: Final = READ_SETTINGS | {
    "synchronous_commit": "off",
    # A batch that was cut off, or whose projector was killed, gives up the checkpoint's lock soon.
    "client_connection_check_interval": "1s",
}
_CHECKPOINT: Final = "SELECT position FROM checkpoints WHERE name = %s FOR UPDATE SKIP LOCKED"
ADVANCE: Final = """
UPDATE checkpoints SET
    position = %s, stopped_position = NULL, stopped_error = NULL, stopped_at = NULL
WHERE name = %s
"""
"""A view that moves on, by whomever, stands still no more."""
_STOP: Final = """
UPDATE checkpoints SET
    stopped_position = %(position)s, stopped_error = %(error)s,
    stopped_at = CASE WHEN stopped_position = %(position)s THEN stopped_at ELSE now() END
WHERE name = %(name)s AND position < %(position)s
RETURNING name
"""
_PLACE: Final = "SELECT position FROM checkpoints WHERE name = %s"
_BEHIND: Final = """
SELECT EXISTS (SELECT FROM stored_events WHERE notification_id > position)
FROM checkpoints WHERE name = %s
"""
_CHECKPOINTS: Final = """
SELECT name, position, stopped_position, stopped_error, stopped_at FROM checkpoints ORDER BY name
"""
# Of our memory and the server's; a time-out of the server's, as a role may have it.
_TOO_MUCH: Final = (MemoryError, errors.OutOfMemory, errors.QueryCanceled)


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
            f"event {first.version} of run {first.run_id} ({first.tag}): {reason(error)}"
        )
        self.events = len(rows)
        self.position = first.position


class BatchTooLarge(StoreUnavailable):
    """It took more time or memory than there is, now; a smaller one may not."""

    def __init__(self, events: int, why: str) -> None:
        super().__init__(f"a batch of {events} events was not taken: {why}")
        self.events = events


class NoCheckpoint(StoreUnavailable):
    """The view belongs to a release to which the database was not migrated yet."""


class Projection:
    def __init__(
        self, url: Secret, view: View, data_keys: DataKeys, window: LogWindow | None = None
    ) -> None:
        """Projections of one process share their `window`."""
        self._view = view
        self._data_keys = data_keys
        self._window = window or LogWindow(url)
        self._window.join()
        self._connection = ReconnectingConnection(
            url,
            name=f"runledger projector {view.name}",
            seconds_max=BATCH_SECONDS_MAX,
            parameters=_SETTINGS,
        )
        self._place: Position | None = None
        """Where the view was when we wrote last; only its checkpoint knows where it is."""
        self.goes_on = False
        """The log goes on after the batch that was taken last, or may."""

    @property
    def name(self) -> str:
        return self._view.name

    async def close(self) -> None:
        await self._connection.close()
        await self._window.leave()

    async def is_behind(self) -> bool:
        """Whether the log goes on after the checkpoint. Raises StoreUnavailable, NoCheckpoint."""
        return (await self._look_up(_BEHIND))[0] is True

    async def advance(self, events_max: int) -> int:
        """Take the next batch; how many events it had. 0 = nothing is there, or another
        projector is at it. Raises FoldFailed, StoreUnavailable, BatchTooLarge, NoCheckpoint.
        """
        place, self._place, self.goes_on = self._place, None, False
        while True:
            if place is None:
                (place,) = await self._look_up(_PLACE)
            async with self._window.after(place, events_max) as part:
                if part.rows:
                    taken = await self._write(place, part)
                    if taken is not None:
                        return taken
            (found,) = await self._look_up(_PLACE)
            if found == place:
                self._place = place
                return 0
            place = found

    async def stop(self, failure: FoldFailed) -> None:
        """Show ops where the view waits, unless another projector has passed the place."""
        self._window.forget(Position(failure.position - 1))
        await self._connection.fetch(
            _STOP, {"position": failure.position, "error": str(failure), "name": self.name}
        )

    async def _look_up(self, query: str) -> TupleRow:
        rows = await self._connection.fetch(query, (self.name,))
        if not rows:
            raise NoCheckpoint(f"view {self.name} has no checkpoint: is the database migrated?")
        return rows[0]

    async def _write(self, place: Position, part: Part) -> int | None:
        """How many events; None = the view is at another place by now."""
        try:
            return await self._fold(place, part)
        except FoldFailed as failure:
            if not (self._view.needs_content and isinstance(failure.__cause__, ViewDamaged)):
                raise
            # An erasure deletes rows at once, and this process may hold the key a while longer.
            for one in part.outlines:
                self._data_keys.forget(one.subject)
            return await self._fold(place, part)

    async def _fold(self, place: Position, part: Part) -> int | None:
        batch, keys = await self._batch(part)

        async def work(connection: Connection) -> int | None:
            try:
                # What needs no answer goes out together: each trip costs the list a millisecond.
                async with connection.pipeline(), connection.transaction():
                    cursor = await connection.execute(_CHECKPOINT, (self.name,), prepare=True)
                    checkpoint = await cursor.fetchone()
                    if checkpoint is None:
                        return 0
                    if checkpoint[0] != place:
                        return None
                    await self._view.apply(connection, batch, self.name, keys)
                    last = batch[-1].position
                    await connection.execute(ADVANCE, (last, self.name), prepare=True)
            except Exception as error:  # whatever it is: a fold that fails is not a lag
                _raise_passing(error, len(batch))
                raise FoldFailed(part.rows[: len(batch)], error) from error
            return len(batch)

        try:
            taken = await self._connection.run(work)
        except NoAnswer as error:
            raise BatchTooLarge(len(batch), str(error)) from None
        if taken:
            self._place = batch[-1].position
            self.goes_on = part.goes_on or taken < len(part.rows)
        return taken

    async def _batch(self, part: Part) -> tuple[Sequence[Recorded], Keys]:
        """What can be read of it, and its accounts' keys if the view needs content. Raises
        FoldFailed if its first event cannot be.
        """
        if not part.outlines and part.failure is not None:
            raise FoldFailed(part.rows, part.failure)
        if not self._view.needs_content:
            return part.outlines, {}
        subjects = {one.subject.int: one.subject for one in part.outlines}
        try:
            keys = await self._data_keys.for_reading(subjects.values())
        except Exception as error:
            _raise_passing(error, len(part.outlines))
            raise FoldFailed(part.rows[: len(part.outlines)], error) from error
        batch: list[Recorded] = []
        for row, outline in zip(part.rows, part.outlines, strict=False):
            try:
                batch.append(lean_codec.with_content(row, outline, keys[outline.subject]))
            except Exception as error:
                _raise_passing(error, len(part.outlines))
                if not batch:
                    raise FoldFailed([row], error) from error
                break
        return batch, keys


async def checkpoints(connection: Fetches) -> tuple[Checkpoint, ...]:
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


def _raise_passing(error: Exception, events: int) -> None:
    """Raise `error` on if it is about the moment, or so many events at once, and not about one."""
    if isinstance(error, _TOO_MUCH):
        raise BatchTooLarge(events, type(error).__name__) from error
    if isinstance(error, StoreUnavailable) or is_away(error):
        raise error
    if isinstance(error, OSError):
        raise StoreUnavailable(f"a batch was not taken: {type(error).__name__}") from error
