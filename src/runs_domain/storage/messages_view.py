"""The `messages` view: one row a message, its content sealed under the account's data key.

A run of an erased account changes nothing here: the rows that it left cannot be read any more,
and a view that is made again does not get them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec
from psycopg.rows import TupleRow

from runs_domain.errors import ContentErased
from runs_domain.events import Requested
from runs_domain.ids import AccountId, ChatId, RunId
from runs_domain.ports import Recorded
from runs_domain.read_models import MessageRow, messages_after
from runs_domain.storage.batches import by_run, columns_of
from runs_domain.storage.connection import Connection, Fetches
from runs_domain.storage.sealing import DataKey, DataKeys

CHAT_MESSAGES_MAX: Final = 1000
"""Rows of one answer of `messages_of_chat`."""

_COLUMNS: Final = (
    "run_id, place, role, account_id, chat_id, session_id, requested_position, created_at,"
    " version, complete, sealed"
)
_ASSISTANTS: Final = f"""
SELECT DISTINCT ON (run_id) {_COLUMNS} FROM messages
WHERE run_id = ANY(%s) ORDER BY run_id, place DESC
"""  # noqa: S608 - no values
_UPSERT: Final = f"""
INSERT INTO messages ({_COLUMNS})
SELECT * FROM unnest(
    %s::uuid[], %s::integer[], %s::text[], %s::uuid[], %s::uuid[], %s::uuid[], %s::bigint[],
    %s::timestamptz[], %s::bigint[], %s::boolean[], %s::bytea[])
ON CONFLICT (run_id, place) DO UPDATE SET
    version = EXCLUDED.version, complete = EXCLUDED.complete, sealed = EXCLUDED.sealed
"""  # noqa: S608 - no values
_ACCOUNT: Final = 3
"""Where the account stands among the columns."""
_OF_RUNS: Final = f"""
SELECT {_COLUMNS} FROM messages WHERE run_id = ANY(%s) ORDER BY run_id, place
"""  # noqa: S608 - no values
_OF_CHAT: Final = f"""
SELECT {_COLUMNS} FROM messages WHERE chat_id = %s AND account_id = %s
ORDER BY requested_position, place LIMIT %s
"""  # noqa: S608 - no values


class MessagesView:
    """`projection.View`."""

    name: ClassVar = "messages"
    needs_content: ClassVar = True

    def __init__(self, data_keys: DataKeys) -> None:
        self._data_keys = data_keys

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        keys = await self._data_keys.for_reading(recorded.subject for recorded in batch)
        readable = [recorded for recorded in batch if keys[recorded.subject] is not None]
        streams = by_run(readable)
        begun = [
            run for run, events in streams.items() if not isinstance(events[0].event, Requested)
        ]
        cursor = await connection.execute(_ASSISTANTS, (begun,), prepare=True, binary=True)
        known = {row.run_id: row for row in (_opened(row, keys) for row in await cursor.fetchall())}
        changed = [
            _values(row, keys)
            for run, events in streams.items()
            for row in messages_after(events, known.get(run))
        ]
        if changed:
            await connection.execute(_UPSERT, columns_of(changed), prepare=True)


async def messages_of_chat(
    connection: Fetches,
    data_keys: DataKeys,
    account_id: AccountId,
    chat_id: ChatId,
    *,
    limit: int = CHAT_MESSAGES_MAX,
) -> tuple[MessageRow, ...]:
    """The chat's messages in the order they came, oldest first, as far as the view has come;
    none of an erased account. Raises StoreUnavailable.
    """
    rows = await connection.fetch(_OF_CHAT, (chat_id, account_id, limit))
    keys = await data_keys.for_reading([account_id])
    if keys[account_id] is None:
        return ()
    return tuple(_opened(row, keys) for row in rows)


async def rows_of(
    connection: Fetches, data_keys: DataKeys, run_ids: Sequence[RunId]
) -> tuple[MessageRow, ...]:
    """All rows of `run_ids` but those of erased accounts, which nobody can read any more.

    Raises StoreUnavailable, and HistoryCorrupt for a row that was changed or moved.
    """
    rows = await connection.fetch(_OF_RUNS, (list(run_ids),))
    keys = await data_keys.for_reading({row[_ACCOUNT] for row in rows})
    return tuple(_opened(row, keys) for row in rows if keys[row[_ACCOUNT]] is not None)


def _values(row: MessageRow, keys: Mapping[AccountId, DataKey | None]) -> tuple[Any, ...]:
    key = keys[row.account_id]
    if key is None:
        raise ContentErased(f"account {row.account_id} was erased")
    content = msgspec.json.encode(row.message)
    return (
        row.run_id,
        row.place,
        row.role,
        row.account_id,
        row.chat_id,
        row.session_id,
        row.requested_position,
        row.created_at,
        row.version,
        row.complete,
        key.seal(content, row.run_id, row.version, row=_name(row.place)),
    )


def _opened(values: TupleRow, keys: Mapping[AccountId, DataKey | None]) -> MessageRow:
    run_id, place, role, account, chat, session, position, at, version, complete, sealed = values
    key = keys[account]
    if key is None:
        raise ContentErased(f"account {account} was erased")
    return MessageRow(
        run_id=run_id,
        place=place,
        role=role,
        account_id=account,
        chat_id=chat,
        session_id=session,
        requested_position=position,
        created_at=at,
        version=version,
        complete=complete,
        message=msgspec.json.decode(key.unseal(sealed, run_id, version, row=_name(place))),
    )


def _name(place: int) -> str:
    return f":messages:{place}"
