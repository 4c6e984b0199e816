"""What the API says, as structs: the responses' bodies and their OpenAPI shapes."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from runs_domain.events import Json, Usage
from runs_domain.read_models import RunError
from runs_domain.run import Status


class Body(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Base of the bodies: camelCase, unset fields left out, never null."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Every error. `missing_fields` is the path to the first bad value, segment by segment."""

    status: Literal["error"] = "error"
    error: str
    code: str
    missing_fields: tuple[str | int, ...] | msgspec.UnsetType = msgspec.UNSET


class RunAccepted(Body, frozen=True):
    """The 202."""

    run_id: str
    chat_id: str
    session_id: str


class RunView(Body, frozen=True):
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


class RunStopped(Body, frozen=True):
    """`status` as it is now: a worker may still be closing the run."""

    run_id: str
    status: Status


class HistoryEvent(Body, frozen=True):
    """One stored event; `data` is what is stored, its content unsealed."""

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


class History(Body, frozen=True):
    data: tuple[HistoryEvent, ...]


class Messages(Body, frozen=True):
    """UIMessages, oldest first."""

    data: tuple[Json, ...]


class Health(Body, frozen=True):
    status: Literal["ok", "degraded", "unavailable"]
    parts: dict[str, Any] | None = None


class RunRequestBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """POST run, for the OpenAPI document; `bodies.py` is what reads it.

    Exactly one of `prompt` and `messages`. `id`, `trigger` and `messageId` are ignored.
    """

    prompt: str | msgspec.UnsetType = msgspec.UNSET
    messages: list[Json] | msgspec.UnsetType = msgspec.UNSET
    artist_id: UUID | msgspec.UnsetType = msgspec.UNSET
    account_id: UUID | msgspec.UnsetType = msgspec.UNSET
    organization_id: UUID | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    metadata: Json | msgspec.UnsetType = msgspec.UNSET
    id: str | msgspec.UnsetType = msgspec.UNSET
    trigger: str | msgspec.UnsetType = msgspec.UNSET
    message_id: str | msgspec.UnsetType = msgspec.UNSET
