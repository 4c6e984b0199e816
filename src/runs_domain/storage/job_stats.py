"""One cheap reading of the job system: what operators and metrics show of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from runs_domain.storage import redis_names as names
from runs_domain.storage.fleet_counters import counters_of
from runs_domain.storage.redis_jobs import JOB_KEYS, job_script

ACCOUNTS_MAX: Final = 500
"""Looked at one by one, by id; jobs of others are in the sums alone."""
ACCOUNTS_SHOWN_MAX: Final = 20
"""Those with the most jobs."""
JOBS_MAX: Final = 1_000
"""Looked at one by one for held jobs and lease ages, the oldest first. With all three, a reading
keeps Redis busy for a few milliseconds at most."""

_STATS: Final = job_script("job_stats")


class AccountJobs(msgspec.Struct, frozen=True, rename="camel"):
    account: str
    in_stream: int
    """Queued or running."""
    waiting: int


class WorkerJobs(msgspec.Struct, frozen=True, rename="camel"):
    worker: str
    slots: int
    """0 for one that holds jobs and says nothing of itself any more."""
    running: int
    leases: int
    """Of the oldest JOBS_MAX in the stream."""
    lease_age_seconds: float
    """Since its longest silent lease was renewed; past the lease, others take over."""
    silent_seconds: float | None
    """Since its last word; None = it is not known."""


class JobStats(msgspec.Struct, frozen=True, rename="camel"):
    queued: int
    """In the stream, not yet begun."""
    taken: int
    waiting: int
    """Beside the stream: their account has its share in it."""
    delayed: int
    held: int
    """They run on although Redis was wiped under them. At most JOBS_MAX are counted."""
    oldest_queued_seconds: float | None
    """Of those queued or waiting; None = there are none."""
    slots: int
    accounts: int
    """With jobs; at most ACCOUNTS_MAX."""
    busiest: tuple[AccountJobs, ...]
    workers: tuple[WorkerJobs, ...]
    counters: dict[str, int]


async def read_stats(redis: Redis) -> JobStats:
    """One Lua call. Raises QueueUnavailable."""
    reply = await _STATS(redis, JOB_KEYS, (names.GROUP, ACCOUNTS_MAX, JOBS_MAX))
    now_ms, in_stream, taken, waiting, later, held, oldest_ms, slots, accounts, *lists = reply
    busiest = [
        AccountJobs(name.decode(errors="replace"), int(share), int(waits))
        for name, share, waits in _rows(lists[0], 3)
    ]
    busiest.sort(key=lambda one: (-(one.in_stream + one.waiting), one.account))
    return JobStats(
        queued=max(0, in_stream - taken),
        taken=taken,
        waiting=waiting,
        delayed=later - held,
        held=held,
        oldest_queued_seconds=None if oldest_ms < 0 else oldest_ms / 1000,
        slots=slots,
        accounts=accounts,
        busiest=tuple(busiest[:ACCOUNTS_SHOWN_MAX]),
        workers=tuple(_workers(now_ms, _rows(lists[1], 2), _rows(lists[2], 2))),
        counters=counters_of(dict(_rows(lists[3], 2))),
    )


def _workers(
    now_ms: int, told: Iterable[Sequence[bytes]], leases: Iterable[Sequence[Any]]
) -> Iterator[WorkerJobs]:
    words = {worker.decode(): word.split() for worker, word in told}
    ages: dict[str, list[int]] = {}
    for consumer, age_ms in leases:
        ages.setdefault(consumer.decode(errors="replace"), []).append(int(age_ms))
    for worker in sorted(words.keys() | ages.keys()):
        said_ms, slots, running, _ = words.get(worker, (None, 0, 0, 0))
        yield WorkerJobs(
            worker,
            slots=int(slots),
            running=int(running),
            leases=len(ages.get(worker, ())),
            lease_age_seconds=max(ages.get(worker, (0,))) / 1000,
            silent_seconds=None if said_ms is None else max(0, now_ms - int(said_ms)) / 1000,
        )


def _rows(flat: Sequence[Any], width: int) -> list[tuple[Any, ...]]:
    return [tuple(flat[at : at + width]) for at in range(0, len(flat), width)]
