"""The rules of one UIMessage part, by its `type`: which keys it must, may and may not have.

`null` stands for a value only in `input`, `output`, `data` and `metadata`; any other key that a
rule names is left out or has its value. Keys that no rule names are nobody's business here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from runs_domain.errors import InvalidMessages
from runs_domain.events import Json

Path: TypeAlias = tuple[str | int, ...]
Check: TypeAlias = Callable[[Any, Path], None]

TEXT_CHARS_MAX: Final = 500_000
"""Code points of one text, id or name; a `data:` URL is bounded by the body alone."""
URL_STARTS: Final = ("http://", "https://", "data:")


def check_text(value: Any, path: Path) -> None:
    if not isinstance(value, str):
        raise InvalidMessages(path, "must be a string")
    if len(value) > TEXT_CHARS_MAX:
        raise InvalidMessages(path, f"must have at most {TEXT_CHARS_MAX} characters")


def _name(value: Any, path: Path) -> None:
    check_text(value, path)
    if not value:
        raise InvalidMessages(path, "must not be empty")


def _url(value: Any, path: Path) -> None:
    if not isinstance(value, str) or not value.lower().startswith(URL_STARTS):
        raise InvalidMessages(path, "must be an http, https or data URL")


def _boolean(value: Any, path: Path) -> None:
    if not isinstance(value, bool):
        raise InvalidMessages(path, "must be true or false")


def _object(value: Any, path: Path) -> None:
    if not isinstance(value, dict):
        raise InvalidMessages(path, "must be an object")


def _anything(_value: Any, _path: Path) -> None:
    pass


def _not_null(value: Any, path: Path) -> None:
    if value is None:
        raise InvalidMessages(path, "must not be null")


def _one_of(*words: str) -> Check:
    def check(value: Any, path: Path) -> None:
        if value not in words:
            raise InvalidMessages(path, f"must be one of {', '.join(words)}")

    return check


def _approval(*, answered: bool, approved: bool | None = None) -> Check:
    """`{id}` of a question; `{id, approved, reason?}` of an answer, of one outcome if it is set."""

    def check(value: Any, path: Path) -> None:
        _object(value, path)
        _apply(_Rule({"id": _name}), value, path)
        if not answered:
            return
        _apply(_Rule({"approved": _boolean}, {"reason": check_text}), value, path)
        if approved is not None and value["approved"] is not approved:
            raise InvalidMessages((*path, "approved"), f"must be {str(approved).lower()}")

    return check


class _Rule(msgspec.Struct, frozen=True):
    required: Mapping[str, Check] = {}
    optional: Mapping[str, Check] = {}
    forbidden: tuple[str, ...] = ()


_STREAMED: Final = {"state": _one_of("streaming", "done"), "providerMetadata": _object}
_PROVIDER: Final = {"providerMetadata": _object}

_PARTS: Final[Mapping[str, _Rule]] = {
    "text": _Rule({"text": check_text}, _STREAMED),
    "reasoning": _Rule({"text": check_text}, {"id": check_text, **_STREAMED}),
    "file": _Rule({"mediaType": _name, "url": _url}, {"filename": check_text, **_PROVIDER}),
    "source-url": _Rule({"sourceId": _name, "url": check_text}, {"title": check_text, **_PROVIDER}),
    "source-document": _Rule(
        {"sourceId": _name, "mediaType": _name, "title": check_text},
        {"filename": check_text, **_PROVIDER},
    ),
    "step-start": _Rule(),
}
_DATA: Final = _Rule({"data": _anything}, {"id": check_text})
_TOOL: Final = _Rule(
    {"toolCallId": _name},
    {
        "title": check_text,
        "providerExecuted": _boolean,
        "dynamic": _boolean,
        "callProviderMetadata": _object,
        "toolMetadata": _object,
    },
)

_RAW: Final = {"input": _anything, "rawInput": _not_null}
_APPROVED: Final = {"approval": _approval(answered=True, approved=True)}
_STATES: Final[Mapping[str, _Rule]] = {
    "input-streaming": _Rule(
        {}, {**_RAW, "inputEncoding": check_text}, ("output", "errorText", "approval")
    ),
    "input-available": _Rule({"input": _anything}, {}, ("output", "errorText", "approval")),
    "approval-requested": _Rule(
        {"input": _anything, "approval": _approval(answered=False)}, {}, ("output", "errorText")
    ),
    "approval-responded": _Rule(
        {"input": _anything, "approval": _approval(answered=True)}, {}, ("output", "errorText")
    ),
    "output-available": _Rule(
        {"input": _anything, "output": _anything},
        {"preliminary": _boolean, "resultProviderMetadata": _object, **_APPROVED},
        ("errorText",),
    ),
    "output-error": _Rule(
        {"errorText": check_text},
        {**_RAW, "resultProviderMetadata": _object, **_APPROVED},
        ("output",),
    ),
    "output-denied": _Rule(
        {"input": _anything, "approval": _approval(answered=True, approved=False)},
        {},
        ("output", "errorText"),
    ),
}


def check_part(part: Json, path: Path) -> None:
    """Raise InvalidMessages with the path of the part's first bad key."""
    kind = part.get("type")
    if not isinstance(kind, str):
        raise InvalidMessages((*path, "type"), "must be a string")
    if kind in _PARTS:
        _apply(_PARTS[kind], part, path)
    elif _has_name(kind, "data-"):
        _apply(_DATA, part, path)
    elif kind == "dynamic-tool":
        _apply(_Rule({"toolName": _name}), part, path)
        _check_tool(part, path)
    elif _has_name(kind, "tool-"):
        _check_tool(part, path)
    else:
        raise InvalidMessages((*path, "type"), "is not a part type that is known here")


def _has_name(kind: str, prefix: str) -> bool:
    return kind.startswith(prefix) and len(kind) > len(prefix)


def _check_tool(part: Json, path: Path) -> None:
    _apply(_TOOL, part, path)
    state = part.get("state")
    if not isinstance(state, str) or state not in _STATES:
        raise InvalidMessages((*path, "state"), f"must be one of {', '.join(_STATES)}")
    _apply(_STATES[state], part, path)


def _apply(rule: _Rule, value: Json, path: Path) -> None:
    for key, check in rule.required.items():
        if key not in value:
            raise InvalidMessages((*path, key), "is missing")
        check(value[key], (*path, key))
    for key, check in rule.optional.items():
        if key in value:
            check(value[key], (*path, key))
    for key in rule.forbidden:
        if key in value:
            raise InvalidMessages((*path, key), "does not belong to a part in this state")
