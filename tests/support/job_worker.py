"""A worker process for tests that kill it: `python -m tests.support.job_worker URL FOLDER NAME …`.

What its jobs do stands in files in FOLDER, so that Redis may go away meanwhile (see `job_desk`).
"""

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from arq.cron import cron

from runs_domain.ports import Job
from tests.support.job_desk import TICK, JobDesk
from workers.delivery import Delivery
from workers.stream_worker import StreamWorker

LOOK_SECONDS: Final = 0.02
STAY_SECONDS_MAX: Final = 30.0


class NotingJob:
    def __init__(self, folder: Path, name: str) -> None:
        self._desk = JobDesk(folder)
        self._name = name

    async def run(self, _ctx: dict[Any, Any], job: Job, delivery: Delivery) -> bool:
        how = "redelivered" if delivery.redelivered else "new"
        self._note(job.id, f"begun {delivery.cause} {how}")
        try:
            done = await self._play(job.id, delivery.stopping)
        except asyncio.CancelledError:
            self._note(job.id, "cancelled")
            raise
        self._note(job.id, "done" if done else "stopped")
        return done

    async def tick(self, _ctx: dict[Any, Any]) -> None:
        self._note(TICK, "ticked")
        await self._play(TICK, asyncio.Event())

    async def _play(self, job_id: str, stopping: asyncio.Event) -> bool:
        what, seconds = self._desk.plan_of(job_id)
        if what == "block":
            while not self._desk.is_open(job_id):
                pass
            return await _seen(self._desk.may_leave, stopping, STAY_SECONDS_MAX)
        if what == "hold":
            return await _seen(lambda: self._desk.is_open(job_id), stopping)
        if what == "work":
            await _seen(lambda: False, asyncio.Event(), seconds)
        return True

    def _note(self, job_id: str, what: str) -> None:
        self._desk.note(self._name, job_id, what)


async def _seen(condition: Any, stopping: asyncio.Event, seconds: float = 3600.0) -> bool:
    """False if `stopping` or the time came first."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        if stopping.is_set() or loop.time() > end:
            return False
        # Not wait_for: on Python 3.11 it can swallow a cancel that meets its time-out.
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await stopping.wait()
    return True


async def main(given: argparse.Namespace) -> None:
    job = NotingJob(given.folder, given.name)
    ticks = [cron(job.tick, name="tick", second=set(range(60)))] if given.cron else []  # type: ignore[arg-type]
    worker = StreamWorker(
        given.url,
        {"run": job.run},
        cron_jobs=ticks,
        slots=given.slots,
        lease_seconds=given.lease_seconds,
        watchdog_seconds=given.watchdog_seconds,
    )
    await worker.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--lease-seconds", type=float, required=True)
    parser.add_argument("--watchdog-seconds", type=float, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--cron", action="store_true")
    asyncio.run(main(parser.parse_args()))
