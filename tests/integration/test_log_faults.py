"""The log when connections break, replies get lost and the server dies: nothing lost or doubled."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from msgspec.structs import replace
from typing_extensions import override

from runs_domain import commands as c
from runs_domain.errors import AppendRefused, StoreUnavailable, VersionConflict
from runs_domain.handle import load
from runs_domain.ids import Attempt, Position
from runs_domain.ports import Append
from runs_domain.settings import Secret
from runs_domain.storage import codec
from runs_domain.storage.batch_call import CALL, Encoded, Receipt, parameters
from runs_domain.storage.connection import Connection
from runs_domain.storage.identity import SystemClock, new_account_id
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from tests.support import builders
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database
from tests.support.waiting import until
from workers.stack.servers import Servers

LOG_LOCK = 125848689340263
WRITERS = 16


def opened(
    url: str, *, append_wait_seconds: float = 30.0
) -> AbstractAsyncContextManager[PostgresEventLog]:
    return open_log(Secret(url), SECRETS, SystemClock(), append_wait_seconds=append_wait_seconds)


def take_over(run: Run) -> c.ResumeRun:
    """A command that can follow itself for ever, and whose doubling would show."""
    return c.ResumeRun(attempt=Attempt(run.stream.state.attempt + 1), reason="handover")


async def check_stream(log: PostgresEventLog, run: Run) -> None:
    """What was acknowledged is there, once, and nothing else."""
    stream = await log.read(run.run_id)
    assert [one.version for one in stream] == list(range(1, len(stream) + 1))
    assert await load(log, run.run_id) == run.stream


def waiting_for_the_lock(admin: "psycopg.Connection[tuple[int]]") -> Callable[[int], bool]:
    def condition(count: int) -> bool:
        row = admin.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
        ).fetchone()
        assert row is not None
        return row[0] >= count

    return condition


@pytest.mark.parametrize("fault", ["lose_request", "lose_reply"])
async def test_a_broken_connection_is_no_failure_and_doubles_nothing(
    database: Database, fault: Fault
) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        run = Run(log)
        await run.start()
        proxy.arm(fault)
        written = await run.do(take_over(run))

        assert proxy.faults == 1
        assert [one.version for one in written] == [5]
        assert await log.read(run.run_id, after=written[0].version) == ()
        await check_stream(log, run)


async def test_a_lost_reply_still_tells_each_append_of_the_batch_its_own_outcome(
    database: Database,
) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        runs = [Run(log) for _ in range(6)]
        for run in runs:
            await run.do(run.request())
        stale = [run.decided(take_over(run)) for run in runs[:3]]
        for run in runs[:3]:
            await run.do(take_over(run))
        proxy.arm("lose_reply")
        results = await asyncio.gather(
            *(log.append(append) for append in stale),
            *(run.do(take_over(run)) for run in runs[3:]),
            return_exceptions=True,
        )

        assert proxy.faults == 1
        assert [type(one) for one in results] == [VersionConflict] * 3 + [tuple] * 3
        for run in runs:
            await check_stream(log, run)


async def test_invariant_3_of_two_equal_takeovers_one_is_told_that_it_lost_also_by_a_lost_reply(
    database: Database,
) -> None:
    async with (
        FaultProxy(database.url) as proxy,
        opened(proxy.url) as slow,
        opened(database.url) as fast,
    ):
        run, rival = Run(slow), Run(fast)
        await run.start()
        rival.run_id, rival.stream, rival.account_id = run.run_id, run.stream, run.account_id
        same = run.decided(take_over(run))
        assert same == rival.decided(take_over(run))
        await rival.append(same)
        proxy.arm("lose_reply")

        with pytest.raises(VersionConflict):
            await run.append(same)
        assert proxy.faults == 1


class HeldClock(SystemClock):
    """Pauses end when they are let."""

    def __init__(self) -> None:
        self.pauses = 0
        self.go_on = asyncio.Event()

    @override
    async def sleep(self, seconds: float) -> None:
        self.pauses += 1
        await self.go_on.wait()


async def test_appends_that_were_in_doubt_and_given_up_slow_down_no_others(
    database: Database,
) -> None:
    clock = HeldClock()
    async with (
        FaultProxy(database.url) as proxy,
        open_log(Secret(proxy.url), SECRETS, clock, append_wait_seconds=30.0) as log,
    ):
        runs = [Run(log) for _ in range(12)]
        for run in runs:
            await run.start()
        proxy.arm("lose_request")
        given_up = [asyncio.ensure_future(run.do(take_over(run))) for run in runs[:4]]
        await until(lambda: clock.pauses == 1)
        for append in given_up:
            append.cancel()
        await asyncio.wait(given_up)
        before = log._appender._receipts.number
        others = asyncio.gather(*(run.do(take_over(run)) for run in runs[4:]))
        await until(lambda: len(log._appender._queue) == 12)
        clock.go_on.set()
        await others

        assert log._appender._receipts.number == before + 1


async def test_a_request_that_the_server_still_works_on_is_settled_not_sent_twice(
    database: Database,
) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        run = Run(log)
        await run.start()
        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            waits = waiting_for_the_lock(admin)
            admin.execute("SELECT pg_advisory_lock(%s)", [LOG_LOCK])
            proxy.arm("leave")
            append = asyncio.ensure_future(run.do(take_over(run)))
            # The one that was left, and the one that asks what became of it.
            await until(lambda: waits(2))
            admin.execute("SELECT pg_advisory_unlock(%s)", [LOG_LOCK])
        written = await append

        assert [one.version for one in written] == [5]
        await check_stream(log, run)


async def test_broken_connections_under_load_lose_and_double_nothing(database: Database) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        account = new_account_id()
        runs = [Run(log, account_id=account) for _ in range(WRITERS)]
        writing = asyncio.gather(*(_write(run, 40) for run in runs))
        faults: tuple[Fault, ...] = ("lose_reply", "lose_request", "lose_reply")
        for number, fault in enumerate(faults * 3, start=1):
            proxy.arm(fault)
            await until(lambda: proxy.faults >= number or writing.done())  # noqa: B023
        await writing

        assert proxy.faults == 9
        for run in runs:
            await check_stream(log, run)


async def _write(run: Run, appends: int) -> None:
    await run.start()
    for _ in range(appends):
        await run.do(take_over(run))


async def test_a_crash_of_the_server_under_load_loses_and_doubles_nothing(
    own_servers: Servers, own_database: Database
) -> None:
    async with opened(own_database.url) as log, opened(own_database.url) as other:
        account = new_account_id()
        runs = [Run((log, other)[n % 2], account_id=account) for n in range(WRITERS)]
        stop = asyncio.Event()
        writing = asyncio.gather(*(_write_until(run, stop) for run in runs))
        for _ in range(3):
            before = [run.stream.state.version for run in runs]
            await until(
                lambda: all(
                    run.stream.state.version > version + 5
                    for run, version in zip(runs, before, strict=True)  # noqa: B023
                )
            )
            await asyncio.to_thread(own_servers.postgres.stop, at_once=True)
            await asyncio.to_thread(own_servers.postgres.start)
        stop.set()
        await writing

        for run in runs:
            await check_stream(log, run)
        positions = [one.position for run in runs for one in await log.read(run.run_id)]
        assert len(set(positions)) == len(positions)


async def _write_until(run: Run, stop: asyncio.Event) -> None:
    await run.start()
    while not stop.is_set():
        await run.do(take_over(run))


async def test_a_bad_append_does_not_take_the_others_of_its_batch_with_it(
    database: Database,
) -> None:
    async with opened(database.url) as log:
        good, bad = [Run(log) for _ in range(8)], Run(log)
        for run in (*good, bad):
            await run.do(run.request())
        mint, row = bad.mint()
        broken = bad.decided(builders.provisioned(), mint, mint=replace(row, ttl_seconds=2**40))
        results = await asyncio.gather(
            *(run.do(take_over(run)) for run in good[:4]),
            log.append(broken),
            *(run.do(take_over(run)) for run in good[4:]),
            return_exceptions=True,
        )

        refusal = results.pop(4)
        assert isinstance(refusal, AppendRefused)
        assert "22003" in str(refusal)
        assert all(isinstance(one, tuple) for one in results)
        for run in (*good, bad):
            await check_stream(log, run)


async def test_while_the_server_is_away_appends_are_refused_in_time_and_never_land_later(
    database: Database,
) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url, append_wait_seconds=0.3) as log:
        run = Run(log)
        await run.start()
        await proxy.refuse()
        with pytest.raises(StoreUnavailable):
            await run.do(take_over(run))
        with pytest.raises(StoreUnavailable):
            await log.read(run.run_id)
        with pytest.raises(StoreUnavailable):
            await log.head(run.run_id)
        await proxy.listen()
        await until(lambda: _succeeds(lambda: log.read(run.run_id)))
        after = await until(lambda: _succeeds(lambda: run.do(take_over(run))))

        assert after
        await check_stream(log, run)


async def _succeeds(ask: Callable[[], Awaitable[object]]) -> bool:
    try:
        return bool(await ask())
    except StoreUnavailable:
        return False


async def test_an_append_whose_caller_left_before_it_was_sent_never_lands(
    database: Database,
) -> None:
    async with opened(database.url) as log:
        first, second = Run(log), Run(log)
        await first.start()
        await second.start()
        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            waits = waiting_for_the_lock(admin)
            admin.execute("SELECT pg_advisory_lock(%s)", [LOG_LOCK])
            sent = asyncio.ensure_future(first.do(take_over(first)))
            await until(lambda: waits(1))
            queued = asyncio.ensure_future(second.do(take_over(second)))
            await until(lambda: bool(log._appender._queue))
            queued.cancel()
            admin.execute("SELECT pg_advisory_unlock(%s)", [LOG_LOCK])
        await sent

        assert len(await log.read(first.run_id)) == 5
        assert len(await log.read(second.run_id)) == 4


async def test_a_full_queue_refuses_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database.url) as log:
        monkeypatch.setattr(log._appender, "_queued_appends_max", 2)
        runs = [Run(log) for _ in range(4)]
        for run in runs:
            await run.start()
        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            waits = waiting_for_the_lock(admin)
            admin.execute("SELECT pg_advisory_lock(%s)", [LOG_LOCK])
            sent = asyncio.ensure_future(runs[0].do(take_over(runs[0])))
            await until(lambda: waits(1))
            queued = [asyncio.ensure_future(run.do(take_over(run))) for run in runs[1:3]]
            await until(lambda: len(log._appender._queue) == 2)
            with pytest.raises(StoreUnavailable, match="queued already"):
                await runs[3].do(take_over(runs[3]))
            admin.execute("SELECT pg_advisory_unlock(%s)", [LOG_LOCK])
        await asyncio.gather(sent, *queued)


async def test_a_follower_outlives_lost_connections(database: Database) -> None:
    async with (
        FaultProxy(database.url, victim="runledger follow") as proxy,
        opened(proxy.url) as log,
    ):
        run = Run(log)
        await run.start()
        async with aclosing(log.follow(Position(0))) as follower:
            seen = [*await anext(follower)]
            await proxy.refuse()
            await proxy.listen()
            await until(lambda: _succeeds(lambda: run.do(take_over(run))))
            seen += await asyncio.wait_for(anext(follower), timeout=20)

        assert seen == list(await log.read(run.run_id))


async def test_a_server_that_takes_no_writes_is_unavailable_and_reads_go_on(
    database: Database,
) -> None:
    """As a standby is after a failover."""
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        async with opened(database.url) as log:
            run = Run(log)
            await run.start()
            admin.execute(
                f"ALTER DATABASE {database.name} SET default_transaction_read_only = on".encode()
            )
            async with opened(database.url) as late:
                with pytest.raises(StoreUnavailable, match="25006"):
                    await late.append(run.decided(take_over(run)))
                assert len(await late.read(run.run_id)) == 4


def receipts(admin: "psycopg.Connection[tuple[int]]") -> int:
    row = admin.execute("SELECT count(*) FROM log_receipts").fetchone()
    assert row is not None
    return row[0]


async def test_receipts_of_writers_that_are_long_gone_are_deleted(database: Database) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        for days in (8, 6):
            admin.execute(
                "INSERT INTO log_receipts VALUES"
                " (gen_random_uuid(), 1, now() - make_interval(days => %s), '{}', '{}', '{}')",
                [days],
            )
        async with opened(database.url) as log:
            run = Run(log)
            await run.start()

        assert receipts(admin) == 1


async def test_old_receipts_are_deleted_also_where_no_writer_ends_well(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed processes never come to their last tidying; the next ones do it while they live."""
    monkeypatch.setattr("runs_domain.storage.receipts.RECEIPTS_MAX", 3)
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        admin.execute(
            "INSERT INTO log_receipts VALUES"
            " (gen_random_uuid(), 1, now() - interval '8 days', '{}', '{}', '{}')"
        )
        async with opened(database.url) as log:
            run = Run(log)
            await run.start()
            for _ in range(6):
                await run.do(take_over(run))

            old = "SELECT count(*) FROM log_receipts WHERE at < now() - interval '7 days'"
            assert admin.execute(old).fetchone() == (0,)


