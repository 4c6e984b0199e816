"""What a run spent its time on: its steps, and for each event what it was waited for with.

Everything follows from the events' own times. A model call begins with the event before it: a
worker goes from one to the other without a pause. Pure, and of use also when content is erased,
though then no call's result can be told from another's.
"""

from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec.structs import replace

from runs_domain import events
from runs_domain.event_words import tool_of
from runs_domain.events import Event, Json, Struct, Usage
from runs_domain.ids import Version
from runs_domain.ports import Recorded
from runs_domain.state import RunState, has_finished

Phase: TypeAlias = Literal["queue", "model", "tools", "takeover", "closing"]
Outcome: TypeAlias = Literal["done", "failed", "interrupted", "lost", "untold", "open"]
"""`lost`: its worker died, and nothing of it is kept. `untold`: it has ended, how is erased.
`open`: it has not ended yet."""


class Step(Struct, frozen=True):
    kind: Literal["queue", "model", "tool"]
    name: str
    """The model's id, the tool's name; empty for the queue."""
    began: Version
    """The event that it came after."""
    ended: Version | None
    seconds: float | None
    """Of a step that was cut off or lost: until that was written down. None while it is open, and
    where its end cannot be told, which leaves `ended` out too."""
    outcome: Outcome
    call_id: str | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    """US dollars; None = unknown."""


def phase_before(event: Event, before: RunState, last: Event | None) -> Phase:
    """What the run was at between `last` and `event`."""
    match event:
        case events.Resumed():
            return "takeover"
        case events.SandboxReleased() | events.KeyRevoked():
            return "closing"
        case events.ToolStarted():
            return "tools"
        case events.MessagePersisted(finish_reason=reason, interrupted=interrupted):
            if reason is not None:
                return "model"
            return "tools" if not interrupted or _tools_run(before, last) else "model"
        case _:
            if not before.started:
                return "queue"
            if has_finished(before):
                return "closing"
            return "tools" if _tools_run(before, last) else "model"


def _tools_run(before: RunState, last: Event | None) -> bool:
    return bool(before.open_calls) or isinstance(last, events.ToolStarted)


class _Mark(Struct, frozen=True):
    version: Version
    at: datetime
    event: Event


