"""What a rebuild makes, leaves behind and throws away; what it looks up in the moment of a swap."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from runs_domain.settings import Secret
from runs_domain.storage import rebuild, rebuild_catch_up, rebuild_state
from runs_domain.storage.long_work import ServerFailed, open_session
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.rebuild import CannotRebuild
from runs_domain.storage.rebuild_state import OWNER, discard
from tests.support.log_streams import Run
from tests.support.rebuilds import (
    assert_right,
    left_behind,
    portraits,
    projected,
    rebuild_here,
    some_runs,
)
from tests.support.servers import Database, as_owner

ACCOUNTS = 20_000
ERASED = 20
BUFFERS_MAX = ERASED + 5
"""Each key's row, and the way through the index."""
KEYS = """
INSERT INTO account_data_keys (account_id, wrapped, secret_version, destroyed_at)
SELECT md5(number::text)::uuid, CASE WHEN number %% %s > 0 THEN ''::bytea END, 1,
    CASE WHEN number %% %s = 0 THEN clock_timestamp() END
FROM generate_series(1, %s) AS number
"""


@pytest.mark.parametrize("analyzed", [False, True])
async def test_who_was_erased_meanwhile_is_found_whatever_the_number_of_accounts(
    database: Database, analyzed: bool
) -> None:
    """It is looked up while readers wait for the swap."""
    every = ACCOUNTS // ERASED
    as_owner(database, KEYS, every, every, ACCOUNTS)
    if analyzed:
        as_owner(database, "ANALYZE account_data_keys")
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)" + rebuild_catch_up._ERASED
    async with open_session(Secret(database.admin_url), name="test", parameters=OWNER) as owner:
        ((since,),) = await owner.fetch("SELECT now()")
        ((plan,),) = await owner.fetch(explain, (since,))
    look = plan[0]["Plan"]
    assert look["Actual Rows"] == ERASED
    assert look["Shared Hit Blocks"] + look["Shared Read Blocks"] <= BUFFERS_MAX


# ------------------------------------------------------------------------------ beside a dump


@contextmanager
def dumping(database: Database) -> Iterator[psycopg.Connection]:
    """What `pg_dump` does to everybody else: one moment, and every table locked in it."""
    with psycopg.connect(database.admin_url, application_name="pg_dump") as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        names = dump.execute(
            "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchone()
        assert names is not None
        dump.execute(f"LOCK TABLE {names[0]} IN ACCESS SHARE MODE".encode())
        yield dump


async def broken_off(database: Database, monkeypatch: pytest.MonkeyPatch, *views: str) -> None:
    """A rebuild that ended right before its first swap."""

    async def lost(*_: Any) -> None:
        raise CannotRebuild("lost")

    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "swap_in", lost)
        with pytest.raises(CannotRebuild, match="lost"):
            await rebuild_here(database, *views)


