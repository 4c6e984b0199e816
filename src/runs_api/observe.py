"""What is seen of a request: its id, on every response, and one log line, without any content."""

import logging
import time
from typing import Any, Final, cast
from uuid import UUID

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from runs_api.deps import deps_of

REQUEST_ID_HEADER: Final = "x-request-id"
_STATE: Final = "runledger"

_logger = logging.getLogger("runs_api.requests")


class Seen:
    """What one request gathers for its log line."""

    __slots__ = ("account", "began", "request", "run")

    def __init__(self, request: UUID) -> None:
        self.request = str(request)
        self.began = time.perf_counter()
        self.account = ""
        self.run = ""


def seen(scope: Scope) -> Seen:
    state: dict[str, Any] = scope.setdefault("state", {})
    known = state.get(_STATE)
    if known is None:
        known = state[_STATE] = Seen(deps_of(scope).new_id())
    return cast("Seen", known)


def request_id(scope: Scope) -> str:
    return seen(scope).request


async def before_send(message: Message, scope: Scope) -> None:
    """Litestar's hook on all that is sent; only a response's beginning matters here."""
    if message["type"] != "http.response.start":
        return
    what = seen(scope)
    headers = MutableScopeHeaders.from_message(message)
    headers[REQUEST_ID_HEADER] = what.request
    headers["x-content-type-options"] = "nosniff"
    if _logger.isEnabledFor(logging.INFO):
        _logger.info(
            "%s %s %d",
            scope.get("method", ""),
            scope.get("path_template", "no route"),
            message["status"],
            extra={
                "request": what.request,
                "account": what.account,
                "run": what.run,
                "ms": round((time.perf_counter() - what.began) * 1000, 2),
            },
        )
