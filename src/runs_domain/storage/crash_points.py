"""Counts how often this process comes to a crash point, and kills it at the one that was named.

What has points is wrapped where a process is wired, so that nothing else knows of them and nothing
is paid for them while they are off.
"""

import logging
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

from runs_domain.crash_at import CrashAt, place_of
from runs_domain.ports import Job, JobQueue

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class CrashPoints:
    def __init__(self, setting: str) -> None:
        """`setting`: RUNLEDGER_CRASH_AT; empty = off."""
        self.on = bool(setting)
        self._at: CrashAt | None = place_of(setting)
        self._reached: Counter[str] = Counter()
        if self._at is not None:
            logger.warning("this process will kill itself at %s (RUNLEDGER_CRASH_AT)", setting)

    def reached(self, point: str, *, times: int = 1, what: str = "") -> None:
        """The process may be gone afterwards. `what` tells a log's reader more: no content."""
        if times < 1:
            return
        first = self._reached[point] + 1
        self._reached[point] += times
        for nth in range(first, first + times):
            logger.info("crash point %s:%d %s", point, nth, what)
            if self._at == (point, nth):
                os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def around(self, name: str, *, times: int = 1, what: str = "") -> Iterator[None]:
        """`name.before`, the body, and `name.after` if it raised nothing."""
        self.reached(f"{name}.before", times=times, what=what)
        yield
        self.reached(f"{name}.after", times=times, what=what)

    def call(self, name: str, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """`function` with a point before and after it."""

        async def called(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.around(name):
                return await function(*args, **kwargs)

        return called

    def jobs(self, jobs: JobQueue) -> JobQueue:
        """The API's side of the queue."""

        async def send(job: Job, *, delay_seconds: float = 0.0) -> bool:
            self.reached("send.before")
            return await jobs.send(job, delay_seconds=delay_seconds)

        return replaced(jobs, send=send) if self.on else jobs


def replaced(port: T, **methods: Callable[..., Any]) -> T:
    """`port`, but with these methods."""
    return cast("T", _Replaced(port, methods))


class _Replaced:
    def __init__(self, port: object, methods: dict[str, Callable[..., Any]]) -> None:
        self._port = port
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods[name] if name in self._methods else getattr(self._port, name)
