"""Cancels that come between two appends of a worker: whoever is first in the log wins."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.commands import RequestCancel
from runs_domain.frames import frames_of
from runs_domain.handle import handle
from runs_domain.stream_reader import StreamReader
from tests.support.builders import RUN
from tests.support.driving import World
from tests.support.waiting import until

CANCEL = RequestCancel(by="key:1", why="client")
CANCELLED = ["cancelled", "key_revoked", "sandbox_released"]


class Speaking:
    """Says one word and waits."""

    def __init__(self) -> None:
        self.said = asyncio.Event()

    def serves(self, model_id: str) -> bool:
        return True

    async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
        yield m.TextDelta(text="word")
        self.said.set()
        await asyncio.Event().wait()


def cancel_before(world: World, kind: type[e.Event]) -> None:
    """A client's cancel is in the log just before the next append that begins with a `kind`."""
    append = world.log.append

    async def beaten(wanted: Any) -> Any:
        if isinstance(wanted.events[0], kind):
            world.log.append = append
            await handle(world.log, RUN, CANCEL, world.context("key:1"))
        return await append(wanted)

    world.log.append = beaten


async def check_frames(world: World) -> None:
    told = list(frames_of(RUN, await world.events()))
    assert await world.live_frames() == told
    assert StreamReader().read(told).finished


async def test_a_cancel_that_comes_as_the_worker_begins_leaves_nothing_begun() -> None:
    world = World()
    await world.request()
    cancel_before(world, e.Provisioned)

    assert await world.drive()

    assert await world.tags() == ["requested", "cancel_requested", "cancelled", "sandbox_released"]
    assert world.requests == []
    await check_frames(world)


@pytest.mark.parametrize("kind", [e.MessagePersisted, e.Resumed])
async def test_a_cancel_that_comes_in_a_takeover_keeps_what_the_lost_worker_had_said(
    kind: type[e.Event],
) -> None:
    model = Speaking()
    world = World(model)
    await world.request()
    lost = asyncio.create_task(world.drive())
    await model.said.wait()
    await until(lambda: len(world.chunks._streams[RUN].frames) == 4)
    lost.cancel()
    await asyncio.wait({lost})
    cancel_before(world, kind)

    assert await world.drive(redelivered=True)

    tags = await world.tags()
    assert sorted(tags[4:-3]) == ["cancel_requested", "message_persisted", "resumed"]
    assert tags[-3:] == CANCELLED
    assert (await world.state()).parts[1]["text"] == "word"
    assert len(world.requests) == 1, "nobody asks the model for a run that is to stop"
    await check_frames(world)


async def test_a_cancel_that_comes_as_the_run_completes_keeps_the_answer_and_cancels() -> None:
    world = World()
    await world.request("the whole answer")
    cancel_before(world, e.MessagePersisted)

    assert await world.drive()

    assert (await world.tags())[-5:] == ["cancel_requested", "message_persisted", *CANCELLED]
    assert (await world.state()).parts[1]["text"] == "the whole answer"
    assert (await world.state()).usage.output_tokens > 0, "what was spent is charged"
    await check_frames(world)


async def test_a_cancel_that_comes_while_the_sandbox_is_given_back_changes_nothing() -> None:
    world = World()
    await world.request()
    cancel_before(world, e.SandboxReleased)

    assert await world.drive()

    assert "cancel_requested" not in await world.tags()
    assert (await world.tags())[-3:] == ["completed", "key_revoked", "sandbox_released"]
