"""A job function that notes what it is told and goes on when the test says so."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from runs_domain.ports import Job
from workers.delivery import Delivery
from workers.stream_worker import StreamWorker


@dataclass(frozen=True)
class Begun:
    id: str
    cause: str = "fresh"
    redelivered: bool = False
    retries: int = 0


@dataclass
class Desk:
    """`open_by_default = False` holds each job until its gate is opened."""

    open_by_default: bool = True
    begun: list[Begun] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    """(id, done | stopped | cancelled)"""
    gates: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    async def run(self, _ctx: dict[Any, Any], job: Job, delivery: Delivery) -> bool:
        self.begun.append(Begun(job.id, delivery.cause, delivery.redelivered, delivery.retries))
        try:
            outcome = "done" if self.open_by_default else await self._held(job, delivery)
        except asyncio.CancelledError:
            self.ended.append((job.id, "cancelled"))
            raise
        self.ended.append((job.id, outcome))
        return outcome == "done"

    async def _held(self, job: Job, delivery: Delivery) -> str:
        gate = asyncio.ensure_future(self.gates[job.id].wait())
        stop = asyncio.ensure_future(delivery.stopping.wait())
        try:
            await asyncio.wait((gate, stop), return_when=asyncio.FIRST_COMPLETED)
            return "done" if gate.done() else "stopped"
        finally:
            gate.cancel()
            stop.cancel()


@asynccontextmanager
async def working(url: str, desk: Desk, **options: Any) -> AsyncIterator[StreamWorker]:
    """A worker in this process; stopped at the end, and its own failure raised."""
    settings = {"lease_seconds": 1.0, "step_grace_seconds": 1.0, **options}
    worker = StreamWorker(url, {"run": desk.run}, handle_signals=False, **settings)
    serving = asyncio.create_task(worker.serve())
    try:
        yield worker
    finally:
        worker.stop()
        await serving
