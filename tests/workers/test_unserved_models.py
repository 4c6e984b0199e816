"""A worker without an adapter for a run's model, as in the older half of a rolling deploy."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.commands import RequestCancel
from runs_domain.handle import handle
from runs_domain.ports import Job
from tests.support.builders import ACCOUNT, RUN
from tests.support.driving import World
from tests.workers.test_driver_trouble import Waiting, crash
from workers.adapters.model_registry import UNSERVED, Models
from workers.adapters.model_scripted import ScriptedModel
from workers.delivery import Delivery, NotForThisWorker
from workers.takeover import UNSERVED_SECONDS_MAX


class Unserved:
    """An adapter of the older release."""

    def serves(self, model_id: str) -> bool:
        return False

    def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
        raise AssertionError("not asked")


async def test_a_new_run_of_a_model_that_is_not_here_is_left_as_it_came() -> None:
    world = World(Unserved())
    await world.request()

    with pytest.raises(NotForThisWorker, match="scripted/echo"):
        await world.drive()

    assert await world.tags() == ["requested"]
    world.model = ScriptedModel(world.clock)
    assert await world.drive()
    assert "resumed" not in await world.tags()
    assert isinstance((await world.state()).ending, e.Completed)


@pytest.mark.parametrize("cause", ["resent", "handover"])
async def test_a_begun_run_of_a_model_that_is_not_here_loses_no_try(cause: str) -> None:
    model = Waiting()
    world = World(model)
    await crash(world, model)
    before = await world.recorded()

    world.model = Unserved()
    for _ in range(10):
        with pytest.raises(NotForThisWorker):
            await world.drive(cause)

    assert await world.recorded() == before
    model.go_on.set()
    world.model = model
    assert await world.drive(cause)
    assert (await world.tags()).count("resumed") == 1


async def test_a_cancelled_run_ends_also_where_its_model_is_not() -> None:
    model = Waiting()
    world = World(model)
    await crash(world, model)
    await handle(world.log, RUN, RequestCancel(by="key:1", why="client"), world.context("api"))

    world.model = Unserved()
    assert await world.drive("resent")

    assert isinstance((await world.state()).ending, e.Cancelled)
    assert (await world.state()).sandbox_released


async def test_a_run_that_ended_meanwhile_is_finished_also_where_its_model_is_not() -> None:
    world = World()
    await world.request()
    await world.drive()
    before = await world.recorded()

    world.model = Unserved()
    assert await world.drive("resent")

    assert await world.recorded() == before


async def test_a_job_is_not_buried_for_a_model_that_is_not_here() -> None:
    world = World(Unserved())
    await world.request()
    job = Job(kind="run", id=str(RUN), account_id=str(ACCOUNT))

    async def run(_ctx: object, _job: Job, _delivery: Delivery) -> bool:
        return await world.drive()

    worn_out = Delivery("resent", redelivered=False, retries=1000, stopping=asyncio.Event())
    with pytest.raises(NotForThisWorker):
        await world.burials.guarded(run)({}, job, worn_out)
    assert world.burials.counters.broken == 0


async def test_a_run_that_waited_too_long_for_a_worker_with_its_model_fails() -> None:
    world = World(Models(()))
    await world.request()

    world.clock.slept_seconds = UNSERVED_SECONDS_MAX - 1
    with pytest.raises(NotForThisWorker):
        await world.drive()
    world.clock.slept_seconds = UNSERVED_SECONDS_MAX
    assert await world.drive()

    ending = (await world.state()).ending
    assert isinstance(ending, e.Failed)
    assert (ending.code, ending.sentence) == ("model_rejected", UNSERVED)
