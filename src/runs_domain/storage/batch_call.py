"""One batch as one call of `append_batch`, and what it came to."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from runs_domain.errors import (
    AppendRefused,
    ChatBusy,
    HistoryCorrupt,
    KeyTaken,
    RunledgerError,
    VersionConflict,
)
from runs_domain.events import KeyRevoked
from runs_domain.ids import Position, Version
from runs_domain.ports import Append
from runs_domain.storage.codec import Pieces

SCOPE_SEPARATOR: Final = " "
APPEND_LOCK: Final = 125848689340263
"""What `append_batch` holds to its commit: nothing else is appended while somebody has it."""

CALL: Final = (
    b"SELECT batch, at, refusals, found, positions FROM append_batch("
    b"%b::uuid, %b::bigint, "
    b"%b::uuid[], %b::bigint[], %b::bytea[], %b::uuid[], %b::uuid[], %b::uuid[], "
    b"%b::text[], %b::boolean[], %b::boolean[], "
    b"%b::uuid[], %b::bytea[], %b::text[], %b::integer[], %b::integer[], %b::text[], %b::uuid[], "
    b"%b::integer[], %b::bigint[], %b::text[], %b::bytea[], %b::bytea[], %b::bytea[])"
)


class Encoded(msgspec.Struct, frozen=True):
    """An append with its events' bytes made."""

    append: Append
    pieces: tuple[Pieces, ...]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.pieces)


class Landed(msgspec.Struct, frozen=True):
    at: datetime
    positions: tuple[Position, ...]


class Receipt(msgspec.Struct, frozen=True):
    """`append_batch`'s answer; each list has one element an append, `positions` one an event."""

    batch: int
    at: datetime
    refusals: list[str | None]
    found: list[int]
    positions: list[Position | None]

    def outcomes(self, batch: Sequence[Encoded]) -> list[Landed | RunledgerError]:
        """What became of each append."""
        out: list[Landed | RunledgerError] = []
        start = 0
        for one, refusal, found in zip(batch, self.refusals, self.found, strict=True):
            positions = self.positions[start : start + len(one.pieces)]
            start += len(one.pieces)
            if refusal is None:
                out.append(Landed(self.at, tuple(p for p in positions if p is not None)))
            else:
                out.append(refusal_of(refusal, one.append, Version(found)))
        return out


def parameters(writer: UUID, number: int, batch: Sequence[Encoded]) -> tuple[Any, ...]:
    appends = [one.append for one in batch]
    mints = [append.mint for append in appends]
    pieces = [piece for one in batch for piece in one.pieces]
    return (
        writer,
        number,
        [append.run_id for append in appends],
        [append.expected_version for append in appends],
        [bytes.fromhex(append.prev) for append in appends],
        [append.account_id for append in appends],
        [append.chat_id for append in appends],
        [append.session_id for append in appends],
        [append.status for append in appends],
        [append.live for append in appends],
        [append.open for append in appends],
        [mint and mint.key_id for mint in mints],
        [mint and mint.mac for mint in mints],
        [mint and mint.display_prefix for mint in mints],
        [mint and mint.secret_version for mint in mints],
        [mint and mint.ttl_seconds for mint in mints],
        [mint and SCOPE_SEPARATOR.join(mint.scopes) for mint in mints],
        [_revoked(append) for append in appends],
        [place for place, one in enumerate(batch, start=1) for _ in one.pieces],
        [one.append.expected_version + n for one in batch for n, _ in enumerate(one.pieces, 1)],
        [piece.tag for piece in pieces],
        [piece.head for piece in pieces],
        [piece.middle for piece in pieces],
        [piece.tail for piece in pieces],
    )


def _revoked(append: Append) -> UUID | None:
    for event in append.events:
        if isinstance(event, KeyRevoked):
            return event.key_id
    return None


def refusal_of(code: str, append: Append, found: Version | None = None) -> RunledgerError:
    match code:
        case "version_conflict":
            return VersionConflict(append.run_id, append.expected_version, found)
        case "chat_busy":
            return ChatBusy(f"another run of chat {append.chat_id} is live")
        case "key_taken":
            return KeyTaken("the key id or its MAC exists")
        case "broken_chain":
            return HistoryCorrupt(
                f"run {append.run_id} at version {append.expected_version}"
                " ends with another hash than the append follows"
            )
        case _:
            return AppendRefused(f"the database refused the append ({code})")
