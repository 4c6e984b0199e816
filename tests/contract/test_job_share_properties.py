"""Whatever is sent, taken, finished, given back, cancelled and lost in whatever order: every job
comes to its one end, and shares hold. Against a real Valkey, with what it holds looked at raw."""

import asyncio
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from tests.support.job_fleet import Fleet

ACCOUNTS = st.sampled_from([1, 2, 3, 4])
CONSUMERS = st.sampled_from(["one", "two"])
PICK = st.integers(0, 1_000)
DRAIN_ROUNDS_MAX = 500

STEPS = st.one_of(
    st.tuples(st.just("send"), ACCOUNTS, st.integers(1, 6)),
    st.tuples(st.just("send again"), ACCOUNTS, PICK),
    st.tuples(st.just("send later"), ACCOUNTS, st.just(1)),
    st.tuples(st.just("take"), CONSUMERS, st.integers(1, 4)),
    st.tuples(st.just("finish"), CONSUMERS, PICK),
    st.tuples(st.just("give back"), CONSUMERS, PICK),
    st.tuples(st.just("pause"), CONSUMERS, PICK),
    st.tuples(st.just("lose"), CONSUMERS, PICK),
    st.tuples(st.just("cancel"), ACCOUNTS, PICK),
    st.tuples(st.just("hasten"), ACCOUNTS, PICK),
    st.tuples(st.just("time passes"), ACCOUNTS, PICK),
    st.tuples(st.just("slots"), CONSUMERS, st.integers(1, 6)),
    st.tuples(st.just("sweep"), CONSUMERS, PICK),
)

GREW: list[tuple[str, int | str, int]] = [
    *(("send", 1, 5), ("send", 2, 2), ("slots", "one", 4), ("sweep", "one", 0)),
]
"""Room is shared too: it is not all for the account that is looked at first."""


