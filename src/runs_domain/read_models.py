"""What lists and status answers show of a run, as folds of its events. No SQL, no clock.

A view holds exactly these rows: at any prefix of the log a row equals the fold of the prefix, and
folding can go on from a row as if it had never stopped.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from msgspec.structs import replace

from runs_domain import events
from runs_domain.errors import HistoryCorrupt
from runs_domain.events import Json, Struct, Usage
from runs_domain.ids import (
    AccountId,
    ChatId,
    Position,
    RunId,
    SessionId,
    Version,
    assistant_message_id,
)
from runs_domain.ports import Recorded
from runs_domain.run import INITIAL, Status, evolve


class RunError(Struct, frozen=True):
    code: events.FailureCode
    message: str


class RunSummary(Struct, frozen=True):
    """One row of the `runs` view, and what GET run answers."""

    run_id: RunId
    account_id: AccountId
    chat_id: ChatId
    session_id: SessionId
    status: Status
    model: str
    created_at: datetime
    version: Version
    requested_position: Position
    started_at: datetime | None = None
    finished_at: datetime | None = None
    usage: Usage | None = None
    """So far; None until a model call has told it."""
    error: RunError | None = None


def summarize(stream: Iterable[Recorded], row: RunSummary | None = None) -> RunSummary | None:
    """The row after `stream`, which goes on where `row` stands; None for an empty stream."""
    version = 0 if row is None else row.version
    for recorded in stream:
        if recorded.version != version + 1:
            raise HistoryCorrupt(
                f"run {recorded.run_id}: {recorded.version} is not the next version"
            )
        version = recorded.version
        row = _summary_after(row, recorded)
    return row if row is None or row.version == version else replace(row, version=version)


def _summary_after(row: RunSummary | None, recorded: Recorded) -> RunSummary:
    """But for the version, which every event moves."""
    event = recorded.event
    if isinstance(event, events.Requested):
        return RunSummary(
            run_id=recorded.run_id,
            account_id=event.account_id,
            chat_id=event.chat_id,
            session_id=event.session_id,
            status="queued",
            model=event.model,
            created_at=recorded.at,
            version=recorded.version,
            requested_position=recorded.position,
        )
    if row is None:
        raise HistoryCorrupt(f"run {recorded.run_id} does not begin with its request")
    match event:
        case events.Started():
            return replace(row, status="running", started_at=recorded.at)
        case events.MessagePersisted():
            return row if event.usage is None else _with_usage(row, event.usage)
        case events.Completed() | events.Cancelled() | events.Failed():
            return _ended(row, event, recorded.at)
        case (
            events.Provisioned()
            | events.KeyMinted()
            | events.Resumed()
            | events.ToolStarted()
            | events.CancelRequested()
            | events.SandboxReleased()
            | events.KeyRevoked()
        ):
            return row
        case _:
            assert_never(event)


def _with_usage(row: RunSummary, usage: Usage) -> RunSummary:
    return replace(row, usage=usage if row.usage is None else row.usage + usage)


def _ended(row: RunSummary, ending: events.Ending, at: datetime) -> RunSummary:
    row = replace(row, finished_at=at, usage=ending.usage)
    match ending:
        case events.Completed():
            return replace(row, status="completed")
        case events.Cancelled():
            return replace(row, status="cancelled")
        case events.Failed():
            error = RunError(code=ending.code, message=ending.sentence)
            return replace(row, status="failed", error=error)
        case _:
            assert_never(ending)


# ------------------------------------------------------------------------------ messages


class MessageRow(Struct, frozen=True):
    """One row of the `messages` view: a message that a run was given, or the one that it made.

    Whatever a client or a model wrote is in `message` alone, which storage seals.
    """

    run_id: RunId
    place: int
    """Within the run, from 0: the messages as they were given, then the assistant's."""
    role: str
    account_id: AccountId
    chat_id: ChatId
    session_id: SessionId
    requested_position: Position
    created_at: datetime
    version: Version
    """Of the last event that changed the row."""
    complete: bool
    """Nothing will be added. False for the assistant's until the run has ended."""
    message: Json
    """A UIMessage."""


def messages_after(
    stream: Iterable[Recorded], assistant: MessageRow | None = None
) -> tuple[MessageRow, ...]:
    """The rows of one run that `stream` makes or changes, by place.

    The assistant's row comes with the request, still without parts; to go on from a prefix, give
    that row back.
    """
    given: tuple[MessageRow, ...] = ()
    before = assistant
    for recorded in stream:
        event = recorded.event
        if isinstance(event, events.Requested):
            *given_now, assistant = _requested_rows(recorded, event)
            given = tuple(given_now)
        elif assistant is None:
            raise HistoryCorrupt(f"run {recorded.run_id} does not begin with its request")
        elif isinstance(event, events.MessagePersisted):
            assistant = _with_parts(assistant, recorded, event)
        elif isinstance(event, events.Completed | events.Failed | events.Cancelled):
            assistant = replace(assistant, complete=True, version=recorded.version)
    return given if assistant is None or assistant is before else (*given, assistant)


def shown_messages(rows: Iterable[MessageRow], *, partial: bool) -> tuple[Json, ...]:
    """The user's are there from the request on, the assistant's once its run has ended; `partial`
    shows an unfinished one as far as it is persisted.
    """
    return tuple(row.message for row in rows if row.complete or (partial and row.message["parts"]))


def _requested_rows(recorded: Recorded, event: events.Requested) -> list[MessageRow]:
    own = {"id": assistant_message_id(recorded.run_id), "role": "assistant", "parts": []}
    return [
        MessageRow(
            run_id=recorded.run_id,
            place=place,
            role=message["role"],
            account_id=event.account_id,
            chat_id=event.chat_id,
            session_id=event.session_id,
            requested_position=recorded.position,
            created_at=recorded.at,
            version=recorded.version,
            complete=message is not own,
            message=message,
        )
        for place, message in enumerate((*event.messages, own))
    ]


def _with_parts(row: MessageRow, recorded: Recorded, event: events.MessagePersisted) -> MessageRow:
    # The aggregate's own rule, so that a view can never read an event in another way.
    merged = evolve(replace(INITIAL, parts=tuple(row.message["parts"])), event)
    message = {**row.message, "id": event.message_id, "parts": list(merged.parts)}
    return replace(row, message=message, version=recorded.version)
