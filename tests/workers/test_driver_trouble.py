"""A worker among faults: of the store, of Redis, of adapters, of rivals."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.commands import RequestCancel, ResumeRun
from runs_domain.errors import HistoryCorrupt, SandboxNotFound, SandboxUnavailable, StoreUnavailable
from runs_domain.frames import TextEnd, encode, frames_of
from runs_domain.handle import handle
from runs_domain.ids import Attempt
from runs_domain.ports import Fence, Job
from runs_domain.stream_reader import StreamReader
from tests.support.builders import ACCOUNT, RUN
from tests.support.driving import ExecProvider, World
from tests.support.waiting import until
from workers.agent import model_step
from workers.held_run import STORE_PATIENCE_SECONDS

CANCEL = RequestCancel(by="key:1", why="client")
END = ["completed", "key_revoked", "sandbox_released"]
PLAYBOOK = "scripted/playbook"


def two_notes() -> str:
    tools = [{"name": name, "input": {"text": name}} for name in ("note", "look")]
    return json.dumps({"calls": [{"tools": tools}, {"text": "done"}]})


def one_note() -> str:
    return json.dumps({"calls": [{"tools": [{"name": "note", "input": {"text": "paid"}}]}, {}]})


class Waiting:
    """Says one word, then waits for ever, or for `go_on`."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()

    def serves(self, model_id: str) -> bool:
        return True

    async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
        yield m.TextDelta(text="word")
        self.waiting.set()
        await self.go_on.wait()
        yield m.ModelEnd(finish_reason="stop", usage=e.Usage(output_tokens=1))


async def crash(world: World, model: Waiting) -> None:
    await world.request()
    driving = asyncio.create_task(world.drive())
    await model.waiting.wait()
    await until(lambda: len(world.chunks._streams[RUN].frames) == 4, timeout_seconds=5)
    driving.cancel()
    await asyncio.wait({driving})


async def fence_of(world: World) -> Fence:
    """As if the lost worker had gone on writing."""
    return await world.chunks.raise_attempt(RUN, Attempt(1))


async def ending_of(world: World) -> e.Ending:
    ending = (await world.state()).ending
    assert ending is not None
    return ending


async def check_log_stream(world: World) -> None:
    reader = StreamReader().read(frames_of(RUN, await world.events()))
    assert reader.finished


class TestInvariant1NoRunIsImmortal:
    async def test_frames_that_no_step_sends_are_given_up_like_lost_ones(self) -> None:
        model = Waiting()
        world = World(model)
        await crash(world, model)
        await world.chunks.write(RUN, await fence_of(world), 4, [encode(TextEnd("1"))])
        model.go_on.set()

        assert await world.drive(redelivered=True)

        tags = await world.tags()
        assert tags.count("resumed") == 1
        assert tags[-3:] == END
        assert await world.live_frames() == list(frames_of(RUN, await world.events()))

    async def test_bytes_that_are_no_frame_are_given_up_too(self) -> None:
        model = Waiting()
        world = World(model)
        await crash(world, model)
        await world.chunks.write(
            RUN, await fence_of(world), 4, [b'{"type":"from-a-newer-release"}']
        )
        model.go_on.set()

        assert await world.drive(redelivered=True)

        assert (await world.tags())[-3:] == END

    async def test_a_stream_that_begins_beyond_what_the_log_has_is_begun_anew(self) -> None:
        model = Waiting()
        world = World(model)
        await crash(world, model)
        tail = await world.chunks.read(RUN, 0, count=100)
        assert tail is not None
        await world.chunks.restart(RUN, await fence_of(world), 10, tail.frames)
        model.go_on.set()

        assert await world.drive(redelivered=True)

        assert (await world.tags()).count("message_persisted") == 1
        assert await world.live_frames() == list(frames_of(RUN, await world.events()))

    async def test_an_account_erased_in_mid_run_lets_its_run_end(self) -> None:
        model = Waiting()
        world = World(model)
        await crash(world, model)
        world.log.data_key_rows.destroy(ACCOUNT)
        world.log.data_keys.forget(ACCOUNT)
        model.go_on.set()

        assert await world.drive(redelivered=True)

        assert (await world.tags())[-2:] == ["key_revoked", "sandbox_released"]
        assert (await world.tags()).count("resumed") == 1

    async def test_a_step_larger_than_can_be_kept_fails_the_run_by_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model_step, "STEP_BYTES_MAX", 10)
        world = World()
        await world.request("one two three four")

        await world.drive()

        failed = await ending_of(world)
        assert isinstance(failed, e.Failed)
        assert failed.code == "budget_exhausted"
        assert "10 bytes" in failed.sentence
        await check_log_stream(world)

    async def test_a_step_that_the_log_will_never_take_fails_the_run(self) -> None:
        class Unstorable:
            def serves(self, model_id: str) -> bool:
                return True

            async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
                yield m.TextDelta(text="half a pair: \ud800")
                yield m.ModelEnd(finish_reason="stop", usage=e.Usage())

        world = World(Unstorable())
        await world.request()

        await world.drive()

        assert isinstance(await ending_of(world), e.Failed)
        await check_log_stream(world)


