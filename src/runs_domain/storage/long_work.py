"""Connections of scripts that read or write for minutes: no deadline a statement, but none of a
server that has gone is waited for without end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

import psycopg
from psycopg.rows import TupleRow

from runs_domain.errors import RunledgerError, StoreUnavailable
from runs_domain.settings import Secret
from runs_domain.storage.connection import (
    Connection,
    connected,
    done_in_time,
    options_of,
    unavailable,
)

CONNECT_SECONDS_MAX: Final = 5
STATEMENT_SECONDS_MAX: Final = 60.0
"""Unless it is said otherwise."""
LONG_SECONDS_MAX: Final = 3600.0
"""For what looks at every event after a position, or at every run."""
ALIVE: Final[dict[str, Any]] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Of the TCP connection: a host that is silent for a minute is gone."""
NOTICED: Final = {"client_connection_check_interval": "1s"}
"""The server ends the statement of a process that was killed, whatever it waits for."""
IN_ORDER: Final = {
    **NOTICED,
    "timezone": "UTC",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashagg": "off",
    "max_parallel_workers_per_gather": "0",
}
"""For reads of a range of the log by run: straight along the primary key, whatever the statistics
of a table say that was just filled."""

# A database or a role may have been given such for the service's short queries; of these sessions
# some wait for minutes, with a lock, a moment or a transaction that others go by. PostgreSQL 16 has
# not heard of the last one.
_UNTIMED: Final = """
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN (
    'statement_timeout', 'lock_timeout', 'idle_session_timeout',
    'idle_in_transaction_session_timeout', 'transaction_timeout')
"""

_SAYS: Final = {
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has no connection left",
    "53400": "a limit of its configuration is reached",
    "55P03": "somebody holds a lock that it needs",
    "42501": "its role may not do this",
    "42P01": "a table is not there: was the database migrated?",
}

SyncConnection = psycopg.Connection[TupleRow]
T = TypeVar("T")


class Show(Protocol):
    """Where long work tells how far it is."""

    def phase(self, name: str, *, total: int | None = None, done: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...
    def note(self, sentence: str) -> None: ...


class ServerFailed(RunledgerError):
    """PostgreSQL could not do it; what it had begun is undone. The message is for operators."""


class DiskFull(ServerFailed):
    pass


class NotAllowed(ServerFailed):
    pass


_KINDS: Final = {"53100": DiskFull, "42501": NotAllowed}


def connect(url: Secret, *, name: str, parameters: dict[str, str]) -> SyncConnection:
    """In autocommit, and no time-out of the server's ends it. Raises StoreUnavailable."""
    try:
        connection = psycopg.connect(
            url.reveal(),
            autocommit=True,
            application_name=name,
            options=options_of(parameters),
            connect_timeout=CONNECT_SECONDS_MAX,
            **ALIVE,
        )
        connection.execute(_UNTIMED)
    except psycopg.errors.ConnectionTimeout:
        sentence = f"{name}: no connection within {CONNECT_SECONDS_MAX} s"
        raise StoreUnavailable(sentence) from None
    except psycopg.Error as error:
        raise unavailable(name, error) from None
    return connection


def told(error: psycopg.Error, doing: str, name: str) -> RunledgerError:
    """What to raise for the server's error: its own sentence may quote values."""
    state = error.sqlstate or ""
    if state in _SAYS:
        kind = _KINDS.get(state, ServerFailed)
        return kind(f"PostgreSQL failed while {doing}: {_SAYS[state]}")
    if isinstance(error, psycopg.OperationalError):
        return unavailable(name, error)
    return ServerFailed(f"PostgreSQL failed while {doing}: {type(error).__name__} {state}".rstrip())


class LongConnection:
    """One session, in autocommit: its locks and settings last until it ends, and it never comes
    back by itself. Every method raises StoreUnavailable and what `told` makes of an error.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self._name = name

    async def fetch(
        self,
        sql: str,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        *,
        seconds_max: float = STATEMENT_SECONDS_MAX,
    ) -> list[TupleRow]:
        async def query(connection: Connection) -> list[TupleRow]:
            cursor = await connection.execute(sql.encode(), parameters, binary=True)
            return await cursor.fetchall()

        return await self.run(query, doing="asking", seconds_max=seconds_max)

    async def do(
        self,
        sql: str,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        *,
        doing: str = "writing",
        seconds_max: float = STATEMENT_SECONDS_MAX,
    ) -> int:
        """How many rows it concerned."""

        async def execute(connection: Connection) -> int:
            return (await connection.execute(sql.encode(), parameters or None)).rowcount

        return await self.run(execute, doing=doing, seconds_max=seconds_max)

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        doing: str,
        seconds_max: float = STATEMENT_SECONDS_MAX,
    ) -> T:
        task = asyncio.ensure_future(work(self.connection))
        if not await done_in_time(task, self.connection, seconds_max):
            raise StoreUnavailable(f"{self._name}: no answer within {seconds_max:g} s")
        try:
            return task.result()
        except psycopg.Error as error:
            raise told(error, doing, self._name) from error


@asynccontextmanager
async def open_session(
    url: Secret, *, name: str, parameters: dict[str, str]
) -> AsyncIterator[LongConnection]:
    """No time-out of the server's ends it. Raises StoreUnavailable."""
    connection = await connected(
        url,
        name=name,
        parameters=parameters,
        seconds_max=CONNECT_SECONDS_MAX,
        autocommit=True,
        **ALIVE,
    )
    session = LongConnection(connection, name)
    try:
        await session.fetch(_UNTIMED, seconds_max=CONNECT_SECONDS_MAX)
        yield session
    finally:
        await connection.close()
