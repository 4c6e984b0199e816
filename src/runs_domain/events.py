"""The facts of a run. Start reading here, then `run.py`, then `workers/driver.py`.

One frozen struct per fact, stored under a stable tag (`TAGS`). A shape that was ever released
never changes in place: a new shape is a new tag plus a rule in `upcast.py`. Stored field names
are camelCase. The fields listed in `SEALED` are content: storage encrypts them under a data key
of the account, so that erasing a person is destroying one key.
"""

from typing import Any, Final, Literal, TypeAlias

import msgspec

from runs_domain.ids import AccountId, Attempt, ChatId, KeyId, SessionId
from runs_domain.layout import LayoutItem

Json: TypeAlias = dict[str, Any]
"""A JSON object whose unknown keys are kept: a UIMessage, one of its parts, metadata."""

FinishReason = Literal["stop", "length", "content-filter", "tool-calls", "error", "other"]
FailureCode = Literal[
    "model_rejected",
    "model_unavailable",
    "tries_exhausted",
    "budget_exhausted",
    "workspace_lost",
    "provisioning_failed",
    "skill_missing",
    "internal",
]


class Struct(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Base of everything that is stored: immutable, camelCase on disk, unset fields left out."""


class Usage(Struct, frozen=True):
    """Tokens of one model call or of a whole run. The classes are disjoint (incident I-51)."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


class ItemResult(Struct, frozen=True):
    """What became of one thing that provisioning was asked for (incidents I-40, I-41)."""

    name: str
    ok: bool
    detail: str = ""


class Requested(Struct, frozen=True):
    """The 202's promise: everything the run needs, as given, prompts trimmed."""

    account_id: AccountId
    actor: str
    chat_id: ChatId
    session_id: SessionId
    model: str
    request_digest: str
    """SHA-256 of the canonical request body, hex."""
    artist_id: str | None = None
    organization_id: AccountId | None = None
    credits_reserved: int = 0
    """Nothing sets it before there are credits; likewise `credits_charged` of the endings."""
    retry_of: str | None = None
    """The dead run that this one repeats."""
    title: str = ""
    messages: tuple[Json, ...] = ()
    metadata: Json | None = None


class Provisioned(Struct, frozen=True):
    sandbox: str
    provider: str
    state: Literal["named", "open"]
    """`named`: nothing was made yet; the first command makes it."""
    working_directory: str
    skills: tuple[str, ...] = ()
    repository: str | None = None
    items: tuple[ItemResult, ...] = ()


class KeyMinted(Struct, frozen=True):
    """Never a secret or a hash of one: the secret is derived from the ids when it is needed."""

    key_id: KeyId
    secret_version: int
    ttl_seconds: int
    scopes: tuple[str, ...]


class Started(Struct, frozen=True):
    pass


ResumeReason: TypeAlias = Literal["lost", "handover"]
"""Its worker was lost, which is a try; or it stopped in good order, which is none."""


class Resumed(Struct, frozen=True):
    """Another worker took the run. From here on no lower attempt can append anything."""

    attempt: Attempt
    reason: ResumeReason
    """`lost` counts as a try; a `handover` was asked for and does not."""
    frames_lost: int = 0


class MessagePersisted(Struct, frozen=True):
    """What one step added to the assistant message.

    A model step carries a `finish_reason`; a tool's result replaces the part with its
    toolCallId; an interrupted one holds what a dead or cancelled step had streamed.
    """

    message_id: str
    first_part: int
    """The index in the message of the first part here that is new."""
    parts: tuple[Json, ...] = ()
    layout: tuple[LayoutItem, ...] = ()
    usage: Usage | None = None
    cost: str | None = None
    """US dollars as a decimal string; absent = unknown, never zero."""
    finish_reason: FinishReason | None = None
    interrupted: bool = False


class ToolStarted(Struct, frozen=True):
    """Written before the effect: after a crash these calls' outcome is unknown."""

    call_ids: tuple[str, ...]


class CancelRequested(Struct, frozen=True):
    by: str
    why: str


class Completed(Struct, frozen=True):
    finish_reason: FinishReason
    usage: Usage
    cost: str | None = None
    credits_charged: int = 0


class Failed(Struct, frozen=True):
    code: FailureCode
    sentence: str
    usage: Usage
    cost: str | None = None
    credits_charged: int = 0


class Cancelled(Struct, frozen=True):
    usage: Usage
    cost: str | None = None
    credits_charged: int = 0


class SandboxReleased(Struct, frozen=True):
    found: bool
    commit: str | None = None
    pushed: bool = False


class KeyRevoked(Struct, frozen=True):
    key_id: KeyId


Event: TypeAlias = (
    Requested
    | Provisioned
    | KeyMinted
    | Started
    | Resumed
    | MessagePersisted
    | ToolStarted
    | CancelRequested
    | Completed
    | Failed
    | Cancelled
    | SandboxReleased
    | KeyRevoked
)
Ending: TypeAlias = Completed | Failed | Cancelled

TAGS: Final[dict[type[Event], str]] = {
    Requested: "run.requested.v1",
    Provisioned: "run.provisioned.v1",
    KeyMinted: "run.key_minted.v1",
    Started: "run.started.v1",
    Resumed: "run.resumed.v1",
    MessagePersisted: "run.message_persisted.v1",
    ToolStarted: "run.tool_started.v1",
    CancelRequested: "run.cancel_requested.v1",
    Completed: "run.completed.v1",
    Failed: "run.failed.v1",
    Cancelled: "run.cancelled.v1",
    SandboxReleased: "run.sandbox_released.v1",
    KeyRevoked: "run.key_revoked.v1",
}
TYPES: Final[dict[str, type[Event]]] = {tag: kind for kind, tag in TAGS.items()}

SEALED: Final[dict[type[Event], tuple[str, ...]]] = {
    Requested: ("title", "messages", "metadata"),
    MessagePersisted: ("parts", "layout"),
}
"""Stored names of the fields that hold content."""
