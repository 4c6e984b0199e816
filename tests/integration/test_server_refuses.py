"""A server that answers, but cannot: read only, or not migrated yet. All who ask wait for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.errors import StoreUnavailable
from runs_domain.ids import Attempt
from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection, ServerRefuses
from runs_domain.storage.credentials import Credentials
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.projection import Projection
from runs_domain.storage.runs_view import RunsView
from tests.support.counting_clock import CountingClock
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database
from tests.support.waiting import until
from workers.projector import Projector


@pytest.fixture
def admin(database: Database) -> Iterator["psycopg.Connection[tuple[object]]"]:
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[ReconnectingConnection]:
    used = ReconnectingConnection(Secret(database.url), name="test")
    yield used
    await used.close()


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """As after a failover to a standby: what is connected is cut off, what connects may read."""
    alter = f"ALTER DATABASE {database.name} SET default_transaction_read_only = "
    cut = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(database.admin_url, autocommit=True) as owner:
        owner.execute(f"{alter}on".encode())
        owner.execute(cut)
        yield
        owner.execute("SET default_transaction_read_only = off")
        owner.execute(f"{alter}off".encode())


def take_over(run: Run) -> c.ResumeRun:
    return c.ResumeRun(attempt=Attempt(run.stream.state.attempt + 1), reason="handover")


@pytest.mark.parametrize(
    ("before", "ask", "state"),
    [
        ("ALTER TABLE checkpoints RENAME TO x", "SELECT FROM checkpoints", "42P01"),
        ("REVOKE SELECT ON checkpoints FROM runledger_service", "SELECT FROM checkpoints", "42501"),
        ("SELECT", "SELECT name_to_come FROM checkpoints", "42703"),
        ("SELECT", "SELECT function_to_come()", "42883"),
    ],
)
async def test_what_a_migration_will_bring_is_unavailable_until_it_did(
    admin: "psycopg.Connection[tuple[object]]",
    connection: ReconnectingConnection,
    before: str,
    ask: str,
    state: str,
) -> None:
    admin.execute(before.encode())

    with pytest.raises(ServerRefuses, match=state):
        await connection.fetch(ask)


async def test_a_bug_is_not_taken_for_a_server_that_is_away(
    connection: ReconnectingConnection,
) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await connection.fetch("SELECT 1 / 0")


async def test_what_is_too_large_for_the_server_is_refused_not_waited_for(
    connection: ReconnectingConnection,
) -> None:
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        await connection.fetch("SELECT repeat('x', 2000000000)")


async def test_a_session_that_was_read_only_is_not_used_again(
    database: Database, connection: ReconnectingConnection
) -> None:
    write = "INSERT INTO log_receipts VALUES (gen_random_uuid(), 1, now(), '{}', '{}', '{}')"
    write += " RETURNING batch"
    with read_only(database):
        with pytest.raises(ServerRefuses, match="25006"):
            await connection.fetch(write)
        assert await connection.fetch("SELECT 1") == [(1,)]
        with pytest.raises(ServerRefuses, match="25006"):
            await connection.fetch(write)

    assert await connection.fetch(write) == [(1,)]


async def test_I_34_a_renewal_on_a_read_only_server_is_unavailable_not_refused(
    database: Database, connection: ReconnectingConnection
) -> None:
    credentials = Credentials(connection, SECRETS, "recoup_sk_")
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        run = Run(log)
        await run.start()
    with read_only(database), pytest.raises(StoreUnavailable):
        await credentials.renew(run.run_id, run.key_id, ttl_seconds=60)

    assert await credentials.renew(run.run_id, run.key_id, ttl_seconds=60)


async def test_a_view_waits_for_a_server_that_takes_no_writes(
    database: Database, connection: ReconnectingConnection
) -> None:
    clock = SystemClock()
    async with open_log(Secret(database.url), SECRETS, clock) as log:
        run = Run(log)
        await run.start()
        projection = Projection(Secret(database.url), RunsView(), log.data_keys)
        projector = Projector(projection, clock, clock.sleep)
        with read_only(database):
            await projector._round()
            assert projector.trouble == "waits"
        await projector._round()
        assert projector.trouble is None
        assert await connection.fetch("SELECT version FROM runs") == [(run.stream.state.version,)]
        await projection.close()


async def test_an_append_in_doubt_is_settled_when_the_server_takes_writes_again(
    database: Database,
) -> None:
    clock = CountingClock()
    async with open_log(Secret(database.url), SECRETS, clock, append_wait_seconds=30.0) as log:
        run = Run(log)
        await run.start()
        with read_only(database):
            append = asyncio.ensure_future(run.do(take_over(run)))
            await until(lambda: clock.pauses >= 2)
            assert not append.done()
        (resumed,) = await append

        assert resumed.version == 5
        assert await log.read(run.run_id, after=resumed.version) == ()
