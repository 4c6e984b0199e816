"""From the query string of a list to what is asked for, or a 400 that names the first bad value.

Every parameter may be given once. An unknown one is refused like a body's unknown field: a filter
with a typing error would otherwise give the wrong runs, unnoticed.
"""

from typing import Final, get_args
from urllib.parse import parse_qsl

import msgspec

from runs_api.about import Parameter
from runs_api.bodies import uuid_field
from runs_api.errors import Path, invalid
from runs_domain.ids import AccountId, ChatId
from runs_domain.run import Status

LIMIT_DEFAULT: Final = 20
LIMIT_MAX: Final = 100
PARAMETERS_MAX: Final = 20
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

_UUID: Final = {"type": "string", "format": "uuid"}
PARAMETERS: Final = (
    Parameter("status", "query", {"type": "string", "enum": list(STATUSES)}, "Only those"),
    Parameter("chatId", "query", _UUID, "Only this chat's"),
    Parameter(
        "limit",
        "query",
        {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
        "Runs of one page",
    ),
    Parameter(
        "cursor",
        "query",
        {"type": "string"},
        "`nextCursor` of the page before, with the same filters; `limit` may differ",
    ),
    Parameter("accountId", "query", _UUID, "A member's, for an organisation's key"),
)
NAMES: Final = frozenset(parameter.name for parameter in PARAMETERS)


class ListRequest(msgspec.Struct, frozen=True):
    account_id: AccountId | None
    status: Status | None
    chat_id: ChatId | None
    limit: int
    cursor: str | None


def parse_list_query(query: bytes) -> ListRequest:
    """Raises ApiError 400."""
    given = _once_each(query)
    account, chat = uuid_field(given, "accountId"), uuid_field(given, "chatId")
    return ListRequest(
        account_id=None if account is None else AccountId(account),
        status=_status(given),
        chat_id=None if chat is None else ChatId(chat),
        limit=_limit(given),
        cursor=given.get("cursor"),
    )


def _once_each(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        raise invalid((), f"at most {PARAMETERS_MAX} query parameters") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        path: Path = (name,)
        if name not in NAMES:
            raise invalid(path, "is not a parameter of this route", code="unknown_field")
        if name in given:
            raise invalid(path, "may be given once")
        given[name] = value
    return given


def _status(given: dict[str, str]) -> Status | None:
    if "status" not in given:
        return None
    for status in STATUSES:
        if given["status"] == status:
            return status
    raise invalid(("status",), f"must be one of {', '.join(STATUSES)}")


def _limit(given: dict[str, str]) -> int:
    text = given.get("limit", str(LIMIT_DEFAULT))
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX))
    if not digits or not 1 <= int(text) <= LIMIT_MAX:
        raise invalid(("limit",), f"must be a whole number from 1 to {LIMIT_MAX}")
    return int(text)
