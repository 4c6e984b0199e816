"""When the workers give up: on a run whose tries are used up, on a job that breaks for ever.

The letter is written before the last thing that would keep anybody from coming back to write it:
a dead run's before its sandbox is released, and until then the run is open and gets a worker; a
broken job's before its entry leaves the queue.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from runs_domain.dead_letters_port import Burial, DeadLetters
from runs_domain.events import Failed
from runs_domain.faults import brief, log_fault
from runs_domain.ids import RunId
from runs_domain.plan import TRIES_MAX, WORKER_LOST, error_told
from runs_domain.ports import Job
from workers.delivery import Delivery, JobFunction, NotForThisWorker
from workers.held_run import HeldRun
from workers.job_entry import WEATHER

logger = logging.getLogger(__name__)

BROKEN_TRIES_MAX: Final = 15
"""How often a job may break before anything could be made of its run: more than a run's own tries,
so that a run which can still count them ends by its stream; about five minutes, so that a fleet in
the middle of a deploy gets through, whose older half cannot read the newer half's events."""


LOST_TAKES_MAX: Final = TRIES_MAX + 3
"""How often one entry may be taken and its worker lost with it. A run counts that too, and ends
before; one that kills its worker before it can be counted would go through the fleet for ever."""


@dataclass(slots=True)
class BurialCounters:
    tries_exhausted: int = 0
    broken: int = 0


class Burials:
    def __init__(self, letters: DeadLetters) -> None:
        self.counters = BurialCounters()
        self._letters = letters

    async def bury_run(self, held: HeldRun) -> None:
        """If the run has ended because its tries were used up. Raises StoreUnavailable."""
        ending = held.state.ending
        if not isinstance(ending, Failed) or ending.code != "tries_exhausted":
            return
        told = error_told(ending)
        error = held.last_error if held.last_error.startswith(told) else told
        burial = Burial(
            kind="run",
            id=held.run_id,
            reason="tries_exhausted",
            last_error=error,
            tries=held.state.tries_lost,
        )
        if await self._letters.bury(burial):
            self.counters.tries_exhausted += 1
            logger.error("run %s is buried after %d tries: %s", burial.id, burial.tries, error)

    def guarded(self, function: JobFunction) -> JobFunction:
        """`function`, but a job that has broken too often is buried, and then it is done."""

        async def run(ctx: dict[Any, Any], job: Job, delivery: Delivery) -> bool:
            if delivery.times_taken > LOST_TAKES_MAX:
                await self._bury_job(job, delivery.times_taken - 1, WORKER_LOST)
                return True
            try:
                return await function(ctx, job, delivery)
            except (*WEATHER, NotForThisWorker):
                raise
            except Exception as error:
                if delivery.retries + 1 >= BROKEN_TRIES_MAX:
                    log_fault(logger, f"{job.kind} {job.id} broke once more", error)
                    await self._bury_job(job, delivery.retries + 1, brief(error))
                    return True
                # Sent all the same, by a reconciler that had looked before the letter was written.
                if await self._letters.is_withheld(job.kind, RunId(UUID(job.id))):
                    return True
                raise

        return run

    async def _bury_job(self, job: Job, tries: int, error: str) -> None:
        burial = Burial(
            kind=job.kind, id=RunId(UUID(job.id)), reason="broken", last_error=error, tries=tries
        )
        if await self._letters.bury(burial):
            self.counters.broken += 1
            logger.error("%s %s is buried after %d tries: %s", job.kind, job.id, tries, error)
