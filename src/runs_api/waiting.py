"""How an open stream waits: for a wake, for the drain, or for the time to pass."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, TypeAlias

from runs_api.deps import Deps
from runs_domain.errors import QueueUnavailable
from runs_domain.ids import RunId

Wait: TypeAlias = Callable[[float], Awaitable[bool]]
"""Returns after so many seconds, or before: True = there may be something new."""
Drained: TypeAlias = "asyncio.Task[Literal[True]]"


@asynccontextmanager
async def waiting(deps: Deps, run_id: RunId) -> AsyncIterator[Wait]:
    """Without Redis there are no wakes; the time passes all the same."""
    drained = asyncio.create_task(deps.draining.wait())
    async with AsyncExitStack() as stack:
        stack.callback(drained.cancel)
        try:
            changed = await stack.enter_async_context(deps.chunks.watch(run_id))
        except QueueUnavailable:
            changed = None

        async def wait(seconds: float) -> bool:
            now = deps.clock.monotonic_seconds
            until = now() + seconds
            if changed is not None and await _changed(changed, drained, seconds):
                return now() < until
            await asyncio.wait({drained}, timeout=seconds)
            return False

        yield wait


async def _changed(
    changed: Callable[[float], Awaitable[None]], drained: Drained, seconds: float
) -> bool:
    """Until a wake, the drain or the time; False = Redis cannot tell."""
    wake = asyncio.create_task(_call(changed, seconds))
    try:
        await asyncio.wait((wake, drained), return_when=asyncio.FIRST_COMPLETED)
    finally:
        wake.cancel()
        (result,) = await asyncio.gather(wake, return_exceptions=True)
    if isinstance(result, Exception) and not isinstance(result, QueueUnavailable):
        raise result
    return not isinstance(result, QueueUnavailable)


async def _call(changed: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await changed(seconds)
