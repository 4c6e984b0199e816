"""What goes wrong with one view stops that view alone, is told, and mends itself when it can."""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import psycopg
import pytest
from msgspec.structs import replace
from psycopg import errors

from runs_domain import commands as c
from runs_domain.errors import StoreUnavailable
from runs_domain.events import Completed
from runs_domain.ids import Attempt, Position, RunId
from runs_domain.ports import Recorded
from runs_domain.read_models import MessageRow
from runs_domain.run import decide
from runs_domain.settings import Secret
from runs_domain.storage import messages_view
from runs_domain.storage import projection as projection_module
from runs_domain.storage.connection import Connection, ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.log_window import LogWindow
from runs_domain.storage.messages_view import MessagesView
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.projection import Checkpoint, FoldFailed, Projection, checkpoints
from runs_domain.storage.runs_view import RunsView
from runs_domain.storage.view import Keys, View
from runs_domain.storage.views import all_views, named
from tests.support import builders
from tests.support.log_streams import Run
from tests.support.servers import Database
from tests.support.views import are_caught_up, projecting, rows_folded, rows_held
from tests.support.waiting import until
from workers import projector
from workers.projector import BATCH_EVENTS_MAX, Projector, all_projections

CLOCK = SystemClock()
SWAP = """
    CREATE TABLE shadow (LIKE {name} INCLUDING ALL);
    INSERT INTO shadow SELECT * FROM {name};
    GRANT SELECT, INSERT, UPDATE, DELETE ON shadow TO runledger_service;
    ALTER TABLE {name} RENAME TO {old};
    ALTER TABLE shadow RENAME TO {name}"""
VIEWS = ("credits", "messages", "runs", "sandboxes")
PASSING = (
    errors.DeadlockDetected(),
    errors.SerializationFailure(),
    errors.LockNotAvailable(),
    errors.QueryCanceled(),
    errors.DiskFull(),
    errors.OutOfMemory(),
    errors.ReadOnlySqlTransaction(),
    errors.UndefinedTable(),
    errors.AdminShutdown(),
    StoreUnavailable("down"),
    MemoryError(),
    OSError(errno.ENOSPC, "disk full"),
)


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as one:
        yield one


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STOPPED_RETRY_SECONDS", "MIGRATION_RETRY_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(projector, name, 0.02)


async def by_name(reader: ReconnectingConnection) -> dict[str, Checkpoint]:
    return {one.name: one for one in await checkpoints(reader)}


async def assert_views_are_the_fold(
    reader: ReconnectingConnection, log: PostgresEventLog, runs: Sequence[Run]
) -> None:
    for run in runs:
        assert await rows_held(reader, log, run.run_id) == await rows_folded(log, run.run_id)


async def is_caught_up(reader: ReconnectingConnection, name: str) -> bool:
    ((last,),) = await reader.fetch("SELECT max(notification_id) FROM stored_events")
    return (await by_name(reader))[name].position == last


async def finished(log: PostgresEventLog, count: int) -> list[Run]:
    runs = [Run(log) for _ in range(count)]
    await asyncio.gather(*(run.finish() for run in runs))
    return runs


