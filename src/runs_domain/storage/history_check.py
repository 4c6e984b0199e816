"""Proves the streams of a part of the log, read in the order of their runs, their heads beside.

One process's share of `history_workers`: two synchronous connections that see one moment, and a
COPY on each. Nothing but the run at hand is in memory.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from runs_domain.proof import Fault, StreamFacts, StreamProof, strict_json

NOTE_EVENTS: Final = 5_000
NOTE_BYTES: Final = 8 * 1024 * 1024
"""After so many events or bytes the check says how far it is."""

Link: TypeAlias = "psycopg.Connection[Any]"


class Part(NamedTuple):
    """Runs that one process checks in one go: those after `after` up to `until`, or `runs`."""

    after: UUID | None = None
    until: UUID | None = None
    runs: tuple[UUID, ...] | None = None


class Places(NamedTuple):
    """Places of the log in a row, both ends included, of whichever runs; None: it has no end."""

    first: int | None = None
    last: int | None = None


class Progress(NamedTuple):
    """What was checked since the note before."""

    events: int
    runs: int
    bytes: int


class Absent(NamedTuple):
    """A run that was asked for by name, and of which there is neither an event nor a head."""

    run_id: UUID


class Misplaced(NamedTuple):
    """An event that does not stand in the log where it was written, whatever its run says."""

    position: int
    sentence: str


Note: TypeAlias = Progress | Absent | Misplaced | Fault

MISPLACED_MAX: Final = 100
"""In one row of places."""

# 0, as no number is that: where somebody has taken a rule off the table, a column may be empty.
_EVENTS: Final = sql.SQL("""COPY (
    SELECT uuid_send(originator_id), coalesce(originator_version, 0),
        coalesce(notification_id, 0), topic, state
    FROM stored_events WHERE {} ORDER BY stored_events.originator_id, originator_version
) TO STDOUT (FORMAT BINARY)""")
_EVENT_TYPES: Final = ("bytea", "int8", "int8", "text", "bytea")
# A run, then the fields of StreamFacts.
_HEADS: Final = sql.SQL("""COPY (
    SELECT uuid_send(run_id), version, encode(head_hash, 'hex'), account_id::text, chat_id::text,
        session_id::text, status, live, open, requested_position,
        to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    FROM run_heads WHERE {} ORDER BY run_heads.run_id
) TO STDOUT (FORMAT BINARY)""")
_HEAD_TYPES: Final = (
    *("bytea", "int8", "text", "text", "text"),
    *("text", "text", "bool", "bool", "int8", "text"),
)

# Bytes of times compare as times do; an event that tells none is named by its run's proof.
_PLACES: Final = sql.SQL("""
SELECT place, originator_id, originator_version, place = place_before
FROM (
    SELECT originator_id, originator_version, notification_id AS place, at,
        lag(at) OVER (ORDER BY notification_id) AS at_before,
        lag(notification_id) OVER (ORDER BY notification_id) AS place_before
    FROM (
        SELECT originator_id, originator_version, notification_id,
            substring(begin FROM nullif(position('"at":"'::bytea IN begin), 0) + 6 FOR 27) AS at
        FROM (
            SELECT originator_id, originator_version, notification_id,
                substring(state FROM 1 FOR 300) AS begin
            FROM stored_events WHERE notification_id IS NOT NULL AND {}
        ) AS stored
    ) AS timed
) AS placed
WHERE place = place_before OR at < at_before
ORDER BY place LIMIT {}""")

_DECODER: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()


def quick_json(stored: bytes) -> Any:
    """As strict as `strict_json`: what is written back byte for byte has no key twice and no text
    that is none; only the rest needs the slower look.
    """
    try:
        found = _DECODER.decode(stored)
        if _ENCODER.encode(found) == stored:
            return found
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    return strict_json(stored)


def check(log: Link, heads: Link, part: Part) -> Iterator[Note]:
    """Raises psycopg.Error."""
    with (
        log.cursor() as events,
        heads.cursor() as rows,
        events.copy(_EVENTS.format(_which("originator_id", part))) as stored,
        rows.copy(_HEADS.format(_which("run_id", part))) as held,
    ):
        stored.set_types(_EVENT_TYPES)
        held.set_types(_HEAD_TYPES)
        yield from _Merge(held.rows(), part).notes(stored.rows())


def misplaced(log: Link, places: Places) -> list[Misplaced]:
    """Where two events share a place, or a later place has an earlier time: neither stands in the
    bytes that the chain binds. Sorts what no index has in order. Raises psycopg.Error.
    """
    which = _bounds("notification_id", (">=", places.first), ("<=", places.last))
    rows = log.execute(_PLACES.format(which, sql.Literal(MISPLACED_MAX)), binary=True).fetchall()
    return [Misplaced(place, _misplaced(*rest)) for place, *rest in rows]


def _misplaced(run: UUID, version: int, twice: bool) -> str:
    wrong = "stands where another event does" if twice else "is older than the event before it"
    return f"version {version} of run {run} {wrong}"


def _which(column: str, part: Part) -> sql.Composable:
    if part.runs is None:
        return _bounds(column, (">", part.after), ("<=", part.until))
    name = sql.Identifier(column)
    return sql.SQL("{} = ANY({}::uuid[])").format(name, sql.Literal(list(part.runs)))


def _bounds(column: str, *bounds: tuple[str, UUID | int | None]) -> sql.Composable:
    name = sql.Identifier(column)
    parts = [
        sql.SQL("{} {} {}").format(name, sql.SQL(sign), sql.Literal(bound))
        for sign, bound in bounds
        if bound is not None
    ]
    return sql.SQL(" AND ").join([sql.SQL("true"), *parts])


class _Merge:
    """Two sequences in the order of their runs: the events, and the heads."""

    def __init__(self, heads: Iterator[Sequence[Any]], part: Part) -> None:
        self._heads = heads
        self._head = next(heads, None)
        self._absent = {run.bytes for run in part.runs or ()}
        self._events = self._runs = self._bytes = 0

    def notes(self, rows: Iterator[Sequence[Any]]) -> Iterator[Note]:
        proof: StreamProof | None = None
        run = b""
        for run_bytes, version, position, tag, stored in rows:
            if proof is None or run_bytes != run:
                if proof is not None:
                    yield from self._end(proof, run)
                yield from self._strays(before=run_bytes)
                run, proof = run_bytes, StreamProof(_text(run_bytes), decode=quick_json)
            fault = proof.take(version, tag, stored, position=position)
            if fault is not None:
                yield fault
            self._events += 1
            self._bytes += len(stored or b"")
            if self._events >= NOTE_EVENTS or self._bytes >= NOTE_BYTES:
                yield self._progress()
        if proof is not None:
            yield from self._end(proof, run)
        yield from self._strays(before=None)
        yield self._progress()
        yield from (Absent(UUID(bytes=one)) for one in sorted(self._absent))

    def _end(self, proof: StreamProof, run: bytes) -> Iterator[Fault]:
        """Its stream is over, and the next head is its own, if it has one."""
        self._runs += 1
        self._absent.discard(run)
        head = self._head
        if head is None or head[0] != run:
            fault = proof.end()
            if fault is None and not proof.broken:
                fault = proof.refuted("head", "is the last, and its run has no head")
        else:
            self._head = next(self._heads, None)
            fault = _against(proof, StreamFacts(*head[1:]))
        if fault is not None:
            yield fault

    def _strays(self, *, before: bytes | None) -> Iterator[Fault]:
        """Heads of runs whose events are not there."""
        while self._head is not None and (before is None or self._head[0] < before):
            run, head = self._head[0], StreamFacts(*self._head[1:])
            self._absent.discard(run)
            yield Fault(
                _text(run),
                head.version,
                "head",
                f"its head is at version {head.version}, and the log has no event of it",
                head.requested_position,
            )
            self._head = next(self._heads, None)

    def _progress(self) -> Progress:
        done = Progress(self._events, self._runs, self._bytes)
        self._events = self._runs = self._bytes = 0
        return done


def _against(proof: StreamProof, head: StreamFacts) -> Fault | None:
    fault = proof.end(head.version, head.hash)
    if fault is not None or proof.broken:
        return fault
    facts = proof.facts
    if facts == head:
        return None
    for column, told, held in zip(StreamFacts._fields, facts, head, strict=True):
        if told is not None and told != held:
            return proof.refuted("head", f"is the last, and its head has another {column}")
    return None


def _text(run: bytes) -> str:
    return str(UUID(bytes=run))
