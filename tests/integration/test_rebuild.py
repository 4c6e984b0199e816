"""`scripts/rebuild_projections.py` on a real log: exact, unnoticed, alone, and never half done."""

import asyncio
import json
from typing import Any
from uuid import UUID

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.ids import AccountId
from runs_domain.leaks import Leaks
from runs_domain.settings import Secret
from runs_domain.storage import run_ranges, run_streams
from runs_domain.storage.audit_log import LogAudit
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.projection import checkpoints
from runs_domain.storage.rebuild import CannotRebuild
from runs_domain.storage.run_streams import Unreadable
from runs_domain.storage.runs_view import page
from runs_domain.storage.snapshot import open_snapshot
from tests.support import builders
from tests.support.log_streams import Run
from tests.support.rebuilds import (
    REBUILD,
    assert_right,
    check_here,
    found_here,
    left_behind,
    portraits,
    projected,
    rebuild_here,
    rebuilding,
    rebuilt,
    run,
    some_runs,
)
from tests.support.servers import Database, as_owner
from tests.support.views import projecting
from tests.support.waiting import until
from workers.projector import all_projections

SUPPRESS = "suppress_redundant_updates_trigger()"
COUNT = "SELECT count(*) FROM messages WHERE account_id = %s"
VIEWS = ("runs", "messages", "credits", "sandboxes")
SPOIL = {
    "runs": "UPDATE runs SET status = 'failed', usage = NULL",
    "messages": "DELETE FROM messages WHERE place = 1",
    "credits": "UPDATE credits SET charged = charged + 1",
    "sandboxes": "TRUNCATE sandboxes",
}


async def test_invariant_8_a_rebuild_makes_every_row_of_every_view_right(
    database: Database, log: PostgresEventLog
) -> None:
    await some_runs(log, 9)
    await projected(database, log)
    for spoil in SPOIL.values():
        as_owner(database, spoil)
    assert not any(view.is_right for view in (await check_here(database)).values())

    said = rebuilt(database)

    await assert_right(database)
    ((events, end),) = as_owner(
        database, "SELECT count(*), max(notification_id) FROM stored_events"
    )
    assert said["events"] == events
    assert set(said["positions"]) == set(VIEWS)
    assert set(said["positions"].values()) == {end}
    assert left_behind(database) == []


async def test_a_rebuilt_view_is_the_same_table_to_the_last_grant_also_the_second_time(
    database: Database, log: PostgresEventLog
) -> None:
    await some_runs(log, 3)
    await projected(database, log)
    as_owner(database, "GRANT SELECT (run_id, status) ON runs TO PUBLIC")
    as_owner(database, "GRANT UPDATE ON credits TO runledger_service WITH GRANT OPTION")
    as_owner(database, "COMMENT ON TABLE runs IS 'it''s a list; with \"quotes\"'")
    as_owner(database, "COMMENT ON INDEX runs_of_chat IS 'one chat'")
    as_owner(database, "ALTER TABLE messages ALTER COLUMN sealed SET STATISTICS 0")
    as_owner(database, "ALTER TABLE messages SET (toast.autovacuum_enabled = true)")
    as_owner(database, "ALTER TABLE runs CLUSTER ON runs_of_account")
    as_owner(database, 'ALTER TABLE runs ADD CONSTRAINT "Odd; name" UNIQUE (requested_position)')
    as_owner(database, 'CREATE INDEX "Odd index" ON runs (lower(model)) WHERE usage IS NOT NULL')
    before = await portraits(database)

    for _ in range(2):
        await rebuild_here(database)
        assert await portraits(database) == before
    await assert_right(database)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("CREATE VIEW mine AS SELECT run_id FROM runs", "the SQL view mine"),
        ("CREATE RULE mine AS ON DELETE TO runs DO INSTEAD NOTHING", "the rule mine"),
        (
            "CREATE TABLE other (run_id uuid REFERENCES runs)",
            "the constraint other_run_id_fkey of other",
        ),
        ("CREATE STATISTICS mine ON status, model FROM runs", "the statistics mine"),
        (
            f"CREATE TRIGGER mine BEFORE UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION {SUPPRESS}",
            "the trigger mine",
        ),
    ],
)
async def test_what_a_rebuild_would_lose_is_named_before_anything_is_made(
    database: Database, sql: str, what: str
) -> None:
    as_owner(database, sql)
    with pytest.raises(CannotRebuild, match=what):
        await rebuild_here(database, "runs")
    assert left_behind(database) == []


