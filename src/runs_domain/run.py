"""The run as an aggregate: what may happen (`decide`) and what has happened (`evolve`).

Both are pure. A worker that crashed is no special case: fold the stream, ask `plan.next_step`.
"""

from decimal import Decimal
from typing import Literal, assert_never

from msgspec.structs import replace

from runs_domain import commands, events
from runs_domain.closing import close_open_calls
from runs_domain.errors import (
    IllegalTransition,
    InvalidCommand,
    RunEnded,
    RunNotFound,
    StaleAttempt,
)
from runs_domain.events import Event, Json, Struct
from runs_domain.ids import Attempt, Version

Status = Literal["queued", "running", "completed", "failed", "cancelled"]

KEY_TTL_SECONDS_MIN = 60
KEY_TTL_SECONDS_MAX = 24 * 60 * 60

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


# --------------------------------------------------------------------------------- evolve


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


# --------------------------------------------------------------------------------- decide


def decide(state: RunState, command: commands.Command) -> tuple[Event, ...]:
    """The events that `command` makes of `state`, or a named refusal. No event = nothing to do."""
    match command:
        case commands.RequestRun():
            return _request(state, command)
        case commands.ResumeRun():
            return _resume(state, command)
        case commands.RequestCancel():
            return _request_cancel(state, command)
        case commands.RecordSandboxReleased():
            return _release(state, command)
        case _:
            _fence(state, command.attempt)
            return _decide_fenced(state, command)


FencedCommand = (
    commands.RecordProvisioned
    | commands.MintKey
    | commands.StartRun
    | commands.PersistMessage
    | commands.StartTools
    | commands.CompleteRun
    | commands.FailRun
    | commands.CancelRun
)


def _decide_fenced(state: RunState, command: FencedCommand) -> tuple[Event, ...]:
    match command:
        case commands.RecordProvisioned():
            return _provisioned(state, command)
        case commands.MintKey():
            return _mint(state, command)
        case commands.StartRun():
            return _start(state)
        case commands.PersistMessage():
            return _persist(state, command)
        case commands.StartTools():
            return _start_tools(state, command)
        case commands.CompleteRun():
            return _complete(state)
        case commands.FailRun():
            return _fail(state, command)
        case commands.CancelRun():
            return _cancel(state)
        case _:
            assert_never(command)


def _live(state: RunState) -> events.Requested:
    if state.requested is None:
        raise RunNotFound("the run was never requested")
    if state.ending is not None:
        raise RunEnded(f"the run has {status_of(state)}")
    return state.requested


def _fence(state: RunState, attempt: Attempt) -> None:
    if attempt < state.attempt:
        raise StaleAttempt(f"attempt {attempt} lost the run to attempt {state.attempt}")
    _live(state)
    if attempt > state.attempt:
        raise IllegalTransition(f"attempt {attempt} has not resumed the run")


def _refuse_if(condition: bool, sentence: str) -> None:
    if condition:
        raise IllegalTransition(sentence)


def _request(state: RunState, command: commands.RequestRun) -> tuple[Event, ...]:
    _refuse_if(state.requested is not None, "the run was already requested")
    if not command.messages:
        raise InvalidCommand("a run needs at least one message")
    return (
        events.Requested(
            account_id=command.account_id,
            actor=command.actor,
            chat_id=command.chat_id,
            session_id=command.session_id,
            model=command.model,
            request_digest=command.request_digest,
            title=command.title,
            messages=command.messages,
            metadata=command.metadata,
            artist_id=command.artist_id,
            organization_id=command.organization_id,
            credits_reserved=command.credits_reserved,
            retry_of=command.retry_of,
        ),
    )


def _resume(state: RunState, command: commands.ResumeRun) -> tuple[Event, ...]:
    if command.attempt <= state.attempt:
        raise StaleAttempt(f"attempt {command.attempt} was already taken")
    _live(state)
    _refuse_if(command.attempt != state.attempt + 1, "attempts are taken one by one")
    return (
        events.Resumed(
            attempt=command.attempt, reason=command.reason, frames_lost=command.frames_lost
        ),
    )


def _provisioned(state: RunState, command: commands.RecordProvisioned) -> tuple[Event, ...]:
    _refuse_if(state.provisioned is not None, "the run is already provisioned")
    return (
        events.Provisioned(
            sandbox=command.sandbox,
            provider=command.provider,
            state=command.state,
            working_directory=command.working_directory,
            skills=command.skills,
            repository=command.repository,
            items=command.items,
        ),
    )


def _mint(state: RunState, command: commands.MintKey) -> tuple[Event, ...]:
    _refuse_if(state.provisioned is None, "a key is minted for a provisioned run only")
    _refuse_if(state.key is not None, "the run already has its key")
    if not KEY_TTL_SECONDS_MIN <= command.ttl_seconds <= KEY_TTL_SECONDS_MAX:
        raise InvalidCommand(
            f"a key lives {KEY_TTL_SECONDS_MIN} to {KEY_TTL_SECONDS_MAX} seconds,"
            f" not {command.ttl_seconds}"
        )
    return (
        events.KeyMinted(
            key_id=command.key_id,
            secret_version=command.secret_version,
            ttl_seconds=command.ttl_seconds,
            scopes=command.scopes,
        ),
    )


