"""Jobs as tests move them by hand: sent for an account, taken, finished, given back, lost."""

from collections import Counter
from uuid import UUID

from redis.asyncio import Redis

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_deliveries import Entry, JobDeliveries
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_lane import Lane

LEASE_SECONDS = 3.0
LONG_AGO_MS = 3_600_000


def account(number: int) -> str:
    return str(UUID(int=number))


class Fleet:
    """Consumers by name; nothing happens that a test does not ask for."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.jobs = RedisJobs(redis)
        self._counts = Counter[str]()

    async def send(self, whose: int, *ids: str) -> None:
        for one in ids:
            await self.jobs.send(self.job(one, whose))

    @staticmethod
    def job(one: str, whose: int) -> Job:
        return Job(kind="run", id=one, account_id=account(whose))

    async def has_slots(self, slots: int, consumer: str = "one") -> None:
        self._counts[consumer] += 1
        await self.deliveries(consumer).tell(self._counts[consumer], {}, slots=slots)

    async def take(self, count: int, consumer: str = "one") -> list[str]:
        """Job ids, as a worker with `count` free slots gets them: what is reclaimed comes first."""
        taken = await self.deliveries(consumer).reclaim(count, [])
        if left := count - len(taken):
            reply = await self.redis.xreadgroup(
                names.GROUP, consumer, {names.JOB_STREAM: ">"}, count=left
            )
            rows = reply[0][1] if reply else []
            taken += [Entry(ticket.decode(), fields) for ticket, fields in rows]
        return [entry.text("id") for entry in taken]

    async def finish(self, one: str, consumer: str = "one") -> bool:
        return await self.deliveries(consumer).finish(await self.ticket(one), f"run:{one}")

    async def give_back(
        self, one: str, consumer: str = "one", *, whose: int, delay_ms: int = 0
    ) -> bool:
        job = Job(kind="run", id=one, account_id=account(whose), cause="handover")
        ticket = await self.ticket(one)
        return await self.deliveries(consumer).requeue(ticket, job, retries=0, delay_ms=delay_ms)

    async def lose(self, one: str, consumer: str = "one") -> None:
        """Its lease is over, as if its owner had been dead for a while."""
        ticket = await self.ticket(one)
        await self.redis.xclaim(
            names.JOB_STREAM, names.GROUP, consumer, 0, [ticket], idle=LONG_AGO_MS, justid=True
        )

    async def sweep(self, consumer: str = "one") -> None:
        await self.deliveries(consumer).reclaim(0, [])

    async def ticket(self, one: str) -> str:
        place = await self.redis.hget(names.JOB_INDEX, f"run:{one}")
        return "0-1" if place is None else place.decode().partition(" ")[0]

    async def in_stream(self) -> Counter[int]:
        """How many jobs of each account are queued or taken, by the entries themselves."""
        rows = await self.redis.xrange(names.JOB_STREAM)
        return Counter(UUID(fields[b"account"].decode()).int for _, fields in rows)

    async def untaken(self) -> list[str]:
        """Ids in the order in which workers will get them."""
        pending = await self.redis.xpending_range(names.JOB_STREAM, names.GROUP, "-", "+", 10_000)
        taken = {row["message_id"] for row in pending}
        rows = await self.redis.xrange(names.JOB_STREAM)
        return [fields[b"id"].decode() for ticket, fields in rows if ticket not in taken]

    def deliveries(self, consumer: str) -> JobDeliveries:
        """Without a connection for blocking reads."""
        lane = Lane("redis://localhost:1")
        return JobDeliveries(self.redis, lane, consumer, lease_seconds=LEASE_SECONDS)
