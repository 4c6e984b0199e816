"""Waiting for something to happen, with a limit to how long."""

import asyncio
from collections.abc import Awaitable, Callable

Wait = Callable[[float], Awaitable[None]]
"""Returns when there may be something new, after so many seconds at the latest."""


async def wait_for(event: asyncio.Event, timeout_seconds: float) -> bool:
    """Return when `event` is set, or after `timeout_seconds`; True = it is set."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


class Signal:
    """An event that one waiter at a time waits for and uses up."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout_seconds: float) -> None:
        """Return when set, or after `timeout_seconds`."""
        await wait_for(self._event, timeout_seconds)
        self._event.clear()
