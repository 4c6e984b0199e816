"""GET runs: an account's runs, page by page, from the `runs` view.

The view follows the log by some milliseconds, so a run that was just requested may be missing for
as long. Should the view stand still, the list goes on with what it has, because old rows beat
none; `x-workflow-behind-seconds` tells that something is missing.
"""

from typing import Any, Final

from litestar import Request, Response, get
from msgspec.structs import replace

from runs_api import auth
from runs_api.about import Answer, about
from runs_api.cursor import BadCursor, cursor_of, parse_cursor
from runs_api.deps import deps_of
from runs_api.errors import invalid
from runs_api.list_query import PARAMETERS, ListRequest, parse_list_query
from runs_api.ownership import subject_of
from runs_api.run_view import PRIVATE, view_of
from runs_api.schemas import RunList
from runs_domain.ids import AccountId, RunId
from runs_domain.run_lists_port import ListQuery
from runs_domain.scopes import READ

BEHIND_HEADER: Final = "x-workflow-behind-seconds"
BEHIND_TOLD_SECONDS: Final = 1.0
"""A view that is less late than that is in its usual place."""

EXAMPLE: Final = {
    "data": [
        {
            "runId": "01990c9e-5a77-7d6e-9d0e-3a4b5c6d7e8f",
            "status": "completed",
            "chatId": "01990c9e-5a77-7d6e-9d0e-3a4b5c6d7e90",
            "sessionId": "01990c9e-5a77-7d6e-9d0e-3a4b5c6d7e91",
            "model": "anthropic/claude-haiku-4.5",
            "createdAt": "2026-01-02T03:04:05.678901Z",
            "version": 7,
            "startedAt": "2026-01-02T03:04:05.701234Z",
            "finishedAt": "2026-01-02T03:04:09.012345Z",
            "usage": {"inputTokens": 812, "outputTokens": 96},
        }
    ],
    "nextCursor": "AQAAAAAAAAAqxwz8a1pK",
}
LIST: Final = about(
    {
        200: Answer(
            "A page, newest first; `nextCursor` if there are more",
            RunList,
            (BEHIND_HEADER, "Cache-Control"),
            example=EXAMPLE,
        )
    },
    errors=(400,),
    parameters=PARAMETERS,
)


@get("/api/chat/runs", opt=auth.needs(READ) | LIST, summary="An account's runs")
async def list_runs(request: Request[Any, Any, Any]) -> Response[RunList]:
    """Each run is as its own route shows it, a moment late.

    Following `nextCursor` gives every run that was there at the start once, in order, however
    many are added meanwhile. Pages show what each run is when the page is asked for, so with
    `status` a run that changes between two pages may come on neither.
    """
    deps, credential = deps_of(request.scope), auth.credential_of(request)
    asked = parse_list_query(request.scope["query_string"])
    subject = await subject_of(deps, credential, asked.account_id, None)
    query = _query(asked, subject.account_id, credential.run_id)
    # One more than is shown tells whether there are more.
    page = await deps.run_lists.page(replace(query, limit=asked.limit + 1))
    shown, more = page.rows[: asked.limit], page.rows[asked.limit :]
    headers = {"Cache-Control": PRIVATE}
    if page.behind_seconds >= BEHIND_TOLD_SECONDS:
        headers[BEHIND_HEADER] = str(int(page.behind_seconds))
    body = RunList(
        data=tuple(map(view_of, shown)),
        next_cursor=cursor_of(query, shown[-1].requested_position) if more else None,
    )
    return Response(body, headers=headers)


def _query(asked: ListRequest, account_id: AccountId, run_id: RunId | None) -> ListQuery:
    query = ListQuery(
        account_id=account_id,
        limit=asked.limit,
        run_id=run_id,
        status=asked.status,
        chat_id=asked.chat_id,
    )
    if asked.cursor is None:
        return query
    try:
        return replace(query, before=parse_cursor(query, asked.cursor))
    except BadCursor:
        problem = "must be the nextCursor of a page with the same account and filters"
        raise invalid(("cursor",), problem) from None
