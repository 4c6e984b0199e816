"""Failing model calls: how often they are made again, after what pause, and what ends it."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.commands import RequestCancel
from runs_domain.errors import ModelError, ModelOverloaded, ModelTimeout
from runs_domain.frames import frames_of
from runs_domain.handle import handle
from runs_domain.ids import Attempt
from tests.support.builders import RUN
from tests.support.driving import TestClock, World
from workers.agent.back_off import (
    BACK_OFF_SECONDS,
    PAUSE_SECONDS_MAX,
    RETRY_AFTER_SECONDS_MAX,
    pause_seconds,
)
from workers.driver import KEY_LOST
from workers.retry_budget import CALL_TRIES_MAX, RetryBudget, RetryLimits

PLAYBOOK = "scripted/playbook"
CANCEL = RequestCancel(by="key:1", why="client")
END = ["completed", "key_revoked", "sandbox_released"]


def failing(times: int, error: str = "overloaded", calls: int = 1) -> str:
    """`calls` model calls that fail `times` times each and then ask for a tool; then the end."""
    call = {"error": error, "times": times, "tools": [{"name": "note", "input": {}}]}
    return json.dumps({"calls": [call] * calls})


class Clock(TestClock):
    """Stops for ever in a pause of a second or more, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.pausing = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds >= BACK_OFF_SECONDS[1] and seconds < PAUSE_SECONDS_MAX:
            self.pausing.set()
            await asyncio.Event().wait()
        await super().sleep(seconds)


class Failing:
    """Says a word, if it is told to, and fails after `seconds`, for ever."""

    def __init__(self, world_clock: TestClock, *, seconds: float = 0.0, word: str = "") -> None:
        self.clock = world_clock
        self.seconds = seconds
        self.word = word

    def serves(self, model_id: str) -> bool:
        return True

    async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
        if self.word:
            yield m.TextDelta(text=self.word)
        self.clock.slept_seconds += self.seconds
        raise ModelTimeout("The model is silent")


async def failed_of(world: World) -> e.Failed:
    failed = (await world.state()).ending
    assert isinstance(failed, e.Failed)
    assert failed.code == "model_unavailable"
    return failed


async def test_a_call_that_stays_overloaded_ends_the_run_and_says_what_was_spent_of_what() -> None:
    world = World()
    await world.request(failing(100), PLAYBOOK)

    await world.drive()

    assert len(world.requests) == CALL_TRIES_MAX
    said = (await failed_of(world)).sentence
    spent = f"{world.clock.slept_seconds:.1f}"
    assert said == (
        "The scripted model is overloaded: 5 tries of this call (at most 5), "
        f"4 retries in {spent} s (a run has at most 20 in 300 s)"
    )


async def test_invariant_12_a_run_has_so_many_retries_however_they_fall_on_its_calls() -> None:
    world = World()
    world.retry_limits = RetryLimits(retries_max=7)
    await world.request(failing(3, calls=10), PLAYBOOK)

    await world.drive()

    assert [request.step for request in world.requests] == [0] * 4 + [1] * 4 + [2] * 2
    assert "7 retries" in (await failed_of(world)).sentence


async def test_invariant_12_a_run_has_so_many_seconds_for_failing_calls_and_pauses() -> None:
    world = World()
    world.model = Failing(world.clock, seconds=40.0)
    world.retry_limits = RetryLimits(seconds_max=100.0)
    await world.request()

    await world.drive()

    assert len(world.requests) == 3, "40 s, 40 s, 40 s and the pauses between"
    assert "(a run has at most 20 in 100 s)" in (await failed_of(world)).sentence


async def test_a_pause_that_the_budget_does_not_cover_is_not_begun() -> None:
    world = World()
    world.retry_limits = RetryLimits(seconds_max=3.0)
    await world.request(failing(100), PLAYBOOK)

    await world.drive()

    assert len(world.requests) == 3
    assert world.clock.slept_seconds <= 3.0


async def test_without_retries_the_first_failure_is_the_last() -> None:
    world = World()
    world.retry_limits = RetryLimits(retries_max=0)
    await world.request(failing(1), PLAYBOOK)

    await world.drive()

    assert len(world.requests) == 1
    assert "0 retries" in (await failed_of(world)).sentence


async def test_calls_that_succeed_cost_nothing_of_the_budget() -> None:
    world = World()
    world.retry_limits = RetryLimits(retries_max=0, seconds_max=0.0)
    await world.request(failing(0, calls=8), PLAYBOOK)

    await world.drive()

    assert (await world.tags())[-3:] == END