class Picky:
    """A view that does what it is told to at its next `apply`."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.name = view.name
        self.columns = view.columns
        self.key = view.key
        self.looks_into = view.looks_into
        self.needs_content = view.needs_content
        self.rows_of = view.rows_of
        self.comparable = view.comparable
        self.poison: set[Position] = set()
        self.raises: list[Exception] = []
        self.batches: list[int] = []
        self.events_max = BATCH_EVENTS_MAX
        """More of them at once are never done."""

    async def apply(
        self, connection: Connection, batch: Sequence[Recorded], table: str, keys: Keys
    ) -> None:
        self.batches.append(len(batch))
        if len(batch) > self.events_max:
            await connection.execute("SELECT pg_sleep(600)")
        await self._view.apply(connection, batch, table, keys)
        if self.raises:
            raise self.raises.pop()
        if self.poison & {one.position for one in batch}:
            raise KeyError("canary")


def picky_projections(
    database: Database, log: PostgresEventLog
) -> tuple[dict[str, Picky], tuple[Projection, ...]]:
    url = Secret(database.url)
    window = LogWindow(url)
    picky = {view.name: Picky(view) for view in all_views()}
    return picky, tuple(Projection(url, one, log.data_keys, window) for one in picky.values())


@pytest.mark.parametrize("name", ["credits", "messages"])
async def test_an_event_that_one_fold_cannot_take_stops_that_view_alone(
    name: str,
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is found among many that are folded together, and everything before it is in the view."""
    runs = await finished(log, 8)
    picky, some = picky_projections(database, log)
    run = runs[5]
    ending = (await log.read(run.run_id))[-3]
    picky[name].poison = {ending.position}

    async with projecting(some):

        async def stopped() -> Checkpoint | None:
            one = (await by_name(reader))[name]
            return one if one.stopped_at is not None else None

        state = await until(stopped)
        assert state is not None
        assert state.stopped_position == ending.position
        event = f"event {ending.version} of run {run.run_id} ({ending.type})"
        assert state.stopped_error == f"{event}: KeyError"
        ((left,),) = await reader.fetch(
            "SELECT count(*) FROM stored_events"
            " WHERE notification_id > %s AND notification_id < %s",
            (state.position, state.stopped_position),
        )
        assert left == 0

        def tried_again() -> bool:
            return picky[name].batches[-3:] == [1, 1, 1]

        await until(tried_again)
        runs += await finished(log, 2)
        ((last,),) = await reader.fetch("SELECT max(notification_id) FROM stored_events")

        async def the_others_went_on() -> bool:
            at = {one.name for one in await checkpoints(reader) if one.position == last}
            return at == set(VIEWS) - {name}

        await until(the_others_went_on)
        assert (await by_name(reader))[name] == state  # `stopped_at` too: since when, not how often
        assert sum("is stopped" in message for message in caplog.messages) == 1
        assert "canary" not in caplog.text

        picky[name].poison = set()
        await until(lambda: are_caught_up(reader))
        assert (await by_name(reader))[name].stopped_at is None
        await assert_views_are_the_fold(reader, log, runs)


async def test_an_unknown_tag_stops_every_view_there_and_a_release_that_knows_it_goes_on(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    owner: psycopg.AsyncConnection[Any],
) -> None:
    """Only the newer release can tell which views it concerns."""
    runs = await finished(log, 3)
    unknown = (await log.read(runs[1].run_id))[3]
    retag = (
        "UPDATE stored_events SET topic = %(new)s, state = convert_to(replace("
        "convert_from(state, 'UTF8'), %(old)s, %(new)s), 'UTF8') WHERE notification_id = %(place)s"
    )
    names = {"old": "run.started.v1", "new": "run.started.v9", "place": unknown.position}
    await owner.execute(retag, names)

    async with projecting(all_projections(Secret(database.url), log.data_keys)):

        async def all_stopped() -> bool:
            places = {one.stopped_position for one in await checkpoints(reader)}
            return places == {unknown.position}

        await until(all_stopped)
        for one in await checkpoints(reader):
            assert "UnknownEvent" in str(one.stopped_error)
            assert "run.started.v9" in str(one.stopped_error)

        await owner.execute(retag, names | {"old": names["new"], "new": names["old"]})
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, runs)


async def test_content_that_cannot_be_opened_is_read_again_until_it_is_mended(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    owner: psycopg.AsyncConnection[Any],
) -> None:
    runs = await finished(log, 2)
    place = (await log.read(runs[0].run_id))[0].position
    was = await owner.execute("SELECT state FROM stored_events WHERE notification_id = %s", [place])
    ((state,),) = await was.fetchall()
    put = "UPDATE stored_events SET state = %s WHERE notification_id = %s"
    await owner.execute(put, [state.replace(b'"sealed":"', b'"sealed":"AAAA'), place])

    async with projecting(all_projections(Secret(database.url), log.data_keys)):

        async def messages_stopped() -> bool:
            stopped = {one.name: one.stopped_position for one in await checkpoints(reader)}
            return stopped == dict.fromkeys(VIEWS) | {"messages": place}

        await until(messages_stopped)
        await owner.execute(put, [state, place])
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, runs)


