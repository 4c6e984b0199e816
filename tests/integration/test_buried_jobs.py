"""A job that breaks for ever, on real servers: buried, sent no more, back once it is retried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import psycopg
import pytest

from runs_domain.dead_letters import DeadLetterDesk
from runs_domain.errors import StoreUnavailable
from runs_domain.ids import RunId
from runs_domain.ports import EventLog, Job
from runs_domain.settings import Secret
from runs_domain.storage import redis_names as names
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.dead_letters import PostgresDeadLetters
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database
from tests.support.waiting import until
from workers import job_entry
from workers.burials import BROKEN_TRIES_MAX, Burials
from workers.delivery import Delivery
from workers.reconciler import Reconciler
from workers.stream_worker import StreamWorker

TAG = "run.requested.v1"


class Fleet:
    """A worker whose jobs read their runs' histories and do no more."""

    def __init__(self, log: EventLog, letters: PostgresDeadLetters, redis: PipelinedRedis) -> None:
        self.log = log
        self.letters = letters
        self.redis = redis
        self.jobs = RedisJobs(redis)
        self.burials = Burials(letters)
        self.begun = 0
        self.done: list[str] = []
        self.weather: type[Exception] | None = None

    async def run(self, _ctx: dict[Any, Any], job: Job, _delivery: Delivery) -> bool:
        self.begun += 1
        if self.weather is not None:
            raise self.weather("away")
        await self.log.read(RunId(UUID(job.id)))
        self.done.append(job.id)
        return True

    async def reconcile(self) -> int:
        """How many runs were sent; the database says that none is young."""
        reconciler = Reconciler(self.log, self.jobs)
        await reconciler.tick()
        assert reconciler.counters.failed_ticks == 0
        return reconciler.counters.resent

    async def is_idle(self) -> bool:
        return not await self.redis.exists(names.JOB_INDEX)


@pytest.fixture
async def fleet(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    for name in ("RETRY_SECONDS_MIN", "RETRY_SECONDS_MAX", "WEATHER_SECONDS"):
        monkeypatch.setattr(job_entry, name, 0.01)
    monkeypatch.setattr("workers.store_pace.STORE_AWAY_SECONDS", 0.01)
    monkeypatch.setattr("workers.reconciler.RESEND_GRACE_SECONDS", 0.0)
    async with AsyncExitStack() as opened:
        redis = PipelinedRedis(redis_url)
        opened.push_async_callback(redis.aclose)
        connection = ReconnectingConnection(Secret(database.url), name="test")
        opened.push_async_callback(connection.close)
        log = await opened.enter_async_context(
            open_log(Secret(database.url), SECRETS, SystemClock())
        )
        made = Fleet(log, PostgresDeadLetters(connection), redis)
        worker = StreamWorker(
            redis_url,
            {"run": made.burials.guarded(made.run)},
            handle_signals=False,
            lease_seconds=1.0,
        )
        serving = asyncio.create_task(worker.serve())
        yield made
        worker.stop()
        await serving


def call_it(database: Database, tag: str) -> None:
    """The tag of every first event; the envelope's as well, so that it is a newer release's."""
    with psycopg.connect(database.admin_url) as admin:
        admin.execute(
            "UPDATE stored_events SET state = convert_to(replace(convert_from(state, 'UTF8'),"
            " topic, %(tag)s), 'UTF8'), topic = %(tag)s",
            {"tag": tag},
        )


async def a_run(fleet: Fleet) -> Run:
    run = Run(fleet.log)
    await run.do(run.request())
    return run


async def test_a_newer_releases_history_ends_in_a_letter_and_not_in_a_loop(
    fleet: Fleet, database: Database
) -> None:
    run = await a_run(fleet)
    call_it(database, "run.requested.v9")

    assert await fleet.reconcile() == 1
    await until(fleet.letters.count_open)
    await until(fleet.is_idle)

    assert fleet.begun == BROKEN_TRIES_MAX
    (letter,) = await fleet.letters.letters_of(run.run_id)
    assert letter.last_error.startswith("UnknownEvent at ")
    assert await fleet.reconcile() == 0
    await fleet.redis.flushall()
    assert await fleet.reconcile() == 0, "a wiped Redis loses no letter"

    call_it(database, TAG)  # a release that can read it is deployed
    desk = DeadLetterDesk(fleet.log, fleet.letters, fleet.jobs, actor="ops:ada")
    await desk.retry(letter)
    await until(lambda: fleet.done == [str(run.run_id)])
    assert await fleet.letters.count_open() == 0


async def test_a_retry_whose_job_was_lost_is_sent_by_the_reconciler(
    fleet: Fleet, database: Database
) -> None:
    run = await a_run(fleet)
    call_it(database, "run.requested.v9")
    await fleet.reconcile()
    await until(fleet.letters.count_open)
    await until(fleet.is_idle)
    (letter,) = await fleet.letters.letters_of(run.run_id)

    call_it(database, TAG)
    await fleet.letters.close_retried(letter, by="ops:ada")  # and there the script died

    assert await fleet.reconcile() == 1
    await until(lambda: fleet.done == [str(run.run_id)])


async def test_weather_buries_nothing_and_a_real_break_after_it_still_has_all_its_tries(
    fleet: Fleet, database: Database
) -> None:
    await a_run(fleet)
    fleet.weather = StoreUnavailable
    await fleet.reconcile()
    await until(lambda: fleet.begun > 2 * BROKEN_TRIES_MAX)
    assert await fleet.letters.count_open() == 0

    call_it(database, "run.requested.v9")
    fleet.weather, fleet.begun = None, 0
    await until(fleet.letters.count_open)
    assert fleet.begun == BROKEN_TRIES_MAX
