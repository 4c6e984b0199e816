"""Tool calls that overlap: how they start, and what a lost or stopped worker leaves of them."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from runs_domain import events as e
from runs_domain.commands import RequestCancel
from runs_domain.frames import frames_of
from runs_domain.handle import handle
from tests.support.builders import RUN
from tests.support.driving import Note, World
from tests.support.waiting import until
from workers.agent.tool_step import TOOLS_AT_ONCE_MAX

PLAYBOOK = "scripted/playbook"
END = ["completed", "key_revoked", "sandbox_released"]
UNKNOWN = "interrupted: outcome unknown"


def calls_of(names: Iterable[str]) -> str:
    """A model call with these tool calls: `note3` is a note that says "note3"."""
    tools = [{"name": name.rstrip("0123456789"), "input": {"text": name}} for name in names]
    return json.dumps({"calls": [{"tools": tools}, {"text": "done"}]})


class AtWork:
    """Both tools of a world: `quick` ones come to their end, all others stay at work."""

    def __init__(self, world: World, *, quick: Iterable[str] = ()) -> None:
        self.now: list[str] = []
        self.go_on = asyncio.Event()
        self._quick = set(quick)
        for tool in (world.note, world.look):
            tool.before = self._before

    async def _before(self, name: str) -> None:
        if name not in self._quick:
            self.now.append(name)
            await self.go_on.wait()


async def outcomes(world: World) -> dict[str, Any]:
    """By its text: a call's output, or its error, or None while it is open."""
    return {
        part["input"]["text"]: part.get("errorText") or part.get("output", {}).get("noted")
        for part in (await world.state()).parts
        if "toolCallId" in part
    }


async def starts(world: World) -> list[int]:
    """How many calls each `tool_started` names."""
    return [len(one.call_ids) for one in await world.events() if isinstance(one, e.ToolStarted)]


def done_by(*tools: Note) -> list[str]:
    return sorted(name for tool in tools for name in tool.notes)


async def lose_worker(world: World, *, when: Any) -> None:
    driving = asyncio.create_task(world.drive())
    await until(when)
    driving.cancel()
    await asyncio.wait({driving})


async def check_frames(world: World) -> None:
    assert await world.live_frames() == list(frames_of(RUN, await world.events()))


async def test_calls_that_may_overlap_start_by_one_event_and_the_rest_as_places_come_free() -> None:
    world = World()
    names = [f"note{number}" for number in range(TOOLS_AT_ONCE_MAX + 2)]
    await world.request(calls_of(names), PLAYBOOK)
    at_work = AtWork(world)
    driving = asyncio.create_task(world.drive())
    await until(lambda: len(at_work.now) == TOOLS_AT_ONCE_MAX)
    assert await starts(world) == [TOOLS_AT_ONCE_MAX]

    at_work.go_on.set()
    await driving

    assert sum(await starts(world)) == len(names)
    assert await outcomes(world) == {name: name for name in names}
    assert (await world.tags())[-3:] == END
    await check_frames(world)


async def test_invariant_2_after_a_crash_only_what_is_missing_is_done() -> None:
    """Of eleven calls one is finished, eight are at work (six of them not repeatable), two wait."""
    world = World()
    hanging = ["note1", "look2", "note3", "note4", "note5", "note6", "note7", "look8"]
    await world.request(calls_of(["note0", *hanging, "note9", "look10"]), PLAYBOOK)
    first = AtWork(world, quick=["note0"])
    await lose_worker(world, when=lambda: sorted(first.now) == sorted(hanging))
    assert await starts(world) == [8, 1]

    at_work = AtWork(world, quick=["note9", "look10", "look2", "look8"])
    await world.drive(redelivered=True)

    assert at_work.now == []
    assert done_by(world.note, world.look) == ["look10", "look2", "look8", "note0", "note9"]
    kept = {name: name for name in ("note0", "look2", "look8", "note9", "look10")}
    lost = {name: UNKNOWN for name in hanging if name.startswith("note")}
    assert await outcomes(world) == kept | lost
    assert await starts(world) == [8, 1, 2], "what is run again was started before"
    assert (await world.tags())[-3:] == END
    await check_frames(world)


