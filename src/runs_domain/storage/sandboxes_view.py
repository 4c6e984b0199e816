"""The `sandboxes` view: one row a run, from its request to the release of its sandbox."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import ClassVar, Final

from runs_domain import events
from runs_domain.events import Event
from runs_domain.ids import RunId
from runs_domain.ports import Recorded
from runs_domain.sandbox_rows import SandboxRow, sandbox_after
from runs_domain.storage.batches import begun_before, by_run, columns_of, require_rows
from runs_domain.storage.connection import Connection, Fetches
from runs_domain.storage.view import Keys, Row, upsert_into

_FIXED: Final[Mapping[str, str]] = {
    "run_id": "uuid",
    "account_id": "uuid",
    "session_id": "uuid",
    "requested_position": "bigint",
}
_CHANGING: Final[Mapping[str, str]] = {
    "sandbox": "text",
    "state": "text",
    "provider": "text",
    "working_directory": "text",
    "repository": "text",
    "provisioned_at": "timestamptz",
    "released_at": "timestamptz",
    "found": "boolean",
    "commit_id": "text",
    "pushed": "boolean",
    "version": "bigint",
}
_COLUMNS: Final[Mapping[str, str]] = {**_FIXED, **_CHANGING}
_LOOKS_INTO: Final[frozenset[type[Event]]] = frozenset(
    {events.Requested, events.Provisioned, events.SandboxReleased}
)


_values: Final[Callable[[SandboxRow], Row]] = attrgetter(*_COLUMNS)


class SandboxesView:
    """`view.View`."""

    name: ClassVar = "sandboxes"
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
        streams = by_run(one for one in batch if type(one.event) in _LOOKS_INTO)
        if not streams:
            return
        known = await _known(connection, table, begun_before(streams))
        rows = [sandbox_after(some, known.get(run)) for run, some in streams.items()]
        upsert = upsert_into(table, _COLUMNS, self.key, changing=tuple(_CHANGING))
        changed = [_values(row) for row in rows if row is not None]
        await connection.execute(upsert.encode(), columns_of(changed), prepare=True)

    def rows_of(self, stream: Sequence[Recorded], keys: Keys) -> list[Row]:  # noqa: ARG002 - a View
        row = sandbox_after(stream)
        return [] if row is None else [_values(row)]

    def comparable(self, row: Row, keys: Keys) -> Row:  # noqa: ARG002 - a View
        return row


async def rows_of(connection: Fetches, run_ids: Sequence[RunId]) -> Mapping[RunId, SandboxRow]:
    """The rows that there are of `run_ids`. Raises StoreUnavailable."""
    rows = await connection.fetch(_of_runs("sandboxes"), (list(run_ids),))
    return {row.run_id: row for row in map(_row, rows)}


async def _known(
    connection: Connection, table: str, runs: Sequence[RunId]
) -> Mapping[RunId, SandboxRow]:
    """The row of each of `runs`. Raises ViewDamaged."""
    if not runs:
        return {}
    sql = _of_runs(table).encode()
    cursor = await connection.execute(sql, (list(runs),), prepare=True, binary=True)
    known = {row.run_id: row for row in map(_row, await cursor.fetchall())}
    require_rows(table, runs, known)
    return known


def _of_runs(table: str) -> str:
    return f"SELECT {', '.join(_COLUMNS)} FROM {table} WHERE run_id = ANY(%s)"  # noqa: S608


def _row(values: Row) -> SandboxRow:
    return SandboxRow(**dict(zip(_COLUMNS, values, strict=True)))