class Steps:
    """Takes the events of one run in their order; `all()` gives its steps so far."""

    def __init__(self) -> None:
        self._done: list[Step] = []
        self._model = ""
        self._last: _Mark | None = None
        """The event before, a client's wish to cancel left out: it ends no step."""
        self._queued: _Mark | None = None
        self._running: dict[str, tuple[_Mark, str]] = {}
        """By call id: since when, and which tool."""
        self._calls_model = False

    def take(self, one: Recorded, before: RunState, after: RunState) -> None:
        mark = _Mark(version=one.version, at=one.at, event=one.event)
        match one.event:
            case events.Requested(model=model):
                self._model, self._queued = model, mark
            case events.Started():
                self._end_queue(mark, "done")
            case events.Resumed():
                if self._calls_model:
                    self._add_model_call(mark, "lost")
            case events.ToolStarted(call_ids=call_ids):
                names = {p["toolCallId"]: tool_of(p) for p in before.parts if "toolCallId" in p}
                self._running |= {call: (mark, names.get(call, "")) for call in call_ids}
            case events.MessagePersisted():
                self._take_message(one.event, mark, before, erased=one.erased)
            case events.Completed() | events.Failed() | events.Cancelled():
                failed = isinstance(one.event, events.Failed)
                outcome: Outcome = "failed" if failed else "interrupted"
                self._end_queue(mark, outcome)
                if self._calls_model and self._ends_a_call(one.event, mark):
                    self._add_model_call(mark, outcome)
            case _:
                pass
        self._calls_model = self._may_call_model(one.event, after)
        if not isinstance(one.event, events.CancelRequested):
            self._last = mark

    def all(self) -> tuple[Step, ...]:
        """In the order in which they began; those that have not ended are `open`."""
        unfinished = [
            _call(call, name, since, None, "open") for call, (since, name) in self._running.items()
        ]
        if self._queued is not None:
            unfinished.append(_open_step("queue", "", self._queued))
        if self._calls_model and self._last is not None:
            unfinished.append(_open_step("model", self._model, self._last))
        return tuple(sorted([*self._done, *unfinished], key=lambda step: step.began))

    def _may_call_model(self, event: Event, after: RunState) -> bool:
        if isinstance(event, events.CancelRequested):
            return self._calls_model
        idle = after.open_calls or isinstance(event, events.ToolStarted)
        return after.started and after.ending is None and not has_finished(after) and not idle

    def _take_message(
        self, event: events.MessagePersisted, mark: _Mark, before: RunState, *, erased: bool
    ) -> None:
        if erased:
            self._take_untold(event, mark)
        for part in event.parts:
            self._end_call(part, mark, interrupted=event.interrupted)
        if event.finish_reason is not None:
            self._add_model_call(mark, "done", event)
        elif event.interrupted and not before.open_calls:
            if self._was_just_lost():
                found = self._done[-1]
                self._done[-1] = replace(found, outcome="interrupted", ended=mark.version)
            else:
                self._add_model_call(mark, "interrupted", event)

    def _take_untold(self, event: events.MessagePersisted, mark: _Mark) -> None:
        """An erased message does not say whose results it has, unless one call alone was out."""
        if event.finish_reason is None and len(self._running) == 1:
            ((call, (since, name)),) = self._running.items()
            self._running.clear()
            self._done.append(_call(call, name, since, mark, "untold"))
        elif event.finish_reason is not None or event.interrupted:
            for call, (since, name) in self._running.items():
                self._done.append(_call(call, name, since, None, "untold"))
            self._running.clear()

    def _was_just_lost(self) -> bool:
        """The worker that took over has found what the lost one had streamed."""
        return (
            self._last is not None
            and isinstance(self._last.event, events.Resumed)
            and bool(self._done)
            and (self._done[-1].outcome, self._done[-1].ended) == ("lost", self._last.version)
        )

    def _ends_a_call(self, event: Event, mark: _Mark) -> bool:
        """Whether a model was being called when the run ended, as far as the events tell."""
        if isinstance(event, events.Failed):
            is_of_model = event.code in {"model_rejected", "model_unavailable"}
        else:
            is_of_model = self._last is None or not isinstance(self._last.event, events.Resumed)
        return is_of_model and not self._was_kept(mark)

    def _was_kept(self, mark: _Mark) -> bool:
        """What the call had streamed came with the end itself, in one append."""
        last = self._last
        return (
            last is not None
            and isinstance(last.event, events.MessagePersisted)
            and (last.event.interrupted, last.at) == (True, mark.at)
        )

    def _add_model_call(
        self, mark: _Mark, outcome: Outcome, event: events.MessagePersisted | None = None
    ) -> None:
        begin = self._last or mark
        cost = None if event is None or event.cost is None else Decimal(event.cost)
        self._done.append(
            Step(
                kind="model",
                name=self._model,
                began=begin.version,
                ended=mark.version,
                seconds=(mark.at - begin.at).total_seconds(),
                outcome=outcome,
                usage=None if event is None else event.usage,
                cost=cost,
            )
        )

    def _end_call(self, part: Json, mark: _Mark, *, interrupted: bool) -> None:
        begun = self._running.pop(part.get("toolCallId", ""), None)
        if begun is None:
            return
        since, name = begun
        failed: Outcome = "interrupted" if interrupted else "failed"
        outcome = "done" if part.get("state") == "output-available" else failed
        self._done.append(_call(part["toolCallId"], name, since, mark, outcome))

    def _end_queue(self, mark: _Mark, outcome: Outcome) -> None:
        queued, self._queued = self._queued, None
        if queued is not None:
            seconds = (mark.at - queued.at).total_seconds()
            step = replace(_open_step("queue", "", queued), ended=mark.version, seconds=seconds)
            self._done.append(replace(step, outcome=outcome))


def _call(call_id: str, name: str, since: _Mark, end: _Mark | None, outcome: Outcome) -> Step:
    return Step(
        kind="tool",
        name=name,
        began=since.version,
        ended=None if end is None else end.version,
        seconds=None if end is None else (end.at - since.at).total_seconds(),
        outcome=outcome,
        call_id=call_id,
    )


def _open_step(kind: Literal["queue", "model"], name: str, since: _Mark) -> Step:
    return Step(kind=kind, name=name, began=since.version, ended=None, seconds=None, outcome="open")
