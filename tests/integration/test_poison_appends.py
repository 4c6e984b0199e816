"""An append that breaks its connection each time is refused; a server that is away is not that."""

import asyncio
import os
import signal
from contextlib import AbstractAsyncContextManager

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.errors import AppendBreaks, StoreUnavailable
from runs_domain.events import Failed
from runs_domain.handle import load
from runs_domain.ids import Attempt
from runs_domain.ports import Recorded
from runs_domain.settings import Secret
from runs_domain.storage import suspects
from runs_domain.storage.appender import DOUBTS_MAX
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.suspects import BREAKS_MAX
from tests.support.counting_clock import CountingClock
from tests.support.driving import World
from tests.support.fault_proxy import FaultProxy
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database
from tests.support.waiting import until
from workers.stack.servers import Servers

RESTARTS = 5
COMES_MAX = 20


def opened(url: str) -> AbstractAsyncContextManager[PostgresEventLog]:
    return open_log(Secret(url), SECRETS, SystemClock(), append_wait_seconds=30.0)


def take_over(run: Run) -> c.ResumeRun:
    return c.ResumeRun(attempt=Attempt(run.stream.state.attempt + 1), reason="handover")


async def until_it_lands(run: Run) -> tuple[Recorded, ...]:
    """As a worker that holds the run: a store that is away is asked again."""
    for _ in range(COMES_MAX):
        try:
            return await run.do(take_over(run))
        except StoreUnavailable:
            continue
    raise AssertionError("it neither lands nor is refused")


async def started(log: PostgresEventLog, count: int) -> list[Run]:
    runs = [Run(log) for _ in range(count)]
    for run in runs:
        await run.start()
    return runs


async def test_an_append_that_breaks_its_connection_each_time_is_refused_after_so_many(
    database: Database,
) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        (run,) = await started(log, 1)
        proxy.poison(run.run_id.bytes)

        with pytest.raises(AppendBreaks):
            await until_it_lands(run)

        assert proxy.faults == BREAKS_MAX
        assert await load(log, run.run_id) == run.stream


async def test_the_others_of_its_batch_land_and_meet_it_once_at_most(database: Database) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        poison, *others = await started(log, 9)
        proxy.poison(poison.run_id.bytes)

        refused = asyncio.ensure_future(until_it_lands(poison))
        for _ in range(3):
            await asyncio.gather(*(run.do(take_over(run)) for run in others))
        with pytest.raises(AppendBreaks):
            await refused

        assert proxy.faults <= BREAKS_MAX + 1
        for run in others:
            assert await load(log, run.run_id) == run.stream


async def test_a_caller_that_comes_again_with_it_does_not_take_others_into_doubt(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        poison, other = await started(log, 2)
        proxy.poison(poison.run_id.bytes)
        with pytest.raises(StoreUnavailable):
            await poison.do(take_over(poison))
        assert proxy.faults == DOUBTS_MAX
        caplog.clear()

        again = asyncio.gather(
            other.do(take_over(other)), poison.do(take_over(poison)), return_exceptions=True
        )
        results = await again

        assert [type(one) for one in results] == [tuple, StoreUnavailable]
        assert not any("batch of 2" in record.getMessage() for record in caplog.records)


async def test_breaks_are_counted_in_a_row_only(database: Database) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        (run,) = await started(log, 1)
        for _ in range(2):
            left = BREAKS_MAX - 1

            async def meet() -> bool:
                nonlocal left
                left -= 1
                return left >= 0

            proxy.poison(run.run_id.bytes, meet)
            assert await until_it_lands(run)

        assert proxy.faults == 2 * (BREAKS_MAX - 1)


async def test_the_suspects_that_are_remembered_are_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "SUSPECTS_MAX", 2)
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        for run in await started(log, 4):
            proxy.poison(run.run_id.bytes)
            with pytest.raises(StoreUnavailable):
                await run.do(take_over(run))

        assert len(log._appender._suspects._breaks) == 2


async def test_restarts_of_the_server_that_all_meet_one_append_refuse_it_nothing(
    own_servers: Servers, own_database: Database
) -> None:
    async with FaultProxy(own_database.url) as proxy, opened(proxy.url) as log:
        (run,) = await started(log, 1)
        restarts = 0

        async def meet() -> bool:
            nonlocal restarts
            if restarts == RESTARTS:
                return False
            restarts += 1
            await asyncio.to_thread(own_servers.postgres.stop, at_once=True)
            await asyncio.to_thread(own_servers.postgres.start)
            return True

        proxy.poison(run.run_id.bytes, meet)

        assert await until_it_lands(run)
        assert restarts == RESTARTS


async def test_a_server_that_is_too_slow_to_answer_is_never_counted(database: Database) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        (run,) = await started(log, 1)
        log._appender._connection._seconds_max = 0.2
        met = 0

        async def meet() -> bool:
            nonlocal met
            met += 1
            if met <= BREAKS_MAX + 2:
                await asyncio.Event().wait()
            return False

        proxy.poison(run.run_id.bytes, meet)

        assert await until_it_lands(run)
        assert met > BREAKS_MAX + 2


async def test_the_model_is_paid_once_for_a_step_that_breaks_its_connection(
    database: Database,
) -> None:
    async with FaultProxy(database.url) as proxy, opened(proxy.url) as log:
        world = World()
        world.log = log
        await world.request("hello")
        proxy.poison(b"run.message_persisted.v1")

        assert await world.drive()

        ending = (await world.state()).ending
        assert isinstance(ending, Failed)
        assert ending.code == "internal"
        assert len(world.requests) == 1
        assert proxy.faults == 2 * BREAKS_MAX  # the step, and what was kept of it
        assert (await world.tags())[-1] == "sandbox_released"


async def test_connections_that_the_server_has_none_to_spare_for_are_never_counted(
    database: Database,
) -> None:
    clock = CountingClock()
    limit = f"ALTER DATABASE {database.name} CONNECTION LIMIT "
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        async with (
            FaultProxy(database.url) as proxy,
            open_log(Secret(proxy.url), SECRETS, clock, append_wait_seconds=30.0) as log,
        ):
            (run,) = await started(log, 1)

            async def meet() -> bool:
                admin.execute(f"{limit}0".encode())
                return clock.pauses == 0

            proxy.poison(run.run_id.bytes, meet)
            append = asyncio.ensure_future(run.do(take_over(run)))
            await until(lambda: clock.pauses >= 2 * BREAKS_MAX)
            assert not append.done()
            admin.execute(f"{limit}-1".encode())

            assert await append
            assert proxy.faults == 1


@pytest.mark.usefixtures("own_servers")
async def test_an_append_that_crashes_the_server_is_refused_and_the_others_land(
    own_database: Database,
) -> None:
    async with FaultProxy(own_database.url) as proxy, opened(proxy.url) as log:
        poison, other = await started(log, 2)

        async def meet() -> bool:
            with psycopg.connect(own_database.admin_url) as admin:
                pids = admin.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'runledger appends'"
                ).fetchall()
            for (pid,) in pids:
                os.kill(pid, signal.SIGKILL)
            return True

        proxy.poison(poison.run_id.bytes, meet)
        refused = asyncio.ensure_future(until_it_lands(poison))
        for _ in range(4):
            await until_it_lands(other)
        with pytest.raises(AppendBreaks):
            await refused

        assert proxy.faults <= BREAKS_MAX + 1
        assert await load(log, other.run_id) == other.stream
