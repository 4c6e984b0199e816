"""The `credits` view: the ledger, one row an event that moved credits."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import ClassVar, Final

from runs_domain import events
from runs_domain.events import Event
from runs_domain.ids import RunId
from runs_domain.ledger import LedgerEntry, entries_after
from runs_domain.ports import Recorded
from runs_domain.storage.batches import begun_before, by_run, columns_of, require_rows
from runs_domain.storage.connection import Connection, Fetches
from runs_domain.storage.view import Keys, Row, upsert_into

_COLUMNS: Final[Mapping[str, str]] = {
    "run_id": "uuid",
    "version": "bigint",
    "account_id": "uuid",
    "position": "bigint",
    "at": "timestamptz",
    "kind": "text",
    "reserved": "bigint",
    "charged": "bigint",
}
_OF_RUNS: Final = (
    f"SELECT {', '.join(_COLUMNS)} FROM credits"  # noqa: S608 - no values
    " WHERE run_id = ANY(%s) ORDER BY run_id, version"
)
_LOOKS_INTO: Final[frozenset[type[Event]]] = frozenset(
    {events.Requested, events.Completed, events.Failed, events.Cancelled}
)


_values: Final[Callable[[LedgerEntry], Row]] = attrgetter(*_COLUMNS)


class CreditsView:
    """`view.View`."""

    name: ClassVar = "credits"
    columns: ClassVar = _COLUMNS
    key: ClassVar = ("run_id", "version")
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
        begun = begun_before(streams)
        held = await _held(connection, table, begun)
        made = {run: entries_after(some, held.get(run, 0)) for run, some in streams.items()}
        # Nothing is charged that was not reserved.
        require_rows(table, [run for run in begun if made[run]], held)
        rows = [_values(entry) for entries in made.values() for entry in entries]
        if rows:
            upsert = upsert_into(table, _COLUMNS, self.key, changing=())
            await connection.execute(upsert.encode(), columns_of(rows), prepare=True)

    def rows_of(self, stream: Sequence[Recorded], keys: Keys) -> list[Row]:  # noqa: ARG002 - a View
        return [_values(entry) for entry in entries_after(stream)]

    def comparable(self, row: Row, keys: Keys) -> Row:  # noqa: ARG002 - a View
        return row


async def rows_of(
    connection: Fetches, run_ids: Sequence[RunId]
) -> Mapping[RunId, tuple[LedgerEntry, ...]]:
    """The entries that there are of `run_ids`, oldest first. Raises StoreUnavailable."""
    found: dict[RunId, tuple[LedgerEntry, ...]] = {}
    for values in await connection.fetch(_OF_RUNS, (list(run_ids),)):
        entry = LedgerEntry(**dict(zip(_COLUMNS, values, strict=True)))
        found[entry.run_id] = (*found.get(entry.run_id, ()), entry)
    return found


async def _held(connection: Connection, table: str, runs: Sequence[RunId]) -> Mapping[RunId, int]:
    """What is reserved for those of `runs` that have begun with a reservation."""
    if not runs:
        return {}
    sql = f"SELECT run_id, reserved FROM {table} WHERE run_id = ANY(%s) AND version = 1"  # noqa: S608
    cursor = await connection.execute(sql.encode(), (list(runs),), prepare=True, binary=True)
    return dict(await cursor.fetchall())
