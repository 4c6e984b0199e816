"""No chunk of a worker that has lost its run, also where Redis has forgotten whose it is."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from typing_extensions import override

from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.commands import ResumeRun
from runs_domain.errors import QueueUnavailable, StaleAttempt, StoreUnavailable
from runs_domain.frames import encode, frames_of
from runs_domain.handle import handle
from runs_domain.ids import Attempt, RunId, Version
from runs_domain.ports import BEFORE_FIRST, Append, ChunkTail, Fence, Job, Recorded
from runs_domain.storage.memory_chunks import MemoryChunks
from tests.support.builders import ACCOUNT, RUN
from tests.support.driving import TestClock, World
from tests.support.waiting import until
from workers import takeover
from workers.chunk_writer import ChunkWriter
from workers.held_run import HeldRun

ONE, TWO = Attempt(1), Attempt(2)


class Speaking:
    """Says each word that the test gives it; the empty one is the end."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str] = asyncio.Queue()

    def serves(self, model_id: str) -> bool:
        return True

    async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
        while word := await self.words.get():
            yield m.TextDelta(text=word)
        yield m.ModelEnd(finish_reason="stop", usage=e.Usage(output_tokens=1))

    def say(self, *words: str) -> None:
        for word in words:
            self.words.put_nowait(word)