class Broken(ExecProvider):
    """`find` raises `error` so many times."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.times, self.asked = error, times, 0

    async def find(self, name: str) -> None:
        self.asked += 1
        if self.asked <= self.times:
            raise self.error


@pytest.mark.parametrize("error", [OSError("no space"), SandboxUnavailable("away")])
async def test_a_release_that_breaks_gives_the_job_back_and_is_tried_again(
    error: Exception,
) -> None:
    world = World()
    world.sandboxes = Broken(error, times=2)
    await world.request()

    for _ in range(2):
        with pytest.raises(type(error)):
            await world.drive(redelivered=True)
    await world.drive(redelivered=True)

    assert world.sandboxes.asked == 3
    assert (await world.tags())[-1] == "sandbox_released"
    assert (await world.tags()).count("completed") == 1


class TestRivals:
    async def test_invariant_3_an_append_in_doubt_is_not_found_in_a_rivals_equal_event(
        self,
    ) -> None:
        """Both take the run over at once; the first one's reply is lost, and so is its append."""
        model = Waiting()
        world = World(model)
        await crash(world, model)
        append = world.log.append
        lost: list[Any] = []

        async def losing(wanted: Any) -> Any:
            if isinstance(wanted.events[0], e.Resumed) and not lost:
                lost.append(wanted)
                rival.set()
                await rival_has_it.wait()
                raise StoreUnavailable("nothing is known")
            return await append(wanted)

        rival, rival_has_it = asyncio.Event(), asyncio.Event()
        world.log.append = losing
        first = asyncio.create_task(world.drive(redelivered=True))
        await rival.wait()
        model.waiting.clear()
        second = asyncio.create_task(world.drive(redelivered=True))
        await model.waiting.wait()
        rival_has_it.set()
        assert await first, "the run is the rival's"
        model.go_on.set()
        await second

        attempts = [event.attempt for event in await world.events() if isinstance(event, e.Resumed)]
        assert attempts == [2]
        assert (await world.tags())[-3:] == END

    async def test_invariant_2_a_fresh_job_delivered_twice_pays_once_whatever_is_in_doubt(
        self,
    ) -> None:
        world = World()
        await world.request(one_note(), PLAYBOOK)
        append = world.log.append

        async def doubtful(wanted: Any) -> Any:
            recorded = await append(wanted)
            if recorded[0].actor == "worker:test-1":
                raise StoreUnavailable("the reply was lost")
            return recorded

        world.log.append = doubtful
        await asyncio.gather(world.drive(), world.drive())

        assert world.note.notes == ["paid"]
        assert (await world.tags())[-3:] == END


async def test_invariant_2_a_finished_step_outlives_a_store_that_can_be_read_and_not_written() -> (
    None
):
    world = World()
    await world.request("hello")
    append = world.log.append
    refused: list[float] = []

    async def read_only(wanted: Any) -> Any:
        is_step = isinstance(wanted.events[0], e.MessagePersisted)
        if is_step and world.clock.monotonic_seconds() < STORE_PATIENCE_SECONDS / 2:
            refused.append(world.clock.monotonic_seconds())
            raise StoreUnavailable("read only")
        return await append(wanted)

    world.log.append = read_only
    await world.drive()

    assert len(refused) > 16
    assert len(world.requests) == 1, "the model is not paid twice"
    assert (await world.tags())[-3:] == END


async def test_a_store_that_stays_away_gives_the_job_back() -> None:
    world = World()
    await world.request("hello")
    append = world.log.append

    async def never(wanted: Any) -> Any:
        if isinstance(wanted.events[0], e.MessagePersisted):
            raise StoreUnavailable("away")
        return await append(wanted)

    world.log.append = never
    with pytest.raises(StoreUnavailable):
        await world.drive()


async def test_I_28_a_history_that_cannot_be_read_does_not_stop_the_watch_for_cancels() -> None:
    model = Waiting()
    world = World(model)
    await world.request()
    driving = asyncio.create_task(world.drive())
    await model.waiting.wait()
    read = world.log.read
    failures: list[int] = []

    async def corrupt_once(*args: Any, **options: Any) -> Any:
        if not failures:
            failures.append(1)
            raise HistoryCorrupt("an event of another release")
        return await read(*args, **options)

    world.log.read = corrupt_once
    world.pushes.push(RUN)
    await until(lambda: bool(failures), timeout_seconds=5)
    await handle(world.log, RUN, CANCEL, world.context("key:1"))
    world.pushes.push(RUN)
    await driving

    assert isinstance(await ending_of(world), e.Cancelled)


async def test_I_30_a_call_that_ran_is_never_said_not_to_have_run() -> None:
    world = World()
    await world.request(one_note(), PLAYBOOK)
    await world.lose_worker_in(world.note)
    for attempt in range(2, 7):  # five workers are lost before they do anything
        await handle(world.log, RUN, resume(attempt), world.context("worker:lost"))
    await world.drive(redelivered=True)

    part = next(part for part in (await world.state()).parts if "toolCallId" in part)
    assert part["errorText"] == "interrupted: outcome unknown"
    assert isinstance(await ending_of(world), e.Failed)


