"""The end of a rebuild: what is caught up on, and the moment in which the new table takes over."""

from typing import Any

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.ids import Attempt
from runs_domain.storage import rebuild, rebuild_catch_up, rebuild_state, rebuild_swap
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.rebuild import CannotRebuild
from runs_domain.storage.view_folds import CannotFold
from tests.support import builders
from tests.support.log_streams import Run
from tests.support.rebuilds import (
    assert_right,
    left_behind,
    once_before,
    portraits,
    projected,
    rebuild_here,
    some_runs,
)
from tests.support.servers import Database, as_owner
from tests.support.views import NEVER_BACK

SPOIL = """
UPDATE stored_events SET topic = 'run.started.v9', state = convert_to(replace(
    convert_from(state, 'UTF8'), 'run.started.v1', 'run.started.v9'), 'UTF8')
WHERE originator_id = %s AND topic = 'run.started.v1' RETURNING notification_id, originator_version
"""
MEND = """
UPDATE stored_events SET topic = 'run.started.v1', state = convert_to(replace(
    convert_from(state, 'UTF8'), 'run.started.v9', 'run.started.v1'), 'UTF8')
WHERE originator_id = %s AND topic = 'run.started.v9'
"""
ERASE = """
UPDATE account_data_keys SET wrapped = NULL, destroyed_at = clock_timestamp() WHERE account_id = %s
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is caught up on in one go."""
    monkeypatch.setattr(rebuild_catch_up, "BATCH_EVENTS_MAX", 5)
    monkeypatch.setattr(rebuild_swap, "LAST_EVENTS_MAX", 2)


def end_of(database: Database) -> int:
    ((end,),) = as_owner(database, "SELECT max(notification_id) FROM stored_events")
    assert isinstance(end, int)
    return end


# ------------------------------------------------------------------------------ catching up


@pytest.mark.parametrize("sizes", [(5, 2**24, 2), (5, 2**24, 5), (5000, 1, 500), (5000, 2500, 500)])
async def test_a_view_never_jumps_back_in_time_however_little_fits_into_a_batch(
    database: Database,
    log: PostgresEventLog,
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[int, int, int],
) -> None:
    """The projector is through with all that came since the rebuild began; the shadow is not."""
    events, size, last = sizes
    as_owner(database, NEVER_BACK)
    monkeypatch.setattr(rebuild_catch_up, "BATCH_EVENTS_MAX", events)
    monkeypatch.setattr(rebuild_catch_up, "BATCH_BYTES_MAX", size)
    monkeypatch.setattr(rebuild_swap, "LAST_EVENTS_MAX", last)
    await some_runs(log, 3)

    async def go_on() -> None:
        await some_runs(log, 6)
        await projected(database, log)

    once_before(monkeypatch, rebuild, "follow", go_on)
    said = await rebuild_here(database)

    assert set(said.positions.values()) == {end_of(database)}
    assert said.pinned_position < end_of(database)
    await assert_right(database)


