"""The log's twin over dicts, for tests: the same bytes, refusals, heads, keys and hashes."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from runs_domain.as_of import Point
from runs_domain.errors import RunledgerError
from runs_domain.events import KeyRevoked
from runs_domain.ids import AccountId, ChatId, KeyId, Position, RunId, Version
from runs_domain.keys import ServerSecrets
from runs_domain.ports import BEFORE_FIRST, Append, Clock, Head, KeyRow, Recorded, Stored
from runs_domain.storage import codec
from runs_domain.storage.appender import Commit, OnCommit
from runs_domain.storage.batch_call import refusal_of
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.sealing import DataKey, DataKeys, WrappedKey

FOLLOW_BATCH_EVENTS_MAX: Final = 500


class MemoryKey(msgspec.Struct, frozen=True):
    """A row of `api_keys` that an append wrote."""

    row: KeyRow
    account_id: AccountId
    run_id: RunId
    expires_at: datetime
    revoked_at: datetime | None = None


class MemoryDataKeys:
    def __init__(self) -> None:
        self.rows: dict[AccountId, WrappedKey] = {}

    async def load(self, accounts: Sequence[AccountId]) -> Mapping[AccountId, WrappedKey]:
        return {account: self.rows[account] for account in accounts if account in self.rows}

    async def add(self, keys: Mapping[AccountId, WrappedKey]) -> None:
        self.rows = {**keys, **self.rows}

    def destroy(self, account: AccountId) -> None:
        self.rows[account] = replace(self.rows[account], wrapped=None)


class MemoryEventLog:
    """`ports.EventLog`. Positions have gaps here too."""

    def __init__(
        self, secrets: ServerSecrets, clock: Clock, *, on_commit: OnCommit | None = None
    ) -> None:
        self._clock = clock
        self._on_commit = on_commit
        self._rows: list[StoredRow] = []
        self._streams: dict[RunId, list[StoredRow]] = {}
        self._heads: dict[RunId, Head] = {}
        self._position = 0
        self._at: datetime | None = None
        self._more = asyncio.Event()
        self.keys: dict[KeyId, MemoryKey] = {}
        self.withheld: set[RunId] = set()
        """Runs with a dead letter that keeps their jobs back; the letters' twin writes it."""
        self.data_key_rows: Final = MemoryDataKeys()
        self.data_keys: Final = DataKeys(self.data_key_rows, secrets, clock)

    async def append(self, append: Append) -> tuple[Recorded, ...]:
        key = None
        if append.expected_version == BEFORE_FIRST or any(map(codec.has_content, append.events)):
            key = await self.data_keys.for_sealing(append.account_id)
        pieces = codec.encode(append, key)
        refusal = self._refusal(append)
        if refusal is not None:
            raise refusal
        self._at = max(self._clock.now(), self._at or self._clock.now())
        self._position += 1
        first = Position(self._position + 1)
        positions = [Position(first + place) for place in range(len(pieces))]
        written = codec.written(append, pieces, self._at, positions)
        rows = [
            StoredRow(append.run_id, one.version, one.type, piece.join(self._at, one.prev), place)
            for one, piece, place in zip(written, pieces, positions, strict=True)
        ]
        self._position = positions[-1]
        self._rows += rows
        self._streams.setdefault(append.run_id, []).extend(rows)
        self._write_beside(append, written, first)
        self._more.set()
        if self._on_commit is not None:
            self._on_commit(Commit((append.run_id,), positions[-1]))
        return written

    async def read(self, run_id: RunId, *, after: Version = BEFORE_FIRST) -> tuple[Recorded, ...]:
        return await self._decoded(self._streams.get(run_id, [])[after:])

    async def read_stored(
        self, run_id: RunId, *, after: Version = BEFORE_FIRST, limit: int | None = None
    ) -> tuple[Stored, ...]:
        rows = self._streams.get(run_id, [])[after:][:limit]
        return tuple(codec.stored(*one) for one in await self._opened(rows))

    async def read_outline(self, run_id: RunId, *, at: Point | None = None) -> tuple[Recorded, ...]:
        return codec.outline(self._streams.get(run_id, ()), at)

    async def head(self, run_id: RunId) -> Head | None:
        return self._heads.get(run_id)

    async def heads_of_chat(self, chat_id: ChatId) -> tuple[Head, ...]:
        heads = (head for head in self._heads.values() if head.chat_id == chat_id)
        return tuple(sorted(heads, key=lambda head: head.requested_position))

    async def open_heads(
        self, *, limit: int, after: RunId | None = None, min_age_seconds: float = 0.0
    ) -> tuple[Head, ...]:
        settled = self._clock.now() - timedelta(seconds=min_age_seconds)
        heads = (
            head
            for head in self._heads.values()
            if head.open and head.updated_at <= settled and head.run_id not in self.withheld
        )
        in_order = sorted(heads, key=lambda head: head.run_id)
        return tuple(head for head in in_order if after is None or head.run_id > after)[:limit]

    async def follow(self, after: Position) -> AsyncGenerator[Sequence[Recorded], None]:
        while True:
            self._more.clear()
            rows = [row for row in self._rows if row.position > after]
            if rows:
                batch = await self._decoded(rows[:FOLLOW_BATCH_EVENTS_MAX])
                yield batch
                after = batch[-1].position
            else:
                await self._more.wait()

    def stored(self, run_id: RunId) -> tuple[StoredRow, ...]:
        """The stream as it stands in the table."""
        return tuple(self._streams.get(run_id, ()))

    async def _decoded(self, rows: Sequence[StoredRow]) -> tuple[Recorded, ...]:
        return tuple(codec.decode(*one) for one in await self._opened(rows))

    async def _opened(
        self, rows: Sequence[StoredRow]
    ) -> list[tuple[StoredRow, codec.Envelope, DataKey | None]]:
        opened = [(row, codec.open_row(row)) for row in rows]
        keys = await self.data_keys.for_reading(one.subject for _, one in opened if one.sealed)
        return [(row, one, keys.get(one.subject)) for row, one in opened]

    def _refusal(self, append: Append) -> RunledgerError | None:
        head = self._heads.get(append.run_id)
        found = head.version if head is not None else BEFORE_FIRST
        if found != append.expected_version:
            return refusal_of("version_conflict", append, found)
        if head is not None and head.head_hash != append.prev:
            return refusal_of("broken_chain", append)
        if head is None and append.live and self._is_busy(append.chat_id):
            return refusal_of("chat_busy", append)
        if append.mint is not None and self._is_taken(append.mint):
            return refusal_of("key_taken", append)
        return None

    def _is_busy(self, chat_id: ChatId) -> bool:
        return any(head.live and head.chat_id == chat_id for head in self._heads.values())

    def _is_taken(self, mint: KeyRow) -> bool:
        return mint.key_id in self.keys or any(
            key.row.mac == mint.mac for key in self.keys.values()
        )

    def _write_beside(self, append: Append, written: Sequence[Recorded], first: Position) -> None:
        last = written[-1]
        known = self._heads.get(append.run_id)
        self._heads[append.run_id] = Head(
            run_id=append.run_id,
            account_id=append.account_id,
            chat_id=append.chat_id,
            session_id=append.session_id,
            version=last.version,
            status=append.status,
            live=append.live,
            open=append.open,
            head_hash=last.hash,
            requested_position=first if known is None else known.requested_position,
            updated_at=last.at,
        )
        if append.mint is not None:
            self.keys[append.mint.key_id] = MemoryKey(
                row=append.mint,
                account_id=append.account_id,
                run_id=append.run_id,
                expires_at=last.at + timedelta(seconds=append.mint.ttl_seconds),
            )
        for event in append.events:
            key = self.keys.get(event.key_id) if isinstance(event, KeyRevoked) else None
            if key is not None and key.account_id == append.account_id and key.revoked_at is None:
                self.keys[key.row.key_id] = replace(key, revoked_at=last.at)
