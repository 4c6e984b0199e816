"""Where the next page of a list begins, as a text that clients hand back and need not understand.

It names a place in the log, so it stays good while runs are added and when the view is made
again. It carries a digest of the list it came from: a cursor that was damaged, or that comes with
another account or other filters, would give a page that makes no sense, and is refused instead.
It gives no rights: whose runs are listed follows from the credential alone.
"""

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from runs_domain.ids import Position
from runs_domain.run_lists_port import ListQuery

VERSION: Final = b"\x01"
"""Another layout gets another one."""
POSITION_BYTES: Final = 8
POSITION_MAX: Final = 2**63 - 1
DIGEST_BYTES: Final = 6
CHARS: Final = 20

_encoder = msgspec.msgpack.Encoder()


class BadCursor(ValueError):
    pass


def cursor_of(query: ListQuery, position: Position) -> str:
    """For the runs of `query`'s list that were requested before `position`."""
    place = VERSION + position.to_bytes(POSITION_BYTES)
    return base64.urlsafe_b64encode(place + _digest(query, place)).decode()


def parse_cursor(query: ListQuery, text: str) -> Position:
    """Raises BadCursor."""
    try:
        raw = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadCursor from None
    place = raw[: len(VERSION) + POSITION_BYTES]
    if len(text) != CHARS or raw[:1] != VERSION or raw[len(place) :] != _digest(query, place):
        raise BadCursor
    position = int.from_bytes(place[1:])
    if position > POSITION_MAX:
        raise BadCursor
    return Position(position)


def _digest(query: ListQuery, place: bytes) -> bytes:
    filters = (query.account_id, query.run_id, query.status, query.chat_id)
    about = place + _encoder.encode(filters)
    return hashlib.blake2b(about, digest_size=DIGEST_BYTES).digest()
