"""GET events: a run's history as the log has it, in JSON or NDJSON."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, QueryParameter

from runs_api import auth
from runs_api.about import JSON, Answer, about
from runs_api.accept import prefers
from runs_api.deps import deps_of
from runs_api.observe import seen
from runs_api.ownership import run_head
from runs_api.schemas import History, HistoryEvent
from runs_domain.ids import Version
from runs_domain.ports import Stored
from runs_domain.scopes import READ

VERSION_MAX: Final = 2**31 - 1
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
    """One JSON object, or a line an event where `Accept` asks for application/x-ndjson."""
    deps = deps_of(request.scope)
    head = await run_head(deps, auth.credential_of(request), run_id)
    seen(request.scope).run = str(head.run_id)
    stream = await deps.log.read_stored(head.run_id, after=Version(from_version - 1))
    events = tuple(shown(stored) for stored in stream)
    if prefers(request.headers.getall("accept", []), NDJSON, JSON):
        lines: Any = b"".join(_encoder.encode(event) + b"\n" for event in events)
        return Response(lines, media_type=NDJSON, headers={"vary": "accept"})
    return Response(History(data=events), media_type=JSON, headers={"vary": "accept"})


def shown(stored: Stored) -> HistoryEvent:
    return HistoryEvent(
        type=stored.type,
        version=stored.version,
        position=stored.position,
        at=stored.at,
        actor=stored.actor,
        subject=str(stored.subject),
        attempt=stored.attempt,
        data=msgspec.Raw(stored.data),
        hash=stored.hash,
        prev=stored.prev,
    )
