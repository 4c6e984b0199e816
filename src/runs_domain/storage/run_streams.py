"""Whole streams in the order of their runs, a batch at a time: for those who fold the log anew.

One row a run comes from PostgreSQL, which is the fastest way out of it. What is too large for
that is read by itself. Memory is that of a batch, or of the one run that is larger.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from runs_domain.errors import HistoryCorrupt
from runs_domain.ids import AccountId, Position, RunId, Version
from runs_domain.keys import ServerSecrets
from runs_domain.ports import Recorded
from runs_domain.storage import lean_codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.data_key_rows import LOAD_KEYS, wrapped_keys
from runs_domain.storage.long_work import SyncConnection
from runs_domain.storage.sealing import DataKey, opened_keys
from runs_domain.storage.view import Keys

BATCH_EVENTS_MAX: Final = 1_024
"""A larger batch does not stay in the processor's cache while it is folded."""
RUNS_AT_ONCE: Final = 4
"""That the server's answer is taken in, and is in memory beside a batch."""
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
EVENT_BYTES_MAX: Final = 32 * 1024
"""A larger event is fetched by itself; without content, as much of it comes first."""

_RUNS: Final = """
SELECT originator_id, min(originator_version) = 1 AND max(originator_version) = count(*),
    array_agg(notification_id ORDER BY originator_version),
    array_agg(coalesce(topic, '') ORDER BY originator_version),
    array_agg(CASE WHEN octet_length(state) <= %(event_bytes)s THEN state END
        ORDER BY originator_version)
FROM stored_events
WHERE {which} AND notification_id <= %(upto)s
GROUP BY originator_id ORDER BY originator_id
"""
_IN_RANGE: Final = _RUNS.format(which="originator_id BETWEEN %(first)s AND %(last)s")
_AMONG: Final = _RUNS.format(which="originator_id = ANY(%(runs)s)")
_EVENTS_OF: Final = """
SELECT originator_version, notification_id, coalesce(topic, ''), coalesce(octet_length(state), 0)
FROM stored_events WHERE originator_id = %s AND notification_id <= %s ORDER BY originator_version
"""
_STATE: Final = """
SELECT coalesce(substring(state FOR %s), '')
FROM stored_events WHERE originator_id = %s AND originator_version = %s
"""
_SEALED: Final = b',"sealed":"'
"""Where the clear part of an event ends. Within a JSON text it has backslashes."""


class Range(msgspec.Struct, frozen=True):
    """Runs by id, both ends included; `events` is about how many they have."""

    first: UUID
    last: UUID
    events: int


class Unreadable(HistoryCorrupt):
    """An event that cannot be taken. The message is for operators, and says its position."""


class Stream(msgspec.Struct, frozen=True, gc=False):
    """A run's events; without `hash`."""

    run_id: RunId
    events: list[Recorded]


class Batch(msgspec.Struct, frozen=True):
    streams: Sequence[Stream]
    keys: Keys
    """Of their accounts, as they are now; empty where nobody wants content."""
    size: int
    """The bytes of their events."""

    @property
    def events(self) -> int:
        return sum(len(stream.events) for stream in self.streams)


