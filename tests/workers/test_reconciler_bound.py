"""How long a run can be without a job, and an ended one with a sandbox: in simulated seconds.

Real are the log's twin, the driver and the reconciler; the queue's twin forgets, fails and loses
workers as it is told.
"""

import asyncio
import random
from typing import Any

import pytest
from typing_extensions import override

from runs_domain import commands as c
from runs_domain.errors import QueueUnavailable
from runs_domain.handle import handle
from runs_domain.ids import RunId, sandbox_name
from runs_domain.ports import Head, Job
from runs_domain.storage.identity import new_chat_id, new_run_id, new_session_id
from runs_domain.storage.memory_jobs import MemoryJobs
from tests.support.builders import ACCOUNT, mint_key, provisioned, request_run
from tests.support.driving import ExecProvider, World
from workers.adapters.sandbox_none import NoSandbox
from workers.reconciler import RECONCILE_SECONDS, Reconciler

BOUND_SECONDS = 10.0
"""Issue 3's: for a live run without a job, and for an ended run with its sandbox."""
STEP_SECONDS = 0.5
LEASE_SECONDS = 3.0
LIFE_SECONDS = 120.0


class Queue(MemoryJobs):
    away = False

    @override
    async def send(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        self._look()
        return await super().send(job, delay_seconds=delay_seconds)

    @override
    async def missing(self, kind: Any, ids: Any) -> tuple[str, ...]:
        self._look()
        return await super().missing(kind, ids)

    def forget(self) -> None:
        self.waiting.clear()
        self.running.clear()

    def _look(self) -> None:
        if self.away:
            raise QueueUnavailable("Redis is away")


class Sandboxes(ExecProvider):
    """Every run's is there from its request on, as if its provisioning had died half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.there: set[str] = set()

    @override
    async def find(self, name: str) -> Any:
        return _Sandbox(name, self.there) if name in self.there else None


class _Sandbox(NoSandbox):
    def __init__(self, name: str, there: set[str]) -> None:
        super().__init__(name)
        self._there = there

    @override
    async def destroy(self) -> None:
        self._there.discard(self.state.name)


class Fleet:
    """Time goes in steps; in each, a worker takes what waits, and the reconciler ticks if due."""

    def __init__(self, phase_seconds: float = 0.0) -> None:
        self.world = World()
        self.world.sandboxes = self.sandboxes = Sandboxes()
        self.queue = Queue()
        self.reconciler = Reconciler(self.world.log, self.queue)
        self.now = 0.0
        self.workers_stand_still = False
        self._next_tick = phase_seconds
        self._lost: dict[tuple[str, str], float] = {}
        self._since: dict[RunId, float] = {}
        self.longest = 0.0

    async def request(self, *, send: bool = True) -> RunId:
        """As the API does; with `send=False` it dies in between."""
        run_id, session_id = new_run_id(), new_session_id()
        command = request_run(chat_id=new_chat_id(), session_id=session_id)
        await handle(self.world.log, run_id, command, self.world.context("api"))
        self.sandboxes.there.add(sandbox_name(session_id))
        if send and not self.queue.away:
            await self.queue.send(Job(kind="run", id=str(run_id), account_id=str(ACCOUNT)))
        return run_id

    async def cancel(self, run_id: RunId) -> None:
        command = c.RequestCancel(by="x", why="y")
        await handle(self.world.log, run_id, command, self.world.context("api"))

    async def lose_a_worker(self) -> None:
        """It has taken a job; its lease runs out."""
        job = self.queue.take()
        if job is not None:
            self._lost[job.kind, job.id] = self.now + LEASE_SECONDS

    async def finish_too_early(self) -> None:
        job = self.queue.take()
        if job is not None:
            self.queue.finish(job)

    async def live(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            await self.step()

    async def step(self) -> None:
        await self.world.clock.sleep(STEP_SECONDS)
        self.now += STEP_SECONDS
        for key, due in tuple(self._lost.items()):
            if due <= self.now:
                del self._lost[key]
                if key in self.queue.running:
                    self.queue.waiting[key] = self.queue.running.pop(key)
        if self.now >= self._next_tick:
            self._next_tick += RECONCILE_SECONDS
            await self.reconciler.tick()
        if not self.workers_stand_still and not self.queue.away:
            await self._work()
        await self._check()

    async def _work(self) -> None:
        while (job := self.queue.take()) is not None:
            redelivered = job.cause == "resent"
            await self.world.driver().drive(job, redelivered=redelivered, stopping=asyncio.Event())
            self.queue.finish(job)

    async def open_heads(self) -> tuple[Head, ...]:
        return await self.world.log.open_heads(limit=10_000)

    async def _check(self) -> None:
        """Nobody waits longer than the bound, not counting the time that Redis is away."""
        heads = await self.open_heads()
        ids = [str(head.run_id) for head in heads]
        lost = set(ids) if self.queue.away else set(await self.queue.missing("run", ids))
        waits = [head.run_id for head in heads if str(head.run_id) in lost or not head.live]
        if self.queue.away:
            self._since = {}
        self._since = {run_id: self._since.get(run_id, self.now) for run_id in waits}
        for since in self._since.values():
            self.longest = max(self.longest, self.now - since)
        assert self.longest <= BOUND_SECONDS

    async def assert_all_is_given_back(self) -> None:
        assert await self.open_heads() == ()
        assert self.sandboxes.there == set()
        assert all(key.revoked_at is not None for key in self.world.log.keys.values())


PHASES = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
"""Of the reconciler's ticks, to what goes wrong."""


@pytest.mark.parametrize("phase", PHASES)
async def test_an_api_that_died_between_append_and_send(phase: float) -> None:
    fleet = Fleet(phase)
    await fleet.request(send=False)
    await fleet.live(BOUND_SECONDS)
    await fleet.assert_all_is_given_back()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_worker_that_finished_a_job_too_early(phase: float) -> None:
    fleet = Fleet(phase)
    await fleet.request()
    await fleet.finish_too_early()
    await fleet.live(BOUND_SECONDS)
    await fleet.assert_all_is_given_back()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_redis_that_is_wiped_while_runs_wait_and_while_their_workers_are_lost(
    phase: float,
) -> None:
    fleet = Fleet(phase)
    for _ in range(3):
        await fleet.request()
    await fleet.lose_a_worker()
    fleet.queue.forget()
    await fleet.live(BOUND_SECONDS)
    await fleet.assert_all_is_given_back()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_run_that_the_api_ended_while_redis_was_away(phase: float) -> None:
    fleet = Fleet(phase)
    fleet.queue.away = True
    run_id = await fleet.request()
    await fleet.cancel(run_id)
    await fleet.live(20.0)
    assert fleet.sandboxes.there, "nobody could be told"

    fleet.queue.away = False
    await fleet.live(BOUND_SECONDS)
    await fleet.assert_all_is_given_back()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_run_that_the_api_ended_when_it_had_a_key_but_had_not_started(
    phase: float,
) -> None:
    fleet = Fleet(phase)
    run_id = await fleet.request(send=False)
    for command in (provisioned(), mint_key()):
        await handle(fleet.world.log, run_id, command, fleet.world.context("worker:gone"))
    await fleet.cancel(run_id)
    await fleet.live(BOUND_SECONDS)
    await fleet.assert_all_is_given_back()
    tags = [one.type for one in await fleet.world.log.read(run_id)]
    assert tags[-3:] == ["run.cancelled.v1", "run.key_revoked.v1", "run.sandbox_released.v1"]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_goes_wrong_in_two_minutes_nobody_waits_longer_than_the_bound(
    seed: int,
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's, told in its name
    fleet = Fleet(chance.choice(PHASES))
    runs: list[RunId] = []
    back_at = 0.0
    while fleet.now < LIFE_SECONDS:
        if fleet.queue.away:
            fleet.queue.away = fleet.now < back_at
        match chance.randrange(8):
            case 0 | 1:
                runs.append(await fleet.request(send=chance.random() < 0.7))
            case 2:
                await fleet.finish_too_early()
            case 3:
                await fleet.lose_a_worker()
            case 4:
                fleet.queue.forget()
            case 5 if runs:
                await fleet.cancel(chance.choice(runs))
            case 6 if not fleet.queue.away and chance.random() < 0.2:
                fleet.queue.away, back_at = True, fleet.now + chance.uniform(0.5, 20.0)
            case _:
                pass
        await fleet.step()
    fleet.queue.away = False
    await fleet.live(BOUND_SECONDS)
    await fleet.assert_all_is_given_back()
    for run_id in runs:
        tags = [one.type for one in await fleet.world.log.read(run_id)]
        ends = [tag for tag in tags if tag in {"run.completed.v1", "run.cancelled.v1"}]
        assert len(ends) == tags.count("run.sandbox_released.v1") == 1
    assert fleet.longest > 0, "something did wait"