def _start(state: RunState) -> tuple[Event, ...]:
    _refuse_if(state.key is None, "a run starts with its key")
    _refuse_if(state.started, "the run has already started")
    return (events.Started(),)


def _persist(state: RunState, command: commands.PersistMessage) -> tuple[Event, ...]:
    _refuse_if(not state.started, "the run has not started")
    calls = [part["toolCallId"] for part in command.parts if "toolCallId" in part]
    known = {part["toolCallId"] for part in state.parts if "toolCallId" in part}
    again = sorted(call for call in calls if call in known and call not in state.open_calls)
    _refuse_if(bool(again), f"the calls {again} already have their results")
    _refuse_if(len(set(calls)) < len(calls), "a call stands twice in one message")
    if command.interrupted:
        _refuse_if(bool(state.open_calls), "no model call streams while calls are open")
    elif command.finish_reason is None:
        _refuse_unless_results(state, command)
    else:
        _refuse_if(state.cancel_requested, "a cancel is pending: persist what was streamed, cancel")
        _refuse_if(bool(state.open_calls), f"calls without a result: {state.open_calls}")
        _refuse_if(has_finished(state), "the last model step has ended the run")
    return (
        events.MessagePersisted(
            message_id=command.message_id,
            first_part=len(state.parts),
            parts=command.parts,
            layout=command.layout,
            usage=command.usage,
            cost=command.cost,
            finish_reason=command.finish_reason,
            interrupted=command.interrupted,
        ),
    )


def _refuse_unless_results(state: RunState, command: commands.PersistMessage) -> None:
    """Results are facts: they are kept also while a cancel is pending."""
    for part in command.parts:
        call = part.get("toolCallId")
        _refuse_if(call not in state.open_calls, f"a result for a call that is not open: {call}")
        _refuse_if(
            part.get("state") == "output-available" and call not in state.started_calls,
            f"a result for a call that was never started: {call}",
        )


def has_finished(state: RunState) -> bool:
    """The model said its last word."""
    return state.last_finish_reason is not None and state.last_finish_reason != "tool-calls"


def _start_tools(state: RunState, command: commands.StartTools) -> tuple[Event, ...]:
    _refuse_if(state.cancel_requested, "a cancel is pending: no call starts")
    _refuse_if(not command.call_ids, "no call to start")
    for call in command.call_ids:
        _refuse_if(call not in state.open_calls, f"not an open call: {call}")
        _refuse_if(call in state.started_calls, f"the call was already started: {call}")
    return (events.ToolStarted(call_ids=command.call_ids),)


def _request_cancel(state: RunState, command: commands.RequestCancel) -> tuple[Event, ...]:
    if state.requested is None:
        raise RunNotFound("the run was never requested")
    if state.ending is not None or state.cancel_requested:
        return ()
    asked = events.CancelRequested(by=command.by, why=command.why)
    if state.started:
        return (asked,)
    return (asked, *_end(state, events.Cancelled(usage=state.usage)))


def _complete(state: RunState) -> tuple[Event, ...]:
    _refuse_if(state.cancel_requested, "a cancel is pending: the run ends cancelled")
    _refuse_if(bool(state.open_calls), f"calls without a result: {state.open_calls}")
    if state.last_finish_reason is None or not has_finished(state):
        raise IllegalTransition("the model has not finished")
    return _end(
        state,
        events.Completed(
            finish_reason=state.last_finish_reason, usage=state.usage, cost=_cost(state)
        ),
    )


def _fail(state: RunState, command: commands.FailRun) -> tuple[Event, ...]:
    _refuse_if(state.cancel_requested, "a cancel is pending: the run ends cancelled")
    return _end(
        state,
        events.Failed(
            code=command.code, sentence=command.sentence, usage=state.usage, cost=_cost(state)
        ),
    )


def _cancel(state: RunState) -> tuple[Event, ...]:
    _refuse_if(not state.cancel_requested, "nobody asked to cancel the run")
    return _end(state, events.Cancelled(usage=state.usage, cost=_cost(state)))


def _end(state: RunState, ending: events.Ending) -> tuple[Event, ...]:
    """The one closer: open tool parts are closed and the key dies with the run, whoever ends it."""
    closed = close_open_calls(
        state.message_id, state.parts, state.open_calls, state.started_calls, ending
    )
    revoked = () if state.key is None else (events.KeyRevoked(key_id=state.key.key_id),)
    return (*closed, ending, *revoked)


def _cost(state: RunState) -> str | None:
    """Unknown until something was spent, and once a step's price is unknown."""
    return None if state.cost is None or state.usage == events.Usage() else str(state.cost)


def _release(state: RunState, command: commands.RecordSandboxReleased) -> tuple[Event, ...]:
    _refuse_if(state.ending is None, "a live run keeps its sandbox")
    if state.sandbox_released:
        return ()
    return (
        events.SandboxReleased(found=command.found, commit=command.commit, pushed=command.pushed),
    )