async def test_a_log_without_events_makes_empty_views(database: Database) -> None:
    as_owner(
        database,
        "INSERT INTO sandboxes (run_id, account_id, session_id, requested_position, sandbox, state,"
        " version) SELECT id, id, id, 1, 's', 'named', 1 FROM gen_random_uuid() AS id",
    )
    as_owner(database, "UPDATE checkpoints SET position = 12 WHERE name = 'sandboxes'")
    view = (await check_here(database))["sandboxes"]
    assert (view.is_beyond_the_end, view.counts.extra) == (True, 1)

    said = await rebuild_here(database)

    assert (said.events, set(said.positions.values())) == (0, {0})
    await assert_right(database)


async def test_streams_larger_than_a_batch_and_events_larger_than_a_page_are_whole(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = Run(log), await some_runs(log, 3)
    await large.finish("word " * 20_000)
    monkeypatch.setattr(run_ranges, "RANGE_EVENTS", 7)
    for views in (("runs", "credits", "sandboxes"), ("messages",)):
        await rebuild_here(database, *views)
    await Run(log).finish("after")
    await projected(database, log)

    await assert_right(database)
    ((rows, versions),) = as_owner(database, "SELECT count(*), sum(version) FROM runs")
    ((events,),) = as_owner(database, "SELECT count(*) FROM stored_events")
    assert (rows, versions) == (len(small) + 2, events)
    assert run_streams.EVENT_BYTES_MAX < 5 * 20_000


async def test_a_stream_without_a_head_is_not_lost(
    database: Database, log: PostgresEventLog
) -> None:
    runs = await some_runs(log, 3)
    first, *_ = sorted(run.run_id for run in runs)
    as_owner(database, "DELETE FROM run_heads WHERE run_id = %s", first)
    await rebuild_here(database, "runs")
    ((rows,),) = as_owner(database, "SELECT count(*) FROM runs")
    assert rows == 3


async def test_an_unknown_tag_is_named_nothing_is_swapped_and_the_next_rebuild_goes_on(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = await some_runs(log, 9)
    await projected(database, log)
    last = max(runs, key=lambda run: run.run_id)
    rename = (
        "UPDATE stored_events SET topic = %s, state = convert_to(replace("
        "convert_from(state, 'UTF8'), %s, %s), 'UTF8')"
        " WHERE originator_id = %s AND topic = %s RETURNING notification_id"
    )
    old, new = "run.started.v1", "run.started.v9"
    ((position,),) = as_owner(database, rename, new, old, new, last.run_id, old)
    as_owner(database, SPOIL["runs"])
    monkeypatch.setattr(run_ranges, "RANGE_EVENTS", 10)

    with pytest.raises(Unreadable, match=f"of run {last.run_id} at position {position} .*v9"):
        await rebuild_here(database, "runs", "credits")
    ((done, ranges),) = as_owner(
        database,
        "SELECT count(*) FILTER (WHERE loaded IS NOT NULL), count(*) FROM view_rebuild_ranges",
    )
    assert 0 < done < ranges
    ((failed,),) = as_owner(database, "SELECT count(*) FROM runs WHERE status = 'failed'")
    assert failed == len(runs), "the view is not touched"
    (fault,) = (await found_here(database, "runs", to_the_end=True)).faults
    assert f"at position {position} " in fault

    as_owner(database, rename, old, new, old, last.run_id, new)
    again = await rebuild_here(database, "credits", "runs")

    ((events,),) = as_owner(database, "SELECT count(*) FROM stored_events")
    assert again.resumed
    assert 0 < again.events < events
    await assert_right(database)
    assert left_behind(database) == []


async def test_a_view_that_stood_still_goes_on_after_a_rebuild(
    database: Database, log: PostgresEventLog
) -> None:
    await some_runs(log, 3)
    as_owner(
        database,
        "UPDATE checkpoints SET stopped_position = 1, stopped_error = 'x', stopped_at = now()"
        " WHERE name = 'runs'",
    )
    await rebuild_here(database, "runs")
    reader = ReconnectingConnection(Secret(database.url), name="reader")
    stopped = {one.name: one.stopped_at for one in await checkpoints(reader)}
    await reader.close()
    assert stopped["runs"] is None
    await Run(log).finish()
    await projected(database, log)
    await assert_right(database)


async def test_the_content_of_an_erased_account_is_not_brought_back(
    database: Database, log: PostgresEventLog
) -> None:
    runs = await some_runs(log, 6)
    await projected(database, log)
    gone = runs[2].account_id
    as_owner(
        database,
        "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now() WHERE account_id = %s",
        gone,
    )
    view = (await check_here(database))["messages"]
    assert (view.is_right, view.counts.unreadable) == (True, 2)
    await rebuild_here(database, "messages")
    assert as_owner(database, COUNT, gone) == [(0,)]
    assert as_owner(database, COUNT, runs[1].account_id) == [(2,)]


async def test_a_rebuild_from_a_position_makes_anew_what_changed_after_it_and_copies_the_rest(
    database: Database, log: PostgresEventLog
) -> None:
    before = await some_runs(log, 3)
    open_run = Run(log)
    await open_run.start()
    ((position,),) = as_owner(database, "SELECT max(notification_id) FROM stored_events")
    after = await some_runs(log, 3)
    await open_run.do(c.RequestCancel(by="client", why="test"))
    await projected(database, log)
    as_owner(database, "UPDATE runs SET model = 'spoilt'")

    would = await check_here(database, "runs", from_position=position)
    said = await rebuild_here(database, from_position=position)

    spoilt = as_owner(database, "SELECT run_id FROM runs WHERE model = 'spoilt'")
    assert {run_id for (run_id,) in spoilt} == {run.run_id for run in before}
    assert would["runs"].counts.changed == len(after) + 1
    ((events,),) = as_owner(
        database,
        "SELECT count(*) FROM stored_events WHERE originator_id = ANY(%s)",
        [run.run_id for run in (*after, open_run)],
    )
    assert said.events == events
    assert (await check_here(database))["runs"].counts.changed == len(before)
    assert left_behind(database) == []
    await rebuild_here(database, from_position=0)
    await assert_right(database)


async def test_a_rebuild_from_a_position_that_a_view_has_not_reached_begins_where_the_view_is(
    database: Database, log: PostgresEventLog
) -> None:
    """Its rows of later events are not there to be copied."""
    await some_runs(log, 6)
    ((end,),) = as_owner(database, "SELECT max(notification_id) FROM stored_events")
    await rebuild_here(database, from_position=end)
    await assert_right(database)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("rums",), 2, "there is no view rums; there are runs, messages, credits, sandboxes"),
        (("--from-position", "soon"), 2, "it takes a whole number"),
        (("--from-position", "-1"), 2, "argument --from-position"),
        (("--from-position", "99999"), 1, "position 99999 is beyond the log's end, which is 0"),
        (("--dry-run", "--from-position", "9"), 2, "position 9 is beyond the log's end"),
        (("--workers", "0"), 2, "from 1 to 64"),
        (("--dry-run", "--limit", "0" * 20 + "1000001"), 2, "from 0 to 1000000"),
        (("--limit", "9" * 5000), 2, "from 0 to 1000000"),
        (("--from-position", "0" * 30 + "99999"), 1, "position 99999 is beyond the log's end"),
        (("--dry-run", "--status"), 2, "not allowed with"),
        (("--dry-run", "--restart"), 2, "not allowed with"),
        (("--status", "--restart"), 2, "not allowed with"),
        (("--discard", "--restart"), 2, "not allowed with"),
        (("runs", "--discard"), 2, "of all the views of the rebuild that was left behind"),
        (("runs", "--status"), 2, "of all the views of the rebuild that was left behind"),
        (("--status", "--from-position", "7"), 2, "a position is for a rebuild or its dry run"),
    ],
)
def test_a_rebuild_with_bad_arguments_says_so(
    database: Database, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended, out, err = run(database, REBUILD, *arguments)
    assert (ended, out) == (code, "")
    assert says in err
    assert "Traceback" not in err


def test_a_rebuild_without_the_owners_url_or_by_another_role_says_so(database: Database) -> None:
    code, _, err = run(database, REBUILD, RUNLEDGER_ADMIN_DATABASE_URL="")
    assert (code, "RUNLEDGER_ADMIN_DATABASE_URL is not set" in err) == (2, True)
    code, _, err = run(database, REBUILD, RUNLEDGER_ADMIN_DATABASE_URL=database.url)
    assert (code, "its role may not do this" in err) == (1, True)
    assert "RUNLEDGER_ADMIN_DATABASE_URL is to be" in err
    assert len(err.splitlines()) == 1, err


async def test_a_second_rebuild_at_once_is_refused_and_the_first_ends_well(
    database: Database, log: PostgresEventLog
) -> None:
    await some_runs(log, 3)
    with psycopg.connect(database.admin_url, application_name="a long dump") as dump:
        dump.execute("SELECT count(*) FROM runs")
        with rebuilding(database, "runs", "credits") as first:
            assert first.stderr is not None
            said = [first.stderr.readline() for _ in range(1)]
            while "waits for a long dump" not in said[-1]:
                said.append(await asyncio.to_thread(first.stderr.readline))
                assert said[-1], said
            code, out, err = run(database, REBUILD, "messages")
            assert (code, out) == (1, "")
            assert "another rebuild is under way: " in err
            assert "runs, begun " in err
            assert "in phase swap" in err
            assert run(database, REBUILD, "--status")[1].startswith("under way: ")
            status = json.loads(run(database, REBUILD, "--status", "--json")[1])
            assert (status["state"], status["views"]) == ("under way", ["runs"])
            assert (status["phase"], status["loaded"]) == ("swap", status["events"])
            assert run(database, REBUILD, "--discard")[0] == 1
            dump.rollback()
            rest = await asyncio.to_thread(first.communicate)
        assert first.returncode == 0, rest
    assert run(database, REBUILD, "--status")[1].startswith("no rebuild is under way")
    assert json.loads(run(database, REBUILD, "--status", "--json")[1])["state"] == "none"
    discarded = run(database, REBUILD, "--discard", "--json")[1]
    assert json.loads(discarded) == {"discarded": False}
    await projected(database, log)
    await assert_right(database)


async def test_rebuilds_under_live_traffic_fail_no_read_and_lose_no_event(
    database: Database, log: PostgresEventLog
) -> None:
    """Readers with prepared plans and kept connections, writers and the projector all the while."""
    await some_runs(log, 6)
    account = AccountId(UUID(int=7))
    stop = asyncio.Event()
    reads = 0
    readers = [ReconnectingConnection(Secret(database.url), name="reader") for _ in range(3)]

    async def read(connection: ReconnectingConnection) -> None:
        nonlocal reads
        seen = 0
        while not stop.is_set():
            rows = await page(connection, account, limit=100)
            assert len(rows) >= seen, "a reader saw a run go"
            seen = len(rows)
            await connection.fetch(
                "SELECT count(*) FROM messages WHERE account_id = %s", (account,)
            )
            reads += 1

    async def write() -> None:
        for _ in range(90):
            if stop.is_set():
                return
            await Run(log, account_id=account).finish("live")

    async with (
        projecting(all_projections(Secret(database.url), log.data_keys)),
        asyncio.TaskGroup() as group,
    ):
        for connection in readers:
            group.create_task(read(connection))
        writing = group.create_task(write())
        await until(lambda: reads > 20)
        for _ in range(2):
            said = await asyncio.to_thread(rebuilt, database)
            assert all(ms < 1000 for ms in said["swapMs"].values())
        stop.set()
        await writing
    await projected(database, log)
    ((runs,),) = as_owner(database, "SELECT count(*) FROM run_heads")
    assert as_owner(database, "SELECT count(*) FROM runs") == [(runs,)]
    await assert_right(database)
    for connection in readers:
        await connection.close()


async def test_a_look_at_one_moment_sees_no_view_empty_because_it_was_swapped_in_later(
    database: Database, log: PostgresEventLog
) -> None:
    """The new table's rows are younger than the moment."""
    await some_runs(log, 3)
    await projected(database, log)
    views = ("runs", "messages")
    async with open_snapshot(Secret(database.url), name="audit", views=views) as snapshot:
        await snapshot.fetch("SELECT 1")
        rebuilding = asyncio.create_task(rebuild_here(database, *views))
        phases = "SELECT phase FROM view_rebuilds"
        await until(lambda: ("swap",) in as_owner(database, phases) or rebuilding.done())
        audit = LogAudit(snapshot, log.data_keys, Leaks("recoup_sk_"))
        assert [violation async for violation in audit.violations()] == []
        assert not rebuilding.done()
    await rebuilding


async def test_content_that_is_erased_while_a_rebuild_is_under_way_is_not_brought_back_either(
    database: Database, log: PostgresEventLog
) -> None:
    """Its range was loaded before that, and the erasure had no view of the shadow's rows."""
    runs = await some_runs(log, 3)
    await projected(database, log)
    with psycopg.connect(database.admin_url) as dump:
        dump.execute("SELECT count(*) FROM messages")
        rebuilding = asyncio.create_task(rebuild_here(database, "messages"))
        phases = "SELECT phase FROM view_rebuilds"
        await until(lambda: ("swap",) in as_owner(database, phases) or rebuilding.done())
        as_owner(
            database,
            "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = clock_timestamp()"
            " WHERE account_id = %s",
            runs[0].account_id,
        )
        dump.rollback()
        await rebuilding
    assert as_owner(database, COUNT, runs[0].account_id) == [(0,)]
    assert as_owner(database, COUNT, runs[1].account_id) == [(2,)]


@pytest.mark.parametrize("from_the_end", [False, True])
async def test_what_is_appended_and_projected_after_the_pinned_position_is_in_once(
    database: Database,
    log: PostgresEventLog,
    monkeypatch: pytest.MonkeyPatch,
    *,
    from_the_end: bool,
) -> None:
    """Also where rows are copied from a view that is ahead of the pinned position."""
    old = Run(log)
    await old.start()
    await some_runs(log, 3)
    await projected(database, log)
    ((end,),) = as_owner(database, "SELECT max(notification_id) FROM stored_events")
    plan = run_ranges.plan

    async def plan_and_go_on(*arguments: Any) -> Any:
        ranges = await plan(*arguments)
        await old.do(builders.text_step(old.stream.state, "later"))
        await some_runs(log, 3)
        await projected(database, log)
        return ranges

    monkeypatch.setattr(run_ranges, "plan", plan_and_go_on)
    said = await rebuild_here(database, from_position=end if from_the_end else None)
    monkeypatch.setattr(run_ranges, "plan", plan)

    ((new_end,),) = as_owner(database, "SELECT max(notification_id) FROM stored_events")
    assert said.pinned_position == end < new_end
    assert set(said.positions.values()) == {new_end}
    await assert_right(database)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE view_rebuilds SET release = 'of another release'",
        "ALTER TABLE runs ALTER COLUMN model SET STATISTICS 7",
    ],
)
async def test_what_another_release_or_an_older_table_left_behind_is_not_gone_on_with(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    runs = await some_runs(log, 3)
    monkeypatch.setattr(run_ranges, "RANGE_EVENTS", 10)
    last = max(run.run_id for run in runs)
    spoil = "UPDATE stored_events SET topic = %s WHERE originator_id = %s AND topic = %s"
    as_owner(database, spoil, "x", last, "run.requested.v1")
    with pytest.raises(Unreadable):
        await rebuild_here(database, "runs")
    as_owner(database, spoil, "run.requested.v1", last, "x")
    as_owner(database, "UPDATE runs__rebuild SET status = 'failed'")
    as_owner(database, change)
    again = await rebuild_here(database, "runs")
    assert not again.resumed
    await projected(database, log)
    await assert_right(database)
