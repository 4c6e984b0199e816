"""The workers' one wiring place: settings in, a running process out."""

import asyncio
import logging
import os
import signal
from contextlib import AsyncExitStack
from typing import Any, Final

from runs_domain.errors import SandboxUnavailable
from runs_domain.keys import DerivedKeyIssuer
from runs_domain.ports import Job
from runs_domain.sandbox_port import SandboxProvider
from runs_domain.settings import Settings
from runs_domain.storage.backing import Backing, backing
from runs_domain.storage.batches import collect_seldom
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.crash_points import CrashPoints
from runs_domain.storage.credentials import Credentials
from runs_domain.storage.dead_letters import PostgresDeadLetters
from runs_domain.storage.log_wakes import woken
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_push import CancelPushes
from runs_domain.storage.secret_check import refuse_wrong_secret
from workers import notify
from workers.adapters.model_registry import models_of
from workers.adapters.sandbox_local.probe import probe
from workers.adapters.sandbox_local.provider import LocalSandboxProvider
from workers.adapters.sandbox_none import NoSandboxProvider
from workers.agent.tools.registry import default_tools
from workers.burials import Burials
from workers.cancel_watch import CancelWatch
from workers.crash_points import WorkerCrashPoints
from workers.delivery import Delivery
from workers.driver import Driver
from workers.projector import all_projections, project
from workers.reconciler import Reconciler, reconcile_cron
from workers.retry_budget import RetryLimits
from workers.run_keys import RunKeys
from workers.stream_worker import StreamWorker
from workers.worker_id import new_worker_id

LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound
"""An address that means all of them is none to connect to."""

logger = logging.getLogger(__name__)


async def run_worker(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises SandboxUnavailable at once where runs would not be safe,
    and BadSettings if the database was sealed with another secret.
    """
    await refuse_wrong_secret(settings)
    async with AsyncExitStack() as opened:
        worker, watch = await _worker(settings, opened)
        async with asyncio.TaskGroup() as group:  # should the watch end, so does the worker, loudly
            watching = group.create_task(watch.look_for_ever())
            await worker.serve()
            watching.cancel()


async def _worker(settings: Settings, opened: AsyncExitStack) -> tuple[StreamWorker, CancelWatch]:
    points = WorkerCrashPoints(CrashPoints(settings.crash_at))
    worker_id = new_worker_id()
    sandboxes = await _sandboxes(settings)
    opened.push_async_callback(sandboxes.close)
    base = await opened.enter_async_context(backing(settings))
    letters = ReconnectingConnection(settings.database_url, name="runledger dead letters")
    opened.push_async_callback(letters.close)
    burials = Burials(points.dead_letters(PostgresDeadLetters(letters)))
    pushes = CancelPushes(base.pubsub)
    await opened.enter_async_context(pushes.listening())
    watch = CancelWatch(base.log, pushes, base.clock)
    driver = _driver(
        settings,
        opened,
        base,
        points=points,
        worker_id=worker_id,
        sandboxes=sandboxes,
        burials=burials,
        watch=watch,
    )
    reconciler = Reconciler(base.log, RedisJobs(base.redis))

    async def run(_ctx: dict[Any, Any], job: Job, delivery: Delivery) -> bool:
        return await driver.drive(
            job,
            redelivered=delivery.redelivered,
            stopping=delivery.stopping,
            last_error=delivery.last_error,
        )

    worker = StreamWorker(
        settings.redis_url.reveal(),
        {"run": burials.guarded(run)},
        consumer=worker_id,
        cron_jobs=[reconcile_cron(reconciler)],
        slots=settings.worker_slots,
        lease_seconds=settings.lease_seconds,
        watchdog_seconds=settings.watchdog_seconds,
        step_grace_seconds=settings.step_grace_seconds,
        job_timeout_seconds=settings.job_timeout_seconds,
        also_counted={
            "driver": driver.counters,
            "reconciler": reconciler.counters,
            "dead_letters": burials.counters,
        },
        on_startup=_say_ready,
        wrap=points.deliveries,
    )
    return worker, watch


def _driver(
    settings: Settings,
    opened: AsyncExitStack,
    base: Backing,
    *,
    points: WorkerCrashPoints,
    worker_id: str,
    sandboxes: SandboxProvider,
    burials: Burials,
    watch: CancelWatch,
) -> Driver:
    leases = ReconnectingConnection(settings.database_url, name="runledger key leases")
    opened.push_async_callback(leases.close)
    models = models_of(settings, base.clock)
    opened.push_async_callback(models.close)
    return Driver(
        log=points.log(base.log),
        chunks=points.chunks(RedisChunks(base.redis, base.pubsub)),
        model=points.model(models),
        sandboxes=points.sandboxes(sandboxes),
        tools=points.tools(default_tools()),
        keys=RunKeys(
            DerivedKeyIssuer(base.secrets, settings.key_prefix),
            points.key_leases(Credentials(leases, base.secrets, settings.key_prefix)),
            base.clock,
            secret_version=settings.secret_version,
            ttl_seconds=settings.key_ttl_seconds,
        ),
        watch=watch,
        clock=base.clock,
        tool_timeout_seconds=settings.tool_timeout_seconds,
        worker_id=worker_id,
        burials=burials,
        retry_limits=RetryLimits(
            retries_max=settings.model_retries_max,
            seconds_max=settings.model_retry_seconds_max,
        ),
        chunks_kept_seconds=settings.chunks_kept_seconds,
    )


async def _sandboxes(settings: Settings) -> SandboxProvider:
    if settings.sandbox == "none":
        return NoSandboxProvider()
    verdict = await probe(settings.data_dir)
    if not verdict.ok:
        raise SandboxUnavailable(f"this worker does not start: {verdict.text}")
    return LocalSandboxProvider(settings.data_dir, api_base_url=api_base_url(settings))


def api_base_url(settings: Settings) -> str:
    """Where the broker finds the API; by default on this host, whatever address it listens on."""
    host = LOOPBACK.get(settings.host, settings.host)
    bracketed = f"[{host}]" if ":" in host else host
    return settings.api_base_url or f"http://{bracketed}:{settings.port}"


async def _say_ready(ctx: dict[Any, Any]) -> None:  # noqa: ARG001 - the name is arq's
    logger.info("takes jobs")
    notify.ready(os.environ)


async def run_projector(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises BadSettings if the database was sealed otherwise."""
    await refuse_wrong_secret(settings)
    collect_seldom()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as opened:
        base = await opened.enter_async_context(backing(settings))
        wait = await opened.enter_async_context(woken(base.pubsub))
        projections = all_projections(settings.database_url, base.log.data_keys)
        working = asyncio.ensure_future(project(projections, base.clock, wait))
        notify.ready(os.environ)
        ended, _ = await asyncio.wait(
            {working, asyncio.ensure_future(stopped.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        if working in ended:
            working.result()
        working.cancel()
        await asyncio.wait({working})
