"""The stretch of the log that the views are at: read and decoded once for all of them.

Events never change and become visible in the order of their positions, so they may be read outside
of the transaction that folds them. Each view asks for what comes after its own place. Views that
are behind by the same amount find what the first of them has read; while they fold it, the next
stretch is fetched. One that reads faster waits for the others a moment, so that they stay
together, and never longer: a slow one then reads for itself.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from runs_domain.ids import Position
from runs_domain.ports import Recorded
from runs_domain.settings import Secret
from runs_domain.storage import lean_codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.lean_reads import BOUNDED_BATCH
from runs_domain.storage.postgres_log import READ_SETTINGS
from runs_domain.storage.waking import wait_for

STRETCH_EVENTS_MAX: Final = 10_000
STRETCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of stored bytes; the event that passes it is in, so that the largest one gets by."""
KEPT_BYTES_MAX: Final = 24 * 1024 * 1024
KEPT_STRETCHES_MAX: Final = 64
"""At the log's end stretches are small."""
COURTESY_SECONDS_MAX: Final = 0.25
"""How long views that are ahead wait for one that is not, a stretch."""
READ_SECONDS_MAX: Final = 30.0

_ROWS: Final = f"""
SELECT array_agg(originator_id ORDER BY notification_id),
    array_agg(originator_version ORDER BY notification_id),
    array_agg(coalesce(topic, '') ORDER BY notification_id),
    array_agg(coalesce(state, '') ORDER BY notification_id),
    array_agg(notification_id ORDER BY notification_id)
FROM {BOUNDED_BATCH}
"""  # noqa: S608 - our own words
"""As columns: one row of arrays is read with half of the work that many rows take."""


class Part(msgspec.Struct, frozen=True):
    """What comes after a place in the log: as many events as were asked for, or fewer."""

    rows: Sequence[StoredRow]
    outlines: Sequence[Recorded]
    """Of `rows`; none if the first of those cannot be read. Another such is not in it."""
    failure: Exception | None
    """Why that one cannot be read."""
    goes_on: bool
    """There is more after it, or may be."""


class _Stretch:
    """All rows after `after` up to the position `until`; it ends before one that cannot be read,
    but for the first.
    """

    def __init__(self, after: Position, rows: Sequence[StoredRow]) -> None:
        self.after = after
        self.outlines: list[Recorded] = []
        self.failure: Exception | None = None
        try:
            for row in rows:
                self.outlines.append(lean_codec.outline(row))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - told to each view that comes there
            self.failure = error
        self.rows = rows[: max(1, len(self.outlines))]
        self.until = self.outlines[-1].position if self.outlines else after
        self.size = sum(len(row.state) for row in self.rows)
        self.is_full = len(rows) >= STRETCH_EVENTS_MAX or self.size >= STRETCH_BYTES_MAX
        self.goes_on = self.is_full or self.failure is not None
        self.readers = 0
        self.unread = asyncio.Event()

    def rows_until(self, place: Position) -> int:
        """How many rows are not after `place`."""
        return bisect_right(self.rows, place, key=lambda row: row.position)


