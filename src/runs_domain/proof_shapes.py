"""What a stored event may look like, for a checker that has nothing but the standard library.

`events` says the same in types; a test holds the two together. Released tags stay here for ever.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

Check: TypeAlias = type[str | bool | int | dict[str, Any]] | Callable[[Any], bool]
"""Of one value that was read from JSON: its very type (quick), or a question to ask of it."""

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
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:E[+-]?[0-9]{1,9})?")
TAG_CHARS_MAX: Final = 100
_INTEGER_MAX: Final = 2**63 - 1


def is_tag(value: str) -> bool:
    return len(value) <= TAG_CHARS_MAX and _TAG.fullmatch(value) is not None


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _INTEGER_MAX


def is_positive(value: Any) -> bool:
    return type(value) is int and 0 < value <= _INTEGER_MAX


def is_uuid(value: Any) -> bool:
    return type(value) is str and _UUID.fullmatch(value) is not None


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


def fits(check: Check, value: Any) -> bool:
    return type(value) is check or (not isinstance(check, type) and check(value))


def _or_null(check: Check) -> Check:
    if isinstance(check, type):
        return lambda value: value is None or type(value) is check
    return lambda value: value is None or check(value)


def _one_of(*words: str) -> Check:
    allowed = frozenset(words)
    return lambda value: type(value) is str and value in allowed


def _each(check: Check) -> Check:
    if isinstance(check, type):
        return lambda value: type(value) is list and all(type(one) is check for one in value)
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
            if type(given) is check:
                continue
            if check is None:
                return "a field that no release writes"  # its name may be anybody's text
            if isinstance(check, type) or not check(given):
                return f"no proper {name}"
        if not self.required <= value.keys():
            return f"no {min(self.required - value.keys())}"
        return None


ENVELOPE: Final = Shape(
    {
        "type": str,
        "runId": str,
        "version": int,
        "at": str,
        "actor": str,
        "subject": str,
        "correlation": str,
        "causation": str,
        "attempt": int,
        "prev": str,
        "data": dict,
    },
    {"sealed": str},
)
"""Of kinds alone: `proof` holds the values against what they must be."""
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
_TOKENS: Final = frozenset(TOKENS)


def _is_usage(value: Any) -> bool:
    return type(value) is dict and _TOKENS.issuperset(value) and all(map(is_count, value.values()))


_ITEM: Final = Shape({"name": str, "ok": bool}, {"detail": str})
_CHARGED: Final[Mapping[str, Check]] = {"cost": _or_null(is_decimal), "creditsCharged": is_count}

SHAPES: Final[Mapping[str, Shape]] = {
    REQUESTED: Shape(
        {
            "accountId": is_uuid,
            "actor": str,
            "chatId": is_uuid,
            "sessionId": is_uuid,
            "model": str,
            "requestDigest": str,
        },
        {
            "artistId": _or_null(str),
            "organizationId": _or_null(is_uuid),
            "creditsReserved": is_count,
            "retryOf": _or_null(str),
        },
    ),
    PROVISIONED: Shape(
        {
            "sandbox": str,
            "provider": str,
            "state": _one_of("named", "open"),
            "workingDirectory": str,
        },
        {
            "skills": _each(str),
            "repository": _or_null(str),
            "items": _each(_ITEM),
        },
    ),
    KEY_MINTED: Shape(
        {
            "keyId": is_uuid,
            "secretVersion": is_count,
            "ttlSeconds": is_positive,
            "scopes": _each(str),
        },
        {},
    ),
    STARTED: Shape({}, {}),
    RESUMED: Shape(
        {"attempt": is_positive, "reason": _one_of("lost", "handover")}, {"framesLost": is_count}
    ),
    MESSAGE_PERSISTED: Shape(
        {"messageId": str, "firstPart": is_count},
        {
            "usage": _or_null(_is_usage),
            "cost": _or_null(is_decimal),
            "finishReason": _or_null(_FINISH_REASON),
            "interrupted": bool,
        },
    ),
    TOOL_STARTED: Shape({"callIds": _each(str)}, {}),
    CANCEL_REQUESTED: Shape({"by": str, "why": str}, {}),
    COMPLETED: Shape({"finishReason": _FINISH_REASON, "usage": _is_usage}, _CHARGED),
    FAILED: Shape({"code": _FAILURE_CODE, "sentence": str, "usage": _is_usage}, _CHARGED),
    CANCELLED: Shape({"usage": _is_usage}, _CHARGED),
    SANDBOX_RELEASED: Shape({"found": bool}, {"commit": _or_null(str), "pushed": bool}),
    KEY_REVOKED: Shape({"keyId": is_uuid}, {}),
}
"""By tag: `data`, the clear fields."""
