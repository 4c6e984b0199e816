"""Start, see and cancel a run."""

from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.params import FromPath

from runs_api import auth
from runs_api.bodies import RunRequest, parse_run_request
from runs_api.deps import Deps, deps_of
from runs_api.errors import invalid
from runs_api.json_body import body_of
from runs_api.observe import request_id, seen
from runs_api.ownership import Subject, run_head, subject_of
from runs_api.schemas import RunAccepted, RunRequestBody, RunStopped, RunView
from runs_api.sse import RUN_ID_HEADER
from runs_domain.commands import RequestCancel, RequestRun
from runs_domain.credentials_port import Credential
from runs_domain.errors import RunNotFound
from runs_domain.events import Json
from runs_domain.handle import empty, handle
from runs_domain.ids import AccountId, ChatId, RunId, SessionId, user_message_id
from runs_domain.ports import Context, Job
from runs_domain.read_models import RunSummary, summarize
from runs_domain.run import FIRST_ATTEMPT, is_live, status_of
from runs_domain.scopes import READ, WRITE

TITLE_DEFAULT: Final = "Scheduled generation"
POLL_AFTER_SECONDS: Final = 1
CANCELLED_BY_CLIENT: Final = "asked by a client"

AnyRequest = Request[Any, Any, Any]


@post(
    "/api/chat/runs",
    status_code=202,
    opt=auth.needs(WRITE) | {"body": RunRequestBody},
    summary="Start a run",
)
async def start_run(request: AnyRequest) -> Response[RunAccepted]:
    """One append, then the answer. The job is sent beside it: if that fails, the reconciler
    finds the run in the log.
    """
    deps, credential = deps_of(request.scope), auth.credential_of(request)
    asked = parse_run_request(await body_of(request))
    subject = await subject_of(deps, credential, asked.account_id, asked.organization_id)
    run_id = RunId(deps.new_id())
    command = _command(deps, credential, subject, asked, run_id)
    context = _context(request, credential, subject.account_id)
    await handle(deps.log, run_id, command, context, stream=empty(run_id))
    job = Job(kind="run", id=str(run_id), account_id=str(subject.account_id))
    deps.background.start("sending a job", deps.jobs.send(job))
    seen(request.scope).run = str(run_id)
    return Response(
        RunAccepted(
            run_id=str(run_id), chat_id=str(command.chat_id), session_id=str(command.session_id)
        ),
        status_code=202,
        headers={
            "Location": f"/api/chat/runs/{run_id}",
            "Retry-After": str(POLL_AFTER_SECONDS),
            RUN_ID_HEADER: str(run_id),
        },
    )


def _command(
    deps: Deps, credential: Credential, subject: Subject, asked: RunRequest, run_id: RunId
) -> RequestRun:
    model = asked.model or deps.default_model
    if not deps.is_served(model):
        raise invalid(("model",), "no such model is served here", code="unknown_model")
    return RequestRun(
        account_id=subject.account_id,
        actor=actor_of(credential),
        chat_id=ChatId(deps.new_id()),
        session_id=SessionId(deps.new_id()),
        model=model,
        request_digest=asked.digest,
        title=TITLE_DEFAULT,
        messages=asked.messages or (_user_message(run_id, asked.prompt),),
        metadata=asked.metadata,
        artist_id=asked.artist_id,
        organization_id=subject.organization_id,
    )


def _user_message(run_id: RunId, prompt: str) -> Json:
    parts = [{"type": "text", "text": prompt}]
    return {"id": user_message_id(run_id), "role": "user", "parts": parts}


def actor_of(credential: Credential) -> str:
    if credential.account_kind == "org":
        return f"org:{credential.account_id}"
    return f"key:{credential.key_id}"


def _context(request: AnyRequest, credential: Credential, subject: AccountId) -> Context:
    return Context(
        actor=actor_of(credential),
        subject=subject,
        correlation=request_id(request.scope),
        causation=request_id(request.scope),
        attempt=FIRST_ATTEMPT,
    )


@get("/api/chat/runs/{run_id:str}", opt=auth.needs(READ), summary="A run's status")
async def run_status(request: AnyRequest, run_id: FromPath[str]) -> Response[RunView]:
    """`ETag` is the run's version: with `If-None-Match` an unchanged run is a 304."""
    deps = deps_of(request.scope)
    head = await run_head(deps, auth.credential_of(request), run_id)
    seen(request.scope).run = str(head.run_id)
    if _matches(request.headers.getall("if-none-match", []), _etag(head.version)):
        return _not_modified(head.version)
    summary = summarize(await deps.log.read_outline(head.run_id))
    if summary is None:
        raise RunNotFound(f"run {head.run_id} has a head and no events")
    return Response(_view(summary), headers=_cacheable(summary.version))


def _not_modified(version: int) -> Response[Any]:
    return Response(None, status_code=304, headers=_cacheable(version))


def _etag(version: int) -> str:
    return f'"{version}"'


def _cacheable(version: int) -> dict[str, str]:
    return {"ETag": _etag(version), "Cache-Control": "private, no-cache"}


def _matches(if_none_match: list[str], etag: str) -> bool:
    tags = ",".join(if_none_match).split(",")
    asked = {tag.strip().removeprefix("W/") for tag in tags}
    return "*" in asked or etag in asked


def _view(run: RunSummary) -> RunView:
    return RunView(
        run_id=str(run.run_id),
        status=run.status,
        chat_id=str(run.chat_id),
        session_id=str(run.session_id),
        model=run.model,
        created_at=run.created_at,
        version=run.version,
        started_at=run.started_at,
        finished_at=run.finished_at,
        usage=run.usage,
        error=run.error,
    )


@post(
    "/api/chat/runs/{run_id:str}/cancel",
    status_code=202,
    opt=auth.needs(WRITE),
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
        RequestCancel(by=actor_of(credential), why=CANCELLED_BY_CLIENT),
        _context(request, credential, head.account_id),
    )
    state = handled.stream.state
    if handled.recorded:
        deps.background.start("telling of a cancel", _tell(deps, head.run_id))
    ended_before = not handled.recorded and not is_live(state)
    return Response(
        RunStopped(run_id=str(head.run_id), status=status_of(state)),
        status_code=200 if ended_before else 202,
    )


async def _tell(deps: Deps, run_id: RunId) -> None:
    await deps.cancels.push(run_id)
    await deps.chunks.wake(run_id)
