"""Work that a response does not wait for: bounded, with a deadline, never silent."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from runs_domain.errors import RunledgerError

TASKS_MAX: Final = 2048
SECONDS_MAX: Final = 5.0
CLOSE_SECONDS_MAX: Final = 0.5

_logger = logging.getLogger(__name__)


class Background:
    """What is dropped or fails here is made good by the reconciler, from the log."""

    def __init__(self, *, tasks_max: int = TASKS_MAX, seconds_max: float = SECONDS_MAX) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._tasks_max = tasks_max
        self._seconds_max = seconds_max

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> bool:
        """False = too much is under way; `work` is dropped. `name` is what the log calls it."""
        if len(self._tasks) >= self._tasks_max:
            work.close()
            _logger.warning("dropped: %s (%d under way)", name, self._tasks_max)
            return False
        task = asyncio.create_task(self._run(name, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _run(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        try:
            async with asyncio.timeout(self._seconds_max):
                await work
        except (RunledgerError, TimeoutError) as error:
            _logger.warning("%s failed: %s", name, type(error).__name__)
        except Exception:
            _logger.exception("%s failed", name)

    async def close(self) -> None:
        """Give what is under way a moment, then cancel it."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(tuple(self._tasks), timeout=CLOSE_SECONDS_MAX)
        for task in late:
            task.cancel()
        if late:
            _logger.warning("%d background tasks were cut off", len(late))
            await asyncio.wait(late)
