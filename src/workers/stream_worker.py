"""arq's Worker, fed from a Redis stream.

Kept of arq: the function registry, `ctx`, `run_job` (time-out, Retry, hooks), `run_cron`, signals,
burst. Replaced: where jobs come from and how they end. A job is one entry of a consumer group,
pushed to a worker by a blocking read and held under a lease (see `lease`). What a dead worker
held is taken over when its lease runs out, before anything new is read. Delivery is at least once;
the run's own stream makes the effect exactly once.

Redis being away, wiped or restarted is weather: the worker waits and goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from signal import Signals
from types import MappingProxyType
from typing import Any, Final, cast

from arq.connections import ArqRedis
from arq.cron import CronJob
from arq.typing import StartupShutdown
from arq.utils import timestamp_ms
from arq.worker import Worker, func
from redis.exceptions import RedisError
from typing_extensions import override

from runs_domain.errors import QueueUnavailable
from runs_domain.ports import JobKind
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_deliveries import (
    Entry,
    JobDeliveries,
    StreamForgotten,
    reader_lane,
)
from runs_domain.storage.waking import wait_for
from workers.arq_pool import ArqPool, Payload, payload
from workers.delivery import JobFunction, RunningJob, WorkerCounters, take
from workers.job_ends import BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN, JobEnds
from workers.job_entry import RETRY_SECONDS_MIN, entered, log_failure
from workers.lease import LeaseKeeper
from workers.store_pace import StorePace
from workers.tally import Tally
from workers.upkeep import Upkeep
from workers.worker_id import new_worker_id

logger = logging.getLogger(__name__)

SWEEPS_PER_LEASE: Final = 8
"""How soon after its end a dead worker's lease is noticed: an eighth of it."""
SWEEP_SECONDS_MAX: Final = 0.5
SWEEP_GAP_SECONDS: Final = 0.05
"""At least, between two sweeps of the whole fleet: one costs Redis a few milliseconds."""
TICK_SECONDS: Final = 0.5
"""Between two looks at what cron and health have to do."""
HAND_OVER_SECONDS: Final = 2.0
"""How long a cancelled job may take to clean up before it is handed over regardless."""
ARQ_TRIES_MAX: Final = 2**31
"""arq's own limit must never end a job."""