class Watched(MemoryChunks):
    """Keeps who has written, and when a fence went up.

    `away`: every call fails; `hangs`: the next one never ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[Attempt] = []
        self.writers: list[Attempt] = []
        self.away = False
        self.hangs = False

    @override
    async def raise_attempt(self, run_id: RunId, attempt: Attempt) -> Fence:
        await self._ask()
        fence = await super().raise_attempt(run_id, attempt)
        self.raised.append(attempt)
        return fence

    @override
    async def write(self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]) -> bool:
        await self._ask()
        taken = await super().write(run_id, fence, index, frames)
        self.writers += [fence.attempt] * taken
        return taken

    @override
    async def restart(
        self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]
    ) -> None:
        await self._ask()
        await super().restart(run_id, fence, index, frames)
        self.writers.append(fence.attempt)

    async def _ask(self) -> None:
        if self.hangs:
            self.hangs = False
            await asyncio.Event().wait()
        if self.away:
            raise QueueUnavailable("away")


@pytest.fixture
def model() -> Speaking:
    return Speaking()


@pytest.fixture
def chunks() -> Watched:
    return Watched()


@pytest.fixture
def world(model: Speaking, chunks: Watched) -> World:
    made = World(model)
    made.chunks = chunks
    return made


async def driving(
    world: World, *, redelivered: bool = False
) -> tuple[asyncio.Task[bool], Speaking]:
    """A worker in its model call, and that model."""
    own = Speaking()
    world.model = own
    before = len(world.requests)
    task = asyncio.create_task(world.drive(redelivered=redelivered))
    await until(lambda: len(world.requests) > before, timeout_seconds=5)
    return task, own


async def told(world: World) -> list[bytes]:
    return [encode(frame) for frame in frames_of(RUN, await world.events())]


async def live(world: World) -> list[bytes]:
    return [encode(frame) for frame in await world.live_frames()]


async def test_invariant_3_after_a_wipe_a_stalled_worker_writes_nothing_though_nobody_else_does(
    world: World, chunks: Watched
) -> None:
    await world.request()
    old, old_model = await driving(world)
    old_model.say("one")
    await until(lambda: chunks.writers == [ONE], timeout_seconds=5)
    new, new_model = await driving(world, redelivered=True)

    chunks.wipe()
    old_model.say("late")

    assert await old, "it leaves the run alone"
    assert await chunks.read(RUN, 0, count=10) is None
    assert chunks.raised[-1] == ONE, "it asked Redis, and then the log"
    new_model.say("two")
    await until(lambda: len(chunks.writers) > 1, timeout_seconds=5)
    new_model.say("")
    assert await new
    assert set(chunks.writers[1:]) == {TWO}
    kept = await chunks.next_index(RUN)
    assert kept == len(await told(world))


async def test_invariant_3_a_fence_wiped_before_resumed_is_put_up_again_before_anything_else(
    world: World, chunks: Watched
) -> None:
    """The one gap: the old worker finds an empty Redis and, in the log, still itself."""
    await world.request()
    old, old_model = await driving(world)
    old_model.say("one")
    await until(lambda: chunks.writers == [ONE], timeout_seconds=5)
    appended = world.log.append

    async def append(given: Append) -> tuple[Recorded, ...]:
        if any(isinstance(event, e.Resumed) for event in given.events):
            chunks.wipe()
            old_model.say("late")
            await until(lambda: chunks.writers == [ONE, ONE], timeout_seconds=5)
        return await appended(given)

    world.log.append = append  # type: ignore[method-assign]
    new, new_model = await driving(world, redelivered=True)

    assert chunks.raised == [ONE, TWO, ONE, TWO]
    kept = (await world.state()).parts[1]
    assert kept["text"] == "onelate", "what came through the gap is found, and told as it was sent"
    old_model.say("later")
    assert await old
    new_model.say("two", "")
    assert await new
    assert set(chunks.writers[2:]) == {TWO}
    assert (await live(world))[-4:] == (await told(world))[-4:]


async def test_a_wiped_fence_is_put_up_again_by_the_worker_that_holds_the_run(
    world: World, chunks: Watched
) -> None:
    await world.request()
    driven, model = await driving(world)
    model.say("one")
    await until(lambda: len(chunks.writers) == 1, timeout_seconds=5)

    chunks.wipe()
    model.say("two", "")

    assert await driven
    assert chunks.raised == [ONE, ONE]
    assert await live(world) == await told(world)


async def test_the_fence_of_a_fresh_run_costs_one_call_beside_the_reading_of_the_log(
    world: World, chunks: Watched, model: Speaking
) -> None:
    """Each waits for the other here: they go in parallel, and both come before the append."""
    await world.request()
    reading, raising = asyncio.Event(), asyncio.Event()
    read, raise_attempt, append = world.log.read, chunks.raise_attempt, world.log.append

    async def read_too(run_id: RunId, *, after: Version = BEFORE_FIRST) -> tuple[Recorded, ...]:
        reading.set()
        await raising.wait()
        return await read(run_id, after=after)

    async def raise_too(run_id: RunId, attempt: Attempt) -> Fence:
        raising.set()
        await reading.wait()
        return await raise_attempt(run_id, attempt)

    async def append_after(given: Append) -> tuple[Recorded, ...]:
        assert chunks.raised == [ONE]
        return await append(given)

    world.log.read = read_too  # type: ignore[method-assign]
    chunks.raise_attempt = raise_too  # type: ignore[method-assign]
    world.log.append = append_after  # type: ignore[method-assign]
    model.say("one", "")

    assert await world.drive()

    assert chunks.raised == [ONE]
    assert await live(world) == await told(world)


@pytest.mark.parametrize("how", ["away", "hangs"])
@pytest.mark.parametrize("redelivered", [False, True])
async def test_a_redis_that_is_away_holds_up_no_run_and_is_fenced_when_it_is_back(
    world: World, chunks: Watched, how: str, *, redelivered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "FENCE_SECONDS_MAX", 0.01)
    await world.request()
    setattr(chunks, how, True)
    driven, model = await driving(world, redelivered=redelivered)
    chunks.away = False
    attempt = Attempt(1 + redelivered)
    await until(lambda: chunks.raised == [attempt], timeout_seconds=5)
    model.say("one", "")
    assert await driven
    assert chunks.raised == [attempt]
    assert await live(world) == await told(world)


async def test_nothing_is_written_while_the_log_cannot_say_whose_the_run_is(
    world: World, chunks: Watched
) -> None:
    await world.request()
    driven, model = await driving(world)
    read, looks = world.log.read, 0

    async def read_in_vain(_: RunId, **__: Version) -> tuple[Recorded, ...]:
        nonlocal looks
        looks += 1
        raise StoreUnavailable("away")

    world.log.read = read_in_vain  # type: ignore[method-assign]
    chunks.wipe()
    model.say("one")
    await until(lambda: looks > 1, timeout_seconds=5)
    assert chunks.writers == []

    world.log.read = read  # type: ignore[method-assign]
    model.say("")
    assert await driven
    assert await live(world) == await told(world)


async def test_invariant_7_a_step_committed_while_it_is_told_again_leaves_no_hole(
    chunks: Watched,
) -> None:
    """Each frame stands at its own index, whatever is committed while Redis takes the restart."""

    async def confirm() -> None:
        pass

    asked, go_on = asyncio.Event(), asyncio.Event()
    restart = chunks.restart

    async def slow_restart(
        run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]
    ) -> None:
        asked.set()
        await go_on.wait()
        await restart(run_id, fence, index, frames)

    chunks.restart = slow_restart  # type: ignore[method-assign]
    writer = ChunkWriter(chunks, RUN, TestClock(), asyncio.Event(), confirm)
    writer.begin(ONE, 0, written=0)
    writer.push([b"0", b"1"])
    await asked.wait()

    writer.push([b"2"])
    writer.commit(3)
    writer.push([b"3", b"4"])
    go_on.set()

    await until_index(chunks, 5)
    assert await chunks.read(RUN, 0, count=10) == ChunkTail(0, (b"0", b"1", b"2", b"3", b"4"), ONE)
    await writer.close(ended=False)


async def until_index(chunks: Watched, index: int) -> None:
    async with asyncio.timeout(5), chunks.watch(RUN) as changed:
        while await chunks.next_index(RUN) != index:
            await changed(1.0)


async def test_invariant_3_what_the_worker_has_read_of_a_takeover_its_chunk_writer_knows_too(
    world: World,
) -> None:
    """The append that was refused took in `resumed`; a look beyond it would find nothing more."""
    await world.request()
    job = Job(kind="run", id=str(RUN), account_id=str(ACCOUNT))
    held = HeldRun(RUN, world.log, world.chunks, world.clock, worker_id="old")
    await takeover.take(
        held,
        job,
        world.chunks,
        redelivered=False,
        serves=world.model.serves,
        now=world.clock.now(),
    )
    await held.confirm()
    await handle(world.log, RUN, ResumeRun(attempt=TWO, reason="lost"), world.context("worker:new"))

    with pytest.raises(StaleAttempt):
        await held.catch_up()

    with pytest.raises(StaleAttempt):
        await held.confirm()
    await held.writer.close(ended=False)
