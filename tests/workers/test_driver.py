"""What a worker makes of a run, on the in-memory twins."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.commands import RequestCancel
from runs_domain.errors import ModelOverloaded, StoreUnavailable
from runs_domain.frames import frames_of
from runs_domain.handle import handle
from runs_domain.ids import Attempt
from runs_domain.stream_reader import StreamReader
from tests.support.builders import RUN
from tests.support.driving import World
from tests.support.waiting import until

PLAYBOOK = "scripted/playbook"
BEGIN = ["requested", "provisioned", "key_minted", "started"]
END = ["completed", "key_revoked", "sandbox_released"]
CANCEL = RequestCancel(by="key:1", why="client")


def playbook(*calls: Any) -> str:
    return json.dumps({"calls": list(calls)})


def note(*texts: str, tool: str = "note") -> dict[str, Any]:
    return {"text": "working", "tools": [{"name": tool, "input": {"text": text}} for text in texts]}


async def check_stream(world: World) -> StreamReader:
    """The live frames, the log's frames and the message all say the same (invariant 7)."""
    events = await world.events()
    told = list(frames_of(RUN, events))
    live = await world.live_frames()
    reader = StreamReader().read(told)
    assert live == told
    assert reader.finished
    assert reader.message["parts"] == list((await world.state()).parts)
    return reader


async def test_a_run_without_tools_goes_from_request_to_release() -> None:
    world = World()
    await world.request("hello brave world")

    assert await world.drive()

    assert await world.tags() == [*BEGIN, "message_persisted", *END]
    reader = await check_stream(world)
    assert reader.message["parts"][1] == {
        "type": "text",
        "text": "hello brave world",
        "state": "done",
    }
    assert reader.finish_reason == "stop"


async def test_events_with_no_effect_between_them_are_one_append() -> None:
    world = World()
    await world.request()
    await world.drive()

    times = [entry.at for entry in await world.recorded()]

    assert times[1] == times[2] == times[3]
    assert times[4] == times[5] == times[6]


async def test_tools_start_once_and_each_result_is_an_event() -> None:
    world = World()
    await world.request(playbook(note("a", "b"), {"text": "done"}), PLAYBOOK)

    await world.drive()

    tags = await world.tags()
    assert tags[4:6] == ["message_persisted", "tool_started"]
    assert tags[-4:] == ["message_persisted", *END]
    assert sorted(world.note.notes) == ["a", "b"]
    assert [request.step for request in world.requests] == [0, 1]
    reader = await check_stream(world)
    outputs = [part["output"] for part in reader.message["parts"] if "output" in part]
    assert outputs == [{"noted": "a"}, {"noted": "b"}]


async def test_the_model_sees_each_call_with_its_result() -> None:
    world = World()
    await world.request(playbook(note("a"), {"text": "done"}), PLAYBOOK)
    await world.drive()

    parts = world.requests[1].messages[-1]["parts"]

    assert [part.get("output") for part in parts if "toolCallId" in part] == [{"noted": "a"}]


@pytest.mark.parametrize(
    "tool", [{"name": "nonesuch", "input": {}}, {"name": "note", "input": {"x": 1}}]
)
async def test_a_call_that_cannot_run_tells_the_model_why(tool: dict[str, Any]) -> None:
    world = World()
    await world.request(playbook({"tools": [tool]}, {"text": "done"}), PLAYBOOK)

    await world.drive()

    part = (await world.state()).parts[1]
    assert part["state"] == "output-error"
    assert part["errorText"]
    assert (await world.tags())[-3:] == END


async def test_a_rejected_call_fails_the_run_with_the_reason() -> None:
    world = World()
    await world.request(playbook({"error": "rejected"}), PLAYBOOK)

    await world.drive()

    assert await world.tags() == [*BEGIN, "failed", "key_revoked", "sandbox_released"]
    failed = (await world.events())[4]
    assert isinstance(failed, e.Failed)
    assert failed.code == "model_rejected"
    reader = await check_stream(world)
    assert reader.errors == [failed.sentence]
    assert reader.finish_reason == "error"


