"""One moment of the database, to be read at leisure: for audits, which compare many tables.

A read-only transaction at REPEATABLE READ: it sees the log, heads, keys, views and checkpoints as
they stood together, and is in nobody's way.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import TupleRow

from runs_domain.errors import StoreUnavailable
from runs_domain.settings import Secret
from runs_domain.storage.connection import Connection, connected, done_in_time, unavailable
from runs_domain.storage.postgres_log import READ_SETTINGS

CONNECT_SECONDS_MAX: Final = 5.0
PAGE_SECONDS_MAX: Final = 30.0
"""One query of a large log, unless it is said otherwise."""


T = TypeVar("T")


class Snapshot:
    def __init__(self, connection: Connection, name: str, page_seconds_max: float) -> None:
        self._connection = connection
        self._name = name
        self._page_seconds_max = page_seconds_max

    async def lock(self, tables: Sequence[str]) -> None:
        """Keep them as they are; comes before the first look, which fixes the moment."""
        names = sql.SQL(", ").join(map(sql.Identifier, tables))
        lock = sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names)
        await self._in_time(self._connection.execute(lock))

    async def fetch(
        self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[TupleRow]:
        """Raises StoreUnavailable, after which the snapshot is of no use."""
        return await self._in_time(self._query(query, parameters))

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        if not await done_in_time(task, self._connection, self._page_seconds_max):
            raise StoreUnavailable(f"{self._name}: no answer within {self._page_seconds_max:g} s")
        try:
            return task.result()
        except psycopg.Error as error:
            raise unavailable(self._name, error) from None

    async def _query(
        self, query: str, parameters: Sequence[Any] | Mapping[str, Any]
    ) -> list[TupleRow]:
        cursor = await self._connection.execute(query.encode(), parameters, binary=True)
        return await cursor.fetchall()


@asynccontextmanager
async def open_snapshot(
    url: Secret,
    *,
    name: str,
    page_seconds_max: float = PAGE_SECONDS_MAX,
    views: Sequence[str] = (),
) -> AsyncIterator[Snapshot]:
    """`views`: those that will be read. A rebuild swaps none of them in meanwhile: a table that is
    younger than the snapshot would look empty in it. Raises StoreUnavailable.
    """
    parameters = {"timezone": "UTC", **READ_SETTINGS}
    connection = await connected(
        url, name=name, parameters=parameters, seconds_max=CONNECT_SECONDS_MAX
    )
    try:
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        snapshot = Snapshot(connection, name, page_seconds_max)
        if views:
            await snapshot.lock(views)
        yield snapshot
    finally:
        await connection.close()