class LogWindow:
    """Shared by the views of a process. Memory: KEPT_BYTES_MAX, twice, and what is being read."""

    def __init__(self, url: Secret) -> None:
        self._connection = ReconnectingConnection(
            url,
            name="runledger projector reads",
            seconds_max=READ_SECONDS_MAX,
            parameters=READ_SETTINGS,
        )
        self._kept: list[_Stretch] = []
        self._turn = asyncio.Lock()
        self._waiting: dict[Position, asyncio.Task[_Stretch]] = {}
        """Reads that have not begun, by place: only these may be joined."""
        self._reads: set[asyncio.Task[_Stretch]] = set()
        self._users = 0

    def join(self) -> None:
        """Each user says so, and leaves in the end."""
        self._users += 1

    async def leave(self) -> None:
        self._users -= 1
        if self._users:
            return
        for read in self._reads:
            read.cancel()
        if self._reads:
            await asyncio.wait(self._reads)
        await self._connection.close()
        self._kept.clear()

    @asynccontextmanager
    async def after(self, place: Position, events_max: int) -> AsyncIterator[Part]:
        """The part of the log after `place`; while inside, others wait a little for its reader.

        An empty one is as new as the moment of asking; after another, ask again. Raises
        StoreUnavailable.
        """
        stretch = self._kept_at(place)
        if stretch is None:
            stretch = await asyncio.shield(self._read(place))
        if stretch.is_full and stretch.failure is None and self._kept_at(stretch.until) is None:
            self._begin_read(stretch.until)
        stretch.readers += 1
        try:
            yield self._part(stretch, place, events_max)
        finally:
            stretch.readers -= 1
            if not stretch.readers:
                stretch.unread.set()

    def forget(self, place: Position) -> None:
        """Read anew what comes after `place`, should somebody ask: it may have been mended."""
        self._kept = [one for one in self._kept if not one.after <= place < one.until]

    def _part(self, stretch: _Stretch, place: Position, events_max: int) -> Part:
        """From as many stretches as it takes: at the log's end they are small."""
        rows: list[StoredRow] = []
        outlines: list[Recorded] = []
        following: _Stretch | None = stretch
        while following is not None:
            stretch = following
            begin = stretch.rows_until(place)
            end = begin + events_max - len(rows)
            rows += stretch.rows[begin:end]
            outlines += stretch.outlines[begin:end]
            if end < len(stretch.rows):
                return Part(rows, outlines, None, goes_on=True)
            place = stretch.until
            following = self._kept_at(place) if end > len(stretch.rows) else None
        return Part(rows, outlines, None if outlines else stretch.failure, stretch.goes_on)

    def _kept_at(self, place: Position) -> _Stretch | None:
        return next((one for one in self._kept if one.after <= place < one.until), None)

    # -------------------------------------------------------------------------- reading

    def _begin_read(self, place: Position) -> None:
        """So that it is there when somebody asks."""
        _ = self._read(place)

    def _read(self, place: Position) -> asyncio.Task[_Stretch]:
        read = self._waiting.get(place)
        if read is None:
            read = self._waiting[place] = asyncio.create_task(self._load(place))
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)
            # Whoever asked may be gone when it fails; nobody is owed a warning then.
            read.add_done_callback(lambda done: done.cancelled() or done.exception())
        return read

    async def _load(self, place: Position) -> _Stretch:
        try:
            await self._turn.acquire()
        finally:
            del self._waiting[place]
        try:
            kept = self._kept_at(place)
            if kept is not None:
                return kept
            wanted = (place, STRETCH_EVENTS_MAX, STRETCH_BYTES_MAX)
            (columns,) = await self._connection.fetch(_ROWS, wanted)
            stretch = _Stretch(place, list(map(StoredRow, *columns)) if columns[0] else [])
            if stretch.outlines:
                await self._make_room(stretch.size)
                self._kept.append(stretch)
            return stretch
        finally:
            self._turn.release()

    async def _make_room(self, size: int) -> None:
        while self._kept and (
            len(self._kept) >= KEPT_STRETCHES_MAX
            or sum(one.size for one in self._kept) + size > KEPT_BYTES_MAX
        ):
            spare = next((one for one in self._kept if not self._is_wanted(one)), None)
            if spare is None:  # then somebody reads, and the last of them is waited for, once
                spare = min((one for one in self._kept if one.readers), key=lambda one: one.after)
                spare.unread.clear()
                await wait_for(spare.unread, COURTESY_SECONDS_MAX)
            self._kept = [one for one in self._kept if one is not spare]

    def _is_wanted(self, stretch: _Stretch) -> bool:
        """Somebody reads it, or will when through with one that leads to it."""
        if stretch.readers:
            return True
        before = next((one for one in self._kept if one.until == stretch.after), None)
        return before is not None and self._is_wanted(before)
