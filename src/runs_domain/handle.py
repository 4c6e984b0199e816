"""Load, decide, append: how every command reaches the log, and how a conflict is tried again."""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from runs_domain.commands import Command
from runs_domain.errors import RunNotFound, VersionConflict
from runs_domain.events import Event, Struct
from runs_domain.ids import RunId, chain_start
from runs_domain.ports import Append, Context, EventLog, KeyRow, Recorded
from runs_domain.run import INITIAL, RunState, decide, evolve, fold, is_live, is_open, status_of

CONFLICT_TRIES_MAX: Final = 32
"""Appends of others that one command gives way to: a cancel must get through also while a worker
appends a step every few milliseconds."""


class Stream(Struct, frozen=True):
    """A run as loaded: its state, and the hash that its next event follows."""

    run_id: RunId
    state: RunState
    prev: str


class Handled(Struct, frozen=True):
    """`recorded` is empty when there was nothing to do."""

    stream: Stream
    recorded: tuple[Recorded, ...]


def empty(run_id: RunId) -> Stream:
    return Stream(run_id=run_id, state=INITIAL, prev=chain_start(run_id))


async def load(log: EventLog, run_id: RunId) -> Stream:
    """An unknown run is an empty stream. Raises StoreUnavailable, HistoryCorrupt."""
    return advanced(empty(run_id), await log.read(run_id))


def advanced(stream: Stream, recorded: Sequence[Recorded]) -> Stream:
    """The stream once `recorded`, its next events, are folded in."""
    if not recorded:
        return stream
    state = fold([one.event for one in recorded], stream.state)
    return replace(stream, state=state, prev=recorded[-1].hash)


def append_of(
    stream: Stream, events: Sequence[Event], context: Context, *, mint: KeyRow | None = None
) -> Append:
    """The append of `events`, which `decide` made of the stream's state.

    The envelope's attempt and subject are the state's after them, whatever `context` says.
    """
    after = stream.state
    for event in events:
        after = evolve(after, event)
    if after.requested is None:
        raise RunNotFound("a stream begins with `requested`")
    return Append(
        run_id=stream.run_id,
        expected_version=stream.state.version,
        prev=stream.prev,
        events=tuple(events),
        context=replace(context, attempt=after.attempt, subject=after.requested.account_id),
        account_id=after.requested.account_id,
        chat_id=after.requested.chat_id,
        session_id=after.requested.session_id,
        status=status_of(after),
        live=is_live(after),
        open=is_open(after),
        mint=mint,
    )


async def handle(
    log: EventLog,
    run_id: RunId,
    command: Command,
    context: Context,
    *,
    mint: KeyRow | None = None,
    stream: Stream | None = None,
) -> Handled:
    """Decide `command` and append what it makes; on a conflict read on and decide again.

    `stream` saves the first load. Raises what `decide` and the log refuse with; VersionConflict
    after CONFLICT_TRIES_MAX.
    """
    if stream is None:
        stream = await load(log, run_id)
    for tries_left in reversed(range(CONFLICT_TRIES_MAX)):
        events = decide(stream.state, command)
        if not events:
            return Handled(stream=stream, recorded=())
        try:
            recorded = await log.append(append_of(stream, events, context, mint=mint))
        except VersionConflict:
            if not tries_left:
                raise
            stream = advanced(stream, await log.read(run_id, after=stream.state.version))
        else:
            return Handled(stream=advanced(stream, recorded), recorded=recorded)
    raise AssertionError("the loop returns or raises")
