"""Start a run: one append, then the 202.

With an `Idempotency-Key` the run's id follows from the account and the key, so the log itself
knows whether it has the run: no second table, and nothing that a crash could leave half done.
"""

from typing import Any, Final, NamedTuple

from litestar import Request, Response, post

from runs_api import auth
from runs_api.about import Answer, Parameter, about
from runs_api.bodies import RunRequest, parse_run_request
from runs_api.deps import Deps, deps_of
from runs_api.errors import ApiError, invalid
from runs_api.json_body import body_of
from runs_api.observe import seen
from runs_api.ownership import Subject, subject_of
from runs_api.schemas import RunAccepted, RunRequestBody
from runs_api.sse import RUN_ID_HEADER
from runs_domain.commands import RequestRun
from runs_domain.credentials_port import Credential
from runs_domain.errors import VersionConflict
from runs_domain.events import Json, Requested
from runs_domain.handle import append_of, empty
from runs_domain.ids import ChatId, RunId, SessionId, user_message_id
from runs_domain.ports import Job
from runs_domain.run import INITIAL, decide
from runs_domain.scopes import WRITE
from runs_domain.storage.identity import run_id_of

TITLE_DEFAULT: Final = "Scheduled generation"
POLL_AFTER_SECONDS: Final = 1
KEY_HEADER: Final = "Idempotency-Key"
KEY_CHARS_MAX: Final = 255
REPLAYED_HEADER: Final = "Idempotency-Replayed"

START: Final = about(
    {
        202: Answer(
            "The run will be done; look at `Location`, or follow its stream",
            RunAccepted,
            ("Location", "Retry-After", RUN_ID_HEADER, REPLAYED_HEADER),
        )
    },
    errors=(400, 408, 413, 422),
    parameters=(
        Parameter(
            KEY_HEADER,
            "header",
            {"type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX},
            "Of printable ASCII: the same key and body again start no second run",
        ),
    ),
    body=RunRequestBody,
)

AnyRequest = Request[Any, Any, Any]


@post(
    "/api/chat/runs",
    status_code=202,
    opt=auth.needs(WRITE) | START,
    summary="Start a run",
)
async def start_run(request: AnyRequest) -> Response[RunAccepted]:
    """The job is sent beside the answer: if that fails, the reconciler finds the run in the log.

    The same `Idempotency-Key` and body again give the first answer again, for as long as the run
    is kept; with another body it is a 422.
    """
    deps, credential = deps_of(request.scope), auth.credential_of(request)
    key = idempotency_key(request)
    asked = parse_run_request(await body_of(request))
    subject = await subject_of(deps, credential, asked.account_id, asked.organization_id)
    run_id = RunId(deps.new_id()) if key is None else run_id_of(subject.account_id, key)
    seen(request.scope).run = str(run_id)
    try:
        command = _command(deps, credential, subject, asked, run_id)
        context = auth.context_of(request, subject.account_id)
        await deps.log.append(append_of(empty(run_id), decide(INITIAL, command), context))
    except (VersionConflict, ApiError):
        # Also a model that is no longer served was served when the key was new.
        first = None if key is None else await _first(deps, run_id)
        if first is None:
            raise
        return _again(deps, subject, run_id, first, asked)
    _send_job(deps, subject, run_id)
    return _accepted(run_id, command.chat_id, command.session_id)


def idempotency_key(request: AnyRequest) -> str | None:
    """Raises 400 for anything but one key of printable ASCII."""
    given = request.headers.getall(KEY_HEADER, [])
    if not given:
        return None
    key = given[0]
    is_one = len(given) == 1 and 0 < len(key) <= KEY_CHARS_MAX
    if not (is_one and key.isascii() and key.isprintable()):
        problem = f"must be one of 1 to {KEY_CHARS_MAX} printable ASCII characters"
        raise invalid((KEY_HEADER,), problem)
    return key


def _command(
    deps: Deps, credential: Credential, subject: Subject, asked: RunRequest, run_id: RunId
) -> RequestRun:
    model = asked.model or deps.default_model
    if not deps.is_served(model):
        raise invalid(
            ("model",),
            "no such model is served here; RUNLEDGER_MODEL_BASE_URL brings a gateway's",
            code="unknown_model",
        )
    return RequestRun(
        account_id=subject.account_id,
        actor=auth.actor_of(credential),
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


class _First(NamedTuple):
    """What the log knows of the request that had the key first."""

    requested: Requested
    is_alone: bool
    """Nothing has happened since: its job may never have been sent."""


async def _first(deps: Deps, run_id: RunId) -> _First | None:
    stream = await deps.log.read_outline(run_id)
    if not stream or not isinstance(stream[0].event, Requested):
        return None
    return _First(stream[0].event, is_alone=len(stream) == 1)


def _again(
    deps: Deps, subject: Subject, run_id: RunId, first: _First, asked: RunRequest
) -> Response[RunAccepted]:
    requested = first.requested
    if requested.request_digest != asked.digest:
        sentence = f"This {KEY_HEADER} was used with another body"
        raise ApiError(422, "idempotency_mismatch", sentence)
    if first.is_alone:
        _send_job(deps, subject, run_id)
    response = _accepted(run_id, requested.chat_id, requested.session_id)
    response.headers[REPLAYED_HEADER] = "true"
    return response


def _send_job(deps: Deps, subject: Subject, run_id: RunId) -> None:
    """Harmless if it is there already, queued or running."""
    job = Job(kind="run", id=str(run_id), account_id=str(subject.account_id))
    deps.background.start("sending a job", deps.jobs.send(job))


def _accepted(run_id: RunId, chat_id: ChatId, session_id: SessionId) -> Response[RunAccepted]:
    return Response(
        RunAccepted(run_id=str(run_id), chat_id=str(chat_id), session_id=str(session_id)),
        status_code=202,
        headers={
            "Location": f"/api/chat/runs/{run_id}",
            "Retry-After": str(POLL_AFTER_SECONDS),
            RUN_ID_HEADER: str(run_id),
        },
    )