async def test_trouble_that_passes_is_never_taken_for_a_poison_event(
    database: Database, log: PostgresEventLog, reader: ReconnectingConnection
) -> None:
    run = Run(log)
    await run.do(run.request())
    view = Picky(RunsView())
    projection = Projection(Secret(database.url), view, log.data_keys)
    for error in PASSING:
        view.raises = [error]

        with pytest.raises(StoreUnavailable):
            await projection.advance(100)
        state = (await by_name(reader))["runs"]
        assert (state.position, state.stopped_at) == (0, None), error
        assert (await rows_held(reader, log, run.run_id))["runs"] == []

    assert await projection.advance(100) == 1
    await projection.close()


DAMAGES = {
    "runs": "DELETE FROM runs WHERE run_id = %s",
    "messages": "DELETE FROM messages WHERE run_id = %s",
    "messages, the assistant's": "DELETE FROM messages WHERE run_id = %s AND place = 1",
    "messages, sealed anew": "UPDATE messages SET sealed = 'changed' WHERE run_id = %s",
    "credits": "DELETE FROM credits WHERE run_id = %s",
    "sandboxes": "DELETE FROM sandboxes WHERE run_id = %s",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_row_of_a_view_that_is_gone_or_changed_is_told_as_the_views_and_not_the_logs_fault(
    damage: str,
    database: Database,
    log: PostgresEventLog,
    owner: psycopg.AsyncConnection[Any],
) -> None:
    name, *_ = damage.split(",")
    (view,) = named([name])
    projection = Projection(Secret(database.url), view, log.data_keys)
    run = Run(log)
    await run.do(run.request(credits_reserved=10))
    assert await projection.advance(100) == 1
    assert (await owner.execute(DAMAGES[damage].encode(), [run.run_id])).rowcount

    await go_on(run, charged=3)
    with pytest.raises(FoldFailed, match=f"ViewDamaged: {name} .* run {run.run_id}"):
        await all_taken(projection)


async def all_taken(projection: Projection) -> None:
    """One event at a time."""
    try:
        while await projection.advance(1):
            pass
    finally:
        await projection.close()


async def go_on(run: Run, *, charged: int) -> None:
    """From its request to the release of its sandbox; nothing of the product moves credits yet."""
    mint, row = run.mint()
    await run.do(builders.provisioned(), mint, builders.start(), mint=row)
    await run.do(builders.text_step(run.stream.state))
    made = decide(run.stream.state, c.CompleteRun(attempt=Attempt(1)))
    ending = [
        replace(one, credits_charged=charged) if isinstance(one, Completed) else one for one in made
    ]
    await run.append(run.append_of(*ending))
    await run.do(c.RecordSandboxReleased(found=False))


async def test_long_messages_that_small_events_change_are_never_all_in_memory(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each event has the whole message of its run opened, changed and sealed anew."""
    projection = Projection(Secret(database.url), MessagesView(), log.data_keys)
    runs = [Run(log) for _ in range(8)]
    for length, run in zip((500, 900, 20_000, 1_200, 1_200, 100, 100, 100), runs, strict=True):
        await run.start()
        await run.do(builders.text_step(run.stream.state, "a" * length))
    while await projection.advance(100):
        pass
    for run in runs:
        await run.do(c.CompleteRun(attempt=Attempt(1)))

    groups = opened_together(monkeypatch)
    monkeypatch.setattr(messages_view, "GROUP_BYTES_MAX", 2_000)
    assert await projection.advance(100) == 2 * len(runs)
    await projection.close()

    assert len(groups) > 2
    assert sum(len(sizes) for sizes in groups) == len(runs)
    assert max(len(sizes) for sizes in groups) > 1
    for sizes in groups:
        assert sum(sizes[:-1]) < messages_view.GROUP_BYTES_MAX
    for run in runs:
        held, made = await rows_held(reader, log, run.run_id), await rows_folded(log, run.run_id)
        assert held["messages"] == made["messages"]


def opened_together(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """By group, how many bytes each of its messages has, from now on."""
    groups: list[list[int]] = []
    given = messages_view._assistants

    async def watched(*arguments: Any) -> Mapping[RunId, MessageRow]:
        known = await given(*arguments)
        groups.append([len(msgspec.json.encode(row.message)) for row in known.values()])
        return known

    monkeypatch.setattr(messages_view, "_assistants", watched)
    return groups


@pytest.mark.parametrize(("reserved", "charged"), [(10, 3), (10, 0), (0, 0)])
async def test_a_run_is_no_damage_whatever_credits_it_moves(
    reserved: int,
    charged: int,
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
) -> None:
    """A request that reserves nothing leaves no row in `credits`."""
    run = Run(log)
    await run.do(run.request(credits_reserved=reserved))
    await go_on(run, charged=charged)
    for projection in all_projections(Secret(database.url), log.data_keys):
        await all_taken(projection)

    assert await are_caught_up(reader)
    await assert_views_are_the_fold(reader, log, [run])


@pytest.mark.parametrize(
    ("error", "shrinks"),
    [
        (MemoryError(), True),
        (errors.OutOfMemory(), True),
        (errors.QueryCanceled(), True),
        (StoreUnavailable("down"), False),
        (errors.AdminShutdown(), False),
        (errors.LockNotAvailable(), False),
        (errors.DiskFull(), False),
    ],
)
async def test_a_batch_that_takes_too_much_is_halved_and_one_that_met_a_database_in_trouble_is_not(
    error: Exception, shrinks: bool, database: Database, log: PostgresEventLog
) -> None:
    await finished(log, 4)
    view = Picky(RunsView())
    projection = Projection(Secret(database.url), view, log.data_keys)
    one = Projector(projection, CLOCK, CLOCK.sleep)
    view.raises = [error] * 2
    while await projection.is_behind():
        await one._round()
    await projection.close()

    first = view.batches[0]
    halved = [first, first // 2, first // 4, first // 2]
    assert view.batches[:4] == (halved if shrinks else [first] * 3)


async def test_what_takes_too_long_at_once_is_taken_in_pieces_and_a_poison_event_in_it_is_found(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projection_module, "BATCH_SECONDS_MAX", 0.5)
    monkeypatch.setattr(projector, "GROWING_SECONDS_MAX", 0.0)
    runs = await finished(log, 4)
    view = Picky(RunsView())
    view.events_max = 10
    poison = (await log.read(runs[2].run_id))[4].position
    view.poison = {poison}

    async with projecting([Projection(Secret(database.url), view, log.data_keys)]):

        async def stopped() -> bool:
            return (await by_name(reader))["runs"].stopped_position == poison

        await until(stopped)
        view.poison = set()
        await until(lambda: is_caught_up(reader, "runs"))
    for run in runs:
        held, made = await rows_held(reader, log, run.run_id), await rows_folded(log, run.run_id)
        assert held["runs"] == made["runs"]


async def test_a_row_that_the_table_refuses_stops_its_view_at_the_event(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    owner: psycopg.AsyncConnection[Any],
) -> None:
    """What PostgreSQL itself says no to comes back when all is sent; it is not lost on the way."""
    await owner.execute("ALTER TABLE runs ADD CONSTRAINT odd CHECK (model <> 'odd')")
    runs = await finished(log, 3)
    odd = Run(log)
    (refused,) = await odd.do(odd.request(model="odd"))
    runs += await finished(log, 3)

    async with projecting(all_projections(Secret(database.url), log.data_keys)):

        async def runs_stopped() -> Checkpoint | None:
            one = (await by_name(reader))["runs"]
            return one if one.stopped_at is not None else None

        state = await until(runs_stopped)
        assert state is not None
        assert state.stopped_position == refused.position
        assert str(state.stopped_error).endswith("CheckViolation 23514")

        await owner.execute("ALTER TABLE runs DROP CONSTRAINT odd")
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, [*runs, odd])


async def test_a_locked_table_holds_its_view_alone(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    owner: psycopg.AsyncConnection[Any],
) -> None:
    async with projecting(all_projections(Secret(database.url), log.data_keys)):
        async with owner.transaction():
            await owner.execute("LOCK TABLE messages IN SHARE MODE")
            runs = await finished(log, 3)
            ((last,),) = await reader.fetch("SELECT max(notification_id) FROM stored_events")

            async def the_others_went_on() -> bool:
                at = {one.name for one in await checkpoints(reader) if one.position == last}
                return at == set(VIEWS) - {"messages"}

            await until(the_others_went_on)
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, runs)


async def test_a_table_that_another_takes_the_place_of_loses_and_doubles_nothing(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    owner: psycopg.AsyncConnection[Any],
) -> None:
    """As a rebuild does it: under the checkpoint's lock, between two batches."""
    runs: list[Run] = []
    writing = True

    async def write() -> None:
        while writing:
            runs.extend(await finished(log, 2))

    async with projecting(all_projections(Secret(database.url), log.data_keys)):
        writer = asyncio.create_task(write())
        for name in VIEWS * 2:
            shown = len(runs)
            await until(lambda shown=shown: len(runs) > shown)
            async with owner.transaction():
                await owner.execute("SELECT FROM checkpoints WHERE name = %s FOR UPDATE", [name])
                await owner.execute(SWAP.format(name=name, old=f"{name}_{shown}").encode())
        writing = False
        await writer
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, runs)
        assert {one.stopped_at for one in await checkpoints(reader)} == {None}


async def test_a_view_whose_checkpoint_is_set_back_is_filled_again(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    owner: psycopg.AsyncConnection[Any],
) -> None:
    runs = await finished(log, 3)
    async with projecting(all_projections(Secret(database.url), log.data_keys)):
        await until(lambda: are_caught_up(reader))
        async with owner.transaction():
            await owner.execute("UPDATE checkpoints SET position = 0")
            await owner.execute("TRUNCATE runs, messages, credits, sandboxes")
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, runs)