async def test_invariant_12_no_chain_of_hand_overs_retries_for_ever() -> None:
    world = World()
    world.retry_limits = RetryLimits(retries_max=6)
    await world.request(failing(100), PLAYBOOK)
    world.clock = Clock()
    for number in itertools.count():  # each worker is told to stop in its second pause
        world.clock.pausing.clear()
        stop = asyncio.Event()
        cause = "handover" if number else "fresh"
        driving = asyncio.create_task(world.drive(cause, stopping=stop))
        pausing = asyncio.create_task(world.clock.pausing.wait())
        await asyncio.wait({driving, pausing}, return_when=asyncio.FIRST_COMPLETED)
        pausing.cancel()
        stop.set()
        if await driving:
            break

    failed = await failed_of(world)
    assert (await world.state()).tries_lost == 0
    assert number == 5
    assert "1 retry and 5 changes of worker, which count as retries, in" in failed.sentence


def test_invariant_12_however_often_a_run_changes_hands_its_failing_tries_have_a_bound() -> None:
    """At worst each worker has all its retries and is then lost before its last failure."""
    limits = RetryLimits(retries_max=6)
    failed = 0
    for changes in itertools.count():
        budget = RetryBudget(limits)
        for attempt in range(changes):
            budget.inherit(e.Resumed(attempt=Attempt(attempt + 2), reason="handover"))
        granted = 0
        while budget.grants(1, 0.0):
            granted += 1
        failed += granted
        if not granted:
            break

    assert changes == limits.retries_max
    assert failed + 1 <= (limits.retries_max + 1) * (limits.retries_max + 2) / 2


async def test_a_retry_that_left_words_in_the_log_is_remembered_by_the_next_worker() -> None:
    world = World()
    world.clock = Clock()
    world.model = Failing(world.clock, word="half")
    world.retry_limits = RetryLimits(retries_max=3)
    await world.request()
    stop = asyncio.Event()
    driving = asyncio.create_task(world.drive(stopping=stop))
    await world.clock.pausing.wait()
    stop.set()
    assert await driving is False

    assert await world.drive("handover")

    said = (await failed_of(world)).sentence
    assert "1 try of this call" in said
    assert "2 retries and 1 change of worker" in said


async def paused(world: World) -> tuple[asyncio.Task[bool], asyncio.Event]:
    """The run, driven until it pauses for a second after a failed try."""
    world.clock = clock = Clock()
    await world.request(failing(100), PLAYBOOK)
    stop = asyncio.Event()
    driving = asyncio.create_task(world.drive(stopping=stop))
    await clock.pausing.wait()
    return driving, stop


async def test_a_cancel_cuts_a_pause_short() -> None:
    world = World()
    driving, _ = await paused(world)

    await handle(world.log, RUN, CANCEL, world.context("key:1"))
    world.pushes.push(RUN)
    assert await driving

    assert (await world.tags())[-4:] == [
        "cancel_requested",
        "cancelled",
        "key_revoked",
        "sandbox_released",
    ]
    assert len(world.requests) == 2
    assert await world.live_frames() == list(frames_of(RUN, await world.events()))


async def test_the_loss_of_its_key_cuts_a_pause_short() -> None:
    world = World()
    world.clock = clock = Clock()

    async def gone(*_: Any, **__: Any) -> bool:
        return False

    await world.request(failing(100), PLAYBOOK)
    driver = world.driver()
    kept_alive = driver._keys.kept_alive
    held: list[Any] = []

    def kept(one: Any) -> Any:
        held.append(one)
        return kept_alive(one)

    driver._keys.kept_alive = kept
    world.driver = lambda: driver
    driving = asyncio.create_task(world.drive())
    await clock.pausing.wait()

    world.leases.renew = gone
    await driver._keys.renew(held[0])
    await driving

    failed = (await world.state()).ending
    assert isinstance(failed, e.Failed)
    assert failed.sentence == KEY_LOST


async def test_a_worker_that_is_to_end_hands_over_out_of_a_pause() -> None:
    world = World()
    driving, stop = await paused(world)

    stop.set()

    assert await driving is False
    assert (await world.tags())[-1] == "started"
    world.clock = TestClock()
    assert await world.drive("handover")
    assert (await world.state()).tries_lost == 0
    assert "1 change of worker" in (await failed_of(world)).sentence


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_pauses_grow_and_are_spread(chance: float) -> None:
    pauses = [pause_seconds(tries, ModelTimeout("silent"), chance) for tries in (1, 2, 3, 4, 9)]

    assert pauses == [seconds * (1 + chance / 2) for seconds in (0.25, 1, 4, 10, 10)]


@pytest.mark.parametrize(
    ("asked", "at_least"),
    [(None, 1.0), (0.0, 1.0), (7.0, 7.0), (RETRY_AFTER_SECONDS_MAX, 30.0), (31.0, 1.0), (1e9, 1.0)],
)
def test_a_provider_that_asks_for_a_short_pause_is_given_it(
    asked: float | None, at_least: float
) -> None:
    error: ModelError = ModelOverloaded("busy", retry_after_seconds=asked)

    assert pause_seconds(2, error, 0.0) == at_least
    assert pause_seconds(2, error, 1.0) < PAUSE_SECONDS_MAX
