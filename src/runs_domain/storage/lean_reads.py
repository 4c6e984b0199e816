"""Reads of streams and heads: by `= ANY`, one query in flight, each joining only what is not sent.

They read the log and its heads, never a view, so that a caller sees its own append.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from runs_domain.ids import ChatId, Position, RunId, Version
from runs_domain.ports import Head
from runs_domain.storage.coalesce import Coalescer
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import Fetches

STREAMS_PER_QUERY_MAX: Final = 8
"""A stream may have many megabytes, and an answer is in memory as a whole, more than once."""

STREAM_PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""An event more may begin before it."""

StreamKey: TypeAlias = tuple[RunId, Version]
"""A run, and the version after which to read."""

_STREAMS: Final = """
    SELECT after, originator_id, originator_version, topic, state, notification_id
    FROM unnest(%b::uuid[], %b::bigint[]) AS wanted (run_id, after)
    JOIN stored_events ON originator_id = run_id AND originator_version > after
    ORDER BY originator_id, originator_version"""
_STREAM_PAGE: Final = """
    SELECT originator_id, originator_version, topic, state, notification_id
    FROM (
        SELECT *, sum(octet_length(state)) OVER (ORDER BY originator_version)
            - octet_length(state) AS bytes_before
        FROM stored_events
        WHERE originator_id = %b::uuid AND originator_version > %b::bigint
        ORDER BY originator_version LIMIT %b::bigint
    ) AS page
    WHERE coalesce(bytes_before, 0) < %b::bigint
    ORDER BY originator_version"""
BOUNDED_BATCH: Final = """(
    SELECT *, sum(octet_length(state)) OVER (ORDER BY notification_id) - octet_length(state)
        AS bytes_before
    FROM stored_events WHERE notification_id > %s ORDER BY notification_id LIMIT %s
) AS batch
WHERE coalesce(bytes_before, 0) < %s"""
"""What comes after a position: so many events, and no more once they have so many bytes. The event
that passes that is in, so that the largest one gets by."""
_END: Final = "SELECT coalesce(max(notification_id), 0) FROM stored_events"
_FOLLOW: Final = """
    SELECT originator_id, originator_version, topic, state, notification_id
    FROM stored_events WHERE notification_id > %b::bigint
    ORDER BY notification_id LIMIT %b::bigint"""
_HEAD: Final = """
    SELECT run_id, account_id, chat_id, session_id, version, status, live, open,
           encode(head_hash, 'hex'), requested_position, updated_at
    FROM run_heads"""
_HEADS: Final = f"{_HEAD} WHERE run_id = ANY(%b::uuid[])"
_HEADS_OF_CHATS: Final = f"{_HEAD} WHERE chat_id = ANY(%b::uuid[]) ORDER BY requested_position"
UNFINISHED: Final = """open AND NOT EXISTS (
        SELECT FROM dead_letters AS letter WHERE letter.id = run_id AND letter.withheld)"""
"""Of `run_heads`: not at its end, and no dead letter keeps its job back."""
_OPEN_HEADS: Final = f"""{_HEAD} WHERE {UNFINISHED}
    AND (%b::uuid IS NULL OR run_id > %b::uuid)
    AND updated_at <= now() - make_interval(secs => %b::double precision)
    ORDER BY run_id LIMIT %b::bigint"""


class LeanReads:
    """Every method raises StoreUnavailable."""

    def __init__(self, connection: Fetches) -> None:
        self._connection = connection
        self._streams: Coalescer[StreamKey, list[StoredRow]] = Coalescer(
            self._fetch_streams, batch_keys_max=STREAMS_PER_QUERY_MAX
        )
        self._heads: Coalescer[RunId, Head] = Coalescer(self._fetch_heads)
        self._chats: Coalescer[ChatId, list[Head]] = Coalescer(self._fetch_chats)

    async def stream(self, run_id: RunId, after: Version) -> Sequence[StoredRow]:
        return await self._streams.get((run_id, after)) or ()

    async def head(self, run_id: RunId) -> Head | None:
        return await self._heads.get(run_id)

    async def heads_of_chat(self, chat_id: ChatId) -> Sequence[Head]:
        return await self._chats.get(chat_id) or ()

    async def open_heads(
        self, limit: int, after: RunId | None, min_age_seconds: float
    ) -> Sequence[Head]:
        rows = await self._connection.fetch(_OPEN_HEADS, (after, after, min_age_seconds, limit))
        return [_head(row) for row in rows]

    async def _fetch_streams(
        self, keys: Sequence[StreamKey]
    ) -> Mapping[StreamKey, list[StoredRow]]:
        wanted = ([run_id for run_id, _ in keys], [after for _, after in keys])
        found: dict[StreamKey, list[StoredRow]] = {}
        for after, *row in await self._connection.fetch(_STREAMS, wanted):
            found.setdefault((row[0], after), []).append(StoredRow(*row))
        return found

    async def _fetch_heads(self, run_ids: Sequence[RunId]) -> Mapping[RunId, Head]:
        rows = await self._connection.fetch(_HEADS, (list(run_ids),))
        return {head.run_id: head for head in map(_head, rows)}

    async def _fetch_chats(self, chat_ids: Sequence[ChatId]) -> Mapping[ChatId, list[Head]]:
        found: dict[ChatId, list[Head]] = {}
        for row in await self._connection.fetch(_HEADS_OF_CHATS, (list(chat_ids),)):
            head = _head(row)
            found.setdefault(head.chat_id, []).append(head)
        return found


async def stream_page(
    connection: Fetches, run_id: RunId, after: Version, limit: int
) -> list[StoredRow]:
    """The next rows of a stream, up to `limit` and STREAM_PAGE_BYTES_MAX; none at its end alone."""
    wanted = (run_id, after, limit, STREAM_PAGE_BYTES_MAX)
    return [StoredRow(*row) for row in await connection.fetch(_STREAM_PAGE, wanted)]


async def log_end(connection: Fetches) -> Position:
    """Of the last event; 0 in an empty log. Raises StoreUnavailable."""
    ((end,),) = await connection.fetch(_END)
    return Position(end)


async def rows_after(connection: Fetches, after: Position, limit: int) -> list[StoredRow]:
    """Up to `limit` rows in the log's order."""
    return [StoredRow(*row) for row in await connection.fetch(_FOLLOW, (after, limit))]


def _head(row: tuple[Any, ...]) -> Head:
    (run_id, account, chat, session, version, status, live, is_open, digest, position, at) = row
    return Head(
        run_id=run_id,
        account_id=account,
        chat_id=chat,
        session_id=session,
        version=version,
        status=status,
        live=live,
        open=is_open,
        head_hash=digest,
        requested_position=position,
        updated_at=at,
    )