async def test_receipts_that_were_read_are_deleted_and_those_in_doubt_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost request may reach the server long after its batch was settled."""
    monkeypatch.setattr("runs_domain.storage.receipts.RECEIPTS_MAX", 5)
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
            run = Run(log)
            await run.start()
            proxy.arm("lose_reply")
            await run.do(take_over(run))
            for _ in range(20):
                await run.do(take_over(run))
            most = receipts(admin)

        assert 1 < most <= 1 + 5
        assert receipts(admin) == 1


async def test_a_late_request_finds_its_receipt_and_changes_nothing(database: Database) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        run = Run(log)
        await run.start()
        lost = run.decided(take_over(run))
        proxy.arm("lose_request")
        await run.append(lost)
        number = log._appender._receipts.number - 1
        await run.do(take_over(run))
        late = parameters(log._appender._receipts.writer, number, [Encoded(lost, _pieces(lost))])
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as other:
            cursor = await other.execute(CALL, late)
            row = await cursor.fetchone()

        assert row is not None
        assert Receipt(*row).refusals == []
        await check_stream(log, run)


def _pieces(append: Append) -> tuple[codec.Pieces, ...]:
    return codec.encode(append, None)


async def test_an_open_snapshot_makes_no_append_dearer(database: Database) -> None:
    """A dump or a forgotten transaction keeps every version of a row: none may be walked."""
    async with opened(database.url) as log:
        for _ in range(20):
            await Run(log).start()
        with psycopg.connect(database.admin_url) as admin:
            admin.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            admin.execute("SELECT FROM stored_events")
            writer = log._appender._receipts.writer
            async with await psycopg.AsyncConnection.connect(
                database.url, autocommit=True, options="-c enable_seqscan=off"
            ) as reader:
                await _pages_of_a_batch(reader, writer, 100_000)  # it reads the catalogue
                before = await _pages_of_a_batch(reader, writer, 100_001)
                for _ in range(600):
                    run = Run(log)
                    await run.do(run.request())
                # An autoanalyze meanwhile sends it to the catalogue once more.
                after = min(
                    [await _pages_of_a_batch(reader, writer, 100_002 + n) for n in range(3)]
                )

    assert after <= before + 5


async def _pages_of_a_batch(connection: Connection, writer: UUID, number: int) -> int:
    """How many pages of tables and indexes one batch touches."""
    call = CALL.replace(b"SELECT batch", b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT batch")
    cursor = await connection.execute(call, parameters(writer, number, []))
    row = await cursor.fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_a_clock_that_was_set_back_does_not_turn_the_order_round(database: Database) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        async with opened(database.url) as log:
            run = Run(log)
            await run.start()
            admin.execute("SELECT setval('log_clock', last_value + 3600000000) FROM log_clock")
            ahead = admin.execute("SELECT last_value FROM log_clock").fetchone()
            (first,) = await run.do(take_over(run))
            (second,) = await run.do(take_over(run))

    assert first.at == second.at
    assert ahead == ((first.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),)
