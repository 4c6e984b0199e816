"""GET stream: which run, from which chunk, and whether there is anything to tell."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from litestar import Request, Response, get
from litestar.params import FromPath
from litestar.response import Stream

from runs_api import auth, sse
from runs_api.about import Answer, Parameter, about
from runs_api.committed import committed_length
from runs_api.deps import Deps, deps_of
from runs_api.errors import ApiError, invalid, unavailable
from runs_api.observe import seen
from runs_api.ownership import may_see, newest_head, run_head
from runs_api.reader import RunReader
from runs_domain.errors import QueueUnavailable
from runs_domain.ports import Head
from runs_domain.scopes import READ

INDEX_CHARS_MAX: Final = 12
MEDIA_TYPE: Final = "text/event-stream"

FOLLOW: Final = about(
    {
        200: Answer(
            "Server-sent events: a chunk each, `finish` the last of them, then [DONE]",
            headers=(
                sse.RUN_ID_HEADER,
                sse.TAIL_INDEX_HEADER,
                sse.PROTOCOL_HEADER,
                "Cache-Control",
            ),
            texts={MEDIA_TYPE: "Chunks of an AI SDK UI message stream, their indexes as ids"},
        ),
        204: Answer("The run is over, and there is no such chunk", headers=(sse.RUN_ID_HEADER,)),
    },
    errors=(400, 404),
    parameters=(
        Parameter(
            "startIndex",
            "query",
            {"type": "integer"},
            "The first chunk wanted, from 0; a negative one counts from the end as it is now",
        ),
        Parameter(
            "Last-Event-ID",
            "header",
            {"type": "integer", "minimum": 0},
            "The last chunk that you have; `startIndex` wins",
        ),
    ),
)

AnyRequest = Request[Any, Any, Any]


@get(
    "/api/chat/{chat_id:str}/stream",
    opt=auth.needs(READ) | FOLLOW,
    media_type=MEDIA_TYPE,
    summary="Follow a chat's newest run",
)
async def chat_stream(request: AnyRequest, chat_id: FromPath[str]) -> Response[Any]:
    """`chat_id` may be a run's id too: one transport resumes by either."""
    deps = deps_of(request.scope)
    head = await newest_head(deps, auth.credential_of(request), chat_id)
    return await _answer(request, deps, head)


@get(
    "/api/chat/runs/{run_id:str}/stream",
    opt=auth.needs(READ) | FOLLOW,
    media_type=MEDIA_TYPE,
    summary="Follow a run",
)
async def run_stream(request: AnyRequest, run_id: FromPath[str]) -> Response[Any]:
    deps = deps_of(request.scope)
    head = await run_head(deps, auth.credential_of(request), run_id)
    return await _answer(request, deps, head)


async def _answer(request: AnyRequest, deps: Deps, head: Head) -> Response[Any]:
    seen(request.scope).run = str(head.run_id)
    headers = {sse.RUN_ID_HEADER: str(head.run_id)}
    position = asked_position(request)
    if not head.live and position is None:
        return Response(None, status_code=204, headers=headers)
    length = await _length(deps, head, exact=position is not None and position < 0)
    index = _resolve(position, length)
    if not head.live and index >= length:
        return Response(None, status_code=204, headers=headers)
    if deps.heads.is_full:
        raise unavailable()
    reader = RunReader(
        deps, head.run_id, index, _still_allowed(request, deps, head), has_ended=not head.live
    )
    return Stream(
        reader.read(),
        media_type=MEDIA_TYPE,
        headers={**sse.HEADERS, **headers, sse.TAIL_INDEX_HEADER: str(length - 1)},
    )


def asked_position(request: AnyRequest) -> int | None:
    """The first chunk wanted, from the end if negative; None = not said. Raises 400."""
    start = request.query_params.get("startIndex")
    if start is not None:
        return _integer(start, "startIndex")
    last = request.headers.get("last-event-id")
    if last is None:
        return None
    seen_index = _integer(last, "Last-Event-ID")
    if seen_index < 0:
        raise invalid(("Last-Event-ID",), "must be 0 or more")
    return seen_index + 1


def _integer(text: str, name: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= INDEX_CHARS_MAX):
        raise invalid((name,), "must be a whole number")
    return int(text)


def _resolve(position: int | None, length: int) -> int:
    """A negative position counts from the end as it is now (incident I-33)."""
    if position is None:
        return 0
    return position if position >= 0 else max(0, length + position)


async def _length(deps: Deps, head: Head, *, exact: bool) -> int:
    """Chunks there are now. Without Redis a live run's is the committed length, a lower bound.

    Raises StoreUnavailable, and QueueUnavailable where a lower bound is not good enough.
    """
    if head.live:
        try:
            length = await deps.chunks.next_index(head.run_id)
        except QueueUnavailable:
            if exact:
                raise
            length = None
        if length is not None:
            return length
    return await committed_length(deps.log, head.run_id)


def _still_allowed(request: AnyRequest, deps: Deps, head: Head) -> Callable[[], Awaitable[bool]]:
    """A key that was revoked, or a member that has left, ends the connection (not the run)."""
    raw = auth.presented_key(request)

    async def still_allowed() -> bool:
        try:
            return await may_see(deps, await auth.look_up(request, raw), head)
        except ApiError:
            return False

    return still_allowed
