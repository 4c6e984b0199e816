"""An event and its envelope ↔ the bytes that the log holds.

The stored form is one JSON object: `type`, `runId`, `version`, `at`, `actor`, `subject`,
`correlation`, `causation`, `attempt`, `prev`, `data` (clear fields) and, where there is content,
`sealed` (base64 of the encrypted JSON object of the content fields; "" = erased before it was
written). Writing makes all of it beforehand but `at` and `prev`, which only the log knows.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from runs_domain.as_of import Point, cut
from runs_domain.errors import (
    AppendRefused,
    ContentErased,
    EventTooLarge,
    HistoryCorrupt,
    UnknownEvent,
)
from runs_domain.events import SEALED, TAGS, TYPES, Event, Json, Struct
from runs_domain.ids import AccountId, Attempt, Position, RunId, Version
from runs_domain.ports import BEFORE_FIRST, Append, Recorded, Stored
from runs_domain.storage.sealing import DataKey
from runs_domain.upcast import upcast

EVENT_BYTES_MAX: Final = 16 * 1024 * 1024

_ENCODER: Final = msgspec.json.Encoder()
_DEFAULTS: Final[dict[type[Event], Json]] = {
    kind: {
        field.name: field.default
        for field in msgspec.structs.fields(kind)
        if field.name in SEALED[kind]
    }
    for kind in SEALED
}
_STORED_NAMES: Final[dict[type[Event], dict[str, str]]] = {
    kind: {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    for kind in SEALED
}


class Pieces(msgspec.Struct, frozen=True):
    """The bytes of one event around the two values that only the log knows."""

    tag: str
    head: bytes
    middle: bytes
    tail: bytes

    def join(self, at: datetime, prev: str) -> bytes:
        return b"".join((self.head, time_text(at).encode(), self.middle, prev.encode(), self.tail))

    @property
    def size(self) -> int:
        return len(self.head) + len(self.middle) + len(self.tail)


class StoredRow(msgspec.Struct, frozen=True):
    """A row of `stored_events`."""

    run_id: RunId
    version: Version
    tag: str
    state: bytes
    position: Position


class Envelope(Struct, frozen=True):
    """A stored event, opened but not yet understood."""

    type: str
    run_id: RunId
    version: Version
    at: datetime
    actor: str
    subject: AccountId
    correlation: str
    causation: str
    attempt: Attempt
    prev: str
    data: msgspec.Raw
    sealed: str | None = None


UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""

_ENVELOPES: Final = msgspec.json.Decoder(Envelope)
_EVENTS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    tag: msgspec.json.Decoder(kind) for tag, kind in TYPES.items()
}


def time_text(at: datetime) -> str:
    """UTC with microseconds and Z, as `append_batch` writes it."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def hash_of(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()


def has_content(event: Event) -> bool:
    defaults = _DEFAULTS.get(type(event))
    return defaults is not None and any(
        getattr(event, name) != default for name, default in defaults.items()
    )


# ------------------------------------------------------------------------------ writing


def encode(append: Append, key: DataKey | None) -> tuple[Pieces, ...]:
    """One `Pieces` an event. `key` is the account's, None if it was destroyed: then an ongoing
    run goes on without its content, so that it can end, and a new one is refused.

    Raises ContentErased, EventTooLarge, and AppendRefused for an event that is no JSON.
    """
    if not append.events:
        raise AppendRefused("an append needs an event")
    if append.context.subject != append.account_id:
        raise AppendRefused("the subject of an event is the account of its run")
    if key is None and append.expected_version == BEFORE_FIRST:
        raise ContentErased(f"account {append.account_id} was erased")
    try:
        pieces = tuple(
            _pieces(append, Version(append.expected_version + place), event, key)
            for place, event in enumerate(append.events, start=1)
        )
    except (UnicodeEncodeError, RecursionError, TypeError) as error:
        # Half a surrogate pair, nesting without end, a value that JSON does not have.
        raise AppendRefused(f"an event is not JSON: {type(error).__name__}") from None
    if any(one.size > EVENT_BYTES_MAX for one in pieces):
        raise EventTooLarge(f"an event may have {EVENT_BYTES_MAX} bytes")
    return pieces


def _pieces(append: Append, version: Version, event: Event, key: DataKey | None) -> Pieces:
    tag, context = TAGS[type(event)], append.context
    clear, content = _split(event)
    about = _ENCODER.encode(
        {
            "actor": context.actor,
            "subject": context.subject,
            "correlation": context.correlation,
            "causation": context.causation,
            "attempt": context.attempt,
        }
    )
    data = _ENCODER.encode(clear)
    if content is None:
        end = b"}"
    elif key is None:
        end = b',"sealed":""}'
    else:
        sealed = base64.b64encode(key.seal(content, append.run_id, version))
        end = b',"sealed":"' + sealed + b'"}'
    return Pieces(
        tag=tag,
        head=f'{{"type":"{tag}","runId":"{append.run_id}","version":{version},"at":"'.encode(),
        middle=b'",' + about[1:-1] + b',"prev":"',
        tail=b'","data":' + data + end,
    )


def _split(event: Event) -> tuple[Event, bytes | None]:
    """The event without its content, and the content as a JSON object, if it has any."""
    defaults = _DEFAULTS.get(type(event))
    if defaults is None:
        return event, None
    names = _STORED_NAMES[type(event)]
    content = {
        names[name]: value
        for name, default in defaults.items()
        if (value := getattr(event, name)) != default
    }
    return (replace(event, **defaults), _ENCODER.encode(content)) if content else (event, None)


