"""Faults in what libraries log and run for us: what and where, never an exception's text."""

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from typing_extensions import override

from runs_domain.faults import log_fault, places


class PlacesOnly(logging.Formatter):
    """For what libraries log: their tracebacks end in the exception's text, these do not."""

    @override
    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        return "" if ei[1] is None else "\n".join(places(ei[1]))


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
