"""The job queue as workers use it, with leases that run out when a test says so: in memory, and on
the real scripts."""

import itertools
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from arq.utils import timestamp_ms
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from runs_domain.ports import Job, JobQueue
from runs_domain.storage import redis_names as names
from runs_domain.storage.memory_jobs import MemoryJobs
from runs_domain.storage.redis_deliveries import RENEW, Entry, JobDeliveries
from runs_domain.storage.redis_jobs import JOB_KEYS, RedisJobs
from runs_domain.storage.redis_lane import Lane
from workers.delivery import take

LEASE_SECONDS = 3.0


@dataclass(frozen=True)
class Taken:
    ticket: str
    job: Job
    redelivered: bool


class LeasedJobs(Protocol):
    queue: JobQueue
    """What the API and the reconciler see."""

    async def take(self, consumer: str) -> Taken | None:
        """A job whose lease ran out, or else a new one."""
        ...

    async def renew(self, consumer: str, taken: Taken) -> bool:
        """False = it is lost."""
        ...

    async def finish(self, consumer: str, taken: Taken) -> bool: ...

    async def requeue(self, consumer: str, taken: Taken, job: Job) -> bool: ...

    async def lapse(self) -> None:
        """Every lease runs out."""
        ...

    async def wipe(self) -> None: ...


# ------------------------------------------------------------------------------ in memory


@dataclass
class _Place:
    job: Job
    owner: str | None = None
    lapsed: bool = False


@dataclass
class MemoryLeases:
    """The scripts in Python. `blind` names a script that forgets to look whose the job is."""

    blind: str = ""
    entries: dict[int, _Place] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)
    """Job → its ticket, of those that have an entry."""
    held: dict[str, _Place] = field(default_factory=dict)
    """Jobs that run on although Redis was wiped under them."""
    epoch: int = 0
    """Tickets below come from a Redis that was wiped."""

    def __post_init__(self) -> None:
        self._tickets = itertools.count(1)
        self.queue: JobQueue = _MemoryQueue(self)

    def add(self, job: Job) -> None:
        ticket = next(self._tickets)
        self.entries[ticket] = _Place(job)
        self.index[_key(job)] = ticket

    async def take(self, consumer: str) -> Taken | None:
        for key, place in tuple(self.held.items()):
            if place.lapsed:
                del self.held[key]
                self.add(msgspec.structs.replace(place.job, cause="resent"))
        for wanted in (True, False):
            for ticket, place in self.entries.items():
                if place.lapsed if wanted else place.owner is None:
                    place.owner, place.lapsed = consumer, False
                    return Taken(str(ticket), place.job, redelivered=wanted)
        return None

    async def renew(self, consumer: str, taken: Taken) -> bool:
        key, ticket = _key(taken.job), int(taken.ticket)
        entry, held = self.entries.get(ticket), self.held.get(key)
        new = self.index.get(key)
        if held is not None and held.owner == consumer:
            held.lapsed = False
        elif entry is not None and (entry.owner == consumer or self.blind == "renew"):
            entry.owner, entry.lapsed = consumer, False
        elif (
            entry is None
            and held is None
            and ticket < self.epoch
            and (new is None or self.entries[new].owner is None)
        ):
            if new is not None:
                del self.entries[new], self.index[key]
            self.held[key] = _Place(taken.job, consumer)
        else:
            return False
        return True

    async def finish(self, consumer: str, taken: Taken) -> bool:
        key, ticket = _key(taken.job), int(taken.ticket)
        held, entry = self.held.get(key), self.entries.get(ticket)
        if held is not None and held.owner == consumer:
            del self.held[key]
            return True
        if entry is None or (entry.owner != consumer and self.blind != "finish"):
            return False
        del self.entries[ticket]
        if self.index.get(key) == ticket:
            del self.index[key]
        return True

    async def requeue(self, consumer: str, taken: Taken, job: Job) -> bool:
        ours = await self.finish(consumer, taken)
        if ours:
            self.add(job)
        return ours

    async def lapse(self) -> None:
        for place in (*self.entries.values(), *self.held.values()):
            place.lapsed = place.owner is not None

    async def wipe(self) -> None:
        self.entries, self.index, self.held = {}, {}, {}
        self.epoch = next(self._tickets)


class _MemoryQueue(MemoryJobs):
    def __init__(self, leases: MemoryLeases) -> None:
        super().__init__()
        self._leases = leases

    async def send(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        if not await self.missing(job.kind, (job.id,)):
            return False
        self._leases.add(job)
        return True

    async def missing(self, kind: Any, ids: Any) -> tuple[str, ...]:
        there = self._leases.index.keys() | self._leases.held.keys()
        return tuple(one for one in ids if f"{kind}:{one}" not in there)


def _key(job: Job) -> str:
    return f"{job.kind}:{job.id}"


# ------------------------------------------------------------------------------ on Redis


class RedisLeases:
    """The real scripts; time is made to pass by moving what they measure it by."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.queue: JobQueue = RedisJobs(redis)

    def _of(self, consumer: str) -> JobDeliveries:
        """Without a connection for blocking reads, which nobody makes here."""
        lane = Lane("redis://localhost:1")
        return JobDeliveries(self._redis, lane, consumer, lease_seconds=LEASE_SECONDS)

    async def take(self, consumer: str) -> Taken | None:
        deliveries = self._of(consumer)
        await deliveries.open()
        entries = await deliveries.reclaim(1, ())
        if entries:
            return _taken(entries[0], redelivered=True)
        reply: Any = await self._redis.xreadgroup(
            names.GROUP, consumer, {names.JOB_STREAM: ">"}, count=1
        )
        if not reply:
            return None
        ticket, fields = reply[0][1][0]
        return _taken(Entry(ticket.decode(), fields), redelivered=False)

    async def renew(self, consumer: str, taken: Taken) -> bool:
        job = taken.job
        fields = {"kind": job.kind, "id": job.id, "account": job.account_id}
        data = msgspec.json.encode({**fields, "cause": "resent", "retries": "0"})
        lease = (names.GROUP, consumer, int(LEASE_SECONDS * 1000), taken.ticket, data)
        return not await RENEW(self._redis, JOB_KEYS, lease)

    async def finish(self, consumer: str, taken: Taken) -> bool:
        return await self._of(consumer).finish(taken.ticket, _key(taken.job))

    async def requeue(self, consumer: str, taken: Taken, job: Job) -> bool:
        return await self._of(consumer).requeue(taken.ticket, job, retries=0)

    async def lapse(self) -> None:
        for key in await self._redis.zrange(names.JOB_LATER, 0, -1):
            await self._redis.zadd(names.JOB_LATER, {key: 1})
        try:
            rows: Any = await self._redis.xpending_range(
                names.JOB_STREAM, names.GROUP, "-", "+", 100
            )
        except ResponseError:  # wiped: no group
            return
        for row in rows:
            ticket, owner = row["message_id"], row["consumer"]
            await self._redis.xclaim(
                names.JOB_STREAM, names.GROUP, owner, 0, [ticket], idle=3_600_000, justid=True
            )

    async def wipe(self) -> None:
        """Redis tells tickets of before from those after by the millisecond."""
        before = await self._now_ms()
        await self._redis.flushall()
        while await self._now_ms() <= before:
            pass

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _taken(entry: Entry, *, redelivered: bool) -> Taken:
    running = take(entry, redelivered=redelivered, now_ms=timestamp_ms())
    assert running is not None
    return Taken(entry.ticket, running.job, redelivered)