async def test_an_overloaded_model_is_asked_again_within_the_attempt() -> None:
    world = World()
    await world.request(playbook({"error": "overloaded", "times": 3, "text": "at last"}), PLAYBOOK)

    await world.drive()

    assert [request.attempt_tries for request in world.requests] == [0, 1, 2, 3]
    assert (await world.tags())[-3:] == END
    assert world.clock.slept_seconds >= 5


async def test_a_model_that_stays_away_fails_the_run_as_unavailable() -> None:
    world = World()
    await world.request(playbook({"error": "timeout", "times": 100}), PLAYBOOK)

    await world.drive()

    failed = (await world.state()).ending
    assert isinstance(failed, e.Failed)
    assert failed.code == "model_unavailable"


async def test_a_step_that_breaks_fails_the_run_and_says_nothing_of_the_inside() -> None:
    class Broken:
        def serves(self, model_id: str) -> bool:
            return True

        async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
            yield m.TextDelta(text="half")
            raise KeyError("secret detail")

    world = World(Broken())
    await world.request()

    await world.drive()

    failed = (await world.state()).ending
    assert isinstance(failed, e.Failed)
    assert (failed.code, failed.sentence) == ("internal", "Internal error")
    reader = await check_stream(world)
    assert reader.message["parts"][1]["text"] == "half"