async def test_a_view_that_the_database_was_not_migrated_to_waits_and_the_others_go_on(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    owner: psycopg.AsyncConnection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await owner.execute("DELETE FROM checkpoints WHERE name = 'sandboxes'")
    runs = await finished(log, 2)
    async with projecting(all_projections(Secret(database.url), log.data_keys)):
        await until(lambda: are_caught_up(reader))
        await until(lambda: "view sandboxes waits for a migration" in caplog.text)
        assert len(await checkpoints(reader)) == 3

        await owner.execute("INSERT INTO checkpoints (name) VALUES ('sandboxes')")
        await until(lambda: are_caught_up(reader))
        await assert_views_are_the_fold(reader, log, runs)


async def test_invariant_8_a_commit_whose_reply_is_lost_is_not_made_twice(
    database: Database,
    log: PostgresEventLog,
    reader: ReconnectingConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = await finished(log, 4)
    for projection in all_projections(Secret(database.url), log.data_keys):
        run = projection._connection.run

        async def lost(
            work: Callable[[Connection], Awaitable[Any]],
            run: Callable[..., Awaitable[Any]] = run,
            **options: Any,
        ) -> Any:
            done = await run(work, **options)
            if isinstance(done, int):  # a batch; a look-up gives rows
                raise StoreUnavailable("the reply was lost")
            return done

        with monkeypatch.context() as patched:
            patched.setattr(projection._connection, "run", lost)
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await projection.advance(5)
        while await projection.advance(5):
            pass
        await projection.close()

    assert await are_caught_up(reader)
    await assert_views_are_the_fold(reader, log, runs)
