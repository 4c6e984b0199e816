"""A run's history for those who look back: each event with what it did, when, and what it left.

Pure, from the events alone. Whatever an event's own usage or price leaves unknown stays None: it
is never told as zero.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Final, get_args

from runs_domain import events
from runs_domain.errors import HistoryCorrupt
from runs_domain.event_words import said, sentence
from runs_domain.events import Struct, Usage
from runs_domain.ids import Attempt, Version
from runs_domain.ports import Recorded
from runs_domain.read_models import RunSummary, summarize
from runs_domain.run import INITIAL, RunState, Status, evolve
from runs_domain.state import known_cost
from runs_domain.timeline_steps import Phase, Step, Steps, phase_before

PHASES: Final[tuple[Phase, ...]] = get_args(Phase)


class Standing(Struct, frozen=True):
    """How a run stands after an event."""

    status: Status
    attempt: Attempt
    tries_lost: int
    parts: int | None
    """Of the assistant message; None once some were erased, likewise `open_calls`."""
    open_calls: tuple[str, ...] | None
    model_steps: int
    cancel_requested: bool
    usage: Usage | None
    """So far; None until a model call has told it."""
    cost: Decimal | None
    """US dollars so far; None = unknown, or nothing was spent yet."""


class Moment(Struct, frozen=True):
    """One event of a timeline."""

    version: Version
    type: str
    at: datetime
    actor: str
    attempt: Attempt
    what: str
    said: str
    """The beginning of what was said in it; empty where nothing was, or it is erased."""
    erased: bool
    since_request_seconds: float
    since_previous_seconds: float
    phase: Phase
    """What the time since the event before was spent on."""
    state: Standing


class Totals(Struct, frozen=True):
    status: Status
    attempts: int
    tries_lost: int
    model_calls: int
    """That came to their end."""
    unpriced_calls: int
    """Model calls that were cut off or lost, and whose tokens nobody told: they are in no sum."""
    tool_calls: int
    """That were started."""
    usage: Usage | None
    cost: Decimal | None
    credits_reserved: int
    credits_charged: int | None
    """None until the run has ended."""
    seconds: dict[str, float]
    """By phase; they add up to `total`, from the request to the last event."""


class Timeline:
    """Takes the events of one run in their order. `state` is their fold."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.state: RunState = INITIAL
        self.summary: RunSummary | None = None
        self._steps = Steps()
        self._last: Recorded | None = None
        self._hides_parts = False

    @property
    def steps(self) -> tuple[Step, ...]:
        return self._steps.all()

    def take(self, one: Recorded) -> Moment:
        """Raises HistoryCorrupt, naming the version, for what cannot come next in a history."""
        before = self.state
        try:
            summary = summarize((one,), self.summary)
            after = evolve(before, one.event)
            self._steps.take(one, before, after)
            what = sentence(one.event, before, erased=one.erased)
            words = said(one.event)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise HistoryCorrupt(
                f"event {one.version} of run {one.run_id} ({one.type}) does not fold:"
                f" {type(error).__name__}"
            ) from None
        self._hides_parts |= one.erased and isinstance(one.event, events.MessagePersisted)
        last, first_at = self._last, self.moments[0].at if self.moments else one.at
        moment = Moment(
            version=one.version,
            type=one.type,
            at=one.at,
            actor=one.actor,
            attempt=one.attempt,
            what=what,
            said=words,
            erased=one.erased,
            since_request_seconds=(one.at - first_at).total_seconds(),
            since_previous_seconds=0.0 if last is None else (one.at - last.at).total_seconds(),
            phase=phase_before(one.event, before, None if last is None else last.event),
            state=self._standing(after, summary),
        )
        self.state, self.summary, self._last = after, summary, one
        self.moments.append(moment)
        return moment

    def totals(self) -> Totals:
        """Raises HistoryCorrupt while there is no event."""
        summary, requested = self.summary, self.state.requested
        if summary is None or requested is None:
            raise HistoryCorrupt("a history without events has no totals")
        calls = [step for step in self.steps if step.kind == "model" and step.ended is not None]
        ending = self.state.ending
        return Totals(
            status=summary.status,
            attempts=self.state.attempt,
            tries_lost=self.state.tries_lost,
            model_calls=self.state.model_steps,
            unpriced_calls=sum(step.outcome != "done" and step.usage is None for step in calls),
            tool_calls=len(self.state.started_calls),
            usage=summary.usage,
            cost=known_cost(self.state),
            credits_reserved=requested.credits_reserved,
            credits_charged=None if ending is None else ending.credits_charged,
            seconds=self._seconds(),
        )

    def _seconds(self) -> dict[str, float]:
        spent = dict.fromkeys(PHASES, 0.0)
        for moment in self.moments:
            spent[moment.phase] += moment.since_previous_seconds
        total = self.moments[-1].since_request_seconds if self.moments else 0.0
        # The clock of the log has microseconds; adding up floats must not invent more.
        return {phase: round(seconds, 6) for phase, seconds in spent.items()} | {"total": total}

    def _standing(self, state: RunState, summary: RunSummary | None) -> Standing:
        if summary is None:
            raise HistoryCorrupt("a history begins with a request")
        hidden = self._hides_parts
        return Standing(
            status=summary.status,
            attempt=state.attempt,
            tries_lost=state.tries_lost,
            parts=None if hidden else len(state.parts),
            open_calls=None if hidden else state.open_calls,
            model_steps=state.model_steps,
            cancel_requested=state.cancel_requested,
            usage=summary.usage,
            cost=known_cost(state),
        )


def timeline_of(stream: Iterable[Recorded]) -> Timeline:
    """Raises HistoryCorrupt."""
    timeline = Timeline()
    for one in stream:
        timeline.take(one)
    return timeline
