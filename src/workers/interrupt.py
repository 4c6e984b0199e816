"""Cutting a step short, promptly, when somebody wants the run to stop."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from workers.left_behind import leave

logger = logging.getLogger(__name__)

T = TypeVar("T")

ABORT_SECONDS_MAX: Final = 2.0
"""How long cut-off work may take to clean up before it is left to itself."""


class Interrupted(Exception):
    """The signal came first; the work was cancelled."""


async def until_interrupted(
    work: Coroutine[Any, Any, T], *signals: asyncio.Event, timeout_seconds: float
) -> T:
    """`work`'s result, or Interrupted at the first signal, or TimeoutError. Work that ignores its
    cancellation is not waited for: it cannot hold the run (incident I-09)."""
    task = asyncio.ensure_future(work)
    waiters = [asyncio.ensure_future(signal.wait()) for signal in signals]
    try:
        await asyncio.wait(
            {task, *waiters}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if task.done():
            return task.result()
        if any(waiter.done() for waiter in waiters):
            raise Interrupted
        raise TimeoutError
    finally:
        for waiter in waiters:
            waiter.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task}, timeout=ABORT_SECONDS_MAX)
        if leave(task, _look_at):
            logger.error("work that was cut off goes on: it ignores its cancellation")


def _look_at(task: asyncio.Future[Any]) -> None:
    """Whatever became of it, it is not this run's any more."""
    if not task.cancelled():
        task.exception()