def resume(attempt: int) -> ResumeRun:
    return ResumeRun(attempt=Attempt(attempt), reason="lost")


async def test_a_result_is_kept_also_when_a_sibling_loses_the_workspace() -> None:
    world = World()

    async def lost(_: str) -> None:
        await until(lambda: world.note.notes == ["note"], timeout_seconds=5)
        raise SandboxNotFound("gone")

    world.look.before = lost
    await world.request(two_notes(), PLAYBOOK)

    await world.drive()

    parts = {part["type"]: part for part in (await world.state()).parts if "toolCallId" in part}
    assert parts["tool-note"]["output"] == {"noted": "note"}
    failed = await ending_of(world)
    assert isinstance(failed, e.Failed)
    assert failed.code == "workspace_lost"
    await check_log_stream(world)


async def test_I_35_a_run_whose_key_is_gone_fails_at_once_with_the_reason() -> None:
    model = Waiting()
    world = World(model)
    await crash(world, model)

    async def gone(*_: Any, **__: Any) -> bool:
        return False

    world.leases.renew = gone
    model.waiting.clear()
    await world.drive(redelivered=True)

    failed = await ending_of(world)
    assert isinstance(failed, e.Failed)
    assert "key" in failed.sentence
    assert not model.waiting.is_set(), "no further model call is made without a key"
    await check_log_stream(world)


async def test_I_35_a_key_that_goes_in_mid_call_cuts_the_call_short() -> None:
    model = Waiting()
    world = World(model)
    await world.request()
    held: list[Any] = []
    driver = world.driver()
    renew = driver._keys.renew

    async def watched(one: Any) -> None:
        held.append(one)
        await renew(one)

    kept_alive = driver._keys.kept_alive

    def kept(one: Any) -> Any:
        held.append(one)
        return kept_alive(one)

    driver._keys.kept_alive = kept
    driving = asyncio.create_task(drive(driver))
    await model.waiting.wait()

    async def gone(*_: Any, **__: Any) -> bool:
        return False

    world.leases.renew = gone
    await watched(held[0])
    await driving

    assert isinstance(await ending_of(world), e.Failed)
    assert (await world.state()).parts[1]["text"] == "word"
    await check_log_stream(world)


async def drive(driver: Any) -> bool:
    job = Job(kind="run", id=str(RUN), account_id=str(ACCOUNT))
    return bool(await driver.drive(job, redelivered=False, stopping=asyncio.Event()))


async def test_a_cancel_that_races_the_last_try_wins_without_a_fault() -> None:
    model = Waiting()
    world = World(model)
    await crash(world, model)
    for attempt in range(2, 6):
        await handle(world.log, RUN, resume(attempt), world.context("worker:lost"))
    append = world.log.append

    async def racing(wanted: Any) -> Any:
        if isinstance(wanted.events[0], e.Failed):
            world.log.append = append
            await handle(world.log, RUN, CANCEL, world.context("key:1"))
        return await append(wanted)

    world.log.append = racing
    assert await world.drive(redelivered=True)

    assert isinstance(await ending_of(world), e.Cancelled)


async def test_a_queued_run_cancelled_while_it_is_taken_over_is_only_released() -> None:
    world = World()
    await world.request()
    append = world.log.append

    async def racing(wanted: Any) -> Any:
        if isinstance(wanted.events[0], e.Resumed):
            world.log.append = append
            await handle(world.log, RUN, CANCEL, world.context("key:1"))
        return await append(wanted)

    world.log.append = racing
    assert await world.drive("resent")

    assert await world.tags() == ["requested", "cancel_requested", "cancelled", "sandbox_released"]


async def test_an_adapter_that_ignores_its_abort_is_not_heard_in_the_next_call() -> None:
    class Deaf:
        def __init__(self) -> None:
            self.calls = 0
            self.second = asyncio.Event()

        def serves(self, model_id: str) -> bool:
            return True

        async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
            self.calls += 1
            if self.calls > 1:
                self.second.set()
                await asyncio.sleep(0)  # noqa: TID251 - lets the ghost speak
                yield m.TextDelta(text="answer")
                yield m.ModelEnd(finish_reason="stop", usage=e.Usage())
                return
            yield m.TextDelta(text="first")
            speaking.set()
            while not self.second.is_set():
                try:
                    await self.second.wait()
                except asyncio.CancelledError:
                    continue
            yield m.TextDelta(text="GHOST")

    speaking = asyncio.Event()
    world = World(Deaf())
    await world.request()
    held: list[Any] = []
    driver = world.driver()
    kept_alive = driver._keys.kept_alive

    def kept(one: Any) -> Any:
        held.append(one)
        return kept_alive(one)

    driver._keys.kept_alive = kept
    driving = asyncio.create_task(drive(driver))
    await speaking.wait()
    held[0].interrupt.set()  # a false alarm: the call is cut short and made again
    await driving

    texts = [part["text"] for part in (await world.state()).parts if part["type"] == "text"]
    assert texts == ["first", "answer"]
    assert await world.live_frames() == list(frames_of(RUN, await world.events()))
