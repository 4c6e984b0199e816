"""Whose run it is. What a caller may not see does not exist for them, to the byte."""

from typing import NamedTuple
from uuid import UUID

from runs_api.deps import Deps
from runs_api.errors import forbidden, not_found
from runs_domain.credentials_port import Credential
from runs_domain.ids import AccountId, ChatId, RunId
from runs_domain.ports import Head


class Subject(NamedTuple):
    """For whom a run is started."""

    account_id: AccountId
    organization_id: AccountId | None


async def subject_of(
    deps: Deps,
    credential: Credential,
    account_id: AccountId | None,
    organization_id: AccountId | None,
) -> Subject:
    """One's own account, or a member's for an organisation's key. Raises 403."""
    own = credential.account_id
    if account_id is not None and account_id != own:
        await _require_member(deps, credential, account_id)
    if organization_id is not None:
        itself = credential.account_kind == "org" and organization_id == own
        if not itself and not await deps.credentials.is_member(organization_id, account_id or own):
            raise forbidden("Not a member of this organisation", ("organizationId",))
    return Subject(account_id or own, organization_id)


async def _require_member(deps: Deps, credential: Credential, account_id: AccountId) -> None:
    allowed = (
        credential.account_kind == "org"
        and credential.run_id is None
        and await deps.credentials.is_member(credential.account_id, account_id)
    )
    if not allowed:
        raise forbidden("This key may not act for that account", ("accountId",))


async def may_see(deps: Deps, credential: Credential, head: Head) -> bool:
    if credential.run_id is not None and credential.run_id != head.run_id:
        return False
    if head.account_id == credential.account_id:
        return True
    return credential.account_kind == "org" and await deps.credentials.is_member(
        credential.account_id, head.account_id
    )


async def run_head(deps: Deps, credential: Credential, run_id: str) -> Head:
    """The head of a run that the caller may see. Raises 404, StoreUnavailable."""
    head = await deps.log.head(RunId(_uuid(run_id)))
    if head is None or not await may_see(deps, credential, head):
        raise not_found()
    return head


async def chat_heads(deps: Deps, credential: Credential, chat_id: str) -> tuple[Head, ...]:
    """The runs of a chat that the caller may see, oldest first, never empty. Raises as above."""
    heads = await deps.log.heads_of_chat(ChatId(_uuid(chat_id)))
    seen = tuple([head for head in heads if await may_see(deps, credential, head)])
    if not seen:
        raise not_found()
    return seen


async def newest_head(deps: Deps, credential: Credential, chat_or_run_id: str) -> Head:
    """The newest run of a chat, or the run of that id: clients resume by either."""
    named = _uuid(chat_or_run_id)
    heads = await deps.log.heads_of_chat(ChatId(named))
    head = heads[-1] if heads else await deps.log.head(RunId(named))
    if head is None or not await may_see(deps, credential, head):
        raise not_found()
    return head


def _uuid(text: str) -> UUID:
    """Only the canonical form: an id has one spelling."""
    try:
        parsed = UUID(text)
    except ValueError:
        raise not_found() from None
    if str(parsed) != text.lower():
        raise not_found()
    return parsed