class _Unfinished:
    """A batch to be. `rows`: beside each stream its rows, where their content is still to come."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.rows: list[list[StoredRow]] = []
        self.events = self.size = 0


class RunStreams:
    """Raises psycopg.Error, and Unreadable unless somebody takes that and the run is left out."""

    def __init__(
        self,
        log: SyncConnection,
        side: SyncConnection,
        secrets: ServerSecrets,
        *,
        content: bool,
        on_unreadable: Callable[[RunId, Unreadable], None] | None = None,
    ) -> None:
        """`log` is busy while batches are taken; what comes between them goes over `side`."""
        self._log = log
        self._side = side
        self._secrets = secrets
        self._content = content
        self._on_unreadable = on_unreadable

    def in_range(self, some: Range, upto: Position) -> Iterator[Batch]:
        """Every run of the range that begins up to position `upto`, as it was there."""
        return self._batches(_IN_RANGE, {"first": some.first, "last": some.last}, upto)

    def among(self, runs: Sequence[RunId], upto: Position) -> Iterator[Batch]:
        return self._batches(_AMONG, {"runs": list(runs)}, upto) if runs else iter(())

    def _batches(self, sql: str, which: dict[str, Any], upto: Position) -> Iterator[Batch]:
        parameters = {**which, "upto": upto, "event_bytes": EVENT_BYTES_MAX}
        batch = _Unfinished()
        with self._log.cursor(binary=True) as cursor:
            for run_id, is_whole, positions, tags, states in cursor.stream(
                sql, parameters, size=RUNS_AT_ONCE
            ):
                is_plain = is_whole and None not in states
                events = lean_codec.outlines(run_id, positions, tags, states) if is_plain else None
                if events is None:
                    yield self._finished(batch)
                    batch = _Unfinished()
                    yield self._odd_one(run_id, upto)
                    continue
                batch.streams.append(Stream(run_id, events))
                batch.events += len(events)
                batch.size += sum(map(len, states))
                if self._content:
                    rows = zip(events, tags, states, positions, strict=True)
                    batch.rows.append(
                        [StoredRow(run_id, one.version, *rest) for one, *rest in rows]
                    )
                if batch.events >= BATCH_EVENTS_MAX or batch.size >= BATCH_BYTES_MAX:
                    yield self._finished(batch)
                    batch = _Unfinished()
        yield self._finished(batch)

    def _finished(self, batch: "_Unfinished") -> Batch:
        if not self._content:
            return Batch(batch.streams, {}, batch.size)
        keys = self.keys_of({one.subject for stream in batch.streams for one in stream.events})
        streams = []
        for rows, stream in zip(batch.rows, batch.streams, strict=True):
            try:
                streams.append(Stream(stream.run_id, _filled(rows, stream.events, keys)))
            except Unreadable as error:
                self._refuse(stream.run_id, error)
        return Batch(streams, keys, batch.size)

    def _refuse(self, run_id: RunId, error: Unreadable) -> None:
        if self._on_unreadable is None:
            raise error
        self._on_unreadable(run_id, error)

    def keys_of(self, accounts: set[AccountId]) -> Keys:
        """None for a destroyed key, and for one that was never made."""
        if not accounts:
            return {}
        rows = self._side.execute(LOAD_KEYS, (list(accounts),), binary=True).fetchall()
        return {**dict.fromkeys(accounts), **opened_keys(self._secrets, wrapped_keys(rows))}

    def _odd_one(self, run_id: RunId, upto: Position) -> Batch:
        """A run that has large events, or odd ones, or not all of them."""
        keys: dict[AccountId, DataKey | None] = {}
        try:
            events = self._one_by_one(run_id, upto, keys)
        except Unreadable as error:
            self._refuse(run_id, error)
            return Batch([], keys, 0)
        return Batch([Stream(run_id, events)], keys, BATCH_BYTES_MAX)

    def _one_by_one(
        self, run_id: RunId, upto: Position, keys: dict[AccountId, DataKey | None]
    ) -> list[Recorded]:
        """One event's bytes in memory after the other's; the events all at once."""
        events: list[Recorded] = []
        found = self._side.execute(_EVENTS_OF, (run_id, upto), binary=True).fetchall()
        for version, position, tag, size in found:
            row = StoredRow(run_id, version, tag, self._bytes(run_id, version, size), position)
            recorded = _outline(row)
            if self._content:
                if recorded.subject not in keys:
                    keys |= self.keys_of({recorded.subject})
                recorded = _with_content(row, recorded, keys)
            events.append(recorded)
        return events

    def _bytes(self, run_id: RunId, version: Version, size: int) -> bytes:
        """All of an event, or all but the sealed part at its end where nobody wants that."""
        if not self._content and size > EVENT_BYTES_MAX:
            begin = self._state(run_id, version, EVENT_BYTES_MAX)
            cut = begin.find(_SEALED)
            if cut >= 0:
                return begin[:cut] + b"}"
        return self._state(run_id, version, size)

    def _state(self, run_id: RunId, version: Version, size: int) -> bytes:
        ((state,),) = self._side.execute(_STATE, (size, run_id, version), binary=True).fetchall()
        return bytes(state)


def _filled(rows: Sequence[StoredRow], outline: Sequence[Recorded], keys: Keys) -> list[Recorded]:
    return [_with_content(row, one, keys) for row, one in zip(rows, outline, strict=True)]


def _outline(row: StoredRow) -> Recorded:
    try:
        return lean_codec.outline(row)
    except HistoryCorrupt as error:
        raise _unreadable(row, error) from None


def _with_content(row: StoredRow, outlined: Recorded, keys: Keys) -> Recorded:
    try:
        return lean_codec.with_content(row, outlined, keys[outlined.subject])
    except HistoryCorrupt as error:
        raise _unreadable(row, error) from None


def _unreadable(row: StoredRow, error: Exception) -> Unreadable:
    return Unreadable(
        f"event {row.version} of run {row.run_id} at position {row.position}"
        f" ({row.tag or 'no tag'}): {type(error).__name__}"
    )
