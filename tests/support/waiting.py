"""Wait for conditions, never for time to pass."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.005


async def until(condition: Callable[[], T | Awaitable[T]], *, timeout_seconds: float = 10.0) -> T:
    """The first true value of `condition()`, awaited if need be; AssertionError if none comes."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = condition()
        value: T = await found if inspect.isawaitable(found) else found  # type: ignore[assignment]
        if value:
            return value
        assert time.monotonic() < deadline, _too_late(condition, timeout_seconds, value)
        await asyncio.sleep(POLL_SECONDS)  # noqa: TID251 - the one place where tests may pace


def until_sync(condition: Callable[[], T], *, timeout_seconds: float = 10.0) -> T:
    """`until` for tests of processes, which have no event loop."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, _too_late(condition, timeout_seconds, value)
        time.sleep(POLL_SECONDS)


def _too_late(condition: object, timeout_seconds: float, last: object) -> str:
    name = getattr(condition, "__qualname__", repr(condition))
    return f"{name} did not hold within {timeout_seconds:g} s; last: {last!r}"
