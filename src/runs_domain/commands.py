"""What somebody wants to happen. Commands carry ids and attempts; they never look anything up.

A worker's command names the attempt it holds, which `decide` checks: the fence of invariant 3.
"""

from typing import Literal, TypeAlias

from runs_domain.events import (
    FailureCode,
    FinishReason,
    ItemResult,
    Json,
    ResumeReason,
    Struct,
    Usage,
)
from runs_domain.ids import AccountId, Attempt, ChatId, KeyId, SessionId
from runs_domain.layout import LayoutItem


class RequestRun(Struct, frozen=True):
    account_id: AccountId
    actor: str
    chat_id: ChatId
    session_id: SessionId
    model: str
    request_digest: str
    title: str
    messages: tuple[Json, ...]
    metadata: Json | None = None
    artist_id: str | None = None
    organization_id: AccountId | None = None
    credits_reserved: int = 0
    retry_of: str | None = None


class ResumeRun(Struct, frozen=True):
    """Take the run over as `attempt`, which must be the next one."""

    attempt: Attempt
    reason: ResumeReason
    frames_lost: int = 0


class RecordProvisioned(Struct, frozen=True):
    attempt: Attempt
    sandbox: str
    provider: str
    state: Literal["named", "open"]
    working_directory: str
    skills: tuple[str, ...] = ()
    repository: str | None = None
    items: tuple[ItemResult, ...] = ()


class MintKey(Struct, frozen=True):
    attempt: Attempt
    key_id: KeyId
    secret_version: int
    ttl_seconds: int
    scopes: tuple[str, ...]


class StartRun(Struct, frozen=True):
    attempt: Attempt


class PersistMessage(Struct, frozen=True):
    attempt: Attempt
    message_id: str
    parts: tuple[Json, ...]
    layout: tuple[LayoutItem, ...]
    usage: Usage | None = None
    cost: str | None = None
    finish_reason: FinishReason | None = None
    interrupted: bool = False


class StartTools(Struct, frozen=True):
    attempt: Attempt
    call_ids: tuple[str, ...]


class RequestCancel(Struct, frozen=True):
    """From a client: it holds no attempt."""

    by: str
    why: str


class CompleteRun(Struct, frozen=True):
    attempt: Attempt


class FailRun(Struct, frozen=True):
    attempt: Attempt
    code: FailureCode
    sentence: str


class CancelRun(Struct, frozen=True):
    """The worker's answer to `cancel_requested`, once what was streamed is persisted."""

    attempt: Attempt


class RecordSandboxReleased(Struct, frozen=True):
    """Whoever releases, releases: an ended run has no fence left to hold."""

    found: bool
    commit: str | None = None
    pushed: bool = False


Command: TypeAlias = (
    RequestRun
    | ResumeRun
    | RecordProvisioned
    | MintKey
    | StartRun
    | PersistMessage
    | StartTools
    | RequestCancel
    | CompleteRun
    | FailRun
    | CancelRun
    | RecordSandboxReleased
)
