"""Rows of the log's tables in PostgreSQL's binary form of COPY."""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from seeding.stories import KEY_TTL_SECONDS, MICROSECONDS, Ids

from runs_domain.ids import RunId
from runs_domain.ports import Append, KeyRow

EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""PostgreSQL counts from here, in microseconds."""
COPY_BEGIN: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END: Final = struct.pack(">h", -1)

EVENT_COLUMNS: Final = "originator_id, originator_version, topic, state, notification_id"
HEAD_COLUMNS: Final = (
    "run_id, account_id, chat_id, session_id, version, status, live, open, head_hash,"
    " requested_position, updated_at"
)
KEY_COLUMNS: Final = (
    "key_id, mac, display_prefix, account_id, run_id, ephemeral, scopes, secret_version,"
    " created_at, expires_at, revoked_at"
)

_EVENT: Final = struct.Struct(">hi16siqi")
_SIZE: Final = struct.Struct(">i")
_POSITION: Final = struct.Struct(">iq")
_NULL: Final = _SIZE.pack(-1)
_TEXT_OID: Final = 25
_EPOCH_MICROSECONDS: Final = int(EPOCH.timestamp()) * MICROSECONDS


def event_head(run_id: RunId, version: int, tag: bytes, state: bytes) -> bytes:
    """A row of `stored_events` as far as its state's bytes; `event_tail` comes after them."""
    begin = _EVENT.pack(5, 16, run_id.bytes, 8, version, len(tag))
    return b"".join((begin, tag, _SIZE.pack(len(state))))


def event_tail(position: int) -> bytes:
    return _POSITION.pack(8, position)


def head_row(
    ids: Ids, last: Append, *, version: int, head_hash: bytes, first: int, at: int
) -> bytes:
    """`first`: the position of the request; `at`: microseconds since 1970."""
    return _row(
        ids.run_id.bytes,
        ids.account_id.bytes,
        ids.chat_id.bytes,
        ids.session_id.bytes,
        _whole(version),
        last.status.encode(),
        bytes([last.live]),
        bytes([last.open]),
        head_hash,
        _whole(first),
        _time(at),
    )


def key_row(ids: Ids, key: KeyRow, minted_at: int, revoked_at: int | None) -> bytes:
    """Times in microseconds since 1970."""
    return _row(
        key.key_id.bytes,
        key.mac,
        key.display_prefix.encode(),
        ids.account_id.bytes,
        ids.run_id.bytes,
        b"\x01",
        _texts(key.scopes),
        _SIZE.pack(key.secret_version),
        _time(minted_at),
        _time(minted_at + KEY_TTL_SECONDS * MICROSECONDS),
        None if revoked_at is None else _time(revoked_at),
    )


def _row(*fields: bytes | None) -> bytes:
    parts = [struct.pack(">h", len(fields))]
    for field in fields:
        parts += (_NULL,) if field is None else (_SIZE.pack(len(field)), field)
    return b"".join(parts)


def _whole(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def _time(microseconds: int) -> bytes:
    return _whole(microseconds - _EPOCH_MICROSECONDS)


def _texts(texts: Sequence[str]) -> bytes:
    """text[] with one dimension, from 1."""
    head = struct.pack(">iiiii", 1, 0, _TEXT_OID, len(texts), 1)
    encoded = [text.encode() for text in texts]
    return head + b"".join(_SIZE.pack(len(text)) + text for text in encoded)
