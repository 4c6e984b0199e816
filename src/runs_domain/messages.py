"""UIMessages as clients send them: checked part by part, kept as they came.

A message is `{id, role, parts, metadata?}`; each part is checked by its `type` (`message_parts`).
Keys that we do not know are kept. The first bad value is named by its path, never by its content.
"""

import math
from typing import Any, Final

from runs_domain.clean import UNSTORABLE
from runs_domain.errors import InvalidMessages
from runs_domain.events import Json
from runs_domain.message_parts import Path, check_part, check_text

MESSAGES_MAX: Final = 1_000
"""Messages of one request."""
PARTS_MAX: Final = 1_000
"""Parts of one message."""
DEPTH_MAX: Final = 64
"""Lists and objects inside each other, counted from the message's own values."""
PATH_MAX: Final = 8
"""Segments shown of the path to something nested too deep."""
ROLES: Final = ("system", "user", "assistant")


def validate_messages(value: object, *, path: Path = ("messages",)) -> tuple[Json, ...]:
    """The messages unchanged, or InvalidMessages with the path of the first bad value."""
    if not isinstance(value, list):
        raise InvalidMessages(path, "must be a list of messages")
    if not value:
        raise InvalidMessages(path, "must not be empty")
    if len(value) > MESSAGES_MAX:
        raise InvalidMessages(path, f"must have at most {MESSAGES_MAX} messages")
    seen: set[str] = set()
    for index, message in enumerate(value):
        _check_message(message, (*path, index))
        if message["id"] in seen:
            raise InvalidMessages((*path, index, "id"), "is the id of a message before it")
        seen.add(message["id"])
    return tuple(value)


def _check_message(message: object, path: Path) -> None:
    if not isinstance(message, dict):
        raise InvalidMessages(path, "must be an object")
    _check_id(message.get("id"), (*path, "id"))
    role = message.get("role")
    if role not in ROLES:
        raise InvalidMessages((*path, "role"), f"must be one of {', '.join(ROLES)}")
    for key, item in message.items():
        if key != "parts":
            _check_entry(key, item, path)
    _check_parts(message.get("parts"), (*path, "parts"), may_be_empty=role == "assistant")


def _check_id(value: Any, path: Path) -> None:
    check_text(value, path)
    if not value.strip():
        raise InvalidMessages(path, "must not be blank")


def _check_parts(parts: object, path: Path, *, may_be_empty: bool) -> None:
    if not isinstance(parts, list):
        raise InvalidMessages(path, "must be a list of parts")
    if not parts and not may_be_empty:
        raise InvalidMessages(path, "must not be empty")
    if len(parts) > PARTS_MAX:
        raise InvalidMessages(path, f"must have at most {PARTS_MAX} parts")
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise InvalidMessages((*path, index), "must be an object")
        check_part(part, (*path, index))
        _check_storable(part, (*path, index))


def _check_entry(key: str, item: object, path: Path, depth: int = 0) -> None:
    if UNSTORABLE.search(key):
        raise InvalidMessages(path, "has a key with U+0000 or a lone surrogate, refused everywhere")
    _check_storable(item, (*path, key), depth)


def _check_storable(value: Any, path: Path, depth: int = 0) -> None:
    """Nothing inside may be refused by PostgreSQL or by an encoder later on."""
    if depth > DEPTH_MAX:
        raise InvalidMessages(path[:PATH_MAX], f"is nested deeper than {DEPTH_MAX} levels")
    match value:
        case str():
            if UNSTORABLE.search(value):
                raise InvalidMessages(path, "has U+0000 or a lone surrogate, refused everywhere")
        case float():
            if not math.isfinite(value):
                raise InvalidMessages(path, "must be a finite number")
        case list():
            for index, item in enumerate(value):
                _check_storable(item, (*path, index), depth + 1)
        case dict():
            for key, item in value.items():
                _check_entry(key, item, path, depth + 1)
        case _:
            pass
