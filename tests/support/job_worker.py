"""A worker process for tests that kill it: `python -m tests.support.job_worker URL NAME SECONDS…`.

Each job notes `<name> <what> <cause> <redelivered>` in the list NOTES and then does what the text
at `plan:<job id>` says: `end`, `hold` (until the list `gate:<job id>` has something), or `block`
(keep the event loop busy until then).
"""

import asyncio
import sys
from contextlib import suppress
from typing import Any, Final

import redis
from redis.asyncio import Redis

from runs_domain.ports import Job
from workers.delivery import Delivery
from workers.stream_worker import StreamWorker

NOTES: Final = "test:notes"
STAY: Final = "test:stay"
"""A job that was blocked waits for something in this list before it ends, if it is given time."""
ASK_SECONDS: Final = 2
ASKS_MAX: Final = 15


def plan_key(job_id: str) -> str:
    return f"test:plan:{job_id}"


def gate_key(job_id: str) -> str:
    return f"test:gate:{job_id}"


class NotingJob:
    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._redis = Redis.from_url(url, socket_timeout=5.0)
        self._sync = redis.Redis.from_url(url, socket_timeout=5.0)

    async def run(self, _ctx: dict[Any, Any], job: Job, delivery: Delivery) -> bool:
        how = f"{delivery.cause} {'redelivered' if delivery.redelivered else 'new'}"
        await self._note(f"begun {how}")
        plan = await self._redis.get(plan_key(job.id))
        try:
            if plan == b"block":
                while not self._sync.exists(gate_key(job.id)):
                    pass
                for _ in range(ASKS_MAX):
                    if await self._redis.blpop([STAY], timeout=ASK_SECONDS):
                        break
            elif plan == b"hold":
                done = await self._hold(job, delivery)
                await self._note("done" if done else "stopped")
                return done
        except asyncio.CancelledError:
            await self._note("cancelled")
            raise
        await self._note("done")
        return True

    async def _hold(self, job: Job, delivery: Delivery) -> bool:
        while not delivery.stopping.is_set():
            if await self._redis.exists(gate_key(job.id)):
                return True
            # Not wait_for: on Python 3.11 it can swallow a cancel that meets its time-out.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await delivery.stopping.wait()
        return False

    async def _note(self, what: str) -> None:
        # The blocking client: the other's connection may just have been cut off by a cancel.
        self._sync.rpush(NOTES, f"{self._name} {what}")


async def main(url: str, name: str, lease_seconds: float, watchdog_seconds: float) -> None:
    job = NotingJob(url, name)
    worker = StreamWorker(
        url, {"run": job.run}, lease_seconds=lease_seconds, watchdog_seconds=watchdog_seconds
    )
    await worker.serve()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