async def test_invariant_2_a_worker_lost_between_start_and_effect_leaves_the_outcome_unknown() -> (
    None
):
    world = World()
    await world.request(calls_of(["note0", "look1"]), PLAYBOOK)
    append = world.log.append

    async def dies_after(wanted: Any) -> Any:
        recorded = await append(wanted)
        if isinstance(wanted.events[0], e.ToolStarted):
            world.log.append = append
            raise asyncio.CancelledError
        return recorded

    world.log.append = dies_after
    with pytest.raises(asyncio.CancelledError):
        await world.drive()
    assert done_by(world.note, world.look) == []

    await world.drive(redelivered=True)

    assert await outcomes(world) == {"note0": UNKNOWN, "look1": "look1"}
    await check_frames(world)


async def test_a_worker_that_is_to_end_finishes_what_is_at_work_and_begins_nothing_more() -> None:
    world = World()
    names = [f"note{number}" for number in range(TOOLS_AT_ONCE_MAX + 3)]
    await world.request(calls_of(names), PLAYBOOK)
    at_work = AtWork(world)
    stop = asyncio.Event()
    driving = asyncio.create_task(world.drive(stopping=stop))
    await until(lambda: len(at_work.now) == TOOLS_AT_ONCE_MAX)

    stop.set()
    at_work.go_on.set()
    assert await driving is False
    assert done_by(world.note) == sorted(names[:TOOLS_AT_ONCE_MAX])
    await world.drive("handover")

    assert done_by(world.note) == sorted(names)
    assert await outcomes(world) == {name: name for name in names}
    assert (await world.state()).tries_lost == 0
    await check_frames(world)


async def test_a_cancel_closes_calls_at_work_and_calls_that_wait_and_keeps_results() -> None:
    world = World()
    hanging = [f"note{number}" for number in range(1, TOOLS_AT_ONCE_MAX + 1)]
    await world.request(calls_of(["note0", *hanging, "note9"]), PLAYBOOK)
    at_work = AtWork(world, quick=["note0", "note9"])
    driving = asyncio.create_task(world.drive())
    await until(lambda: len(at_work.now) == TOOLS_AT_ONCE_MAX)

    await handle(world.log, RUN, RequestCancel(by="key:1", why="client"), world.context("key:1"))
    world.pushes.push(RUN)
    await driving

    assert done_by(world.note) == ["note0"]
    closed = dict.fromkeys([*hanging, "note9"], "Cancelled")
    assert await outcomes(world) == {"note0": "note0"} | closed
    assert (await world.tags())[-3:] == ["cancelled", "key_revoked", "sandbox_released"]
    await check_frames(world)


async def test_a_cancel_that_comes_between_two_starts_lets_no_further_call_begin() -> None:
    world = World()
    names = [f"note{number}" for number in range(TOOLS_AT_ONCE_MAX + 1)]
    await world.request(calls_of(names), PLAYBOOK)
    append = world.log.append

    async def racing(wanted: Any) -> Any:
        if isinstance(wanted.events[0], e.ToolStarted) and await starts(world):
            world.log.append = append
            cancel = RequestCancel(by="key:1", why="client")
            await handle(world.log, RUN, cancel, world.context("key:1"))
        return await append(wanted)

    world.log.append = racing
    await world.drive()

    assert await starts(world) == [TOOLS_AT_ONCE_MAX]
    assert names[-1] not in world.note.notes
    assert (await outcomes(world))[names[-1]] == "Cancelled"
    assert (await world.tags())[-3:] == ["cancelled", "key_revoked", "sandbox_released"]
    await check_frames(world)
