"""Stacks side by side, through which a sweep goes one run at a time in each."""

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.model_server import listening_at
from tests.support.nursery import nursery
from tests.support.rest import Rest
from tests.support.stacks import BreakableStack, breakable_stack
from tests.support.sweep import Lane
from tests.support.swept_model import SweptModel

T = TypeVar("T")

LANES = 3
"""More than two processors: each lane waits for leases to run out now and then."""
SETTINGS = {"model_base_url": "http://127.0.0.1:9/v1", "lease_seconds": "0.5"}
"""The API only has to believe in a gateway; workers are told where it is."""


@contextmanager
def lane_stacks(prepared: Path) -> Iterator[list[BreakableStack]]:
    """Without workers."""
    with ExitStack() as opened:
        yield [opened.enter_context(breakable_stack(prepared, SETTINGS)) for _ in range(LANES)]


@asynccontextmanager
async def opened_lanes(stacks: Sequence[BreakableStack]) -> AsyncIterator[list[Lane]]:
    model = SweptModel()
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(listening_at(model))
        forking = await opened.enter_async_context(nursery())
        rests = [Rest(stack.details["baseUrl"], stack.details["apiKey"]) for stack in stacks]
        for rest in rests:
            await opened.enter_async_context(rest)
        yield [Lane(*one, model, forking) for one in zip(stacks, rests, strict=True)]


async def sweep(
    lanes: Sequence[Lane], places: Iterable[T], turn: Callable[[Lane, T], Awaitable[str]]
) -> list[str]:
    """How the run went of each place, in their order; all that fail are told together."""
    left, outcomes, failures = deque(enumerate(places)), dict[int, str](), list[str]()

    async def along(lane: Lane) -> None:
        while left:
            number, place = left.popleft()
            try:
                outcomes[number] = await turn(lane, place)
            except Exception as error:  # noqa: BLE001 - told below, with the others
                failures.append(f"{place}: {''.join(traceback.format_exception(error))}")
                return  # what is left in this lane may disturb the next run

    await asyncio.gather(*map(along, lanes))
    assert not failures, "\n".join(failures)
    return [outcomes[number] for number in sorted(outcomes)]


async def check_logs(lanes: Sequence[Lane]) -> None:
    await asyncio.gather(*(lane.check_log() for lane in lanes))
