"""GET a chat's messages: the fold of its runs' streams, never a view that may lag."""

from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.params import FromPath, QueryParameter

from runs_api import auth
from runs_api.about import Answer, about
from runs_api.deps import deps_of
from runs_api.ownership import chat_heads
from runs_api.schemas import Messages
from runs_domain.events import Json
from runs_domain.read_models import messages_after, shown_messages
from runs_domain.scopes import READ

SHOWN: Final = about({200: Answer("The messages", Messages)}, errors=(400, 404))


@get("/api/chats/{chat_id:str}/messages", opt=auth.needs(READ) | SHOWN, summary="A chat's messages")
async def chat_messages(
    request: Request[Any, Any, Any],
    chat_id: FromPath[str],
    partial: Annotated[
        bool,
        QueryParameter(
            description="Show the unfinished assistant message as far as it is persisted"
        ),
    ] = False,
) -> Messages:
    """The user's are there from the 202 on, the assistant's once its run has ended: a client
    that resumes a stream would show an unfinished one twice.
    """
    deps = deps_of(request.scope)
    messages: dict[str, Json] = {}
    for head in await chat_heads(deps, auth.credential_of(request), chat_id):
        rows = messages_after(await deps.log.read(head.run_id))
        # A later run repeats the messages before it; each stands where it first stood.
        messages |= {one["id"]: one for one in shown_messages(rows, partial=partial)}
    return Messages(data=tuple(messages.values()))
