"""GET events: a run's history as the log has it, in JSON or NDJSON."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from runs_api import auth
from runs_api.about import JSON, Answer, about
from runs_api.accept import prefers
from runs_api.deps import Deps, deps_of
from runs_api.event_view import event_of
from runs_api.observe import seen
from runs_api.ownership import run_head
from runs_api.schemas import History, HistoryEvent
from runs_domain.ids import RunId, Version
from runs_domain.ports import Head, Stored
from runs_domain.scopes import READ

VERSION_MAX: Final = 2**31 - 1
PAGE_EVENTS_MAX: Final = 200
"""Read, opened and sent at a time: other requests are served in between."""
NDJSON: Final = "application/x-ndjson"

HISTORY: Final = about(
    {
        200: Answer(
            "The events as they are stored", History, texts={NDJSON: "A HistoryEvent a line"}
        )
    },
    errors=(400, 404),
)

_encoder = msgspec.json.Encoder()


@get(
    "/api/chat/runs/{run_id:str}/events", opt=auth.needs(READ) | HISTORY, summary="A run's history"
)
async def run_events(
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
    from_version: Annotated[
        int, QueryParameter(ge=1, le=VERSION_MAX, description="The first version wanted")
    ] = 1,
) -> Response[History]:
    """One JSON object, or a line an event where `Accept` asks for application/x-ndjson.

    A long history comes in pieces: should the store fail in its midst, the answer breaks off
    without its end.
    """
    deps = deps_of(request.scope)
    head = await run_head(deps, auth.credential_of(request), run_id)
    seen(request.scope).run = str(head.run_id)
    as_lines = prefers(request.headers.getall("accept", []), NDJSON, JSON)
    media_type, headers = NDJSON if as_lines else JSON, {"vary": "accept"}
    page = await _page(deps, head.run_id, Version(from_version - 1))
    if page and page[-1].version < head.version:
        pages = _pages(deps, head, page)
        pieces: Any = _lines(pages) if as_lines else _object(pages)
        return Stream(pieces, media_type=media_type, headers=headers)  # type: ignore[return-value]
    events = tuple(map(event_of, page))
    whole: Any = _encoder.encode_lines(events) if as_lines else History(data=events)
    return Response(whole, media_type=media_type, headers=headers)


async def _page(deps: Deps, run_id: RunId, after: Version) -> tuple[Stored, ...]:
    return await deps.log.read_stored(run_id, after=after, limit=PAGE_EVENTS_MAX)


async def _pages(
    deps: Deps, head: Head, page: tuple[Stored, ...]
) -> AsyncIterator[tuple[HistoryEvent, ...]]:
    """`page` and what comes after it, up to the head as it was when the request came."""
    while page:
        yield tuple(map(event_of, page))
        last = page[-1].version
        page = await _page(deps, head.run_id, last) if last < head.version else ()


async def _lines(pages: AsyncIterator[tuple[HistoryEvent, ...]]) -> AsyncIterator[bytes]:
    async for page in pages:
        yield _encoder.encode_lines(page)


async def _object(pages: AsyncIterator[tuple[HistoryEvent, ...]]) -> AsyncIterator[bytes]:
    """The bytes of a History."""
    before = b'{"data":['
    async for page in pages:
        # Without the brackets of the list of its own.
        yield before + _encoder.encode(page)[1:-1]
        before = b","
    yield b"]}"
