"""Closes what an end leaves open: a tool part that spins for ever is a lie (incident I-30)."""

from runs_domain import events
from runs_domain.events import Json
from runs_domain.layout import LayoutItem

CANCELLED = "Cancelled"
KEPT_KEYS = frozenset({"type", "toolCallId", "title", "providerExecuted"})
OUTCOME_UNKNOWN = "interrupted: outcome unknown"
"""A worker died between the call's start and its result."""
NOT_RUN = "Not run: the run ended first"


def error_part(part: Json, error_text: str) -> Json:
    """The tool part with its input kept and an error in place of a result."""
    kept = {key: value for key, value in part.items() if key in KEPT_KEYS}
    return {**kept, "state": "output-error", "input": part.get("input"), "errorText": error_text}


def close_open_calls(
    message_id: str,
    parts: tuple[Json, ...],
    open_calls: tuple[str, ...],
    started_calls: frozenset[str],
    ending: events.Ending,
) -> tuple[events.MessagePersisted, ...]:
    """One event that gives every open call an error, or none if no call is open."""
    if not open_calls:
        return ()
    closed = tuple(
        error_part(part, _reason(part["toolCallId"] in started_calls, ending))
        for part in parts
        if part.get("toolCallId") in open_calls
    )
    return (
        events.MessagePersisted(
            message_id=message_id,
            first_part=len(parts),
            parts=closed,
            layout=tuple(LayoutItem("tool-output-error", i) for i in range(len(closed))),
            interrupted=True,
        ),
    )


def _reason(started: bool, ending: events.Ending) -> str:
    if isinstance(ending, events.Cancelled):
        return CANCELLED
    return OUTCOME_UNKNOWN if started else NOT_RUN