class Held:
    """A model that says two words and then waits to be told to go on."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()
        self.closed = False

    def serves(self, model_id: str) -> bool:
        return True

    async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
        try:
            yield m.TextDelta(text="one ")
            yield m.TextDelta(text="two")
            self.waiting.set()
            await self.go_on.wait()
            yield m.TextDelta(text=" three")
            yield m.ModelEnd(finish_reason="stop", usage=e.Usage(output_tokens=3))
        finally:
            self.closed = True


async def test_a_cancel_aborts_the_model_call_and_keeps_what_was_streamed() -> None:
    model = Held()
    world = World(model)
    await world.request()
    driving = asyncio.create_task(world.drive())
    await model.waiting.wait()

    await handle(world.log, RUN, CANCEL, world.context("key:1"))
    world.pushes.push(RUN)
    await driving

    assert model.closed
    assert await world.tags() == [
        *BEGIN,
        "cancel_requested",
        "message_persisted",
        "cancelled",
        "key_revoked",
        "sandbox_released",
    ]
    reader = await check_stream(world)
    assert reader.message["parts"][1]["text"] == "one two"
    assert reader.finish_reason == "other"


async def test_a_push_that_nobody_asked_for_changes_nothing() -> None:
    model = Held()
    world = World(model)
    await world.request()
    driving = asyncio.create_task(world.drive())
    await model.waiting.wait()

    world.pushes.push(RUN)
    model.go_on.set()
    await driving

    assert await world.tags() == [*BEGIN, "message_persisted", *END]


async def test_a_cancel_that_comes_with_the_last_word_wins_if_it_is_first_in_the_log() -> None:
    model = Held()
    world = World(model)
    await world.request()
    driving = asyncio.create_task(world.drive())
    await model.waiting.wait()

    await handle(world.log, RUN, CANCEL, world.context("key:1"))
    model.go_on.set()  # no push: the append's conflict tells
    await driving

    assert (await world.tags())[-4:] == [
        "message_persisted",
        "cancelled",
        "key_revoked",
        "sandbox_released",
    ]
    reader = await check_stream(world)
    assert reader.message["parts"][1]["text"] == "one two three"
    assert (await world.state()).usage == e.Usage(output_tokens=3)


async def test_a_cancel_during_tools_keeps_the_results_that_had_come_and_closes_the_rest() -> None:
    world = World()
    waiting = asyncio.Event()

    async def before(text: str) -> None:
        if text == "slow":
            waiting.set()
            await asyncio.Event().wait()

    world.note.before = before
    await world.request(playbook(note("quick", "slow"), {"text": "never"}), PLAYBOOK)
    driving = asyncio.create_task(world.drive())
    await waiting.wait()
    await until(lambda: "quick" in world.note.notes, timeout_seconds=5)

    await handle(world.log, RUN, CANCEL, world.context("key:1"))
    world.pushes.push(RUN)
    await driving

    states = {
        part["input"]["text"]: part["state"]
        for part in (await world.state()).parts
        if "input" in part
    }
    assert states == {"quick": "output-available", "slow": "output-error"}
    assert world.note.notes == ["quick"]
    await check_stream(world)


async def test_a_run_cancelled_before_its_start_is_only_released() -> None:
    world = World()
    await world.request()
    await handle(world.log, RUN, CANCEL, world.context("key:1"))

    assert await world.drive()

    assert await world.tags() == ["requested", "cancel_requested", "cancelled", "sandbox_released"]
    assert world.requests == []


async def test_an_unknown_run_is_left_alone() -> None:
    assert await World().drive()


async def test_a_stopping_worker_hands_over_and_the_next_one_goes_on_without_a_try() -> None:
    world = World()
    await world.request(playbook(note("a"), {"text": "done"}), PLAYBOOK)

    assert await world.drive(stopping=True) is False
    assert await world.drive("handover")

    state = await world.state()
    assert (state.attempt, state.tries_lost) == (2, 0)
    assert (await world.tags())[-3:] == END


async def crash_in_the_model_call(world: World, model: Held) -> None:
    """The worker dies while the model speaks; what it streamed so far is in Redis."""
    await world.request()
    driving = asyncio.create_task(world.drive())
    await model.waiting.wait()
    await until(lambda: len(world.chunks._streams[RUN].frames) == 5, timeout_seconds=5)
    driving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driving


async def test_a_lost_worker_in_mid_stream_leaves_an_interrupted_step_and_the_next_goes_on() -> (
    None
):
    model = Held()
    world = World(model)
    await crash_in_the_model_call(world, model)
    model.go_on.set()

    await world.drive(redelivered=True)

    assert await world.tags() == [*BEGIN, "resumed", "message_persisted", "message_persisted", *END]
    reader = await check_stream(world)
    texts = [part["text"] for part in reader.message["parts"] if part["type"] == "text"]
    assert texts == ["one two", "one two three"]
    assert [request.step for request in world.requests] == [0, 0]
    shown = world.requests[1].messages
    assert [message["role"] for message in shown] == ["user"], (
        "an interrupted step is never shown to the model"
    )
    assert world.leases.renewed, "the key's lease is renewed first thing after resumed"


async def test_I_11_the_next_worker_makes_the_same_request_however_late_it_is() -> None:
    model = Held()
    world = World(model)
    await crash_in_the_model_call(world, model)
    world.clock.slept_seconds += 3 * 3600
    model.go_on.set()

    await world.drive(redelivered=True)

    first, again = world.requests
    assert "Now: 2026-01-01 00:00 UTC" in first.system
    assert again == replace(first, attempt=Attempt(2))


async def test_I_11_a_later_call_is_told_when_the_results_came_before_it() -> None:
    world = World()

    async def takes_an_hour(_: str) -> None:
        world.clock.slept_seconds += 3600

    world.note.before = takes_an_hour
    await world.request(playbook(note("a"), {"text": "done"}), PLAYBOOK)

    await world.drive()

    told = [request.system for request in world.requests]
    assert "Now: 2026-01-01 00:00 UTC" in told[0]
    assert "Now: 2026-01-01 01:00 UTC" in told[1]


async def test_a_lost_worker_and_a_lost_redis_cost_the_open_step_and_nothing_else() -> None:
    model = Held()
    world = World(model)
    await crash_in_the_model_call(world, model)
    world.chunks.wipe()
    model.go_on.set()

    await world.drive("resent")

    assert await world.tags() == [*BEGIN, "resumed", "message_persisted", *END]
    await check_stream(world)


async def test_redis_wiped_in_mid_step_gets_the_open_step_again() -> None:
    model = Held()
    world = World(model)
    await world.request()
    driving = asyncio.create_task(world.drive())
    await model.waiting.wait()
    await until(lambda: len(world.chunks._streams[RUN].frames) == 5, timeout_seconds=5)

    world.chunks.wipe()
    model.go_on.set()
    await driving

    await check_stream(world)


async def test_invariant_2_a_started_call_without_a_result_is_never_run_again() -> None:
    world = World()
    await world.request(playbook(note("pay"), {"text": "done"}), PLAYBOOK)
    await world.lose_worker_in(world.note)

    await world.drive(redelivered=True)

    assert world.note.notes == []
    part = next(part for part in (await world.state()).parts if "toolCallId" in part)
    assert part["errorText"] == "interrupted: outcome unknown"
    assert (await world.tags())[-3:] == END
    await check_stream(world)


async def test_a_repeatable_call_is_run_again() -> None:
    world = World()
    await world.request(playbook(note("x", tool="look"), {"text": "done"}), PLAYBOOK)
    await world.lose_worker_in(world.look)

    await world.drive(redelivered=True)

    assert world.look.notes == ["x"]
    assert [tag for tag in await world.tags() if tag == "tool_started"] == ["tool_started"]
    await check_stream(world)


async def test_invariant_3_a_stalled_worker_that_wakes_up_is_not_heard() -> None:
    model = Held()
    world = World(model)
    await world.request()
    stalled = asyncio.create_task(world.drive())
    await model.waiting.wait()
    await until(lambda: len(world.chunks._streams[RUN].frames) == 5, timeout_seconds=5)

    quick = Held()
    quick.go_on.set()
    world.model = quick
    await world.drive(redelivered=True)
    ended = await world.tags()
    model.go_on.set()
    assert await stalled, "the stalled worker leaves the run alone"

    assert await world.tags() == ended
    await check_stream(world)


async def test_two_fresh_jobs_of_one_run_are_one_run() -> None:
    world = World()
    await world.request("one two three")

    await asyncio.gather(world.drive(), world.drive())

    assert (await world.tags()).count("completed") == 1
    assert (await world.tags()).count("started") == 1
    await check_stream(world)


async def test_too_many_lost_workers_end_the_run() -> None:
    model = Held()
    world = World(model)
    await world.request()
    for number in range(6):
        driving = asyncio.create_task(world.drive(redelivered=number > 0))
        await until(lambda: model.waiting.is_set() or driving.done(), timeout_seconds=5)  # noqa: B023
        model.waiting.clear()
        driving.cancel()
        await asyncio.wait({driving})

    failed = (await world.state()).ending
    assert isinstance(failed, e.Failed)
    assert failed.code == "tries_exhausted"


async def test_a_failed_try_after_some_words_keeps_them_and_asks_again() -> None:
    class Stumbling:
        def serves(self, model_id: str) -> bool:
            return True

        async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
            yield m.TextDelta(text="half a")
            if request.attempt_tries == 0:
                raise ModelOverloaded("busy")
            yield m.TextDelta(text=" sentence")
            yield m.ModelEnd(finish_reason="stop", usage=e.Usage())

    world = World(Stumbling())
    await world.request()

    await world.drive()

    reader = await check_stream(world)
    texts = [part["text"] for part in reader.message["parts"] if part["type"] == "text"]
    assert texts == ["half a", "half a sentence"]


@pytest.mark.parametrize("landed", [True, False])
async def test_an_append_in_doubt_is_looked_for_before_it_is_made_again(landed: bool) -> None:
    world = World()
    await world.request("hello")
    append = world.log.append
    doubts: list[int] = []

    async def doubtful(wanted: Any) -> Any:
        if isinstance(wanted.events[0], e.MessagePersisted) and not doubts:
            doubts.append(1)
            if landed:
                await append(wanted)
            raise StoreUnavailable("the reply was lost")
        return await append(wanted)

    world.log.append = doubtful
    await world.drive()

    assert await world.tags() == [*BEGIN, "message_persisted", *END]
    await check_stream(world)


async def test_an_append_that_lands_late_is_not_taken_for_another_workers() -> None:
    """The first reply was lost and the store seemed not to have it; it landed meanwhile."""
    world = World()
    await world.request("hello")
    append = world.log.append
    late: list[Any] = []

    async def doubtful(wanted: Any) -> Any:
        if isinstance(wanted.events[0], e.MessagePersisted) and not late:
            late.append(wanted)
            raise StoreUnavailable("the reply was lost")
        if late and late[0] is not None:
            await append(late[0])
            late[0] = None
        return await append(wanted)

    world.log.append = doubtful
    await world.drive()

    assert await world.tags() == [*BEGIN, "message_persisted", *END]
    await check_stream(world)
