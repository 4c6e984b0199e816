"""One moment of the database, to be read at leisure: for audits, which compare many tables.

A read-only transaction at REPEATABLE READ: it sees the log, heads, keys, views and checkpoints as
they stood together, and is in nobody's way.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.rows import TupleRow

from runs_domain.errors import StoreUnavailable
from runs_domain.settings import Secret
from runs_domain.storage.connection import Connection
from runs_domain.storage.postgres_log import READ_SETTINGS

PAGE_SECONDS_MAX: Final = 60.0
"""One query of a large log; connecting too."""


class Snapshot:
    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    async def fetch(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[TupleRow]:
        """Raises StoreUnavailable, after which the snapshot is of no use."""
        try:
            async with asyncio.timeout(PAGE_SECONDS_MAX):
                cursor = await self._connection.execute(sql.encode(), parameters, binary=True)
                return await cursor.fetchall()
        except TimeoutError:
            raise StoreUnavailable(f"{self._name}: no answer within {PAGE_SECONDS_MAX} s") from None
        except psycopg.Error as error:
            raise _unavailable(self._name, error) from None


@asynccontextmanager
async def open_snapshot(url: Secret, *, name: str) -> AsyncIterator[Snapshot]:
    """Raises StoreUnavailable."""
    options = " ".join(
        f"-c {key}={value}" for key, value in {"timezone": "UTC", **READ_SETTINGS}.items()
    )
    try:
        async with asyncio.timeout(PAGE_SECONDS_MAX):
            connection = await AsyncConnection.connect(
                url.reveal(), application_name=name, options=options
            )
    except TimeoutError:
        raise StoreUnavailable(f"{name}: cannot connect in time") from None
    except psycopg.Error as error:
        raise _unavailable(name, error) from None
    try:
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        yield Snapshot(connection, name)
    finally:
        await connection.close()


def _unavailable(name: str, error: psycopg.Error) -> StoreUnavailable:
    """Without the server's own sentence: it may quote values."""
    return StoreUnavailable(f"{name}: {type(error).__name__} {error.sqlstate or ''}".strip())
