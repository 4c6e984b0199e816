"""The `messages` view: one row a message, its content sealed under the account's data key.

A run of an erased account changes nothing here: the rows that it left cannot be read any more,
and a view that is made again does not get them.

An event that adds a word to a message has the whole of it opened, changed and sealed anew. So a
batch is written in groups, by the bytes of the rows that it changes: small ones in one.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Final

import msgspec
from psycopg.rows import TupleRow

from runs_domain import events
from runs_domain.errors import ContentErased, HistoryCorrupt, ViewDamaged
from runs_domain.events import Event
from runs_domain.ids import AccountId, ChatId, RunId
from runs_domain.ports import Recorded
from runs_domain.read_models import MessageRow, messages_after
from runs_domain.storage.batches import begun_before, by_run, columns_of, require_rows
from runs_domain.storage.connection import Connection, Fetches
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.view import Keys, Row, upsert_into

CHAT_MESSAGES_MAX: Final = 1000
"""Rows of one answer of `messages_of_chat`."""
GROUP_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of sealed rows that are opened together; the row that passes it is in, so that the largest one
gets by. In memory they take many times that, as text, as values, and on their way back."""

_FIXED: Final[Mapping[str, str]] = {
    "run_id": "uuid",
    "place": "integer",
    "role": "text",
    "account_id": "uuid",
    "chat_id": "uuid",
    "session_id": "uuid",
    "requested_position": "bigint",
    "created_at": "timestamptz",
}
_COLUMNS: Final[Mapping[str, str]] = {
    **_FIXED,
    "version": "bigint",
    "complete": "boolean",
    "sealed": "bytea",
}
_CHANGING: Final = ("version", "complete", "sealed")
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM"
_LOOKS_INTO: Final[frozenset[type[Event]]] = frozenset(
    {
        *(events.Requested, events.MessagePersisted),
        *(events.Completed, events.Failed, events.Cancelled),
    }
)
_ACCOUNT: Final = list(_COLUMNS).index("account_id")
# The assistant's row is the one that is not complete, until its run has ended.
_GROUP: Final = f"""
{_SELECT} (
    SELECT *, sum(octet_length(sealed)) OVER (ORDER BY run_id) - octet_length(sealed)
        AS bytes_before
    FROM {{table}} WHERE run_id = ANY(%s) AND NOT complete
) AS last
WHERE bytes_before < %s ORDER BY run_id
"""  # noqa: S608 - no values
_OF_RUNS: Final = f"{_SELECT} messages WHERE run_id = ANY(%s) ORDER BY run_id, place"
_OF_CHAT: Final = f"""
{_SELECT} messages WHERE chat_id = %s AND account_id = %s
ORDER BY requested_position, place LIMIT %s
"""


class MessagesView:
    """`view.View`."""

    name: ClassVar = "messages"
    columns: ClassVar = _COLUMNS
    key: ClassVar = ("run_id", "place")
    looks_into: ClassVar = _LOOKS_INTO
    needs_content: ClassVar = True

    async def apply(
        self, connection: Connection, batch: Sequence[Recorded], table: str, keys: Keys
    ) -> None:
        made = by_run(one for one in batch if type(one.event) in _LOOKS_INTO)
        streams = {run: some for run, some in made.items() if keys[some[0].subject] is not None}
        begun = {run: streams.pop(run) for run in begun_before(streams)}
        changed = [row for some in streams.values() for row in messages_after(some)]
        left = sorted(begun, key=attrgetter("int"))
        while left:
            known = await _assistants(connection, table, left, keys)
            for run, assistant in known.items():
                changed += messages_after(begun[run], assistant)
            left = left[len(known) :]
            if left:
                await _write(connection, table, changed, keys)
                changed = []
        await _write(connection, table, changed, keys)

    def rows_of(self, stream: Sequence[Recorded], keys: Keys) -> list[Row]:
        """None of an erased account."""
        if not stream or keys.get(stream[0].subject) is None:
            return []
        return [_values(row, keys) for row in messages_after(stream)]

    def comparable(self, row: Row, keys: Keys) -> Row:
        """Raises ContentErased for a row of an erased account."""
        opened = _opened(row, keys)
        return (*row[:-1], opened.message)


async def _write(
    connection: Connection, table: str, rows: Sequence[MessageRow], keys: Keys
) -> None:
    if rows:
        upsert = upsert_into(table, _COLUMNS, MessagesView.key, _CHANGING)
        values = columns_of([_values(row, keys) for row in rows])
        await connection.execute(upsert.encode(), values, prepare=True)


async def _assistants(
    connection: Connection, table: str, runs: Sequence[RunId], keys: Keys
) -> Mapping[RunId, MessageRow]:
    """The assistants' rows of as many of `runs`, which are sorted, as make a group: of the first
    at the least. Raises ViewDamaged.
    """
    sql = _GROUP.format(table=table).encode()
    wanted = (list(runs), GROUP_BYTES_MAX)
    cursor = await connection.execute(sql, wanted, prepare=True, binary=True)
    known: dict[RunId, MessageRow] = {}
    for values in await cursor.fetchall():
        run = values[0]
        try:
            known[run] = _opened(values, keys)
        except HistoryCorrupt:
            raise ViewDamaged(f"{table} has a row of run {run} that cannot be opened") from None
    require_rows(table, runs[: max(1, len(known))], known)
    return known


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


def _values(row: MessageRow, keys: Keys) -> tuple[Any, ...]:
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


def _opened(values: TupleRow, keys: Keys) -> MessageRow:
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
