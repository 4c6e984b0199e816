"""One PostgreSQL connection that comes back by itself, and whose every use has a deadline.

psycopg waits up to ten seconds more for a query that it was told to cancel. At a deadline we cut
the socket instead: the query fails at once, and the next use connects anew.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from runs_domain.errors import StoreUnavailable
from runs_domain.settings import PREFIX, BadSettings, Secret, Settings
from runs_domain.storage.why_away import why_away

QUERY_SECONDS_MAX: Final = 2.0
"""What a request may wait for one short query, connecting included."""
ABORT_SECONDS_MAX: Final = 1.0
"""What work may go on after its socket was cut, before it is cancelled."""

_READ_ONLY_CLASS: Final = "25"
"""Of SQLSTATE: what a standby answers to a write."""
_LIMIT_CLASS: Final = "54"
"""What PostgreSQL will never do, however well it is: too large, too many, too complex."""
_MIGRATION_STATES: Final = frozenset({"3F000", "42501", "42703", "42883", "42P01", "0A000"})
"""A schema, right, column, function or table is not there yet, or a prepared plan is of before."""

Connection = AsyncConnection[TupleRow]
T = TypeVar("T")


class Fetches(Protocol):
    """What a query needs: a connection of a process, or a `snapshot`."""

    async def fetch(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[TupleRow]:
        """Raises StoreUnavailable."""
        ...


class ServerRefuses(StoreUnavailable):
    """The server answered that it cannot do this now: nothing took effect."""


class NoAnswer(StoreUnavailable):
    """The work had not ended at its deadline, and was cut off."""


def is_away(error: BaseException | None) -> bool:
    """Whether it is about the server's state, not about what it was asked."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate or ""
    return (
        # Lost, starting, stopped by an admin, short of memory, disk or connections, deadlocked.
        (isinstance(error, psycopg.OperationalError) and not state.startswith(_LIMIT_CLASS))
        or state.startswith(_READ_ONLY_CLASS)
        or state in _MIGRATION_STATES
    )


class ReconnectingConnection:
    """Uses take turns. The connection is in autocommit; a transaction is the caller's business."""

    def __init__(
        self,
        url: Secret,
        *,
        name: str,
        seconds_max: float = QUERY_SECONDS_MAX,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        """`name` is what pg_stat_activity shows; `parameters` are run-time settings."""
        self._url = url
        self._name = name
        self._seconds_max = seconds_max
        self._options = options_of({"timezone": "UTC", **(parameters or {})})
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None

    async def fetch(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[TupleRow]:
        """Rows of one statement that may safely run twice: an idle connection that the server
        has closed is noticed only by using it, and then the statement is sent again.

        Raises StoreUnavailable.
        """

        async def query(connection: Connection) -> list[TupleRow]:
            # The statements are this package's own literals; values go beside them.
            cursor = await connection.execute(sql.encode(), parameters, prepare=True, binary=True)
            return await cursor.fetchall()

        return await self.run(query, repeatable=True)

    async def run(
        self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False
    ) -> T:
        """`work` with the connection, within the deadline. Raises StoreUnavailable on any doubt;
        whether `work` took effect is then unknown, unless it is a ServerRefuses.
        """
        try:
            async with asyncio.timeout(self._seconds_max):
                await self._turn.acquire()
        except TimeoutError:
            raise StoreUnavailable(f"{self._name}: too many queries wait") from None
        try:
            kept = self._connection is not None
            try:
                return await self._attempt(work)
            except psycopg.Error as error:
                if not is_away(error):
                    raise
                if not (kept and repeatable):
                    raise unavailable(self._name, error) from None
            try:
                return await self._attempt(work)
            except psycopg.Error as error:
                if not is_away(error):
                    raise
                raise unavailable(self._name, error) from None
        finally:
            self._turn.release()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        deadline = asyncio.get_running_loop().time() + self._seconds_max
        connection = self._connection or await self._connect()
        self._connection = None  # only a use that ended well gives it back
        task = asyncio.ensure_future(work(connection))
        seconds_left = deadline - asyncio.get_running_loop().time()
        if not await done_in_time(task, connection, seconds_left):
            raise NoAnswer(f"{self._name}: no answer within {self._seconds_max:g} s")
        if connection.info.transaction_status != TransactionStatus.IDLE:  # broken, or left open
            await connection.close()
        elif not task.cancelled() and is_away(task.exception()):
            await connection.close()  # the session may go on refusing when the server has recovered
        else:
            self._connection = connection
        return task.result()

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._seconds_max):
                return await AsyncConnection.connect(
                    self._url.reveal(),
                    autocommit=True,
                    application_name=self._name,
                    options=self._options,
                )
        except TimeoutError:
            raise StoreUnavailable(
                f"{self._name}: no connection within {self._seconds_max:g} s"
            ) from None
        except psycopg.ProgrammingError:  # its text quotes the URL, password and all
            raise StoreUnavailable(f"{self._name}: the database's URL cannot be read") from None


def options_of(parameters: Mapping[str, str]) -> str:
    """Run-time settings for a session, as libpq's `options`."""
    return " ".join(f"-c {key}={value}" for key, value in parameters.items())


async def connected(
    url: Secret, *, name: str, parameters: Mapping[str, str], seconds_max: float, **more: Any
) -> Connection:
    """A connection that does not come back by itself; `more` is for psycopg. Raises
    StoreUnavailable.
    """
    try:
        async with asyncio.timeout(seconds_max):
            return await AsyncConnection.connect(
                url.reveal(), application_name=name, options=options_of(parameters), **more
            )
    except TimeoutError:
        raise StoreUnavailable(f"{name}: no connection within {seconds_max:g} s") from None
    except psycopg.Error as error:
        raise unavailable(name, error) from None


def check_urls(settings: Settings) -> None:
    """Ask libpq itself, before anything connects. Raises BadSettings, which quotes nothing."""
    bad = []
    for name in ("database_url", "admin_database_url"):
        url: Secret = getattr(settings, name)
        try:
            conninfo_to_dict(url.reveal())
        except psycopg.ProgrammingError:
            bad.append(f"{PREFIX}{name.upper()} has a parameter that PostgreSQL does not know")
    if bad:
        raise BadSettings("; ".join(bad))


def unavailable(name: str, error: psycopg.Error) -> StoreUnavailable:
    """Without the server's own sentence: it may quote values."""
    kind = StoreUnavailable if isinstance(error, psycopg.OperationalError) else ServerRefuses
    return kind(f"{name}: {why_away(error)}")


async def done_in_time(task: asyncio.Future[T], connection: Connection, seconds: float) -> bool:
    """Whether `task`, which uses `connection`, has ended by then; else both are cut off."""
    late = True
    try:
        await asyncio.wait({task}, timeout=seconds)
        late = not task.done()
    finally:
        if late:
            await _cut(task, connection)
    return not late


async def _cut(task: asyncio.Future[T], connection: Connection) -> None:
    """End `task`, which uses `connection`, and close that: whoever waits on the socket is woken
    with an end of file, whatever the network does.
    """
    if not connection.closed:
        with socket.socket(fileno=os.dup(connection.fileno())) as twin:
            twin.shutdown(socket.SHUT_RDWR)
    await asyncio.wait({task}, timeout=ABORT_SECONDS_MAX)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
    await connection.close()
