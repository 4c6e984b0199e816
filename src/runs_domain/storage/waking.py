"""Waking one waiter, with a limit to how long it waits."""

import asyncio
from contextlib import suppress


class Signal:
    """An event that one waiter at a time waits for and uses up."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout_seconds: float) -> None:
        """Return when set, or after `timeout_seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        self._event.clear()
