"""A job as a worker holds it, and what its function is told about how it came here."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from runs_domain.errors import RunledgerError
from runs_domain.faults import cleaned
from runs_domain.ports import Cause, Job
from runs_domain.storage.redis_deliveries import Entry

FIELD_CHARACTERS_MAX: Final = 200
RETRIES_MAX: Final = 1_000_000
"""Only a number of digits to refuse; how often a run is tried is counted in its own stream."""


@dataclass(frozen=True, slots=True)
class Delivery:
    cause: Cause
    redelivered: bool
    """Another worker had this very entry and let its lease run out."""
    retries: int
    """How often the job's function has raised for a reason of its own; no measure of lost workers,
    nor of how often PostgreSQL or Redis was away."""
    stopping: asyncio.Event
    """Set when this process is to end: come to the end of a step, then return False."""
    last_error: str = ""
    """What broke the job last (`faults.brief`); empty if nothing did that could tell."""
    times_taken: int = 1
    """This very entry: each time but the last its worker was lost."""


JobFunction: TypeAlias = Callable[[dict[Any, Any], Job, Delivery], Awaitable[bool]]
"""`(ctx, job, delivery)`: True = done, False = stopped early, hand the job to another worker.

Raising gives the job back to be tried after a pause. A lost lease cancels it.
"""


WhyLeft: TypeAlias = Literal["stopping", "unfit", "store_away", "weather"]
"""This process ends; it was left as it came, for a worker that can do it; PostgreSQL is away, which
no other job can do without either; something else is, for no reason of the job's own."""


class NotForThisWorker(RunledgerError):
    """Others of the fleet can do the job; nothing was begun here. It is given back as it came."""


@dataclass(slots=True, eq=False)
class RunningJob:
    ticket: str
    job: Job
    delivery: Delivery
    since_ms: int
    lost: bool = False
    """The lease is somebody else's, or the job was given back: leave its entry alone."""
    why_left: WhyLeft | None = None
    """Why its function left off before it was done, if it did so in good order."""
    error: str = ""
    """What broke it here (`faults.brief`)."""

    @property
    def key(self) -> str:
        return f"{self.job.kind}:{self.job.id}"


@dataclass(slots=True)
class WorkerCounters:
    """Each is shown for the whole fleet: `runs_domain.storage.fleet_counters` says what it is."""

    finished: int = 0
    retried: int = 0
    garbage: int = 0
    reclaimed: int = 0
    leases_lost: int = 0
    handed_over: int = 0
    unfit: int = 0
    redis_failures: int = 0


def take(entry: Entry, *, redelivered: bool, now_ms: int) -> RunningJob | None:
    """None = not one of ours: an entry of another program or release, or garbage."""
    names = {"kind": "kind", "id": "id", "accountId": "account", "cause": "cause"}
    fields = {ours: entry.text(theirs) for ours, theirs in names.items()}
    if any(len(text) > FIELD_CHARACTERS_MAX for text in fields.values()):
        return None
    try:
        job = msgspec.convert(fields, Job)
        UUID(job.id)
        times = int(entry.text("retries") or "0")
    except (msgspec.ValidationError, ValueError):
        return None
    if not 0 <= times <= RETRIES_MAX:
        return None
    error = "" if redelivered else cleaned(entry.text("error"))  # who lost it could not tell why
    delivery = Delivery(
        job.cause, redelivered, times, asyncio.Event(), error, times_taken=entry.times_taken
    )
    return RunningJob(entry.ticket, job, delivery, now_ms)
