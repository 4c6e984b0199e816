"""Sweeps: a worker killed at every border of a run, and everything killed in any order."""

import random
import signal
from collections import Counter

import httpx
import pytest
import redis

from runs_api.reader import FRAMES_LOST
from runs_domain.frames import Error
from tests.support.rest import Rest, Run, bash, parts_of
from tests.support.run_key import run_key
from tests.support.run_story import ENDINGS, check_story
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until
from tests.support.watch import Watch
from workers.stack.processes import Process

pytestmark = [pytest.mark.crash, pytest.mark.long, pytest.mark.timeout(600)]

BORDERS = 14
"""More than the events of the run below."""
RUNS = 12
ROUNDS = 8


def careful(*names: str) -> list[dict[str, object]]:
    """A playbook whose commands leave a line each, and whose last one shows all lines."""
    steps = [bash(f"echo {name} >> effects", text=f"now {name} please") for name in names]
    return [*(step | {"delta_ms": 15} for step in steps), bash("cat effects"), {"text": "done"}]


async def check_effects(client: Rest, run: Run, names: tuple[str, ...]) -> None:
    """Invariant 2: no command ran twice, and what has a result ran exactly once."""
    *calls, shown = parts_of((await client.messages(run))[-1], "tool-bash")
    if shown["state"] != "output-available":
        return  # the last look itself was cut short
    effects = Counter(shown["output"]["stdout"].split())
    for name, call in zip(names, calls, strict=True):
        allowed = {1} if call["state"] == "output-available" else {0, 1}
        assert effects[name] in allowed, (name, call["state"], effects)


@pytest.mark.settings(lease_seconds="0.6")
async def test_invariant_2_a_worker_killed_at_any_border_repeats_nothing(
    broken: BreakableStack, client: Rest
) -> None:
    names = ("one", "two")
    worker = broken.start_worker()
    for border in range(1, BORDERS):
        run = await client.play(*careful(*names))

        async def came(run: Run = run, border: int = border) -> bool:
            tags = await client.tags(run)
            return len(tags) >= border or "sandbox_released" in tags

        async with client.watching(run) as watch:
            await until(came, timeout_seconds=20)
            kill(worker)
            worker = broken.start_worker()
            await check_story(client, run, watch)
        await check_effects(client, run, names)
        assert await client.status(run) == "completed"


class Disasters:
    """Each does its harm and puts right what no other process would."""

    def __init__(self, stack: BreakableStack, chance: random.Random) -> None:
        self._stack = stack
        self._workers = [stack.start_worker(), stack.start_worker()]
        self._chance = chance
        self._all = (
            self.a_worker_is_killed,
            self.a_worker_is_told_to_stop,
            self.a_worker_sleeps,
            self.the_api_is_killed,
            self.redis_is_killed,
            self.redis_forgets,
            self.postgresql_is_killed,
        )

    def strike(self) -> str:
        which = self._chance.choice(self._all)
        which()
        return which.__name__

    def _another(self) -> Process:
        """One worker out, a new one in."""
        gone = self._workers.pop(self._chance.randrange(len(self._workers)))
        self._workers.append(self._stack.start_worker())
        return gone

    def a_worker_is_killed(self) -> None:
        kill(self._another())

    def a_worker_is_told_to_stop(self) -> None:
        gone = self._another()
        gone.child.kill(signal.SIGCONT)
        kill(gone, signal.SIGTERM)

    def a_worker_sleeps(self) -> None:
        """Until the next one falls asleep."""
        for worker in self._workers:
            worker.child.kill(signal.SIGCONT)
        self._chance.choice(self._workers).child.kill(signal.SIGSTOP)

    def the_api_is_killed(self) -> None:
        kill(self._stack.api)
        self._stack.api.start()

    def redis_is_killed(self) -> None:
        self._stack.valkey.stop(at_once=True)
        self._stack.valkey.start()

    def redis_forgets(self) -> None:
        with redis.Redis.from_url(self._stack.details["redisUrl"]) as server:
            server.flushall()

    def postgresql_is_killed(self) -> None:
        self._stack.postgres.stop(at_once=True)
        self._stack.postgres.start()


async def versions(client: Rest, runs: list[Run]) -> int | None:
    """How far all runs are, in events; None if the API cannot say now."""
    total = 0
    for run in runs:
        try:
            answer = await client.http.get(f"/api/chat/runs/{run.run_id}")
        except httpx.TransportError:
            return None
        if answer.status_code != httpx.codes.OK:
            return None
        total += answer.json()["version"]
    return total


@pytest.mark.settings(lease_seconds="1", worker_slots="4")
@pytest.mark.parametrize("seed", range(4))
async def test_invariant_1_whatever_dies_every_accepted_run_ends_once_and_tells_one_story(
    broken: BreakableStack, client: Rest, seed: int
) -> None:
    disasters = Disasters(broken, random.Random(seed))  # noqa: S311 - a test's dice
    names = ("one", "two", "three")
    runs = [await client.play(*careful(*names)) for _ in range(RUNS)]
    struck = []
    async with client.watching(runs[0]) as first, client.watching(runs[-1]) as last:
        for _ in range(ROUNDS):
            before = await versions(client, runs) or 0
            struck.append(disasters.strike())

            async def moved(before: int = before) -> bool:
                now = await versions(client, runs)
                return now is not None and (now > before or await all_ended(client, runs))

            await until(moved, timeout_seconds=60)
        for run, watch in ((runs[0], first), (runs[-1], last)):
            await watch.finished()
            if not was_cut_off(watch):
                await check_story(client, run, watch)
    for run in runs:
        async with client.watching(run, start_index=0) as watch:
            await check_story(client, run, watch)
        await check_effects(client, run, names)
        assert await client.status(run) in {"completed", "failed"}, struck


def was_cut_off(watch: Watch) -> bool:
    """The worker (or its sleep) and Redis took frames along that this reader had seen."""
    return Error(FRAMES_LOST) in watch.frames


async def all_ended(client: Rest, runs: list[Run]) -> bool:
    return all([await client.status(run) in ENDINGS for run in runs])


@pytest.mark.settings(key_ttl_seconds="60")
async def test_invariant_5_I_34_a_held_runs_key_outlives_its_ttl_and_a_deserted_ones_dies(
    broken: BreakableStack, client: Rest
) -> None:
    worker = broken.start_worker()
    run = await client.play(bash("sleep 70; touch late; sleep 600"))
    workspace = broken.workspace_of(run.session_id)
    await until((workspace / "late").exists, timeout_seconds=100)
    key = run_key(broken.details["env"], run.run_id)
    async with Rest(broken.details["baseUrl"], key) as as_run:
        assert await as_run.status(run) == "running"
        kill(worker)

        async def is_dead() -> bool:
            answer = await as_run.http.get(f"/api/chat/runs/{run.run_id}")
            return answer.status_code == httpx.codes.UNAUTHORIZED

        await until(is_dead, timeout_seconds=90)
    assert "key_revoked" not in await client.tags(run)