@pytest.mark.usefixtures("small")
async def test_what_comes_right_before_a_swap_is_caught_up_on_before_another_try(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_owner(database, NEVER_BACK)
    await some_runs(log, 3)
    followed = 0
    follow = rebuild_swap.follow

    async def counted(*arguments: Any) -> None:
        nonlocal followed
        followed += 1
        await follow(*arguments)

    async def go_on() -> None:
        await some_runs(log, 3)
        await projected(database, log)

    monkeypatch.setattr(rebuild_swap, "follow", counted)
    once_before(monkeypatch, rebuild, "swap_in", go_on)
    said = await rebuild_here(database, "messages")

    assert followed == 1
    assert said.positions == {"messages": end_of(database)}
    await assert_right(database)


# ------------------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize("step", ["follow", "swap_in"])
@pytest.mark.parametrize("view", ["runs", "messages"])
async def test_an_event_that_cannot_be_folded_is_named_itself_in_the_tail_too(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch, step: str, view: str
) -> None:
    await some_runs(log, 3)
    await projected(database, log)
    poisoned = Run(log)
    place: list[tuple[int, int]] = []

    async def poison() -> None:
        await some_runs(log, 3)
        await poisoned.start()
        place.extend(as_owner(database, SPOIL, poisoned.run_id))
        await some_runs(log, 2)

    once_before(monkeypatch, rebuild, step, poison)
    with pytest.raises(CannotFold) as caught:
        await rebuild_here(database, view)

    ((position, version),) = place
    assert str(caught.value).startswith(
        f"view {view} cannot take event {version} of run {poisoned.run_id} at position {position}"
        " (run.started.v9): UnknownEvent: "
    )
    as_owner(database, MEND, poisoned.run_id)
    assert (await rebuild_here(database, view)).resumed
    await projected(database, log)
    await assert_right(database)


async def test_a_lock_on_what_a_swap_reads_is_waited_for_and_no_events_fault(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_runs(log, 3)
    with psycopg.connect(database.admin_url) as other:

        async def lock() -> None:
            await Run(log).start()  # of an account whose key the rebuild has not seen
            other.execute("LOCK TABLE account_data_keys IN ACCESS EXCLUSIVE MODE")

        async def let_go() -> None:
            other.rollback()

        once_before(monkeypatch, rebuild, "swap_in", lock)
        once_before(monkeypatch, rebuild_swap, "follow", let_go)
        await rebuild_here(database, "messages")
    await projected(database, log)
    await assert_right(database)


async def test_an_erasure_that_clears_the_shadow_stops_no_catching_up(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuild has the account's key in its memory, and the erasure has taken its rows."""
    await some_runs(log, 3)
    await projected(database, log)
    run = Run(log)

    async def begin() -> None:
        await run.start()

    async def erase_and_end() -> None:
        await run.do(builders.text_step(run.stream.state, "hello"))
        await run.do(c.CompleteRun(attempt=Attempt(1)))
        as_owner(database, ERASE, run.account_id)
        mine = "SELECT count(*) FROM messages__rebuild WHERE account_id = %s"
        assert as_owner(database, mine, run.account_id) != [(0,)]
        as_owner(database, "DELETE FROM messages__rebuild WHERE account_id = %s", run.account_id)

    once_before(monkeypatch, rebuild, "follow", begin)
    once_before(monkeypatch, rebuild, "swap_in", erase_and_end)
    said = await rebuild_here(database, "messages")

    assert said.positions == {"messages": end_of(database)}
    mine = "SELECT count(*) FROM messages WHERE account_id = %s"
    assert as_owner(database, mine, run.account_id) == [(0,)]


# ------------------------------------------------------------------------------ the moment


TRIGGER = """
CREATE TRIGGER mine BEFORE UPDATE ON runs
FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
"""


@pytest.mark.parametrize(
    "change",
    [
        (TRIGGER, "DROP TRIGGER mine ON runs", "runs has what a rebuild would lose: the trigger"),
        ("CREATE VIEW mine AS TABLE runs", "DROP VIEW mine", "would lose: the SQL view mine"),
        (
            "CREATE INDEX mine ON runs (model)",
            "DROP INDEX mine",
            "runs was altered meanwhile .indexes.",
        ),
        ("DROP INDEX runs_of_chat", None, "runs was altered meanwhile .indexes."),
        ("GRANT SELECT ON runs TO PUBLIC", None, "runs was altered meanwhile .acl."),
        (
            "GRANT SELECT ON runs__rebuild TO PUBLIC",
            None,
            "runs__rebuild was altered meanwhile .acl.",
        ),
    ],
)
async def test_what_is_put_on_a_table_before_its_swap_is_not_lost(
    database: Database,
    log: PostgresEventLog,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str | None, str],
) -> None:
    sql, undo, says = change
    await some_runs(log, 3)
    await projected(database, log)

    async def alter() -> None:
        as_owner(database, sql)

    once_before(monkeypatch, rebuild, "swap_in", alter)
    before = (await portraits(database))["runs"]
    with pytest.raises(CannotRebuild, match=says):
        await rebuild_here(database, "runs")
    if undo is None:
        now = (await portraits(database))["runs"]
        assert (now == before) is ("__rebuild" in sql)
        await rebuild_here(database, "runs", restart=True)
        assert (await portraits(database))["runs"] == now
    else:
        as_owner(database, undo)
        await rebuild_here(database, "runs")
        assert (await portraits(database))["runs"] == before
    await assert_right(database)
    assert left_behind(database) == []


async def test_what_hangs_on_a_replaced_table_fails_no_rebuild_that_is_through(
    database: Database, log: PostgresEventLog
) -> None:
    """A function's body is not looked for before: it is told by the table's drop alone."""
    await some_runs(log, 3)
    await projected(database, log)
    as_owner(
        database,
        "CREATE FUNCTION mine() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM runs; END",
    )

    said = await rebuild_here(database, "runs", "credits")

    assert set(said.swap_ms) == {"runs", "credits"}
    assert tables_left(database) == ["runs__replaced"]
    assert set((await rebuild_here(database, "credits")).swap_ms) == {"credits"}
    with pytest.raises(CannotRebuild, match="runs__replaced cannot be dropped: something hangs"):
        await rebuild_here(database, "runs")
    as_owner(database, "DROP FUNCTION mine")
    await rebuild_here(database, "runs")
    assert left_behind(database) == []


async def test_a_replaced_table_that_is_read_when_a_rebuild_begins_is_dropped_before_its_swap(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_runs(log, 3)
    await projected(database, log)
    as_owner(database, "CREATE TABLE runs__replaced AS TABLE runs")
    monkeypatch.setattr(rebuild_state, "DROP_WAIT", "10ms")
    with psycopg.connect(database.admin_url) as reader:
        reader.execute("SELECT count(*) FROM runs__replaced")

        async def let_go() -> None:
            assert "runs__replaced" in left_behind(database)
            reader.rollback()

        once_before(monkeypatch, rebuild_swap, "follow", let_go)
        await rebuild_here(database, "runs")
    assert left_behind(database) == []
    await assert_right(database)


def tables_left(database: Database) -> list[str]:
    return [name for name in left_behind(database) if name.endswith("__replaced")]
