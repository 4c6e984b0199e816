"""The invariants that one stream shows by itself. See `audit`."""

from collections.abc import Iterator
from datetime import datetime

from typing_extensions import override

from runs_domain import events
from runs_domain.audit import End, Rule, Step
from runs_domain.closing import NOT_RUN, OUTCOME_UNKNOWN
from runs_domain.events import Event
from runs_domain.frames import advance, cursor_of
from runs_domain.ids import Attempt, Position, RunId, chain_start
from runs_domain.ports import WORKER_ACTOR, Recorded
from runs_domain.state import RunState, has_finished
from runs_domain.stream_reader import BadStream, StreamReader

ONCE = (events.Provisioned, events.KeyMinted, events.Started, events.CancelRequested)


def stream_rules(run_id: RunId, *, at_rest: bool = False) -> tuple[Rule, ...]:
    """`at_rest`: nothing is under way, so a stream that is not at its end is lost."""
    return (
        Chain(run_id),
        OneEnd(at_rest),
        NothingTwice(),
        Fence(),
        OrderOfTheEnd(),
        Closing(),
        Told(run_id),
    )


def tag(event: Event) -> str:
    return events.TAGS[type(event)]


def is_ending(event: Event) -> bool:
    return isinstance(event, events.Completed | events.Failed | events.Cancelled)


class Chain(Rule):
    """Versions without a hole, each event bound to the one before, time and place rising."""

    name = "chain"

    def __init__(self, run_id: RunId) -> None:
        self._prev = chain_start(run_id)
        self._version = 0
        self._position = Position(0)
        self._at: datetime | None = None

    @override
    def take(self, step: Step) -> Iterator[str]:
        one = step.recorded
        if one.version != self._version + 1:
            yield f"version {one.version} follows version {self._version}"
        if one.prev != self._prev:
            yield f"version {one.version} does not hold the hash of the event before it"
        if one.position <= self._position:
            yield f"version {one.version} stands before its predecessor in the log"
        if self._at is not None and one.at < self._at:
            yield f"version {one.version} is older than its predecessor"
        requested = step.after.requested
        if requested is not None and one.subject != requested.account_id:
            yield f"version {one.version} is about another account than the run's"
        self._prev, self._version = one.hash, one.version
        self._position, self._at = one.position, one.at


class OneEnd(Rule):
    """Invariant 1."""

    name = "1"

    def __init__(self, at_rest: bool) -> None:
        self._at_rest = at_rest

    @override
    def take(self, step: Step) -> Iterator[str]:
        event, version = step.recorded.event, step.recorded.version
        if isinstance(event, events.Requested) != (step.before.requested is None):
            yield f"version {version} is {tag(event)}: a stream begins with one request"
        if isinstance(event, events.Requested) and not (event.messages or step.recorded.erased):
            yield f"version {version} requests a run without a message"
        if is_ending(event) and step.before.ending is not None:
            yield f"version {version} is a second end, {tag(event)}"

    @override
    def end(self, end: End) -> Iterator[str]:
        if self._at_rest and end.state.ending is None:
            yield f"it never ended; the last event is {end.last.type}"
        if self._at_rest and end.state.ending is not None and not end.state.sandbox_released:
            yield "it ended, and its sandbox was never released"


class NothingTwice(Rule):
    """Invariant 2."""

    name = "2"

    def __init__(self) -> None:
        self._erased = False

    @override
    def take(self, step: Step) -> Iterator[str]:
        event, version, before = step.recorded.event, step.recorded.version, step.before
        self._erased = self._erased or step.recorded.erased
        match event:
            case events.ToolStarted():
                yield from self._started(event, before, version)
            case events.MessagePersisted():
                yield from self._persisted(event, before, version)
            case events.Completed() | events.Failed() | events.Cancelled():
                yield from _charged(event, step.after, version)
            case _ if isinstance(event, ONCE) and _has(before, event):
                yield f"version {version} is a second {tag(event)}"
            case _:
                pass

    def _started(self, event: events.ToolStarted, before: RunState, version: int) -> Iterator[str]:
        for call in event.call_ids:
            if call in before.started_calls or event.call_ids.count(call) > 1:
                yield f"version {version} starts {call} again"
            elif call not in before.open_calls and not self._erased:
                yield f"version {version} starts {call}, which is no open call"

    def _persisted(
        self, event: events.MessagePersisted, before: RunState, version: int
    ) -> Iterator[str]:
        if event.finish_reason is not None and not event.interrupted:
            if has_finished(before):
                yield f"version {version} is a model step after the last one"
            if before.open_calls:
                yield f"version {version} is a model step while calls were open"
        if self._erased:
            return
        if event.first_part != len(before.parts):
            yield f"version {version} adds part {event.first_part} to {len(before.parts)} parts"
        known = {part["toolCallId"] for part in before.parts if "toolCallId" in part}
        for part in event.parts:
            call = part.get("toolCallId")
            if call in known and call not in before.open_calls:
                yield f"version {version} is a second result of {call}"
            if call not in known and event.finish_reason is None and not event.interrupted:
                yield f"version {version} has a part that is no result of an open call"
            if part.get("state") == "output-available" and call not in before.started_calls:
                yield f"version {version} is a result of {call}, which never started"


