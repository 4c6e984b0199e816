"""From a POST's bytes to a request that makes sense, or a 400 that names the first bad value."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from runs_api.errors import invalid
from runs_api.json_body import parse_object
from runs_api.schemas import MODEL_CHARS_MAX
from runs_domain.errors import InvalidMessages
from runs_domain.events import Json
from runs_domain.ids import AccountId
from runs_domain.messages import validate_messages

UUID_CHARS: Final = 36

IGNORED: Final = frozenset({"id", "trigger", "messageId"})
"""What AI SDK transports add."""
FIELDS: Final = frozenset(
    {"prompt", "messages", "artistId", "accountId", "organizationId", "model", "metadata"}
)


class RunRequest(msgspec.Struct, frozen=True):
    """Exactly one of `prompt` and `messages`. `model` is empty when the default is asked for."""

    prompt: str
    messages: tuple[Json, ...]
    artist_id: str | None
    account_id: AccountId | None
    organization_id: AccountId | None
    model: str
    metadata: Json | None
    digest: str
    """SHA-256 (hex) of what was asked for, in canonical JSON."""


def parse_run_request(raw: bytes) -> RunRequest:
    """Raises ApiError 400."""
    body = parse_object(raw)
    _refuse_unknown(body)
    prompt = _text(body, "prompt")
    messages = _messages(body)
    if bool(prompt) == bool(messages):
        which = "not both" if prompt else "both are missing or blank"
        raise invalid(("prompt",), f"give exactly one of prompt and messages ({which})")
    artist = uuid_field(body, "artistId")
    account, organization = uuid_field(body, "accountId"), uuid_field(body, "organizationId")
    model = _text(body, "model")
    if len(model) > MODEL_CHARS_MAX:
        raise invalid(("model",), f"has at most {MODEL_CHARS_MAX} characters")
    return RunRequest(
        prompt=prompt,
        messages=messages,
        artist_id=None if artist is None else str(artist),
        account_id=None if account is None else AccountId(account),
        organization_id=None if organization is None else AccountId(organization),
        model=model,
        metadata=_object(body, "metadata"),
        digest=_digest(body, prompt, model),
    )


def _refuse_unknown(body: Json) -> None:
    for name in body:
        if name not in FIELDS and name not in IGNORED:
            raise invalid((name,), "is not a field of this request", code="unknown_field")


def _text(body: Json, name: str) -> str:
    """Trimmed; empty if it is absent or blank."""
    value = body.get(name, "")
    if not isinstance(value, str):
        raise invalid((name,), "must be a string")
    return value.strip()


def _messages(body: Json) -> tuple[Json, ...]:
    value = body.get("messages", [])
    if not isinstance(value, list):
        raise invalid(("messages",), "must be a list of messages")
    if not value:
        return ()
    try:
        return validate_messages(value)
    except InvalidMessages as error:
        raise invalid(error.path, error.problem) from None


def uuid_field(given: Mapping[str, Any], name: str) -> UUID | None:
    """None if it is absent. Raises ApiError 400 for anything but a UUID's canonical form."""
    if name not in given:
        return None
    value = given[name]
    try:
        if isinstance(value, str) and len(value) == UUID_CHARS:
            parsed = UUID(value)
            if str(parsed) == value.lower():  # the parser takes hyphens anywhere
                return parsed
    except ValueError:
        pass
    raise invalid((name,), "must be a UUID")


def _object(body: Json, name: str) -> Json | None:
    value = body.get(name)
    if name in body and not isinstance(value, dict):
        raise invalid((name,), "must be an object")
    return value


def _digest(body: Json, prompt: str, model: str) -> str:
    asked = {name: value for name, value in body.items() if name in FIELDS}
    for name, value in (("prompt", prompt), ("model", model)):
        asked.pop(name, None)
        if value:
            asked[name] = value
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
