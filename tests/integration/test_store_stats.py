"""What metrics say of unfinished runs, from the database itself."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from runs_domain.settings import Secret
from runs_domain.storage import store_stats, view_stats
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS, open_log
from runs_domain.storage.store_stats import StoreStats, read_store_stats
from runs_domain.storage.view_stats import ViewStats
from tests.support.log_streams import SECRETS, Run
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
    assert replace(await read_store_stats(looks), views=()) == StoreStats(0, 0, 0.0)
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


async def test_views_tell_how_far_behind_the_log_they_are(
    admin: psycopg.Connection[Any], looks: ReconnectingConnection, database: Database
) -> None:
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        run = Run(log)
        await run.start()
        first, *_, last = await log.read(run.run_id)
    admin.execute("UPDATE checkpoints SET position = %s WHERE name = 'runs'", [last.position])
    admin.execute(
        "UPDATE checkpoints SET stopped_position = 1, stopped_error = '', stopped_at = now()"
        " WHERE name = 'messages'"
    )

    views = {view.name: view for view in (await read_store_stats(looks)).views}

    assert views.keys() == {"runs", "messages", "credits", "sandboxes"}
    assert views["runs"] == ViewStats("runs", last.position, False, last.position, 0.0)
    assert (views["messages"].is_stopped, views["credits"].is_stopped) == (True, False)
    assert views["messages"].behind == last.position
    ((now,),) = await looks.fetch("SELECT now()")
    age = (now - first.at).total_seconds()
    assert 0 <= age - (views["credits"].behind_seconds or 0.0) < SPARE_SECONDS


async def test_an_event_without_a_time_keeps_no_metric_from_being_told(
    admin: psycopg.Connection[Any], looks: ReconnectingConnection
) -> None:
    """Whatever somebody may have put there."""
    for version, state in enumerate(
        (None, b"", b"\x80\xff", b'{"at":"2026-99-01T00:00:00Z"', b'{"at":"\\' + bytes(300)), 1
    ):
        admin.execute("TRUNCATE stored_events")
        admin.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
            " VALUES (gen_random_uuid(), %s, 'tag', %s)",
            [version, state],
        )

        for view in (await read_store_stats(looks)).views:
            assert (view.behind, view.behind_seconds) == (version, None)


async def test_views_are_looked_up_and_the_log_is_not_read(
    admin: psycopg.Connection[Any], looks: ReconnectingConnection
) -> None:
    admin.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
        " SELECT gen_random_uuid(), 1, 'tag', '\\x7b7d' FROM generate_series(1, 5000)"
    )
    admin.execute("VACUUM ANALYZE stored_events")
    plan = await looks.fetch("EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) " + view_stats._STATS)
    text = "\n".join(line for (line,) in plan)

    assert "Seq Scan on stored_events" not in text
    assert "Disabled: true" not in text.partition("stored_events")[2]
