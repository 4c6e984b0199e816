"""Sends every open run that has no job again. The event log is the outbox, this is its relay.

It covers a Redis that lost everything, an API that died between append and send, and a worker
that finished a job too early. Any number of workers may do it at once: a job is sent once.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, cast

from arq.cron import CronJob, cron
from arq.typing import WorkerCoroutine

from runs_domain.errors import QueueUnavailable, StoreUnavailable
from runs_domain.ids import RunId
from runs_domain.ports import EventLog, Head, Job, JobQueue
from workers.faults import tried

logger = logging.getLogger(__name__)

RECONCILE_SECONDS: Final = 3
"""Between two ticks; with the grace well under the 10 s that a run may be without a job."""
RESEND_GRACE_SECONDS: Final = 2.0
"""A run whose last event is younger may just be being sent. The log's clock tells, not ours."""
PAGE_HEADS_MAX: Final = 500
TICK_PAGES_MAX: Final = 400
"""The next tick goes on where this one stopped."""


@dataclass(slots=True)
class ReconcilerCounters:
    ticks: int = 0
    failed_ticks: int = 0
    resent: int = 0


class Reconciler:
    def __init__(self, log: EventLog, jobs: JobQueue) -> None:
        self.counters = ReconcilerCounters()
        self._log = log
        self._jobs = jobs
        self._after: RunId | None = None

    async def tick(self) -> None:
        """One pass over the open runs. Never raises because PostgreSQL or Redis is away."""
        self.counters.ticks += 1
        try:
            await self._pass()
        except (StoreUnavailable, QueueUnavailable) as error:
            self.counters.failed_ticks += 1
            logger.warning("open runs are looked at next time: %s", type(error).__name__)
        except Exception:
            self.counters.failed_ticks += 1
            raise

    async def _pass(self) -> None:
        for _ in range(TICK_PAGES_MAX):
            heads = await self._log.open_heads(
                limit=PAGE_HEADS_MAX, after=self._after, min_age_seconds=RESEND_GRACE_SECONDS
            )
            await self._resend(heads)
            self._after = heads[-1].run_id if len(heads) == PAGE_HEADS_MAX else None
            if self._after is None:
                return

    async def _resend(self, heads: tuple[Head, ...]) -> None:
        accounts = {str(head.run_id): str(head.account_id) for head in heads}
        lost = await self._jobs.missing("run", list(accounts))
        jobs = [Job(kind="run", id=one, account_id=accounts[one], cause="resent") for one in lost]
        sent = sum(await asyncio.gather(*(self._jobs.send(job) for job in jobs)))
        if sent:
            self.counters.resent += sent
            logger.warning("sent %d runs again that had no job", sent)


def reconcile_cron(reconciler: Reconciler) -> CronJob:
    """For `StreamWorker(cron_jobs=[…])`: one worker at a time runs a tick."""
    function = cast("WorkerCoroutine", tried("a look at the open runs", logger, reconciler.tick))
    return cron(function, name="reconcile", second=set(range(0, 60, RECONCILE_SECONDS)))
