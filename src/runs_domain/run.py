"""The run as an aggregate: what may happen to it (`decide`); `evolve` says what then has happened.

Both are pure: a state and a command or an event in, events or a state out.
"""

from typing import Any, TypeVar, assert_never

from runs_domain import commands, events
from runs_domain.closing import close_open_calls
from runs_domain.errors import (
    IllegalTransition,
    InvalidCommand,
    RunEnded,
    RunNotFound,
    StaleAttempt,
)
from runs_domain.events import Event
from runs_domain.ids import Attempt
from runs_domain.state import (
    FIRST_ATTEMPT,
    INITIAL,
    RunState,
    Status,
    evolve,
    fold,
    has_finished,
    is_live,
    is_open,
    known_cost,
    status_of,
)

__all__ = (
    "FIRST_ATTEMPT",
    "INITIAL",
    "RunState",
    "Status",
    "decide",
    "evolve",
    "fold",
    "has_finished",
    "is_live",
    "is_open",
    "status_of",
)
"""The aggregate in one place, whichever of its two files a name is in."""

KEY_TTL_SECONDS_MIN = 60
KEY_TTL_SECONDS_MAX = 24 * 60 * 60

EventT = TypeVar("EventT", bound=events.Struct)


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


def _fact(kind: type[EventT], command: commands.Command, **more: Any) -> EventT:
    """What the command asks for, as an event: what both say goes by the same name in both."""
    fields = set(command.__struct_fields__).intersection(kind.__struct_fields__)
    said = {name: getattr(command, name) for name in fields}
    return kind(**said, **more)


def _refuse_if(condition: bool, sentence: str) -> None:
    if condition:
        raise IllegalTransition(sentence)


def _request(state: RunState, command: commands.RequestRun) -> tuple[Event, ...]:
    _refuse_if(state.requested is not None, "the run was already requested")
    if not command.messages:
        raise InvalidCommand("a run needs at least one message")
    return (_fact(events.Requested, command),)


def _resume(state: RunState, command: commands.ResumeRun) -> tuple[Event, ...]:
    if command.attempt <= state.attempt:
        raise StaleAttempt(f"attempt {command.attempt} was already taken")
    _live(state)
    _refuse_if(command.attempt != state.attempt + 1, "attempts are taken one by one")
    return (_fact(events.Resumed, command),)


def _provisioned(state: RunState, command: commands.RecordProvisioned) -> tuple[Event, ...]:
    _refuse_if(state.provisioned is not None, "the run is already provisioned")
    return (_fact(events.Provisioned, command),)


def _mint(state: RunState, command: commands.MintKey) -> tuple[Event, ...]:
    _refuse_if(state.provisioned is None, "a key is minted for a provisioned run only")
    _refuse_if(state.key is not None, "the run already has its key")
    if not KEY_TTL_SECONDS_MIN <= command.ttl_seconds <= KEY_TTL_SECONDS_MAX:
        raise InvalidCommand(
            f"a key lives {KEY_TTL_SECONDS_MIN} to {KEY_TTL_SECONDS_MAX} seconds,"
            f" not {command.ttl_seconds}"
        )
    return (_fact(events.KeyMinted, command),)


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
    return (_fact(events.MessagePersisted, command, first_part=len(state.parts)),)


def _refuse_unless_results(state: RunState, command: commands.PersistMessage) -> None:
    """Results are facts: they are kept also while a cancel is pending."""
    for part in command.parts:
        call = part.get("toolCallId")
        _refuse_if(call not in state.open_calls, f"a result for a call that is not open: {call}")
        _refuse_if(
            part.get("state") == "output-available" and call not in state.started_calls,
            f"a result for a call that was never started: {call}",
        )


def _start_tools(state: RunState, command: commands.StartTools) -> tuple[Event, ...]:
    _refuse_if(state.cancel_requested, "a cancel is pending: no call starts")
    _refuse_if(not command.call_ids, "no call to start")
    for call in command.call_ids:
        _refuse_if(call not in state.open_calls, f"not an open call: {call}")
        _refuse_if(call in state.started_calls, f"the call was already started: {call}")
    return (_fact(events.ToolStarted, command),)


def _request_cancel(state: RunState, command: commands.RequestCancel) -> tuple[Event, ...]:
    if state.requested is None:
        raise RunNotFound("the run was never requested")
    if state.ending is not None or state.cancel_requested:
        return ()
    asked = _fact(events.CancelRequested, command)
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
        _fact(events.Failed, command, usage=state.usage, cost=_cost(state)),
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
    cost = known_cost(state)
    return None if cost is None else str(cost)


def _release(state: RunState, command: commands.RecordSandboxReleased) -> tuple[Event, ...]:
    _refuse_if(state.ending is None, "a live run keeps its sandbox")
    if state.sandbox_released:
        return ()
    return (_fact(events.SandboxReleased, command),)
