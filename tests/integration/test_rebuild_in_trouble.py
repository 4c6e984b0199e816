"""A rebuild that loses its session or its server, and one that somebody is in the way of."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import psycopg
import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.settings import Secret
from runs_domain.storage import rebuild, rebuild_catch_up, rebuild_swap
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from tests.support.log_streams import SECRETS, Run
from tests.support.rebuilds import (
    assert_right,
    left_behind,
    once_before,
    projected,
    rebuild_here,
    some_runs,
)
from tests.support.servers import Database, as_owner
from tests.support.views import NEVER_BACK, projecting
from tests.support.waiting import until
from workers.projector import all_projections
from workers.stack.servers import Servers

WAITS = """
SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'runledger rebuild'
    AND wait_event_type = 'Lock'
"""
END_THE_OWNERS_SESSION = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND datname = current_database()
    AND application_name = 'runledger rebuild'
"""
VACUUMED = """
SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE backend_type = 'autovacuum worker' AND relation = 'runs'::regclass
"""


@pytest.fixture
async def own_log(own_database: Database) -> AsyncIterator[PostgresEventLog]:
    async with open_log(Secret(own_database.url), SECRETS, SystemClock()) as opened:
        yield opened


async def lost(database: Database, lock: str, lose: Callable[[], object]) -> None:
    """A rebuild of two views that waits for a lock when it is lost."""
    with closing(psycopg.connect(database.admin_url)) as other:
        other.execute(lock.encode())
        rebuilding = asyncio.create_task(rebuild_here(database, "messages", "runs"))
        await until(lambda: as_owner(database, WAITS) or rebuilding.done(), timeout_seconds=30)
        await asyncio.to_thread(lose)
    with pytest.raises(StoreUnavailable):
        await rebuilding


@pytest.mark.parametrize(
    ("lock", "table"),
    [
        ("LOCK TABLE account_data_keys IN ACCESS EXCLUSIVE MODE", "messages__rebuild"),
        ("SELECT count(*) FROM runs", "runs__rebuild"),
    ],
)
async def test_a_rebuild_that_loses_its_session_fails_and_the_next_goes_on(
    database: Database, log: PostgresEventLog, lock: str, table: str
) -> None:
    await some_runs(log, 6)
    await projected(database, log)
    as_owner(database, "UPDATE runs SET model = 'spoilt'")

    def lose() -> None:
        assert as_owner(database, END_THE_OWNERS_SESSION) == [(True,)]

    await lost(database, lock, lose)

    assert as_owner(database, "SELECT DISTINCT model FROM runs") == [("spoilt",)]
    assert table in left_behind(database)
    await some_runs(log, 3)
    assert (await rebuild_here(database, "runs", "messages")).resumed
    assert left_behind(database) == []
    await projected(database, log)
    await assert_right(database)


async def test_a_rebuild_that_loses_its_server_fails_and_the_next_goes_on(
    own_servers: Servers, own_database: Database, own_log: PostgresEventLog
) -> None:
    await some_runs(own_log, 6)
    await projected(own_database, own_log)
    as_owner(own_database, "UPDATE runs SET model = 'spoilt'")

    def lose() -> None:
        own_servers.postgres.stop(at_once=True)
        own_servers.postgres.start()

    await lost(own_database, "SELECT count(*) FROM runs", lose)

    await rebuild_here(own_database, "runs", "messages")
    assert left_behind(own_database) == []
    await projected(own_database, own_log)
    await assert_right(own_database)


async def test_an_autovacuum_that_takes_long_is_cancelled_for_a_swap(
    own_database: Database, own_log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_runs(own_log, 3)
    await projected(own_database, own_log)
    as_owner(own_database, "ALTER SYSTEM SET autovacuum_naptime = '1s'")
    as_owner(own_database, "SELECT pg_reload_conf()")

    async def vacuum() -> None:
        """For many minutes: a tenth of a second a page."""
        as_owner(
            own_database,
            "INSERT INTO runs SELECT (jsonb_populate_record(one, jsonb_build_object("
            "'run_id', gen_random_uuid()))).* FROM runs AS one, generate_series(1, 9000)",
        )
        as_owner(own_database, "DELETE FROM runs")
        await until(lambda: as_owner(own_database, VACUUMED), timeout_seconds=30)

    slow = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    as_owner(own_database, f"ALTER TABLE runs SET ({slow})")
    monkeypatch.setattr(rebuild_swap, "SWAP_SECONDS_MAX", 20.0)
    once_before(monkeypatch, rebuild, "swap_in", vacuum)
    await rebuild_here(own_database, "runs")

    assert left_behind(own_database) == []
    await assert_right(own_database)


async def test_rebuilds_in_small_batches_under_live_traffic_never_go_back_and_lose_no_event(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_owner(database, NEVER_BACK)
    monkeypatch.setattr(rebuild_catch_up, "BATCH_EVENTS_MAX", 20)
    monkeypatch.setattr(rebuild_catch_up, "BATCH_BYTES_MAX", 5_000)
    monkeypatch.setattr(rebuild_swap, "LAST_EVENTS_MAX", 3)
    await some_runs(log, 3)

    async def write() -> None:
        for _ in range(40):
            await Run(log).finish("live")

    async with (
        projecting(all_projections(Secret(database.url), log.data_keys)),
        asyncio.TaskGroup() as group,
    ):
        writing = group.create_task(write())
        rebuilds = 0
        while not writing.done():
            await rebuild_here(database)
            rebuilds += 1
    assert rebuilds
    await projected(database, log)
    await assert_right(database)
