"""A step whose outcome can never be stored: its run ends, and its model is not paid for ever."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runs_domain import events as e
from runs_domain.errors import AppendBreaks
from runs_domain.plan import TRIES_MAX
from runs_domain.ports import Job
from tests.support.builders import ACCOUNT, RUN
from tests.support.driving import World
from workers.burials import BROKEN_TRIES_MAX
from workers.delivery import Delivery
from workers.job_entry import WEATHER

JOB = Job(kind="run", id=str(RUN), account_id=str(ACCOUNT))


def breaking(world: World, on: Callable[[e.Event], bool]) -> None:
    append = world.log.append

    async def breaks(wanted: Any) -> Any:
        if any(on(event) for event in wanted.events):
            raise AppendBreaks("so many connections broke on it")
        return await append(wanted)

    world.log.append = breaks


def is_whole_step(event: e.Event) -> bool:
    return isinstance(event, e.MessagePersisted) and not event.interrupted


def is_step(event: e.Event) -> bool:
    return isinstance(event, e.MessagePersisted)


def is_result(event: e.Event) -> bool:
    return (
        isinstance(event, e.MessagePersisted)
        and not event.interrupted
        and event.finish_reason is None
    )


def is_step_or_failure(event: e.Event) -> bool:
    return isinstance(event, e.MessagePersisted | e.Failed)


def delivery(retries: int) -> Delivery:
    return Delivery(cause="fresh", redelivered=False, retries=retries, stopping=asyncio.Event())


async def ending_of(world: World) -> e.Failed:
    ending = (await world.state()).ending
    assert isinstance(ending, e.Failed)
    return ending


def test_an_append_that_always_breaks_its_connection_is_no_weather() -> None:
    assert not issubclass(AppendBreaks, WEATHER)


async def test_a_step_that_breaks_its_connection_ends_its_run_and_what_it_said_is_kept() -> None:
    world = World()
    await world.request("hello")
    breaking(world, is_whole_step)

    assert await world.drive()

    assert (await ending_of(world)).code == "internal"
    assert len(world.requests) == 1, "the model is paid once"
    assert "hello" in (await world.state()).parts[1]["text"]


async def test_a_step_of_which_nothing_can_be_stored_ends_its_run_without_it() -> None:
    world = World()
    await world.request("hello")
    breaking(world, is_step)

    assert await world.drive()

    assert (await ending_of(world)).code == "internal"
    assert len(world.requests) == 1
    assert "message_persisted" not in await world.tags()
    assert (await world.tags())[-2:] == ["key_revoked", "sandbox_released"]


async def test_a_run_whose_end_cannot_be_stored_either_is_buried_after_few_model_calls() -> None:
    world = World()
    await world.request("hello")
    breaking(world, is_step_or_failure)

    async def drive(_ctx: dict[Any, Any], _job: Job, delivery: Delivery) -> bool:
        return await world.drive(redelivered=delivery.retries > 0)

    guarded = world.burials.guarded(drive)
    for retries in range(BROKEN_TRIES_MAX - 1):
        with pytest.raises(AppendBreaks):
            await guarded({}, JOB, delivery(retries))
    assert await guarded({}, JOB, delivery(BROKEN_TRIES_MAX - 1))

    assert world.letters.letters[RUN, "broken"].tries == BROKEN_TRIES_MAX
    assert len(world.requests) <= TRIES_MAX
    assert (await world.state()).ending is None


async def test_a_tools_result_that_breaks_its_connection_ends_its_run() -> None:
    world = World()
    await world.request(
        '{"calls": [{"tools": [{"name": "note", "input": {"text": "paid"}}]}, {}]}',
        "scripted/playbook",
    )
    breaking(world, is_result)

    assert await world.drive()

    assert (await ending_of(world)).code == "internal"
    assert world.note.notes == ["paid"]
