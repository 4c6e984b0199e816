"""A refused preflight in the envelope: the framework says it in plain text, around our handlers."""

from typing import Final

import msgspec
from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from runs_api.schemas import ErrorBody

_REFUSED: Final = msgspec.json.encode(
    ErrorBody(error="This origin, method or header is not allowed here", code="forbidden")
)
_STATE: Final = "runledger refused preflight"
BAD_REQUEST: Final = 400


async def before_send(message: Message, scope: Scope) -> None:
    """Litestar's hook on all that is sent."""
    if scope.get("method") != "OPTIONS":
        return
    if message["type"] == "http.response.start" and message["status"] == BAD_REQUEST:
        headers = MutableScopeHeaders.from_message(message)
        if headers.get("content-type", "").startswith("text/plain"):
            headers["content-type"] = "application/json"
            headers["content-length"] = str(len(_REFUSED))
            scope["state"][_STATE] = True
    elif message["type"] == "http.response.body" and scope["state"].get(_STATE):
        message["body"] = _REFUSED