@dataclass
class Story:
    """What a user of the queue knows: which jobs there are, and who runs them."""

    fleet: Fleet
    whose: dict[str, int] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    running: dict[str, str] = field(default_factory=dict)
    """Job → the consumer whose lease is good."""
    ended: list[str] = field(default_factory=list)
    shares: Counter[int] = field(default_factory=Counter)

    async def step(self, what: str, who: int | str, number: int) -> None:
        match what:
            case "send" | "send later":
                for _ in range(number):
                    await self._send(int(who), later=what == "send later")
            case "send again" | "cancel" | "hasten":
                if one := self._pick(self.unfinished, number):
                    await self._touch(what, one)
            case "take":
                await self.take(str(who), number)
            case "finish" | "give back" | "pause" | "lose":
                mine = [one for one, by in self.running.items() if by == who]
                if one := self._pick(mine, number):
                    await self._end(what, one, str(who))
            case _:
                await self._pass(what, str(who), number)

    async def _touch(self, what: str, one: str) -> None:
        jobs = self.fleet.jobs
        if what == "send again":
            assert not await self._sent(one, self.whose[one])
        elif what == "hasten":
            await jobs.hasten("run", one)
        else:
            is_taken = await self._is_taken(one)
            assert await jobs.cancel("run", one) is not is_taken
            if not is_taken:
                self.unfinished.discard(one)

    async def _pass(self, what: str, consumer: str, number: int) -> None:
        if what == "time passes":
            await self.all_due()
        elif what == "slots":
            await self.fleet.has_slots(number, consumer)
        else:
            await self.fleet.sweep(consumer)

    async def take(self, consumer: str, count: int) -> list[str]:
        taken = await self.fleet.take(count, consumer)
        assert len(set(taken)) == len(taken)
        for one in taken:
            assert one in self.unfinished
            assert one not in self.running, "two workers have it"
            self.running[one] = consumer
        return taken

    async def finish(self, one: str, consumer: str) -> None:
        assert await self.fleet.finish(one, consumer)
        del self.running[one]
        self.unfinished.discard(one)
        self.ended.append(one)

    async def all_due(self) -> None:
        for key in await self.fleet.redis.zrange(names.JOB_LATER, 0, -1):
            await self.fleet.redis.zadd(names.JOB_LATER, {key: 1})

    async def _end(self, what: str, one: str, consumer: str) -> None:
        if what == "finish":
            await self.finish(one, consumer)
            return
        del self.running[one]
        if what == "lose":
            await self.fleet.lose(one, consumer)
        else:
            delay_ms = 60_000 if what == "pause" else 0
            whose = self.whose[one]
            assert await self.fleet.give_back(one, consumer, whose=whose, delay_ms=delay_ms)

    async def _send(self, account: int, *, later: bool) -> None:
        one = f"job-{len(self.whose):03}"
        self.whose[one] = account
        assert await self._sent(one, account, delay_seconds=60.0 if later else 0.0)
        self.unfinished.add(one)

    async def _sent(self, one: str, account: int, delay_seconds: float = 0.0) -> bool:
        job = self.fleet.job(one, account)
        return await self.fleet.jobs.send(job, delay_seconds=delay_seconds)

    async def _is_taken(self, one: str) -> bool:
        """Also by a consumer whose lease is over: it may come back and finish."""
        pending = await self.fleet.redis.xpending_range(
            names.JOB_STREAM, names.GROUP, "-", "+", 10_000
        )
        return (await self.fleet.ticket(one)).encode() in {row["message_id"] for row in pending}

    @staticmethod
    def _pick(some: Collection[str], number: int) -> str | None:
        ordered = sorted(some)
        return ordered[number % len(ordered)] if ordered else None

    # ------------------------------------------------------------------ what must hold

    async def check(self) -> None:
        redis = self.fleet.redis
        entries = {
            fields[b"id"].decode(): fields[b"account"].decode()
            for _, fields in await redis.xrange(names.JOB_STREAM)
        }
        waiting = [one.decode().split(":") for one in await redis.zrange(names.JOB_WAITING, 0, -1)]
        later = [one.decode().split(":")[1] for one in await redis.zrange(names.JOB_LATER, 0, -1)]
        places = [*entries, *(one[3] for one in waiting), *later]
        assert sorted(places) == sorted(self.unfinished), "a job is lost, or in two places"
        assert await redis.hlen(names.JOB_INDEX) == len(places)
        assert await redis.hlen(names.JOB_LATER_DATA) == len(waiting) + len(later)

        shares = {one.decode() for one in await redis.zrange(names.JOB_SHARES, 0, -1)}
        assert shares == {f"{account}:run:{one}" for one, account in entries.items()}
        accounts = {one.decode() for one in await redis.smembers(names.JOB_ACCOUNTS)}
        assert accounts == set(entries.values())

        slots = int(await redis.get(names.JOB_SLOTS))
        limit = math.ceil(slots / max(2, len(accounts)))
        now = Counter(UUID(account).int for account in entries.values())
        for account, count in now.items():
            grew = count > self.shares[account]
            assert not grew or count <= limit or len(entries) <= slots, "more than its share"
        self.shares = now

    async def check_swept(self) -> None:
        """What holds once a sweep has seen what changed: nobody waits for nothing."""
        redis, fleet = self.fleet.redis, self.fleet
        slots = int(await redis.get(names.JOB_SLOTS))
        shares = await fleet.in_stream()
        limit = math.ceil(slots / max(2, len(shares)))
        waiting = Counter(
            UUID(one.decode().split(":")[0]).int
            for one in await redis.zrange(names.JOB_WAITING, 0, -1)
        )
        total = sum(shares.values())
        assert not waiting or total >= slots, "a slot is idle while a job waits"
        for account in waiting:
            assert shares[account] >= limit, "an account waits that has less than its share"
        untaken = Counter(self.whose[one] for one in await fleet.untaken())
        for account, count in untaken.items():
            surplus = shares[account] - limit
            assert total <= slots or surplus <= 0 or count < surplus, "it stands in others' way"


@example(steps=GREW, slots=1)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, min_size=10, max_size=60), slots=st.integers(1, 6))
def test_every_job_has_one_end_and_every_account_its_share(
    redis_url: str, steps: list[tuple[str, int | str, int]], slots: int
) -> None:
    asyncio.run(_play(redis_url, steps, slots))


async def _play(url: str, steps: list[tuple[str, int | str, int]], slots: int) -> None:
    async with PipelinedRedis(url) as redis:
        await redis.flushall()
        story = Story(Fleet(redis))
        await story.fleet.deliveries("one").open()
        await story.fleet.has_slots(slots, "one")
        for what, who, number in steps:
            await story.step(what, who, number)
            await story.check()
            if what == "sweep":
                await story.check_swept()
        await _drain(story)


async def _drain(story: Story) -> None:
    """Every lease runs out, all delays pass, one worker goes on: nothing may be left."""
    for one, consumer in tuple(story.running.items()):
        del story.running[one]
        await story.fleet.lose(one, consumer)
    for _ in range(DRAIN_ROUNDS_MAX):
        await story.all_due()
        for one in await story.take("heir", 3):
            await story.finish(one, "heir")
        if not story.unfinished:
            break
        await story.check()
    assert not story.unfinished
    assert len(set(story.ended)) == len(story.ended)
    assert await story.fleet.redis.keys("*later*") == []
