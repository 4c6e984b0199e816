"""A job function in arq's terms: an early stop is RetryJob, an error a Retry after a pause."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, cast

from arq.typing import WorkerCoroutine
from arq.worker import Retry, RetryJob

from runs_domain.errors import QueueUnavailable, SandboxUnavailable, StoreUnavailable
from runs_domain.faults import brief, log_fault
from runs_domain.ports import Job
from workers.delivery import Delivery, JobFunction, NotForThisWorker, RunningJob

logger = logging.getLogger(__name__)

WEATHER: Final = (StoreUnavailable, QueueUnavailable, SandboxUnavailable)
"""A server is away. That is no fault of the job's, however long it lasts: it is tried again, and
neither its run's tries nor its own are used up."""
WEATHER_SECONDS: Final = 3.0
RETRY_SECONDS_MIN: Final = 0.5
RETRY_SECONDS_MAX: Final = 30.0
_DOUBLINGS_MAX: Final = 10


def retry_seconds(retries: int) -> float:
    """The pause before a job that has broken `retries` times before is tried again."""
    doubled = RETRY_SECONDS_MIN * 2.0 ** min(retries, _DOUBLINGS_MAX)
    return float(min(doubled, RETRY_SECONDS_MAX))


def entered(function: JobFunction, held: Mapping[str, RunningJob]) -> WorkerCoroutine:
    async def run(ctx: dict[Any, Any], job: Job, delivery: Delivery) -> None:
        running = held[ctx["job_id"]]
        if running.lost:
            raise RetryJob
        try:
            done = await function(ctx, job, delivery)
        except Retry:
            raise
        except NotForThisWorker as error:
            logger.warning("%s waits %g s: %s", running.key, WEATHER_SECONDS, error)
            running.why_left = "unfit"
            raise Retry(defer=WEATHER_SECONDS) from None
        except WEATHER as error:
            logger.warning("%s waits %g s: %s", running.key, WEATHER_SECONDS, type(error).__name__)
            running.why_left = "store_away" if isinstance(error, StoreUnavailable) else "weather"
            raise Retry(defer=WEATHER_SECONDS) from None
        except Exception as error:  # noqa: BLE001 - whatever broke, the job is tried again
            running.error = brief(error)
            seconds = retry_seconds(delivery.retries)
            log_fault(logger, f"{running.key} broke and is tried again in {seconds:g} s", error)
            raise Retry(defer=seconds) from None
        if not done:
            running.why_left = "stopping"
            raise RetryJob

    return cast("WorkerCoroutine", run)


def log_failure(task: asyncio.Task[None], name: str) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log_fault(logger, f"{name} ended", error)
