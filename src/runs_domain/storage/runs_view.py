"""The `runs` view: one row a run, for lists. Written by the projector alone."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec
from psycopg.rows import TupleRow

from runs_domain import events
from runs_domain.events import Event, Usage
from runs_domain.ids import AccountId, ChatId, Position, RunId
from runs_domain.ports import Recorded
from runs_domain.read_models import RunError, RunSummary, summarize
from runs_domain.run import Status
from runs_domain.storage.batches import begun_before, by_run, columns_of, require_rows
from runs_domain.storage.connection import Connection, Fetches
from runs_domain.storage.view import Keys, Row, upsert_into

PAGE_ROWS_MAX: Final = 101
"""One more than the longest page, so that a reader learns whether there is another."""

_FIXED: Final[Mapping[str, str]] = {
    "run_id": "uuid",
    "account_id": "uuid",
    "chat_id": "uuid",
    "session_id": "uuid",
}
_COLUMNS: Final[Mapping[str, str]] = {
    **_FIXED,
    "status": "text",
    "model": "text",
    "created_at": "timestamptz",
    "started_at": "timestamptz",
    "finished_at": "timestamptz",
    "usage": "jsonb",
    "error_code": "text",
    "error_message": "text",
    "version": "bigint",
    "requested_position": "bigint",
}
_CHANGING: Final = (
    *("status", "started_at", "finished_at", "usage", "error_code", "error_message", "version"),
)
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM"
_OF_RUNS: Final = f"{_SELECT} runs WHERE run_id = ANY(%s)"
_LOOKS_INTO: Final[frozenset[type[Event]]] = frozenset(
    {
        *(events.Requested, events.Started, events.MessagePersisted),
        *(events.Completed, events.Failed, events.Cancelled),
    }
)


class RunsView:
    """`view.View`."""

    name: ClassVar = "runs"
    columns: ClassVar = _COLUMNS
    key: ClassVar = ("run_id",)
    looks_into: ClassVar = _LOOKS_INTO
    needs_content: ClassVar = False

    async def apply(
        self,
        connection: Connection,
        batch: Sequence[Recorded],
        table: str,
        keys: Keys,  # noqa: ARG002 - a View
    ) -> None:
        streams = by_run(batch)
        known = await _known(connection, table, begun_before(streams))
        rows = [summarize(some, known.get(run)) for run, some in streams.items()]
        upsert = upsert_into(table, _COLUMNS, self.key, _CHANGING)
        changed = [_values(row) for row in rows if row is not None]
        await connection.execute(upsert.encode(), columns_of(changed), prepare=True)

    def rows_of(self, stream: Sequence[Recorded], keys: Keys) -> list[Row]:  # noqa: ARG002 - a View
        row = summarize(stream)
        return [] if row is None else [_values(row)]

    def comparable(self, row: Row, keys: Keys) -> Row:  # noqa: ARG002 - a View
        return tuple(
            msgspec.json.decode(value) if kind == "jsonb" and isinstance(value, str) else value
            for kind, value in zip(_COLUMNS.values(), row, strict=True)
        )


async def _known(
    connection: Connection, table: str, runs: Sequence[RunId]
) -> Mapping[RunId, RunSummary]:
    """The row of each of `runs`. Raises ViewDamaged."""
    if not runs:
        return {}
    sql = f"{_SELECT} {table} WHERE run_id = ANY(%s)"
    cursor = await connection.execute(sql.encode(), (list(runs),), prepare=True, binary=True)
    known = {row.run_id: row for row in map(_row, await cursor.fetchall())}
    require_rows(table, runs, known)
    return known


async def page(
    connection: Fetches,
    account_id: AccountId,
    *,
    limit: int,
    status: Status | None = None,
    chat_id: ChatId | None = None,
    before: Position | None = None,
) -> tuple[RunSummary, ...]:
    """Up to `limit` runs of the account, newest first, requested before position `before`.

    Raises StoreUnavailable.
    """
    if not 1 <= limit <= PAGE_ROWS_MAX:
        raise ValueError(f"a page has 1 to {PAGE_ROWS_MAX} rows")
    query = page_query(account_id, limit=limit, status=status, chat_id=chat_id, before=before)
    return tuple(map(_row, await connection.fetch(*query)))


async def rows_of(connection: Fetches, run_ids: Sequence[RunId]) -> tuple[RunSummary, ...]:
    """The rows that there are of `run_ids`. Raises StoreUnavailable."""
    return tuple(map(_row, await connection.fetch(_OF_RUNS, (list(run_ids),))))


def page_query(
    account_id: AccountId,
    *,
    limit: int,
    status: Status | None,
    chat_id: ChatId | None,
    before: Position | None,
) -> tuple[str, tuple[Any, ...]]:
    """Only the conditions that are asked for, so that each combination gets its own plan."""
    wanted: list[tuple[str, Any]] = [("account_id = %s", account_id)]
    if status is not None:
        wanted.append(("status = %s", status))
    if chat_id is not None:
        wanted.append(("chat_id = %s", chat_id))
    if before is not None:
        wanted.append(("requested_position < %s", before))
    conditions = " AND ".join(condition for condition, _ in wanted)
    sql = f"{_SELECT} runs WHERE {conditions} ORDER BY requested_position DESC LIMIT %s"
    return sql, (*(value for _, value in wanted), limit)


def _values(row: RunSummary) -> tuple[Any, ...]:
    return (
        row.run_id,
        row.account_id,
        row.chat_id,
        row.session_id,
        row.status,
        row.model,
        row.created_at,
        row.started_at,
        row.finished_at,
        None if row.usage is None else msgspec.json.encode(row.usage).decode(),
        None if row.error is None else row.error.code,
        None if row.error is None else row.error.message,
        row.version,
        row.requested_position,
    )


def _row(values: TupleRow) -> RunSummary:
    *ids, status, model, created_at, started_at, finished_at, usage, code, message, version, at = (
        values
    )
    run_id, account_id, chat_id, session_id = ids
    return RunSummary(
        run_id=run_id,
        account_id=account_id,
        chat_id=chat_id,
        session_id=session_id,
        status=status,
        model=model,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        usage=None if usage is None else msgspec.convert(usage, Usage),
        error=None if code is None else RunError(code=code, message=message),
        version=version,
        requested_position=at,
    )
