"""The lines of a bundle, as an export writes them: one event a CloudEvent, one run its totals.

What stands in a line beside the stored bytes comes from their row and from themselves. Events that
somebody has damaged are carried away as they are: the check of the bundle names them.
"""

import base64
from typing import Final

import msgspec

from runs_domain.errors import HistoryCorrupt
from runs_domain.ids import AccountId, Position, RunId, Version
from runs_domain.ports import BEFORE_FIRST
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.sealing import DataKey

_TEXT: Final = msgspec.json.Encoder()


class Said(msgspec.Struct, frozen=True):
    """What an event says of itself that its line repeats."""

    at: str
    subject: str
    prev: str
    sealed: str | None = None


_SAID: Final = msgspec.json.Decoder(Said)
_NOTHING: Final = Said(at="", subject="", prev="")


class RunLine(msgspec.Struct, rename="camel"):
    """A line of runs.ndjson: what the bundle holds of a run, from its first event here on."""

    run_id: RunId
    requested_position: Position
    first_version: Version
    anchor: str
    """`prev` of the first event here."""
    last_version: Version = BEFORE_FIRST
    last_hash: str = ""
    events: int = 0
    ended: bool = False
    erased: bool = False
    """Content was sealed in these events and nobody can read it any more."""


def said_by(state: bytes) -> Said:
    try:
        return _SAID.decode(state)
    except msgspec.MsgspecError:
        return _NOTHING


def event_line(row: StoredRow, said: Said, account: AccountId, digest: str) -> bytes:
    """CloudEvents 1.0 in JSON, with a line feed. `digest` = SHA-256 of the stored bytes, hex."""
    run, version = row.run_id, row.version
    time = b'"time":' + _TEXT.encode(said.at) + b"," if said.at else b""
    about = (
        f'{{"specversion":"1.0","id":"{run}/{version}","source":"/api/chat/runs/{run}",'
        f'"subject":"{account}","datacontenttype":"application/json","runid":"{run}",'
        f'"runversion":{version},"logposition":"{row.position}","sha256":"{digest}",'
    )
    kind = b'"type":' + _TEXT.encode(row.tag) + b","
    data = base64.b64encode(row.state)
    return b"".join((about.encode(), kind, time, b'"data_base64":"', data, b'"}\n'))


def content_line(row: StoredRow, said: Said, key: DataKey | None) -> bytes | None:
    """The event's readable data, for an event that has sealed content; else None."""
    if said.sealed is None:
        return None
    start = f'{{"id":"{row.run_id}/{row.version}",'.encode()
    if not said.sealed or key is None:
        return start + b'"erased":true}\n'
    try:
        data = codec.stored(row, codec.open_row(row), key).data
    except HistoryCorrupt:
        return start + b'"unreadable":true}\n'
    if b"\n" in data:  # somebody has put it there; a line is one line
        data = msgspec.json.format(data, indent=-1)
    return start + b'"data":' + data + b"}\n"


def run_line(run: RunLine) -> bytes:
    return _TEXT.encode(run) + b"\n"