def _has(before: RunState, event: Event) -> bool:
    match event:
        case events.Provisioned():
            return before.provisioned is not None
        case events.KeyMinted():
            return before.key is not None
        case events.Started():
            return before.started
        case _:
            return before.cancel_requested


def _charged(event: events.Ending, state: RunState, version: int) -> Iterator[str]:
    if event.usage != state.usage:
        yield f"version {version} charges other tokens than its steps used"
    unknown = state.cost is None or state.usage == events.Usage()
    if event.cost != (None if unknown else str(state.cost)):
        yield f"version {version} charges another cost than its steps had"


class Closing(Rule):
    """Invariant 4, as far as calls tell: what closes them is written together with the end."""

    name = "4"

    def __init__(self) -> None:
        self._closed: Recorded | None = None
        """The last event, if it closed open calls."""

    @override
    def take(self, step: Step) -> Iterator[str]:
        one, closed = step.recorded, self._closed
        self._closed = None
        if closed is not None and not (is_ending(one.event) and one.at == closed.at):
            yield f"version {closed.version} closes open calls, and no end is written with it"
        if not isinstance(one.event, events.MessagePersisted) or not one.event.interrupted:
            return
        for part in one.event.parts:
            call = part.get("toolCallId")
            if call in step.before.open_calls:
                self._closed = one
                started = call in step.before.started_calls
                if part.get("errorText") == (NOT_RUN if started else OUTCOME_UNKNOWN):
                    told = "had not" if started else "had"
                    yield f"version {one.version} closes {call} as if it {told} been started"

    @override
    def end(self, end: End) -> Iterator[str]:
        if self._closed is not None:
            yield f"version {self._closed.version} closes open calls, and no end follows"


class Fence(Rule):
    """Invariant 3, and that one attempt is one worker's."""

    name = "3"

    def __init__(self) -> None:
        self._holders: dict[Attempt, str] = {}

    @override
    def take(self, step: Step) -> Iterator[str]:
        one, before = step.recorded, step.before
        if isinstance(one.event, events.Resumed) and one.event.attempt != before.attempt + 1:
            new, old = one.event.attempt, before.attempt
            yield f"version {one.version} resumes as attempt {new} after attempt {old}"
        if one.attempt != step.after.attempt:
            holder = step.after.attempt
            yield f"version {one.version} is by attempt {one.attempt}, and {holder} held the run"
        if not one.actor.startswith(WORKER_ACTOR) or before.ending is not None:
            return
        if self._holders.setdefault(one.attempt, one.actor) != one.actor:
            yield f"version {one.version}: two workers append as attempt {one.attempt}"


class OrderOfTheEnd(Rule):
    """Invariant 4."""

    name = "4"

    def __init__(self) -> None:
        self._ended_at: datetime | None = None
        self._may_follow: set[type[Event]] = set()

    @override
    def take(self, step: Step) -> Iterator[str]:
        event, one, state = step.recorded.event, step.recorded, step.before
        if is_ending(event) and state.ending is None:
            self._ended_at = one.at
            self._may_follow = (
                {events.SandboxReleased} if state.key is None else {events.KeyRevoked}
            )
        elif state.ending is None:
            if isinstance(event, events.KeyRevoked | events.SandboxReleased):
                yield f"version {one.version} is {tag(event)}, before the end"
        elif type(event) not in self._may_follow:
            yield f"version {one.version} is {tag(event)}, out of place after the end"
        else:
            self._may_follow = (
                {events.SandboxReleased} if isinstance(event, events.KeyRevoked) else set()
            )
            if isinstance(event, events.KeyRevoked):
                yield from self._revoked(event, step)

    @override
    def end(self, end: End) -> Iterator[str]:
        if end.state.ending is not None and end.state.key is not None and not end.state.key_revoked:
            yield "it ended without revoking its key"

    def _revoked(self, event: events.KeyRevoked, step: Step) -> Iterator[str]:
        if step.recorded.at != self._ended_at:
            yield f"version {step.recorded.version} revokes the key in another append than the end"
        if step.before.key is not None and event.key_id != step.before.key.key_id:
            yield f"version {step.recorded.version} revokes another key than the run's"


class Told(Rule):
    """Invariant 7: the frames that the events stand for are legal and say what the message says."""

    name = "7"

    def __init__(self, run_id: RunId) -> None:
        self._cursor = cursor_of(run_id)
        self._reader = StreamReader()
        self._silent = False
        """The content was erased, or the frames are broken already."""

    @override
    def take(self, step: Step) -> Iterator[str]:
        self._silent = self._silent or step.recorded.erased
        if self._silent:
            return
        try:
            frames, self._cursor = advance(self._cursor, step.recorded.event)
            self._reader.read(frames)
        except (BadStream, LookupError, TypeError, ValueError) as error:
            self._silent = True
            reason = str(error) if isinstance(error, BadStream) else type(error).__name__
            yield f"version {step.recorded.version} breaks the stream: {reason}"

    @override
    def end(self, end: End) -> Iterator[str]:
        if self._silent:
            return
        if self._reader.message["parts"] != list(end.state.parts):
            yield "the stream tells another message than the one that is persisted"
        if self._reader.finished != (end.state.ending is not None):
            yield "the stream finishes, and the run does not, or the other way round"
