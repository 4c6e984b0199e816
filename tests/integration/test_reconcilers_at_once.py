"""Many reconcilers at once, on a real log and a real queue: each run is sent once, ends once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from runs_domain.keys import DerivedKeyIssuer
from runs_domain.ports import Job
from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.credentials import Credentials
from runs_domain.storage.dead_letters import PostgresDeadLetters
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_pubsub import RedisPubSub
from tests.support.driving import Pushes
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database
from tests.support.waiting import until
from workers import reconciler
from workers.adapters.model_scripted import ScriptedModel
from workers.adapters.sandbox_none import NoSandboxProvider
from workers.agent.tools.registry import Tools
from workers.burials import Burials
from workers.cancel_watch import CancelWatch
from workers.delivery import Delivery
from workers.driver import Driver
from workers.reconciler import Reconciler
from workers.run_keys import RunKeys
from workers.stream_worker import StreamWorker

RUNS = 200
RECONCILERS = 8
SECONDS_MAX = 40.0


class Site:
    """Servers, a log, and a client of Redis for whoever wants one of its own."""

    def __init__(self, database: Database, redis_url: str, opened: AsyncExitStack) -> None:
        self.database_url = Secret(database.url)
        self.redis_url = redis_url
        self.opened = opened
        self.log: PostgresEventLog

    def redis(self) -> PipelinedRedis:
        client = PipelinedRedis(self.redis_url)
        self.opened.push_async_callback(client.aclose)
        return client

    def connection(self) -> ReconnectingConnection:
        connection = ReconnectingConnection(self.database_url, name="test")
        self.opened.push_async_callback(connection.close)
        return connection

    async def reconciler(self) -> Reconciler:
        log = await self.opened.enter_async_context(
            open_log(self.database_url, SECRETS, SystemClock())
        )
        return Reconciler(log, RedisJobs(self.redis()))

    def driver(self, number: int) -> Driver:
        redis, clock = self.redis(), SystemClock()
        pubsub = RedisPubSub(redis)
        self.opened.push_async_callback(pubsub.close)
        credentials = Credentials(self.connection(), SECRETS, "recoup_sk_")
        issuer = DerivedKeyIssuer(SECRETS, "recoup_sk_")
        return Driver(
            log=self.log,
            chunks=RedisChunks(redis, pubsub),
            model=ScriptedModel(clock),
            sandboxes=NoSandboxProvider(),
            tools=Tools(()),
            keys=RunKeys(issuer, credentials, clock, secret_version=1, ttl_seconds=900),
            watch=CancelWatch(self.log, Pushes(), clock),
            clock=clock,
            tool_timeout_seconds=5.0,
            worker_id=f"test-{number}",
            burials=Burials(PostgresDeadLetters(self.connection())),
        )


@pytest.fixture
async def site(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch.setattr(reconciler, "RESEND_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(reconciler, "PAGE_HEADS_MAX", 64)
    async with AsyncExitStack() as opened:
        made = Site(database, redis_url, opened)
        made.log = await opened.enter_async_context(
            open_log(made.database_url, SECRETS, SystemClock())
        )
        yield made


async def test_invariant_1_eight_reconcilers_send_each_of_two_hundred_runs_once_and_each_ends_once(
    site: Site,
) -> None:
    runs = [Run(site.log) for _ in range(RUNS)]
    await asyncio.gather(*(run.do(run.request()) for run in runs))
    reconcilers = [await site.reconciler() for _ in range(RECONCILERS)]

    await asyncio.gather(*(one.tick() for one in reconcilers))
    assert sum(one.counters.resent for one in reconcilers) == RUNS
    assert [one.counters.failed_ticks for one in reconcilers] == [0] * RECONCILERS

    begun: Counter[str] = Counter()
    workers, serving = [], []
    for number in range(2):
        driver = site.driver(number)

        async def run(
            _ctx: dict[Any, Any], job: Job, delivery: Delivery, driver: Driver = driver
        ) -> bool:
            begun[job.id] += 1
            return await driver.drive(
                job, redelivered=delivery.redelivered, stopping=delivery.stopping
            )

        worker = StreamWorker(site.redis_url, {"run": run}, handle_signals=False, slots=16)
        workers.append(worker)
        serving.append(asyncio.create_task(worker.serve()))

    async def all_are_closed() -> bool:
        """The reconcilers go on meanwhile, with no grace: they see runs at every border."""
        await asyncio.gather(*(one.tick() for one in reconcilers))
        return await site.log.open_heads(limit=1) == ()

    try:
        await until(all_are_closed, timeout_seconds=SECONDS_MAX)
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*serving)

    assert begun.keys() == {str(run.run_id) for run in runs}
    for run in runs:
        tags = Counter(one.type for one in await site.log.read_outline(run.run_id))
        assert tags["run.completed.v1"] == tags["run.sandbox_released.v1"] == 1
        assert tags["run.resumed.v1"] == tags["run.started.v1"] == 1, "no second worker held it"
