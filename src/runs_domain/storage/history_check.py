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


class Progress(NamedTuple):
    """What was checked since the note before."""

    events: int
    runs: int
    bytes: int


class Absent(NamedTuple):
    """A run that was asked for by name, and of which there is neither an event nor a head."""

    run_id: UUID


Note: TypeAlias = Progress | Absent | Fault

_EVENTS: Final = sql.SQL("""COPY (
    SELECT uuid_send(originator_id), originator_version, notification_id, topic, state
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


def _which(column: str, part: Part) -> sql.Composable:
    name = sql.Identifier(column)
    if part.runs is not None:
        return sql.SQL("{} = ANY({}::uuid[])").format(name, sql.Literal(list(part.runs)))
    bounds = [
        sql.SQL("{} {} {}::uuid").format(name, sql.SQL(sign), sql.Literal(run))
        for sign, run in ((">", part.after), ("<=", part.until))
        if run is not None
    ]
    return sql.SQL(" AND ").join([sql.SQL("true"), *bounds])


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
