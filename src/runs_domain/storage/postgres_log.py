"""`ports.EventLog` over PostgreSQL: the appender writes, the lean reads read, the codec between."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from runs_domain.as_of import Point
from runs_domain.errors import StoreUnavailable
from runs_domain.ids import ChatId, Position, RunId, Version
from runs_domain.keys import ServerSecrets
from runs_domain.ports import BEFORE_FIRST, Append, Clock, Head, Recorded, Stored
from runs_domain.settings import Secret
from runs_domain.storage import codec
from runs_domain.storage.appender import APPEND_WAIT_SECONDS, Appender, OnCommit
from runs_domain.storage.batch_call import Encoded
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.lean_reads import LeanReads, rows_after, stream_page
from runs_domain.storage.sealing import DataKey, DataKeys
from runs_domain.storage.waking import Wait

FOLLOW_BATCH_EVENTS_MAX: Final = 500
FOLLOW_SECONDS_MAX: Final = 10.0
"""For reading one batch."""
FOLLOW_POLL_SECONDS: Final = 0.1
"""How late a follower sees an event whose wake got lost."""
FOLLOW_RETRY_SECONDS: Final = 0.5
READ_SETTINGS: Final = {"enable_seqscan": "off", "jit": "off"}
"""A plan made while the tables were small must not scan them when they have grown."""
LOOK_UP_SETTINGS: Final = READ_SETTINGS | {
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_material": "off",
    "enable_mergejoin": "off",
}
"""For queries that want few rows of an index in its order. A bitmap of all open runs would be made
anew for each page of them, and it never marks the index entries of closed runs as dead: every look
would come by all runs that were closed since the last vacuum."""

_log = logging.getLogger(__name__)


class PostgresEventLog:
    """Made by `open_log`. Works, and refuses with StoreUnavailable, while PostgreSQL is away."""

    def __init__(
        self,
        url: Secret,
        secrets: ServerSecrets,
        clock: Clock,
        *,
        on_commit: OnCommit | None = None,
        wait_for_more: Wait | None = None,
        append_wait_seconds: float = APPEND_WAIT_SECONDS,
    ) -> None:
        self._url = url
        self._clock = clock
        self._wait_for_more = wait_for_more or clock.sleep
        self._appender = Appender(url, clock, on_commit=on_commit, wait_seconds=append_wait_seconds)
        self._connection = ReconnectingConnection(
            url, name="runledger reads", parameters=LOOK_UP_SETTINGS
        )
        self._reads = LeanReads(self._connection)
        self.data_keys: Final = DataKeys(PostgresDataKeys(self._connection), secrets, clock)

    def start(self) -> None:
        self._appender.start()

    async def close(self) -> None:
        """Commit what is queued, then close the connections."""
        await self._appender.close()
        await self._connection.close()

    async def append(self, append: Append) -> tuple[Recorded, ...]:
        key = None
        if append.expected_version == BEFORE_FIRST or any(map(codec.has_content, append.events)):
            key = await self.data_keys.for_sealing(append.account_id)
        pieces = codec.encode(append, key)
        landed = await self._appender.submit(Encoded(append, pieces))
        return codec.written(append, pieces, landed.at, landed.positions)

    async def read(self, run_id: RunId, *, after: Version = BEFORE_FIRST) -> tuple[Recorded, ...]:
        return await _decoded(await self._reads.stream(run_id, after), self.data_keys)

    async def read_stored(
        self, run_id: RunId, *, after: Version = BEFORE_FIRST, limit: int | None = None
    ) -> tuple[Stored, ...]:
        if limit is None:
            rows = await self._reads.stream(run_id, after)
        else:
            rows = await stream_page(self._connection, run_id, after, limit)
        return tuple(codec.stored(*one) for one in await _opened(rows, self.data_keys))

    async def read_outline(self, run_id: RunId, *, at: Point | None = None) -> tuple[Recorded, ...]:
        return codec.outline(await self._reads.stream(run_id, BEFORE_FIRST), at)

    async def head(self, run_id: RunId) -> Head | None:
        return await self._reads.head(run_id)

    async def heads_of_chat(self, chat_id: ChatId) -> tuple[Head, ...]:
        return tuple(await self._reads.heads_of_chat(chat_id))

    async def open_heads(
        self, *, limit: int, after: RunId | None = None, min_age_seconds: float = 0.0
    ) -> tuple[Head, ...]:
        return tuple(await self._reads.open_heads(limit, after, min_age_seconds))

    async def follow(self, after: Position) -> AsyncGenerator[Sequence[Recorded], None]:
        """Outlives lost connections: it warns and reads on from where it was."""
        connection = ReconnectingConnection(
            self._url,
            name="runledger follow",
            seconds_max=FOLLOW_SECONDS_MAX,
            parameters=READ_SETTINGS,
        )
        try:
            while True:
                try:
                    rows = await rows_after(connection, after, FOLLOW_BATCH_EVENTS_MAX)
                    batch = await _decoded(rows, self.data_keys)
                except StoreUnavailable as error:
                    _log.warning("following the log is interrupted: %s", error)
                    await self._clock.sleep(FOLLOW_RETRY_SECONDS)
                    continue
                if batch:
                    yield batch
                    after = batch[-1].position
                else:
                    await self._wait_for_more(FOLLOW_POLL_SECONDS)
        finally:
            await connection.close()


@asynccontextmanager
async def open_log(
    url: Secret,
    secrets: ServerSecrets,
    clock: Clock,
    *,
    on_commit: OnCommit | None = None,
    wait_for_more: Wait | None = None,
    append_wait_seconds: float = APPEND_WAIT_SECONDS,
) -> AsyncIterator[PostgresEventLog]:
    """The log, running; PostgreSQL may be away meanwhile."""
    log = PostgresEventLog(
        url,
        secrets,
        clock,
        on_commit=on_commit,
        wait_for_more=wait_for_more,
        append_wait_seconds=append_wait_seconds,
    )
    log.start()
    try:
        yield log
    finally:
        await log.close()


async def _decoded(rows: Sequence[StoredRow], data_keys: DataKeys) -> tuple[Recorded, ...]:
    return tuple(codec.decode(*one) for one in await _opened(rows, data_keys))


async def _opened(
    rows: Sequence[StoredRow], data_keys: DataKeys
) -> list[tuple[StoredRow, codec.Envelope, DataKey | None]]:
    opened = [(row, codec.open_row(row)) for row in rows]
    keys = await data_keys.for_reading(
        envelope.subject for _, envelope in opened if envelope.sealed
    )
    return [(row, one, keys.get(one.subject)) for row, one in opened]
