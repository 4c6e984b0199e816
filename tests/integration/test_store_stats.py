"""What metrics say of unfinished runs, from the database itself."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from runs_domain.settings import Secret
from runs_domain.storage import store_stats
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS
from runs_domain.storage.store_stats import StoreStats, read_store_stats
from tests.support.servers import Database

STILL_SECONDS = 100.0
SPARE_SECONDS = 50.0
"""More than a test may take."""

_LOAD = """
    INSERT INTO run_heads (
        run_id, account_id, chat_id, session_id, version, status, live, open, head_hash,
        requested_position, updated_at
    )
    SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 9, 'queued',
        %(open)s, %(open)s, '', 1, now() - make_interval(secs => %(still)s * number)
    FROM generate_series(1, %(count)s::integer) AS number"""
_BURY = """
    INSERT INTO dead_letters (kind, id, reason, account_id, last_error, tries, withheld)
    SELECT 'run', run_id, 'broken', account_id, 'KeyError', 15, true FROM run_heads
    WHERE open ORDER BY updated_at LIMIT 1"""


@pytest.fixture
def admin(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def looks(database: Database) -> AsyncIterator[ReconnectingConnection]:
    connection = ReconnectingConnection(
        Secret(database.url), name="looks", parameters=LOOK_UP_SETTINGS
    )
    yield connection
    await connection.close()


def load(admin: psycopg.Connection[Any], count: int, *, is_open: bool = True) -> None:
    admin.execute(_LOAD, {"open": is_open, "still": STILL_SECONDS, "count": count})


async def test_open_runs_are_counted_and_the_stillest_is_told(
    admin: psycopg.Connection[Any], looks: ReconnectingConnection
) -> None:
    assert await read_store_stats(looks) == StoreStats(0, 0, 0.0)
    load(admin, 9, is_open=False)
    load(admin, 3)

    told = await read_store_stats(looks)

    assert (told.open_letters, told.open_runs) == (0, 3)
    assert 0 <= told.still_seconds_max - 3 * STILL_SECONDS < SPARE_SECONDS


async def test_a_run_that_is_withheld_is_a_letter_and_not_still(
    admin: psycopg.Connection[Any], looks: ReconnectingConnection
) -> None:
    load(admin, 3)
    admin.execute(_BURY)

    told = await read_store_stats(looks)

    assert (told.open_letters, told.open_runs) == (1, 2)
    assert 0 <= told.still_seconds_max - 2 * STILL_SECONDS < SPARE_SECONDS


async def test_invariant_12_a_reading_looks_at_a_bounded_number_of_runs(
    admin: psycopg.Connection[Any],
    looks: ReconnectingConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_stats, "OPEN_RUNS_MAX", 2)
    load(admin, 3)

    assert (await read_store_stats(looks)).open_runs == 2


async def test_runs_at_rest_are_not_looked_at(
    admin: psycopg.Connection[Any], looks: ReconnectingConnection
) -> None:
    load(admin, 20_000, is_open=False)
    load(admin, 20)
    admin.execute("VACUUM ANALYZE run_heads")
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) " + store_stats._STATS

    plan = "\n".join(line for (line,) in await looks.fetch(explain, (store_stats.OPEN_RUNS_MAX,)))

    assert "Index Scan using run_heads_open on run_heads" in plan
    assert "Seq Scan on run_heads" not in plan
