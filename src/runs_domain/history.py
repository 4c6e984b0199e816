"""What a model is shown of a conversation: UIMessages with everything else taken out.

`data-*` and `source-*` parts are for people. `step-start` stays: it says which calls were made
together. A tool call without a result would make providers refuse the whole history, so it is
closed here; an interrupted step's parts are shown to people and never sent to a model.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from runs_domain.closing import CANCELLED, error_part
from runs_domain.events import Json
from runs_domain.frames import TOOL_PREFIX, tool_name

DYNAMIC_TOOL: Final = "dynamic-tool"
DENIED: Final = "The user refused this call"
FINAL_STATES: Final = frozenset({"output-available", "output-error"})


def messages_for_model(
    requested_messages: Sequence[Json],
    parts: Sequence[Json],
    hidden_parts: frozenset[int] = frozenset(),
) -> tuple[Json, ...]:
    """The request's messages, then the run's own assistant message as far as it is persisted.

    `hidden_parts` are indexes into `parts`. Messages that nothing is left of are left out, as is
    the own message before its first step.
    """
    own = [part for index, part in enumerate(parts) if index not in hidden_parts]
    shown = [
        *(_shown(message, message["parts"]) for message in requested_messages),
        _shown({"id": "", "role": "assistant"}, own),
    ]
    return tuple(message for message in shown if _has_content(message))


def is_tool_part(part: Json) -> bool:
    kind: str = part["type"]
    return kind == DYNAMIC_TOOL or kind.startswith(TOOL_PREFIX)


def called_tool(part: Json) -> str:
    """The name of a tool part, also of one whose type does not tell it."""
    return str(part["toolName"]) if part["type"] == DYNAMIC_TOOL else tool_name(part)


def _shown(message: Json, parts: Iterable[Json]) -> Json:
    kept = [_closed(part) for part in parts if not part["type"].startswith(("data-", "source-"))]
    return {**message, "parts": kept}


def _closed(part: Json) -> Json:
    if not is_tool_part(part) or part.get("state") in FINAL_STATES:
        return part
    if part.get("state") == "output-denied":
        closed = error_part(part, part["approval"].get("reason") or DENIED)
    else:
        closed = error_part(part, CANCELLED)
    return {**closed, "toolName": part["toolName"]} if "toolName" in part else closed


def _has_content(message: Json) -> bool:
    return any(part["type"] != "step-start" for part in message["parts"])
