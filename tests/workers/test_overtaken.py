"""A worker that is overtaken while it takes a run over."""

from collections.abc import Sequence

from typing_extensions import override

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.handle import handle
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import Append, Fence, Recorded
from runs_domain.storage.memory_chunks import MemoryChunks
from tests.support.builders import RUN, mint_key, provisioned, start
from tests.support.driving import World

TWO, THREE = Attempt(2), Attempt(3)


class Noting(MemoryChunks):
    """Keeps whose frames came in."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[Attempt] = []

    @override
    async def write(self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]) -> bool:
        self.writers.append(fence.attempt)
        return await super().write(run_id, fence, index, frames)

    @override
    async def restart(
        self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]
    ) -> None:
        self.writers.append(fence.attempt)
        await super().restart(run_id, fence, index, frames)


async def test_invariant_3_a_takeover_whose_fence_was_wiped_asks_the_log_before_it_goes_on() -> (
    None
):
    """Redis knows neither fence: only the log can tell that a third worker has the run."""
    world = World()
    world.chunks = chunks = Noting()
    await world.request()
    for command in (provisioned(), mint_key(), start()):
        await handle(world.log, RUN, command, world.context("worker:first"))
    appended = world.log.append

    async def append(given: Append) -> tuple[Recorded, ...]:
        done = await appended(given)
        if any(isinstance(event, e.Resumed) for event in given.events):
            world.log.append = appended  # type: ignore[method-assign]
            chunks.wipe()
            resume = c.ResumeRun(attempt=THREE, reason="lost")
            await handle(world.log, RUN, resume, world.context("worker:third"))
        return done

    world.log.append = append  # type: ignore[method-assign]

    assert await world.drive(redelivered=True), "it leaves the run alone"

    assert (await world.state()).attempt == THREE
    assert world.requests == [], "the model is not asked for a run that is another's"
    assert TWO not in chunks.writers
