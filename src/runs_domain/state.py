"""What has happened to a run: its state, folded from its events by `evolve`, one after another.

Pure. A worker that crashed is no special case: fold the stream, ask `plan.next_step`.
"""

from decimal import Decimal
from typing import Literal, assert_never

from msgspec.structs import replace

from runs_domain import events
from runs_domain.errors import RunNotFound
from runs_domain.events import Event, Json, Struct
from runs_domain.ids import Attempt, Version

Status = Literal["queued", "running", "completed", "failed", "cancelled"]

FIRST_ATTEMPT = Attempt(1)


class RunState(Struct, frozen=True):
    """The fold of one stream. `version` counts its events."""

    version: Version = Version(0)
    requested: events.Requested | None = None
    attempt: Attempt = FIRST_ATTEMPT
    tries_lost: int = 0
    provisioned: events.Provisioned | None = None
    key: events.KeyMinted | None = None
    started: bool = False
    cancel_requested: bool = False
    message_id: str = ""
    parts: tuple[Json, ...] = ()
    """The assistant message as far as it is persisted."""
    hidden_parts: frozenset[int] = frozenset()
    """Indexes of parts that an interrupted step left: shown, never sent to the model."""
    model_steps: int = 0
    """Finished model calls."""
    last_finish_reason: events.FinishReason | None = None
    open_calls: tuple[str, ...] = ()
    """Tool calls without a result, in the order the model made them."""
    started_calls: frozenset[str] = frozenset()
    usage: events.Usage = events.Usage()
    cost: Decimal | None = Decimal(0)
    """None once any step's cost is unknown."""
    ending: events.Ending | None = None
    sandbox_released: bool = False
    key_revoked: bool = False


INITIAL = RunState()


def status_of(state: RunState) -> Status:
    match state.ending:
        case events.Completed():
            return "completed"
        case events.Failed():
            return "failed"
        case events.Cancelled():
            return "cancelled"
        case None:
            pass
    if state.requested is None:
        raise RunNotFound("the stream is empty")
    return "running" if state.started else "queued"


def is_live(state: RunState) -> bool:
    """Not ended: the run holds its chat."""
    return state.requested is not None and state.ending is None


def is_open(state: RunState) -> bool:
    """Something is left to do: the run itself, or giving back its sandbox."""
    return state.requested is not None and not state.sandbox_released


def has_finished(state: RunState) -> bool:
    """The model said its last word."""
    return state.last_finish_reason is not None and state.last_finish_reason != "tool-calls"


def known_cost(state: RunState) -> Decimal | None:
    """US dollars. None until something was spent, and once a step's price is unknown."""
    return None if state.usage == events.Usage() else state.cost


def evolve(state: RunState, event: Event) -> RunState:  # noqa: C901 - one branch a fact
    """The state after `event`. Accepts whatever is stored: legality was `decide`'s business."""
    state = replace(state, version=Version(state.version + 1))
    match event:
        case events.Requested():
            return replace(state, requested=event)
        case events.Provisioned():
            return replace(state, provisioned=event)
        case events.KeyMinted():
            return replace(state, key=event)
        case events.Started():
            return replace(state, started=True)
        case events.Resumed():
            lost = 1 if event.reason == "lost" else 0
            return replace(state, attempt=event.attempt, tries_lost=state.tries_lost + lost)
        case events.MessagePersisted():
            return _with_message(state, event)
        case events.ToolStarted():
            return replace(state, started_calls=state.started_calls | set(event.call_ids))
        case events.CancelRequested():
            return replace(state, cancel_requested=True)
        case events.Completed() | events.Failed() | events.Cancelled():
            return replace(state, ending=event)
        case events.SandboxReleased():
            return replace(state, sandbox_released=True)
        case events.KeyRevoked():
            return replace(state, key_revoked=True)
        case _:
            assert_never(event)


def fold(stream: "tuple[Event, ...] | list[Event]", state: RunState = INITIAL) -> RunState:
    for event in stream:
        state = evolve(state, event)
    return state


def _with_message(state: RunState, event: events.MessagePersisted) -> RunState:
    parts = list(state.parts)
    place = {part["toolCallId"]: i for i, part in enumerate(parts) if "toolCallId" in part}
    hidden = set(state.hidden_parts)
    for part in event.parts:
        known = place.get(part.get("toolCallId", ""))
        if known is not None:
            parts[known] = part
            continue
        if event.interrupted:
            hidden.add(len(parts))
        parts.append(part)
    if event.finish_reason is not None and not event.interrupted:
        state = replace(
            state,
            model_steps=state.model_steps + 1,
            last_finish_reason=event.finish_reason,
        )
    if event.usage is not None:
        state = replace(
            state, usage=state.usage + event.usage, cost=_add_cost(state.cost, event.cost)
        )
    return replace(
        state,
        message_id=event.message_id,
        parts=tuple(parts),
        hidden_parts=frozenset(hidden),
        open_calls=tuple(
            part["toolCallId"] for part in parts if part.get("state") == "input-available"
        ),
    )


def _add_cost(total: Decimal | None, cost: str | None) -> Decimal | None:
    return None if total is None or cost is None else total + Decimal(cost)