async def test_a_rebuild_that_begins_beside_a_dump_waits_for_it_with_its_swap_alone(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_runs(log, 3)
    await projected(database, log)
    swap_in = rebuild.swap_in
    with dumping(database) as dump:

        async def swap_after_it(*arguments: Any) -> Any:
            dump.rollback()
            return await swap_in(*arguments)

        monkeypatch.setattr(rebuild, "swap_in", swap_after_it)
        await rebuild_here(database)
    assert left_behind(database) == []
    await assert_right(database)


async def test_a_dump_that_begins_right_after_a_swap_fails_no_rebuild_that_is_through(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_runs(log, 3)
    await projected(database, log)
    monkeypatch.setattr(rebuild_state, "DROP_WAIT", "10ms")
    drop_replaced = rebuild_state.drop_replaced
    as_owner(database, "UPDATE runs SET model = 'spoilt'")
    with psycopg.connect(database.admin_url) as idle:

        async def drop_beside_a_dump(*arguments: Any) -> Any:
            if "runs__replaced" in left_behind(database):
                idle.execute("LOCK TABLE runs__replaced, view_rebuild_runs IN ACCESS SHARE MODE")
                idle.execute("LOCK TABLE view_rebuilds, view_rebuild_ranges IN ACCESS SHARE MODE")
            return await drop_replaced(*arguments)

        monkeypatch.setattr(rebuild, "drop_replaced", drop_beside_a_dump)
        said = await rebuild_here(database, "runs")
        monkeypatch.undo()
        assert said.views == ("runs",)
        assert "runs__replaced" in left_behind(database)
        assert as_owner(database, "SELECT view FROM view_rebuilds") == []
        assert as_owner(database, "SELECT first FROM view_rebuild_ranges") == []
        monkeypatch.setattr(rebuild_state, "DROP_WAIT", "10ms")
        await rebuild_here(database, "credits")
    await assert_right(database)


async def test_shadows_that_a_dump_reads_are_thrown_away_after_it_or_not_at_all(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_runs(log, 3)
    await broken_off(database, monkeypatch, "runs", "messages")
    before = left_behind(database)
    monkeypatch.setattr(rebuild_state, "DROP_WAIT", "10ms")
    url = Secret(database.admin_url)
    with dumping(database):
        with pytest.raises(CannotRebuild, match="still being read; nothing was thrown away"):
            await discard(url)
        with pytest.raises(CannotRebuild, match="still being read; nothing was thrown away"):
            await rebuild_here(database, "credits", restart=True)
        assert left_behind(database) == before
    assert await discard(url)
    assert left_behind(database) == []


# ------------------------------------------------------------------------------ left behind


async def test_a_rebuild_whose_shadow_somebody_dropped_is_begun_anew(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_runs(log, 3)
    await broken_off(database, monkeypatch, "runs", "messages")
    as_owner(database, "DROP TABLE messages__rebuild")
    assert not (await rebuild_here(database, "runs", "messages")).resumed
    await projected(database, log)
    await assert_right(database)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_shadow_that_is_on_no_book_is_in_no_rebuilds_way(
    database: Database, log: PostgresEventLog, restart: bool
) -> None:
    """Left by a release whose throwing away could be cut in half."""
    await Run(log).finish()
    as_owner(database, "CREATE TABLE runs__rebuild AS TABLE runs")
    await rebuild_here(database, "runs", restart=restart)
    assert left_behind(database) == []


# ------------------------------------------------------------------------------ what it makes

SUBGRANT = """
GRANT SELECT ON runs TO runledger_service WITH GRANT OPTION; SET ROLE runledger_service;
GRANT SELECT ON runs TO PUBLIC; RESET ROLE
"""


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("ALTER TABLE runs REPLICA IDENTITY FULL", "the replica identity"),
        (
            "ALTER TABLE runs ADD CONSTRAINT mine UNIQUE (requested_position) DEFERRABLE",
            "the deferrable constraint mine",
        ),
        (
            "ALTER TABLE runs ADD CONSTRAINT mine CHECK (version > 0) NOT VALID",
            "the constraint mine (not valid)",
        ),
        ("ALTER TABLE runs ADD COLUMN mine serial", "the sequence runs_mine_seq"),
        ("ALTER INDEX of_mine ALTER COLUMN 1 SET STATISTICS 7", "the statistics of of_mine"),
        (SUBGRANT, "the grants by runledger_service"),
    ],
)
async def test_what_cannot_be_copied_is_named_before_anything_is_made(
    database: Database, sql: str, what: str
) -> None:
    as_owner(database, "CREATE INDEX of_mine ON runs (lower(model))")
    as_owner(database, sql)
    with pytest.raises(CannotRebuild, match=re.escape(f"would lose: {what};")):
        await rebuild_here(database, "runs")
    assert left_behind(database) == []


async def test_an_index_whose_making_failed_is_named_before_anything_is_made(
    database: Database, log: PostgresEventLog
) -> None:
    await some_runs(log, 3)
    await projected(database, log)
    with pytest.raises(psycopg.errors.UniqueViolation):
        as_owner(database, "CREATE UNIQUE INDEX CONCURRENTLY mine ON runs (model)")
    with pytest.raises(CannotRebuild, match="the invalid index mine"):
        await rebuild_here(database, "runs")


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("ALTER TABLE runs REPLICA IDENTITY FULL", "replicaIdentity"),
        ("ALTER TABLE runs ADD CONSTRAINT mine CHECK (version > 0) NOT VALID", "constraints"),
    ],
)
async def test_a_shadow_that_came_out_different_is_found_so_before_it_is_filled(
    database: Database,
    log: PostgresEventLog,
    monkeypatch: pytest.MonkeyPatch,
    sql: str,
    part: str,
) -> None:
    """Of what nobody had thought of."""
    await some_runs(log, 3)
    as_owner(database, sql)

    async def none(*_: Any) -> list[str]:
        return []

    monkeypatch.setattr(rebuild, "hindrances", none)
    with pytest.raises(ServerFailed, match=f"the shadow of runs is not like it in: {part}$"):
        await rebuild_here(database, "runs")
    assert left_behind(database) == []


async def test_a_table_has_the_grants_and_options_of_the_one_before_and_no_others(
    database: Database,
) -> None:
    """Whatever a new table would be given by itself."""
    for sql in (
        "ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO PUBLIC, runledger_service",
        "REVOKE TRIGGER ON credits FROM CURRENT_USER",
        "REVOKE ALL ON sandboxes FROM runledger_service",
        "UPDATE pg_class SET relacl = NULL WHERE relname = 'messages'",  # as if never granted
        "ALTER TABLE runs RESET (fillfactor)",
        "ALTER TABLE runs SET (autovacuum_enabled = true, fillfactor = 70)",
    ):
        as_owner(database, sql)
    before = await portraits(database)
    for _ in range(2):
        await rebuild_here(database)
        assert await portraits(database) == before
