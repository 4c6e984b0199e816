"""Sessions of scripts that work for minutes: whatever ends a short query ends none of theirs."""

import asyncio

import psycopg
import pytest

from runs_domain.ids import Position
from runs_domain.settings import Secret
from runs_domain.storage import run_ranges
from runs_domain.storage.long_work import LongConnection, connect, open_session
from runs_domain.storage.postgres_log import PostgresEventLog
from tests.support.rebuilds import some_runs
from tests.support.servers import Database, as_owner
from tests.support.waiting import until

TIMED = (
    *("statement_timeout", "lock_timeout", "idle_session_timeout"),
    *("idle_in_transaction_session_timeout", "transaction_timeout"),
)
SHOWN = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
WAITS_SINCE = """
SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'test plan'
    AND wait_event_type = 'Lock' AND query_start < clock_timestamp() - interval '200 ms'
"""


async def test_no_time_out_that_a_database_was_given_for_short_queries_ends_a_long_session(
    database: Database,
) -> None:
    for name in TIMED:
        as_owner(database, f"ALTER DATABASE {database.name} SET {name} = '7s'")
    assert set(as_owner(database, SHOWN, list(TIMED))) == {(name, "7000") for name in TIMED}

    url = Secret(database.admin_url)
    async with open_session(url, name="test", parameters={}) as session:
        of_one = await session.fetch(SHOWN, (list(TIMED),))
    with connect(url, name="test", parameters={}) as worker:
        of_another = worker.execute(SHOWN, (list(TIMED),)).fetchall()

    assert set(of_one) == set(of_another) == {(name, "0") for name in TIMED}


async def test_a_log_is_planned_for_longer_than_other_queries_are_waited_for(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a pass over all heads: of a billion events, more than a minute."""
    await some_runs(log, 3)
    monkeypatch.setitem(LongConnection.fetch.__kwdefaults__, "seconds_max", 0.1)
    url = Secret(database.admin_url)
    with psycopg.connect(database.admin_url) as other:
        other.execute("LOCK TABLE run_heads IN ACCESS EXCLUSIVE MODE")
        async with open_session(url, name="test plan", parameters={}) as session:
            planning = asyncio.create_task(run_ranges.plan(session, Position(2**40)))
            await until(lambda: planning.done() or as_owner(database, WAITS_SINCE) == [(True,)])
            other.rollback()
            ranges = await planning
    ((events,),) = as_owner(database, "SELECT count(*) FROM stored_events")
    assert sum(one.events for one in ranges) == events
