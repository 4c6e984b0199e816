"""See and cancel a run."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from litestar import Request, Response, get, post
from litestar.params import FromPath, QueryParameter

from runs_api import auth
from runs_api.about import Answer, Parameter, about
from runs_api.as_of import parse_point, refusal
from runs_api.deps import Deps, deps_of
from runs_api.observe import seen
from runs_api.ownership import run_head
from runs_api.run_view import PRIVATE, view_of
from runs_api.schemas import RunStopped, RunView
from runs_domain.commands import RequestCancel
from runs_domain.errors import NoSuchPoint, RunNotFound
from runs_domain.handle import handle
from runs_domain.ids import RunId
from runs_domain.ports import Head, Recorded
from runs_domain.read_models import RunSummary, summarize
from runs_domain.run import is_live, status_of
from runs_domain.scopes import READ, WRITE

CANCELLED_BY_CLIENT: Final = "asked by a client"

STATUS: Final = about(
    {
        200: Answer("The run; no ETag with `at`", RunView, ("ETag", "Cache-Control")),
        304: Answer("It is as you know it", headers=("ETag", "Cache-Control")),
    },
    errors=(400, 404),
    parameters=(Parameter("If-None-Match", "header", {"type": "string"}, "ETags that you know"),),
)
CANCEL: Final = about(
    {
        200: Answer("The run had ended before", RunStopped),
        202: Answer("The run will end, or has just now", RunStopped),
    },
    errors=(404, 409),
)

AnyRequest = Request[Any, Any, Any]


@get("/api/chat/runs/{run_id:str}", opt=auth.needs(READ) | STATUS, summary="A run's status")
async def run_status(
    request: AnyRequest,
    run_id: FromPath[str],
    at: Annotated[
        str | None,
        QueryParameter(description="A version or a time (RFC 3339): the run as it was then"),
    ] = None,
) -> Response[RunView]:
    """`ETag` is the run's version: with `If-None-Match` an unchanged run is a 304.

    With `at` it is the fold of the events up to there; those who ask for the past get no ETag.
    """
    deps = deps_of(request.scope)
    head = await run_head(deps, auth.credential_of(request), run_id)
    seen(request.scope).run = str(head.run_id)
    if at is not None:
        then = _summary(head, await _outline_at(deps, head.run_id, at))
        return Response(view_of(then), headers={"Cache-Control": PRIVATE})
    if _matches(request.headers.getall("if-none-match", []), _etag(head.version)):
        return _not_modified(head.version)
    summary = _summary(head, await deps.log.read_outline(head.run_id))
    return Response(view_of(summary), headers=_cacheable(summary.version))


async def _outline_at(deps: Deps, run_id: RunId, at: str) -> Sequence[Recorded]:
    point = parse_point(at)
    try:
        return await deps.log.read_outline(run_id, at=point)
    except NoSuchPoint as error:
        raise refusal(error) from None


def _summary(head: Head, stream: Sequence[Recorded]) -> RunSummary:
    summary = summarize(stream)
    if summary is None:
        raise RunNotFound(f"run {head.run_id} has a head and no events")
    return summary


def _not_modified(version: int) -> Response[Any]:
    return Response(None, status_code=304, headers=_cacheable(version))


def _etag(version: int) -> str:
    return f'"{version}"'


def _cacheable(version: int) -> dict[str, str]:
    return {"ETag": _etag(version), "Cache-Control": PRIVATE}


def _matches(if_none_match: list[str], etag: str) -> bool:
    tags = ",".join(if_none_match).split(",")
    asked = {tag.strip().removeprefix("W/") for tag in tags}
    return "*" in asked or etag in asked


@post(
    "/api/chat/runs/{run_id:str}/cancel",
    status_code=202,
    opt=auth.needs(WRITE) | CANCEL,
    summary="Cancel a run",
)
async def cancel_run(request: AnyRequest, run_id: FromPath[str]) -> Response[RunStopped]:
    """202 as long as the run had not ended before, 200 after; as often as one likes.

    A queued run ends here and now; of a running one the worker is told.
    """
    deps, credential = deps_of(request.scope), auth.credential_of(request)
    head = await run_head(deps, credential, run_id)
    seen(request.scope).run = str(head.run_id)
    if not head.live:
        return Response(RunStopped(run_id=str(head.run_id), status=head.status), status_code=200)
    handled = await handle(
        deps.log,
        head.run_id,
        RequestCancel(by=auth.actor_of(credential), why=CANCELLED_BY_CLIENT),
        auth.context_of(request, head.account_id),
    )
    state = handled.stream.state
    if handled.recorded:
        deps.background.start("telling of a cancel", _tell(deps, head.run_id))
        deps.background.start(
            "hastening a cancelled run", deps.jobs.hasten("run", str(head.run_id))
        )
    ended_before = not handled.recorded and not is_live(state)
    return Response(
        RunStopped(run_id=str(head.run_id), status=status_of(state)),
        status_code=200 if ended_before else 202,
    )


async def _tell(deps: Deps, run_id: RunId) -> None:
    await deps.cancels.push(run_id)
    await deps.chunks.wake(run_id)