class StreamWorker(Worker):
    """Build it inside a running event loop; `await worker.serve()` returns after SIGTERM.

    `also_counted`: who counts → a dataclass of numbers; the whole fleet's sum is shown.
    """

    def __init__(
        self,
        redis_url: str,
        functions: Mapping[JobKind, JobFunction],
        *,
        consumer: str = "",
        cron_jobs: Sequence[CronJob] = (),
        slots: int = 64,
        lease_seconds: float = 3.0,
        watchdog_seconds: float = 30.0,
        step_grace_seconds: float = 5.0,
        job_timeout_seconds: float = 48 * 60 * 60,
        handle_signals: bool = True,
        burst: bool = False,
        also_counted: Mapping[str, Any] = MappingProxyType({}),
        ctx: dict[Any, Any] | None = None,
        on_startup: StartupShutdown | None = None,
        on_shutdown: StartupShutdown | None = None,
        wrap: Callable[[JobDeliveries], JobDeliveries] = lambda deliveries: deliveries,
    ) -> None:
        """`consumer` is this process's alone, also after its end; by default it gets a new one.

        `wrap` may put something around what is told to Redis of jobs; tests do.
        """
        self.consumer = consumer or new_worker_id()
        self.counters = WorkerCounters()
        self._sweep_seconds = min(lease_seconds / SWEEPS_PER_LEASE, SWEEP_SECONDS_MAX)
        self._lease_seconds = lease_seconds
        self._step_grace_seconds = step_grace_seconds
        self._payloads: dict[str, Payload] = {}
        self._running: dict[str, RunningJob] = {}
        self._by_key: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._group_is_open = self._was_away = False
        self._away_since: float | None = None
        self._stop_began: tuple[float, int, int] | None = None
        """When, and what had been handed over and finished by then."""
        self._has_stopped = False
        self._pace = StorePace()
        self._next_sweep = 0.0
        self._redis = PipelinedRedis(redis_url)
        self._deliveries = wrap(
            JobDeliveries(
                self._redis,
                reader_lane(redis_url, wait_seconds=self._sweep_seconds),
                self.consumer,
                lease_seconds=lease_seconds,
                sweep_gap_seconds=SWEEP_GAP_SECONDS,
            )
        )
        self._upkeep = Upkeep(
            self._redis,
            self._deliveries,
            Tally({"jobs": self.counters, **also_counted}),
            consumer=self.consumer,
            slots=slots,
        )
        self._leases = LeaseKeeper(
            redis_url,
            self.consumer,
            lease_seconds=lease_seconds,
            watchdog_seconds=watchdog_seconds,
            on_lost=self._lost,
        )
        self._ends = JobEnds(self._deliveries, self._leases, self.counters, self._stopping)
        super().__init__(
            [
                func(entered(function, self._running), name=kind, max_tries=ARQ_TRIES_MAX)
                for kind, function in functions.items()
            ],
            cron_jobs=cron_jobs,
            redis_pool=cast("ArqRedis", ArqPool(self._payloads, self._start_cron)),
            queue_name=names.JOB_STREAM,
            burst=burst,
            on_startup=on_startup,
            on_shutdown=on_shutdown,
            handle_signals=handle_signals,
            max_jobs=slots,
            job_timeout=job_timeout_seconds,
            keep_result=0,
            poll_delay=TICK_SECONDS,
            ctx=ctx,
            job_serializer=lambda _: b"",
            job_deserializer=cast("Callable[[bytes], dict[str, Any]]", lambda given: given),
            log_results=False,
        )

    async def serve(self) -> None:
        """Work until a signal, `stop()`, or in burst mode until nothing is left; then close."""
        try:
            await self.async_run()
        finally:
            await self.close()

    def stop(self) -> None:
        """Take nothing more; running jobs come to the end of their step and are handed over."""
        if self._stop_began is None:
            counted = self.counters
            self._stop_began = (self.loop.time(), counted.handed_over, counted.finished)
        self._stopping.set()
        self._wake.set()
        for running in self._running.values():
            running.delivery.stopping.set()

    @override
    def handle_sig(self, signum: Signals) -> None:
        logger.info("stopping on %s with %d jobs", Signals(signum).name, len(self._running))
        self.stop()

    @override
    async def main(self) -> None:
        if self.on_startup:
            await self.on_startup(self.ctx)
        self._leases.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick_until_stopped())
            group.create_task(self._take_until_stopped())
        await self._drain()

    @override
    async def close(self) -> None:
        self.stop()
        await self._drain()
        await self._leases.stop()
        try:
            await self._upkeep.leave()
        except (QueueUnavailable, RedisError, OSError) as error:
            logger.warning("left without a word to Redis: %s", type(error).__name__)
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self._deliveries.close()
        await self._redis.aclose()
        self._say_stopped()

    def _say_stopped(self) -> None:
        if self._stop_began is None or self._has_stopped:
            return
        self._has_stopped = True
        since, handed_over, finished = self._stop_began
        logger.info(
            "stopped after %.1f s: %d handed over, %d finished",
            self.loop.time() - since,
            self.counters.handed_over - handed_over,
            self.counters.finished - finished,
        )

    # -------------------------------------------------------------------- taking jobs

    async def _take_until_stopped(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._take()
                failures = 0
                self._say_redis_is_back()
            except QueueUnavailable as error:
                self._group_is_open, self._was_away = False, True
                self.counters.redis_failures += 1
                if isinstance(error, StreamForgotten):
                    logger.warning("Redis has forgotten the job stream; it is made again")
                else:
                    if self._away_since is None:
                        self._away_since = self.loop.time()
                    logger.warning("cannot take jobs: %s", error)
                await wait_for(
                    self._stopping, min(BACK_OFF_SECONDS_MIN * 2**failures, BACK_OFF_SECONDS_MAX)
                )
                failures = min(failures + 1, 10)

    def _say_redis_is_back(self) -> None:
        if self._away_since is not None:
            seconds = self.loop.time() - self._away_since
            self._away_since = None
            logger.warning("Redis answers again after %.1f s", seconds)

    async def _take(self) -> None:
        """One round: what dead workers held comes first, then new entries."""
        if not self._group_is_open:
            await self._deliveries.open()
            with suppress(QueueUnavailable):  # a Redis that is full takes no news; ticks try again
                await self._upkeep.tell(len(self._running))
            self._group_is_open = True
        now = self.loop.time()
        if self._was_away:  # nobody could renew: live workers have a lease's time for it first
            self._was_away = False
            self._next_sweep = now + self._lease_seconds
        if now >= self._next_sweep:
            self._next_sweep = now + self._sweep_seconds
            reclaimed = await self._in_time(self._deliveries.reclaim(self._free(), self._running))
            self.counters.reclaimed += len(reclaimed)
            await self._accept(reclaimed, redelivered=True)
        if self._free() <= 0:
            self._wake.clear()
            await wait_for(self._wake, self._sweep_seconds)
            return
        reading = self._deliveries.read(self._free(), wait_seconds=self._sweep_seconds)
        entries = await self._in_time(reading)
        await self._accept(entries, redelivered=False)
        if self.burst and not entries and not self._running:
            self.stop()

    async def _in_time(self, taking: Awaitable[list[Entry]]) -> list[Entry]:
        """What we took. A reply may wait in the socket while this process stands still or a job
        blocks its loop; and until we know an entry, nobody renews its lease."""
        asked = self.loop.time()
        entries = await taking
        if self.loop.time() - asked <= self._lease_seconds / 2:
            return entries
        self._was_away = True  # or Redis was, or both: others may not have renewed either
        return await self._deliveries.confirm(entries) if entries else entries

    def _free(self) -> int:
        return self._pace.allowed(self.max_jobs - len(self._running), self._running)

    async def _accept(self, entries: Sequence[Entry], *, redelivered: bool) -> None:
        garbage = await self._deliveries.strangers(entries)
        for entry in entries:
            if entry in garbage:
                continue
            running = take(entry, redelivered=redelivered, now_ms=timestamp_ms())
            if running is None or running.job.kind not in self.functions:
                garbage.append(entry)
            else:
                self._start(running)
        for entry in garbage:
            self.counters.garbage += 1
            logger.warning("dropped entry %s: not a job of this release", entry.ticket)
            await self._deliveries.finish(entry.ticket, entry.key)

    def _start(self, running: RunningJob) -> None:
        ticket = running.ticket
        self._pace.began(ticket)
        self._leases.add(ticket, running.job, running.delivery.retries)
        self._running[ticket] = running
        arguments = (running.job, running.delivery)
        self._payloads[ticket] = payload(running.job.kind, arguments, running.since_ms)
        before = self._by_key.get(running.key)
        task = self.loop.create_task(self._run(running, before))
        self.tasks[ticket] = self._by_key[running.key] = task
        task.add_done_callback(lambda task: self._ended(running, task))

    async def _run(self, running: RunningJob, before: asyncio.Task[None] | None) -> None:
        if before is not None:  # the same job, lost here and come back: never two at once
            await asyncio.wait((before,))
        if self._stopping.is_set():
            await self._ends.return_untouched(running)
            return
        await self.run_job(running.ticket, running.since_ms)

    def _ended(self, running: RunningJob, task: asyncio.Task[None]) -> None:
        """Whatever was not finished or given back by now is redelivered after its lease."""
        ticket = running.ticket
        self._leases.drop(ticket)
        self._running.pop(ticket, None)
        self._payloads.pop(ticket, None)
        self.tasks.pop(ticket, None)
        if self._by_key.get(running.key) is task:
            del self._by_key[running.key]
        self._wake.set()
        log_failure(task, ticket)

    def _lost(self, ticket: str) -> None:
        running = self._running.get(ticket)
        if running is None or running.lost:
            return
        running.lost = True
        self.counters.leases_lost += 1
        logger.warning("lost the lease of %s: stopping it here", running.key)
        task = self.job_tasks.get(ticket)
        if task is not None:
            task.cancel()

    # -------------------------------------------------------------------- ending jobs

    @override
    async def finish_job(
        self,
        job_id: str,
        finish: bool,
        result_data: bytes | None,
        result_timeout_s: float | None,
        keep_result_forever: bool,
        incr_score: int | None,
        keep_in_progress: float | None,
    ) -> None:
        """arq's last call for a job; `incr_score` is set when its function asked for a retry."""
        running = self._running.get(job_id)
        if running is None or running.lost:
            return  # a tick of cron has no entry; a lost job's entry is not ours
        self._pace.ended(store_away=running.why_left == "store_away")
        if finish:
            await self._ends.finish(running)
        elif running.why_left == "stopping" or (self._stopping.is_set() and incr_score is None):
            await self._ends.hand_over(running)
        else:
            asked_ms = (incr_score or 0) - (timestamp_ms() - running.since_ms)
            delay_ms = asked_ms if incr_score else int(RETRY_SECONDS_MIN * 1000)
            await self._ends.retry(running, delay_ms=max(delay_ms, 1))

    @override
    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        await self.finish_job(
            job_id,
            finish=True,
            result_data=None,
            result_timeout_s=None,
            keep_result_forever=False,
            incr_score=None,
            keep_in_progress=None,
        )

    async def _drain(self) -> None:
        """Wait for steps in hand, cut off those that take too long, give back what is left."""
        if not self.tasks:
            return
        _, late = await asyncio.wait(self.tasks.values(), timeout=self._step_grace_seconds)
        for task in tuple(self.job_tasks.values()):
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=HAND_OVER_SECONDS)
        for running in tuple(self._running.values()):
            logger.error("%s ignores that it was cancelled", running.key)
            await self._ends.hand_over(running)
            running.lost = True

    # -------------------------------------------------------------------- cron and health

    async def _tick_until_stopped(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.heart_beat()
            except (QueueUnavailable, RedisError, OSError) as error:
                logger.warning("the heart beat missed Redis: %s", type(error).__name__)
            await wait_for(self._stopping, TICK_SECONDS)

    @override
    async def record_health(self) -> None:
        line = (
            f"running={len(self._running)} slots={self.max_jobs} done={self.jobs_complete}"
            f" failed={self.jobs_failed} retried={self.jobs_retried}"
        )
        await self._upkeep.tick(len(self._running), line, may_tell=self._group_is_open)

    async def _start_cron(self, name: str, tick: str, at: datetime | None) -> None:
        """Run this tick here if no other worker does; not while the last one still runs.

        It takes no slot: jobs that wait for the reconciler must not be able to keep it out.
        """
        if any(ticket.startswith(f"{name}:") for ticket in self.tasks):
            return
        if not await self._deliveries.claim_tick(tick):
            return
        delay = 0.0 if at is None else at.timestamp() - timestamp_ms() / 1000
        self._payloads[tick] = payload(name, (), timestamp_ms())
        task = self.loop.create_task(self._run_cron(tick, delay))
        self.tasks[tick] = task
        task.add_done_callback(lambda task: self._cron_ended(tick, task))

    async def _run_cron(self, tick: str, delay_seconds: float) -> None:
        await wait_for(self._stopping, max(delay_seconds, 0.0))
        if not self._stopping.is_set():
            await self.run_job(tick, timestamp_ms())

    def _cron_ended(self, tick: str, task: asyncio.Task[None]) -> None:
        self.tasks.pop(tick, None)
        self._payloads.pop(tick, None)
        log_failure(task, tick)
