"""The reconnecting connection against real servers, dead servers and silent ones."""

import asyncio
import socket

import psycopg
import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.settings import Secret
from runs_domain.storage.connection import Connection, ReconnectingConnection
from tests.support.servers import Database


def connection_to(url: str, **options: float) -> ReconnectingConnection:
    return ReconnectingConnection(Secret(url), name="test", **options)


async def test_a_connection_that_the_server_closed_is_replaced_without_an_error(
    database: Database,
) -> None:
    connection = connection_to(database.url)
    (before,) = await connection.fetch("SELECT pg_backend_pid()")
    with psycopg.connect(database.admin_url) as owner:
        owner.execute("SELECT pg_terminate_backend(%s)", before)
    (after,) = await connection.fetch("SELECT pg_backend_pid()")

    assert after != before
    await connection.close()


async def test_a_query_that_does_not_end_is_left_at_its_deadline(database: Database) -> None:
    connection = connection_to(database.url, seconds_max=0.3)

    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.3 s"):
        await connection.fetch("SELECT pg_sleep(600)")
    assert await connection.fetch("SELECT 1") == [(1,)]
    await connection.close()


async def test_a_server_that_never_greets_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        connection = connection_to(f"postgresql://u@127.0.0.1:{port}/d", seconds_max=0.3)
        with pytest.raises(StoreUnavailable):
            await connection.fetch("SELECT 1")


async def test_invariant_6_a_url_that_cannot_be_read_is_not_in_the_error() -> None:
    connection = connection_to("postgresql://u:pa%ss-canary@db/x")

    with pytest.raises(StoreUnavailable, match="the database's URL cannot be read") as refusal:
        await connection.fetch("SELECT 1")
    assert refusal.value.__cause__ is None


async def test_what_was_cancelled_half_way_leaves_nothing_behind(database: Database) -> None:
    connection = connection_to(database.url)
    asleep = asyncio.create_task(connection.fetch("SELECT pg_sleep(600)"))
    await asyncio.wait({asleep}, timeout=0.2)
    asleep.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asleep

    assert await connection.fetch("SELECT 1") == [(1,)]
    await connection.close()


async def test_a_transaction_left_open_is_not_the_next_ones_business(database: Database) -> None:
    async def leave_open(connection: Connection) -> None:
        await connection.execute("BEGIN")

    connection = connection_to(database.url)
    before = await connection.fetch("SELECT pg_backend_pid()")
    await connection.run(leave_open)
    after = await connection.fetch("SELECT pg_backend_pid()")
    await connection.close()

    assert after != before


async def test_invariant_6_an_error_shows_no_password() -> None:
    connection = connection_to("postgresql://u:hunter2@127.0.0.1:1/d")

    with pytest.raises(StoreUnavailable) as caught:
        await connection.fetch("SELECT 1")
    assert "hunter2" not in f"{caught.value!r} {connection!r}"
