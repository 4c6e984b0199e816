"""The `runs` view: one row a run, for lists. Written by the projector alone."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec
from psycopg.rows import TupleRow

from runs_domain.events import Requested, Usage
from runs_domain.ids import AccountId, ChatId, Position, RunId
from runs_domain.ports import Recorded
from runs_domain.read_models import RunError, RunSummary, summarize
from runs_domain.run import Status
from runs_domain.storage.batches import by_run, columns_of
from runs_domain.storage.connection import Connection, Fetches

PAGE_ROWS_MAX: Final = 101
"""One more than the longest page, so that a reader learns whether there is another."""

_COLUMNS: Final = (
    "run_id, account_id, chat_id, session_id, status, model, created_at, started_at, finished_at,"
    " usage, error_code, error_message, version, requested_position"
)
_KNOWN: Final = f"SELECT {_COLUMNS} FROM runs WHERE run_id = ANY(%s)"  # noqa: S608 - no values
_UPSERT: Final = f"""
INSERT INTO runs ({_COLUMNS})
SELECT * FROM unnest(
    %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::timestamptz[],
    %s::timestamptz[], %s::timestamptz[], %s::jsonb[], %s::text[], %s::text[], %s::bigint[],
    %s::bigint[])
ON CONFLICT (run_id) DO UPDATE SET
    status = EXCLUDED.status, started_at = EXCLUDED.started_at,
    finished_at = EXCLUDED.finished_at, usage = EXCLUDED.usage,
    error_code = EXCLUDED.error_code, error_message = EXCLUDED.error_message,
    version = EXCLUDED.version
"""  # noqa: S608 - no values


class RunsView:
    """`projector.View`."""

    name: ClassVar = "runs"
    needs_content: ClassVar = False

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        streams = by_run(batch)
        begun = [
            run for run, events in streams.items() if not isinstance(events[0].event, Requested)
        ]
        cursor = await connection.execute(_KNOWN, (begun,), prepare=True, binary=True)
        known = {row.run_id: row for row in map(_row, await cursor.fetchall())}
        rows = [summarize(events, known.get(run)) for run, events in streams.items()]
        await connection.execute(
            _UPSERT, columns_of([_values(row) for row in rows if row is not None]), prepare=True
        )


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
    return tuple(map(_row, await connection.fetch(_KNOWN, (list(run_ids),))))


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
    sql = (
        f"SELECT {_COLUMNS} FROM runs WHERE {conditions}"  # noqa: S608 - no values
        " ORDER BY requested_position DESC LIMIT %s"
    )
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
