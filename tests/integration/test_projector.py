"""The projector on a real log: exactly once, whoever dies and however many there are."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.errors import StoreUnavailable
from runs_domain.ids import Attempt, ChatId, Position
from runs_domain.ports import Recorded
from runs_domain.read_models import summarize
from runs_domain.run import Status
from runs_domain.settings import Secret
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import Connection, ReconnectingConnection
from runs_domain.storage.identity import SystemClock, new_account_id, new_chat_id
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.projection import (
    Checkpoint,
    FoldFailed,
    NoCheckpoint,
    Projection,
    checkpoints,
)
from runs_domain.storage.runs_view import RunsView, page, page_query
from runs_domain.storage.view import Keys, View
from runs_domain.storage.views import all_views, named
from tests.support import builders
from tests.support.log_streams import SECRETS, Run
from tests.support.rebuilds import some_runs
from tests.support.servers import Database
from tests.support.views import (
    Place,
    are_caught_up,
    folded,
    projecting,
    rows_folded,
    rows_held,
    shown,
)
from tests.support.waiting import until
from workers.projector import all_projections
from workers.stack.servers import Servers

CLOCK = SystemClock()


def projections(database: Database, log: PostgresEventLog) -> tuple[Projection, ...]:
    return all_projections(Secret(database.url), log.data_keys)


def projection_of(name: str, database: Database, log: PostgresEventLog) -> Projection:
    (view,) = named([name])
    return Projection(Secret(database.url), view, log.data_keys)


async def checkpoint_of(name: str, reader: ReconnectingConnection) -> Checkpoint:
    (one,) = [one for one in await checkpoints(reader) if one.name == name]
    return one


async def are_caught_up_with(name: str, reader: ReconnectingConnection) -> bool:
    ((last,),) = await reader.fetch("SELECT max(notification_id) FROM stored_events")
    return (await checkpoint_of(name, reader)).position == last


def place_of(run: Run) -> Place:
    return run.run_id, run.account_id, run.chat_id


async def assert_views_are_the_fold(
    reader: ReconnectingConnection, log: PostgresEventLog, runs: Sequence[Run]
) -> None:
    for run in runs:
        assert await shown(reader, log, place_of(run)) == await folded(log, place_of(run))
        assert await rows_held(reader, log, run.run_id) == await rows_folded(log, run.run_id)
    ((rows,),) = await reader.fetch("SELECT count(*) FROM runs")
    assert rows == len(runs)


async def test_invariant_8_the_views_are_the_fold_of_the_log(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    async with projecting(projections(database, log)):
        runs = await some_runs(log, 12)
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, runs)


async def test_invariant_8_views_equal_the_fold_whatever_the_batches(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    """Cut after every number of events, also in the middle of one append."""
    runs = await some_runs(log, 6)
    some = projections(database, log)
    for one in some:
        sizes = iter([1, 2, 3, 5, 7] * 100)
        while await one.advance(next(sizes)):
            pass
        await one.close()

    assert await are_caught_up(reader)
    await assert_views_are_the_fold(reader, log, runs)


async def test_two_projectors_at_once_take_each_event_once(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    one, two = projections(database, log), projections(database, log)

    async def race(projection: Projection) -> int:
        taken = 0
        while await projection.is_behind():
            taken += await projection.advance(3)
        return taken

    runs = await some_runs(log, 12)
    taken = await asyncio.gather(*(race(projection) for projection in (*one, *two)))
    ((events,),) = await reader.fetch("SELECT count(*) FROM stored_events")

    for by_one, by_two in zip(taken[: len(one)], taken[len(one) :], strict=True):
        assert by_one + by_two == events
    await assert_views_are_the_fold(reader, log, runs)
    for projection in (*one, *two):
        await projection.close()


class Killed:
    """A view whose connection dies after its rows were written, before the commit."""

    def __init__(self, view: View, times: int) -> None:
        self._view = view
        self._times = times
        self.name = view.name
        self.columns = view.columns
        self.key = view.key
        self.looks_into = view.looks_into
        self.needs_content = view.needs_content

    async def apply(
        self, connection: Connection, batch: Sequence[Recorded], table: str, keys: Keys
    ) -> None:
        await self._view.apply(connection, batch, table, keys)
        if self._times:
            self._times -= 1
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_a_projector_killed_before_its_commits_leaves_nothing_half_done(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    runs = await some_runs(log, 6)
    for view in all_views():
        projection = Projection(Secret(database.url), Killed(view, times=3), log.data_keys)
        deaths = 0
        while await projection.is_behind():
            try:
                await projection.advance(10)
            except StoreUnavailable:
                deaths += 1
        await projection.close()
        assert deaths == 3

    await assert_views_are_the_fold(reader, log, runs)


async def test_a_projector_cancelled_again_and_again_comes_through(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    runs = await some_runs(log, 6)
    for projection in projections(database, log):
        while await projection.is_behind():
            task = asyncio.create_task(projection.advance(7))
            done, _ = await asyncio.wait({task}, timeout=0.005)
            if not done:
                task.cancel()
                await asyncio.wait({task})
        await projection.close()

    await assert_views_are_the_fold(reader, log, runs)


async def test_a_restart_of_postgresql_is_survived(
    own_servers: Servers, own_database: Database
) -> None:
    url = Secret(own_database.url)
    reader = ReconnectingConnection(url, name="reader")
    async with (
        open_log(url, SECRETS, CLOCK) as log,
        projecting(projections(own_database, log)) as task,
    ):
        before = await some_runs(log, 3)
        await until(lambda: are_caught_up(reader))
        await asyncio.to_thread(own_servers.postgres.stop, at_once=True)
        await asyncio.to_thread(own_servers.postgres.start)
        after = await some_runs(log, 3)
        await until(lambda: are_caught_up(reader))

        await assert_views_are_the_fold(reader, log, [*before, *after])
        assert not task.done()
    await reader.close()


async def test_a_poison_event_stops_its_view_alone_and_ops_see_where_and_why(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    """Content that cannot be unsealed concerns the messages; the list of runs goes on."""
    first, second = Run(log), Run(log)
    await first.finish()
    await second.start()
    poison = (await second.do(builders.text_step(second.stream.state, "secret words")))[0]
    await second.do(c.CompleteRun(attempt=Attempt(1)))
    with psycopg.connect(database.admin_url) as owner:
        owner.execute(
            "UPDATE stored_events SET state = convert_to(regexp_replace("
            "convert_from(state, 'UTF8'), '\"sealed\":\"....', '\"sealed\":\"AAAA'), 'UTF8')"
            " WHERE notification_id = %s",
            [poison.position],
        )

    async with projecting(projections(database, log)):

        async def stopped() -> Checkpoint | None:
            rows = {one.name: one for one in await checkpoints(reader)}
            return rows["messages"] if rows["messages"].stopped_at else None

        state = await until(stopped)
        assert state is not None
        assert state.stopped_position == poison.position
        assert state.position < poison.position
        assert f"event {poison.version} of run {second.run_id}" in str(state.stopped_error)
        assert "secret words" not in str(state.stopped_error)

        third = Run(log)
        await third.finish()
        last = third.stream.state.version

        async def the_list_went_on() -> bool:
            row, _ = await shown(reader, log, place_of(third))
            return row is not None and row.version == last

        await until(the_list_went_on)
        assert (await shown(reader, log, place_of(first)))[1] != ()


async def test_an_unknown_tag_is_not_skipped_and_a_release_that_knows_it_goes_on(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    run = Run(log)
    await run.start()
    rename = (
        "UPDATE stored_events SET topic = %(new)s, state = convert_to(replace("
        "convert_from(state, 'UTF8'), %(old)s, %(new)s), 'UTF8')"
        " WHERE originator_id = %(run)s AND topic = %(old)s"
    )
    with psycopg.connect(database.admin_url) as owner:
        names = {"old": "run.started.v1", "new": "run.started.v9", "run": run.run_id}
        owner.execute(rename, names)
    projection = projection_of("runs", database, log)
    assert await projection.advance(100) == 3
    with pytest.raises(FoldFailed, match=r"run\.started\.v9.*UnknownEvent") as caught:
        await projection.advance(100)
    assert caught.value.events == 1
    await projection.stop(caught.value)
    assert (await checkpoint_of("runs", reader)).stopped_position == caught.value.position

    with psycopg.connect(database.admin_url) as owner:
        owner.execute(rename, {"old": names["new"], "new": names["old"], "run": run.run_id})
    assert await projection.advance(100) == 1
    assert (await checkpoint_of("runs", reader)).stopped_position is None
    await projection.close()


async def test_a_stop_that_another_projector_has_passed_is_not_shown(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    """In a rolling deployment the old release stops where the new one does not."""
    run = Run(log)
    await run.start()
    projection = projection_of("runs", database, log)
    assert await projection.advance(100) == 4
    last = (await log.read(run.run_id))[-1]
    row = StoredRow(run.run_id, last.version, last.type, b"", last.position)
    await projection.stop(FoldFailed([row], ValueError()))

    assert (await checkpoint_of("runs", reader)).stopped_at is None
    await projection.close()


async def test_a_view_that_no_migration_knows_is_told_by_name(
    database: Database, log: PostgresEventLog
) -> None:
    class Unknown(RunsView):
        name = "unknown"  # type: ignore[misc]

    projection = Projection(Secret(database.url), Unknown(), log.data_keys)
    with pytest.raises(NoCheckpoint, match="unknown"):
        await projection.is_behind()
    with pytest.raises(NoCheckpoint, match="unknown"):
        await projection.advance(1)
    await projection.close()


async def test_invariant_6_the_messages_view_holds_no_plain_content(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    run = Run(log)
    await run.finish("canary sentence")
    async with projecting(projections(database, log)):
        await until(lambda: are_caught_up(reader))
    (_, assistant) = (await shown(reader, log, place_of(run)))[1]
    rows = await reader.fetch("SELECT encode(sealed, 'escape'), to_jsonb(m)::text FROM messages m")

    assert any("canary" in str(part) for part in assistant.message["parts"])
    assert "canary" not in str(rows)
    assert "Say hello" not in str(rows)


async def test_an_erased_account_stops_no_view_and_leaves_nothing_to_rebuild(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    gone, stays = Run(log), Run(log)
    await gone.start()
    runs_view = projection_of("runs", database, log)
    messages_view = projection_of("messages", database, log)
    await messages_view.advance(100)
    with psycopg.connect(database.admin_url) as owner:
        owner.execute(
            "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now()"
            " WHERE account_id = %s",
            [gone.account_id],
        )
    log.data_keys.forget(gone.account_id)
    await gone.do(builders.text_step(gone.stream.state, "after the erasure"))
    await gone.do(c.CompleteRun(attempt=Attempt(1)))
    await stays.finish()

    for again in (False, True):
        if again:
            with psycopg.connect(database.admin_url) as owner:
                owner.execute("TRUNCATE messages")
                owner.execute("UPDATE checkpoints SET position = 0 WHERE name = 'messages'")
        while await messages_view.advance(100):
            pass
        assert (await shown(reader, log, place_of(gone)))[1] == ()
        assert (await shown(reader, log, place_of(stays)))[1] != ()
    ((left,),) = await reader.fetch(
        "SELECT count(*) FROM messages WHERE account_id = %s", (gone.account_id,)
    )
    assert left == 0
    await runs_view.advance(100)
    assert await shown(reader, log, place_of(gone)) == (summarize(await log.read(gone.run_id)), ())
    await runs_view.close()
    await messages_view.close()


async def test_rows_that_an_erasure_deletes_stop_no_projector_that_has_the_key_in_memory(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    """As `erase_account.py --force` does with a live run, and tells no process."""
    gone, stays = Run(log), Run(log)
    await gone.start()
    await stays.start()
    messages_view = projection_of("messages", database, log)
    assert await messages_view.advance(100) == 8
    await stays.do(builders.text_step(stays.stream.state, "before"))
    await gone.do(builders.text_step(gone.stream.state, "on its way"))
    await gone.do(c.CompleteRun(attempt=Attempt(1)))
    await stays.do(c.CompleteRun(attempt=Attempt(1)))
    with psycopg.connect(database.admin_url) as owner:
        owner.execute(
            "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now()"
            " WHERE account_id = %s",
            [gone.account_id],
        )
        owner.execute("DELETE FROM messages WHERE account_id = %s", [gone.account_id])

    assert await messages_view.advance(100) > 0
    assert await are_caught_up_with("messages", reader)
    assert (await shown(reader, log, place_of(gone)))[1] == ()
    assert (await shown(reader, log, place_of(stays)))[1] == (await folded(log, place_of(stays)))[1]
    await messages_view.close()


async def test_a_page_is_newest_first_filtered_and_goes_on_where_it_ended(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    account, chat = new_account_id(), new_chat_id()
    mine = [Run(log, account_id=account) for _ in range(3)]
    mine.append(Run(log, account_id=account, chat_id=chat))
    for run in mine:
        await run.do(run.request())
    await mine[0].do(c.RequestCancel(by="client", why="test"))
    await Run(log).finish()
    async with projecting(projections(database, log)):
        await until(lambda: are_caught_up(reader))

    newest = [run.run_id for run in reversed(mine)]
    first = await page(reader, account, limit=3)
    assert [row.run_id for row in first] == newest[:3]
    rest = await page(reader, account, limit=3, before=first[-1].requested_position)
    assert [row.run_id for row in rest] == newest[3:]
    cancelled = await page(reader, account, limit=3, status="cancelled")
    assert [row.run_id for row in cancelled] == newest[3:]
    assert [row.run_id for row in await page(reader, account, limit=3, chat_id=chat)] == newest[:1]
    assert await page(reader, new_account_id(), limit=3) == ()


@pytest.mark.parametrize("status", [None, "failed"])
@pytest.mark.parametrize("chat", [None, new_chat_id()])
@pytest.mark.parametrize("before", [None, Position(9)])
def test_a_page_is_read_by_an_index_and_never_sorted(
    database: Database, status: Status | None, chat: ChatId | None, before: Position | None
) -> None:
    sql, values = page_query(new_account_id(), limit=20, status=status, chat_id=chat, before=before)
    with psycopg.connect(database.admin_url, options="-c enable_seqscan=off") as owner:
        plan = owner.execute(b"EXPLAIN " + sql.encode(), values).fetchall()
    text = "\n".join(line for (line,) in plan)

    assert "Index Scan Backward" in text
    assert "Sort" not in text
