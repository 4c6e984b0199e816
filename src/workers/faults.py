"""How a fault that nobody foresaw is logged: where it came from, never what it said.

An exception's text may quote a prompt, a tool's output, a password or a key (invariant 6).
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

from typing_extensions import override

CAUSES_MAX: Final = 8


def log_fault(logger: logging.Logger, what: str, error: BaseException) -> None:
    logger.error("%s: %s", what, places(error))


def places(error: BaseException) -> str:
    """The class of the error, and of those that caused it, each with the places it went through."""
    told: list[str] = []
    waiting = [error]
    while waiting and len(told) < CAUSES_MAX:
        current = waiting.pop(0)
        frames = "".join(traceback.format_tb(current.__traceback__)).rstrip()
        told.append(f"{type(current).__name__}\n{frames}".rstrip())
        cause = current.__cause__ or current.__context__
        waiting += [] if cause is None else [cause]
        waiting += current.exceptions if isinstance(current, BaseExceptionGroup) else ()
    return "\ncaused by ".join(told)


class PlacesOnly(logging.Formatter):
    """For what libraries log: their tracebacks end in the exception's text, these do not."""

    @override
    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        return "" if ei[1] is None else places(ei[1])


def tried(
    what: str, logger: logging.Logger, work: Callable[[], Awaitable[None]]
) -> Callable[[dict[Any, Any]], Awaitable[None]]:
    """`work` as an arq cron job whose fault is logged here: arq would log the exception's text."""

    async def run(_ctx: dict[Any, Any]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the next tick tries again
            log_fault(logger, what, error)

    return run
