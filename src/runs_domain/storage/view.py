"""What a view is to those who fill it: the projector, a rebuild, and whoever checks its rows.

A view's rows are folds of single runs, so that a run's whole stream tells its rows, and a batch
of the log changes the rows of the runs in it and no others.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from runs_domain.events import Event
from runs_domain.ids import AccountId
from runs_domain.ports import Recorded
from runs_domain.storage.connection import Connection
from runs_domain.storage.sealing import DataKey

Row: TypeAlias = tuple[Any, ...]
"""Values in the order of `View.columns`."""
Keys: TypeAlias = Mapping[AccountId, DataKey | None]
"""Of all accounts that stand in the rows or events beside it; None for a destroyed one."""


class View(Protocol):
    @property
    def name(self) -> str:
        """Of its table, and of its checkpoint."""
        ...

    @property
    def columns(self) -> Mapping[str, str]:
        """Of its table, with their SQL types, in the order of a row's values."""
        ...

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns; the run's comes first."""
        ...

    @property
    def looks_into(self) -> frozenset[type[Event]]:
        """The events whose fields it uses; of the others at most that they came, and where."""
        ...

    @property
    def needs_content(self) -> bool:
        """Whether it uses sealed fields; without it, events come with those left out."""
        ...

    async def apply(
        self, connection: Connection, batch: Sequence[Recorded], table: str, keys: Keys
    ) -> None:
        """Write what the batch, never empty, changes in `table`: the view's own, or a shadow of it
        that holds the same rows. Commits nothing. A run's events come in order, each once; `keys`
        are empty for a view that needs no content.
        """
        ...

    def rows_of(self, stream: Sequence[Recorded], keys: Keys) -> list[Row]:
        """The rows of one run, of which `stream` is everything up to some position."""
        ...

    def comparable(self, row: Row, keys: Keys) -> Row:
        """A row, of `rows_of` or of the table, so that equal ones are equal.

        Raises HistoryCorrupt for one that cannot be opened.
        """
        ...


def upsert_into(
    table: str, columns: Mapping[str, str], key: Sequence[str], changing: Sequence[str]
) -> str:
    """A statement that takes one array a column; `changing` may differ when the row is there."""
    # In binary, which makes the arrays in a third of the time.
    arrays = ", ".join(f"%b::{kind}[]" for kind in columns.values())
    update = ", ".join(f"{name} = EXCLUDED.{name}" for name in changing)
    action = f"UPDATE SET {update}" if update else "NOTHING"
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays})"  # noqa: S608
        f" ON CONFLICT ({', '.join(key)}) DO {action}"
    )
