"""What the API says, as structs: the responses' bodies and their OpenAPI shapes."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec

from runs_domain.events import Json, Usage
from runs_domain.read_models import RunError
from runs_domain.run import Status

MODEL_CHARS_MAX: Final = 200

Code = Literal[
    "invalid_json",
    "invalid_body",
    "unknown_field",
    "unknown_model",
    "too_large",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "conflict",
    "chat_busy",
    "idempotency_mismatch",
    "insufficient_credits",
    "rate_limited",
    "internal",
    "unavailable",
]
"""What went wrong, for programs."""
PartState = Literal["ok", "unavailable"]


class Body(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Base of the bodies: camelCase, unset fields left out, never null."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="error"):
    """Every error. `missing_fields` is the path to the first bad value, segment by segment."""

    error: str
    code: Code
    missing_fields: tuple[str | int, ...] | msgspec.UnsetType = msgspec.UNSET


class RunAccepted(Body, frozen=True):
    """The run that will be done."""

    run_id: str
    chat_id: str
    session_id: str


class RunView(Body, frozen=True):
    """A run as it is now, or as it was."""

    run_id: str
    status: Status
    chat_id: str
    session_id: str
    model: str
    created_at: datetime
    version: int
    started_at: datetime | None = None
    finished_at: datetime | None = None
    usage: Usage | None = None
    error: RunError | None = None


class RunList(Body, frozen=True):
    """One page. `nextCursor` is there while there are more."""

    data: tuple[RunView, ...]
    next_cursor: str | None = None


class RunStopped(Body, frozen=True):
    """`status` as it is now: a worker may still be closing the run."""

    run_id: str
    status: Status


class HistoryEvent(Body, frozen=True):
    """One stored event; `data` is what is stored, its content unsealed.

    `erased`: there was content, and it is gone with the account's data key.
    """

    type: str
    version: int
    position: int
    at: datetime
    actor: str
    subject: str
    attempt: int
    data: msgspec.Raw
    hash: str
    prev: str
    erased: bool = False


class History(Body, frozen=True):
    data: tuple[HistoryEvent, ...]


class Messages(Body, frozen=True):
    """UIMessages of the AI SDK, oldest first."""

    data: tuple[Json, ...]


class Health(Body, frozen=True):
    """`degraded`: runs are accepted and wait."""

    status: Literal["ok", "degraded"]
    parts: dict[str, PartState] | None = None


class NotReady(ErrorBody, frozen=True):
    parts: dict[str, PartState]


class UIMessage(msgspec.Struct, kw_only=True):
    """A message of the AI SDK; whatever else is in it is kept."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    role: Literal["system", "user", "assistant"]
    parts: list[Json]


# `bodies.py` is what reads this one.
class RunRequestBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """Exactly one of `prompt` and `messages`; a blank prompt and no messages count as absent.

    The ids of the messages differ. `id`, `trigger` and `messageId` are ignored.
    """

    prompt: str | msgspec.UnsetType = msgspec.UNSET
    messages: list[UIMessage] | msgspec.UnsetType = msgspec.UNSET
    artist_id: UUID | msgspec.UnsetType = msgspec.UNSET
    account_id: UUID | msgspec.UnsetType = msgspec.UNSET
    organization_id: UUID | msgspec.UnsetType = msgspec.UNSET
    model: Annotated[str, msgspec.Meta(max_length=MODEL_CHARS_MAX)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    metadata: Json | msgspec.UnsetType = msgspec.UNSET
    id: Any = msgspec.UNSET
    trigger: Any = msgspec.UNSET
    message_id: Any = msgspec.UNSET