def written(
    append: Append, pieces: tuple[Pieces, ...], at: datetime, positions: Sequence[Position]
) -> tuple[Recorded, ...]:
    """What a reader would get of an append that landed."""
    out: list[Recorded] = []
    prev, context = append.prev, append.context
    for place, (event, piece, position) in enumerate(
        zip(append.events, pieces, positions, strict=True), start=1
    ):
        state = piece.join(at, prev)
        one = Recorded(
            event=event,
            run_id=append.run_id,
            version=Version(append.expected_version + place),
            position=position,
            type=piece.tag,
            at=at,
            actor=context.actor,
            subject=context.subject,
            correlation=context.correlation,
            causation=context.causation,
            attempt=context.attempt,
            prev=prev,
            hash=hash_of(state),
        )
        out.append(one)
        prev = one.hash
    return tuple(out)


# ------------------------------------------------------------------------------ reading


def open_row(row: StoredRow) -> Envelope:
    """Raises HistoryCorrupt if the row is not what this system writes."""
    try:
        envelope = _ENVELOPES.decode(row.state)
    except UNREADABLE:
        raise _corrupt(row) from None
    if (envelope.run_id, envelope.version, envelope.type) != (row.run_id, row.version, row.tag):
        raise _corrupt(row)
    return envelope


def decode(
    row: StoredRow, envelope: Envelope, key: DataKey | None, *, outline: bool = False
) -> Recorded:
    """`key` is the subject's, None if it was destroyed; an `outline` leaves content out.

    Raises HistoryCorrupt, UnknownEvent.
    """
    data, erased = bytes(envelope.data), False
    if envelope.sealed is not None and not outline:
        data, erased = _opened(row, envelope, key)
    return Recorded(
        event=_event(row, data, outline=outline),
        run_id=row.run_id,
        version=row.version,
        position=row.position,
        type=row.tag,
        at=envelope.at,
        actor=envelope.actor,
        subject=envelope.subject,
        correlation=envelope.correlation,
        causation=envelope.causation,
        attempt=envelope.attempt,
        prev=envelope.prev,
        hash=hash_of(row.state),
        erased=erased,
    )


def outline(rows: Sequence[StoredRow], at: Point | None) -> tuple[Recorded, ...]:
    """A stream, or what it was at a point, without its content.

    Raises NoSuchPoint, HistoryCorrupt, and UnknownEvent for what stands before the point alone.
    """
    envelopes: Sequence[Envelope] = [open_row(row) for row in rows]
    if at is not None:
        envelopes = cut(envelopes, at)
    return tuple(
        decode(row, envelope, None, outline=True)
        for row, envelope in zip(rows, envelopes, strict=False)
    )


def stored(row: StoredRow, envelope: Envelope, key: DataKey | None) -> Stored:
    """The same without a look at what the event means."""
    data, erased = _opened(row, envelope, key)
    return Stored(
        type=row.tag,
        data=data,
        version=row.version,
        position=row.position,
        at=envelope.at,
        actor=envelope.actor,
        subject=envelope.subject,
        attempt=envelope.attempt,
        prev=envelope.prev,
        hash=hash_of(row.state),
        erased=erased,
    )


def _opened(row: StoredRow, envelope: Envelope, key: DataKey | None) -> tuple[bytes, bool]:
    """The data with its content; True = there was some and it is erased."""
    data = bytes(envelope.data)
    if envelope.sealed is None:
        return data, False
    if key is None or not envelope.sealed:
        return data, True
    return joined(data, _unsealed(row, envelope.sealed, key)), False


def _event(row: StoredRow, data: bytes, *, outline: bool) -> Event:
    try:
        known = _EVENTS.get(row.tag)
        event: Event = _upcast(row, data) if known is None else known.decode(data)
    except UnknownEvent as error:
        raise UnknownEvent(f"event {row.version} of run {row.run_id}: {error}") from None
    except UNREADABLE:
        raise _corrupt(row) from None
    if known is None and outline and type(event) in _DEFAULTS:
        # What is sealed today may have stood in clear in the old shape.
        return replace(event, **_DEFAULTS[type(event)])
    return event


def _upcast(row: StoredRow, data: bytes) -> Event:
    """Raises UnknownEvent, HistoryCorrupt, and what msgspec raises for what no rule made fit."""
    mapping = msgspec.json.decode(data, type=dict)
    try:
        tag, mapping = upcast(row.tag, mapping)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        where = f"event {row.version} of run {row.run_id}"
        raise HistoryCorrupt(
            f"{where}: the rule for {row.tag} cannot read it ({type(error).__name__})"
        ) from error
    return msgspec.convert(mapping, TYPES[tag])


def _unsealed(row: StoredRow, sealed: str, key: DataKey) -> bytes:
    try:
        raw = base64.b64decode(sealed, validate=True)
    except binascii.Error:
        raise _corrupt(row) from None
    return key.unseal(raw, row.run_id, row.version)


def joined(clear: bytes, content: bytes) -> bytes:
    """Two JSON objects without a key in common, as one."""
    if clear == b"{}":
        return content
    return clear[:-1] + b"," + content[1:]


def _corrupt(row: StoredRow) -> HistoryCorrupt:
    return HistoryCorrupt(f"event {row.version} of run {row.run_id} ({row.tag}) cannot be read")
