"""Cutting a step short, promptly, when somebody wants the run to stop."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

ABORT_SECONDS_MAX: Final = 2.0
"""How long cut-off work may take to clean up before it is left to itself."""

_abandoned: Final[set[asyncio.Future[Any]]] = set()
"""Work that ignored its cancellation: referenced until it ends."""


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
        _leave(task)


def _leave(task: asyncio.Future[Any]) -> None:
    """Whatever becomes of it, it is not this run's any more."""
    if task.done():
        _look_at(task)
        return
    logger.error("work that was cut off goes on: it ignores its cancellation")
    _abandoned.add(task)
    task.add_done_callback(_abandoned.discard)
    task.add_done_callback(_look_at)


def _look_at(task: asyncio.Future[Any]) -> None:
    """asyncio would log what nobody looks at, with every word of it."""
    if not task.cancelled():
        task.exception()
