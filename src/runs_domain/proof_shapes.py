"""What a stored event may look like, for a checker that has nothing but the standard library.

`events` says the same in types; a test holds the two together. Released tags stay here for ever.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

Check: TypeAlias = Callable[[Any], bool]
"""Of one value that was read from JSON."""

REQUESTED: Final = "run.requested.v1"
PROVISIONED: Final = "run.provisioned.v1"
KEY_MINTED: Final = "run.key_minted.v1"
STARTED: Final = "run.started.v1"
RESUMED: Final = "run.resumed.v1"
MESSAGE_PERSISTED: Final = "run.message_persisted.v1"
TOOL_STARTED: Final = "run.tool_started.v1"
CANCEL_REQUESTED: Final = "run.cancel_requested.v1"
COMPLETED: Final = "run.completed.v1"
FAILED: Final = "run.failed.v1"
CANCELLED: Final = "run.cancelled.v1"
SANDBOX_RELEASED: Final = "run.sandbox_released.v1"
KEY_REVOKED: Final = "run.key_revoked.v1"

ENDINGS: Final[Mapping[str, str]] = {
    COMPLETED: "completed",
    FAILED: "failed",
    CANCELLED: "cancelled",
}
"""The status that each leaves."""
WITH_CONTENT: Final = frozenset({REQUESTED, MESSAGE_PERSISTED})
"""Only these have `sealed`."""

_TAG: Final = re.compile(r"[a-z]+(?:_[a-z]+)*(?:\.[a-z]+(?:_[a-z]+)*)+\.v[1-9][0-9]{0,5}")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",
)
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:E[+-]?[0-9]{1,9})?")
_INTEGER_MAX: Final = 2**63 - 1


def is_tag(value: str) -> bool:
    return _TAG.fullmatch(value) is not None


def is_text(value: Any) -> bool:
    return type(value) is str


def is_flag(value: Any) -> bool:
    return type(value) is bool


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _INTEGER_MAX


def is_positive(value: Any) -> bool:
    return type(value) is int and 0 < value <= _INTEGER_MAX


def is_uuid(value: Any) -> bool:
    return type(value) is str and _UUID.fullmatch(value) is not None


def is_hash(value: Any) -> bool:
    return type(value) is str and _HASH.fullmatch(value) is not None


def is_decimal(value: Any) -> bool:
    return type(value) is str and _DECIMAL.fullmatch(value) is not None


def is_time(value: Any) -> bool:
    """UTC, RFC 3339 with microseconds and Z: of one length, so that texts sort like times."""
    if type(value) is not str or _TIME.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:  # the 30th of February
        return False
    return True


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*words: str) -> Check:
    allowed = frozenset(words)
    return lambda value: type(value) is str and value in allowed


def _each(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


class Shape:
    """A JSON object: its fields, those that may be absent last."""

    __slots__ = ("checks", "required")

    def __init__(self, required: Mapping[str, Check], optional: Mapping[str, Check]) -> None:
        self.checks = {**required, **optional}
        self.required = frozenset(required)

    def __call__(self, value: Any) -> bool:
        return type(value) is dict and self.misfit(value) is None

    def misfit(self, value: Mapping[str, Any]) -> str | None:
        """The first field that is missing, unknown or of another kind, in words; None = fits."""
        checks = self.checks
        for name, given in value.items():
            check = checks.get(name)
            if check is None:
                return "a field that no release writes"  # its name may be anybody's text
            if not check(given):
                return f"no proper {name}"
        if not self.required <= value.keys():
            return f"no {min(self.required - value.keys())}"
        return None


ENVELOPE: Final = Shape(
    {
        "type": is_text,
        "runId": is_uuid,
        "version": is_positive,
        "at": is_time,
        "actor": is_text,
        "subject": is_uuid,
        "correlation": is_text,
        "causation": is_text,
        "attempt": is_positive,
        "prev": is_hash,
        "data": lambda value: type(value) is dict,
    },
    {"sealed": is_text},
)
_FINISH_REASON: Final = _one_of("stop", "length", "content-filter", "tool-calls", "error", "other")
_FAILURE_CODE: Final = _one_of(
    "model_rejected",
    "model_unavailable",
    "tries_exhausted",
    "budget_exhausted",
    "workspace_lost",
    "provisioning_failed",
    "skill_missing",
    "internal",
)
TOKENS: Final = (
    "inputTokens",
    "cachedInputTokens",
    "cacheWriteTokens",
    "outputTokens",
    "reasoningTokens",
)
_USAGE: Final = Shape({}, dict.fromkeys(TOKENS, is_count))
_ITEM: Final = Shape({"name": is_text, "ok": is_flag}, {"detail": is_text})
_CHARGED: Final[Mapping[str, Check]] = {"cost": _or_null(is_decimal), "creditsCharged": is_count}

SHAPES: Final[Mapping[str, Shape]] = {
    REQUESTED: Shape(
        {
            "accountId": is_uuid,
            "actor": is_text,
            "chatId": is_uuid,
            "sessionId": is_uuid,
            "model": is_text,
            "requestDigest": is_text,
        },
        {
            "artistId": _or_null(is_text),
            "organizationId": _or_null(is_uuid),
            "creditsReserved": is_count,
            "retryOf": _or_null(is_text),
        },
    ),
    PROVISIONED: Shape(
        {
            "sandbox": is_text,
            "provider": is_text,
            "state": _one_of("named", "open"),
            "workingDirectory": is_text,
        },
        {
            "skills": _each(is_text),
            "repository": _or_null(is_text),
            "items": _each(_ITEM),
        },
    ),
    KEY_MINTED: Shape(
        {
            "keyId": is_uuid,
            "secretVersion": is_count,
            "ttlSeconds": is_positive,
            "scopes": _each(is_text),
        },
        {},
    ),
    STARTED: Shape({}, {}),
    RESUMED: Shape(
        {"attempt": is_positive, "reason": _one_of("lost", "handover")}, {"framesLost": is_count}
    ),
    MESSAGE_PERSISTED: Shape(
        {"messageId": is_text, "firstPart": is_count},
        {
            "usage": _or_null(_USAGE),
            "cost": _or_null(is_decimal),
            "finishReason": _or_null(_FINISH_REASON),
            "interrupted": is_flag,
        },
    ),
    TOOL_STARTED: Shape({"callIds": _each(is_text)}, {}),
    CANCEL_REQUESTED: Shape({"by": is_text, "why": is_text}, {}),
    COMPLETED: Shape({"finishReason": _FINISH_REASON, "usage": _USAGE}, _CHARGED),
    FAILED: Shape({"code": _FAILURE_CODE, "sentence": is_text, "usage": _USAGE}, _CHARGED),
    CANCELLED: Shape({"usage": _USAGE}, _CHARGED),
    SANDBOX_RELEASED: Shape({"found": is_flag}, {"commit": _or_null(is_text), "pushed": is_flag}),
    KEY_REVOKED: Shape({"keyId": is_uuid}, {}),
}
"""By tag: `data`, the clear fields."""
