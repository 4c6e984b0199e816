"""Who looks back is told what the events say, and never more."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.errors import HistoryCorrupt
from runs_domain.events import TAGS
from runs_domain.frames import cursor_of
from runs_domain.ids import Attempt, Version
from runs_domain.ports import Recorded
from runs_domain.read_models import summarize
from runs_domain.run import INITIAL, evolve, fold, status_of
from runs_domain.step import StepRecorder
from runs_domain.timeline import Timeline, timeline_of
from runs_domain.timeline_steps import Step
from tests.domain.test_read_models import events_of, random_history, to_start
from tests.support import builders as b
from tests.support.recorded import recorded

SECOND = Attempt(2)


def told(*commands: c.Command) -> Timeline:
    return timeline_of(recorded(events_of(*commands)))


def short(steps: tuple[Step, ...]) -> list[tuple[Any, ...]]:
    return [(one.kind, one.began, one.ended, one.seconds, one.outcome) for one in steps]


def cut_off(text: str = "half a", *, spent: bool = False) -> c.PersistMessage:
    recorder = StepRecorder(b.RUN, cursor_of(b.RUN), 0)
    recorder.add(m.TextDelta(text=text))
    end = m.ModelEnd(finish_reason="stop", usage=e.Usage(output_tokens=7)) if spent else None
    return recorder.interrupt(SECOND, "interrupted", end)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_state_at_each_moment_is_the_fold_of_what_had_happened(data: st.DataObject) -> None:
    events = random_history(data)
    stream = recorded(events)

    timeline = timeline_of(stream)

    assert [one.version for one in timeline.moments] == list(range(1, len(stream) + 1))
    for moment, end in zip(timeline.moments, range(1, len(stream) + 1), strict=True):
        state, summary = fold(events[:end]), summarize(stream[:end])
        assert summary is not None
        told = moment.state
        assert (told.status, told.attempt, told.tries_lost) == (
            (status_of(state), state.attempt, state.tries_lost)
        )
        assert (told.parts, told.open_calls) == (len(state.parts), state.open_calls)
        assert (told.model_steps, told.cancel_requested) == (
            (state.model_steps, state.cancel_requested)
        )
        assert told.usage == summary.usage
        assert told.cost == (None if state.usage == e.Usage() else state.cost)
    assert timeline.state == fold(events)
    assert timeline.summary == summarize(stream)
    msgspec.json.encode([timeline.moments, timeline.steps, timeline.totals()])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_durations_add_up_and_every_step_has_one_end(data: st.DataObject) -> None:
    events = random_history(data)
    stream = recorded(events)
    timeline = timeline_of(stream)

    moments, totals = timeline.moments, timeline.totals()
    assert sum(one.since_previous_seconds for one in moments) == moments[-1].since_request_seconds
    spent = {phase: seconds for phase, seconds in totals.seconds.items() if phase != "total"}
    assert sum(spent.values()) == totals.seconds["total"] == len(stream) - 1
    started = [call for one in events if isinstance(one, e.ToolStarted) for call in one.call_ids]
    steps = timeline.steps
    assert sorted(one.call_id or "" for one in steps if one.kind == "tool") == sorted(started)
    done = [one for one in steps if one.kind == "model" and one.outcome == "done"]
    assert len(done) == totals.model_calls == fold(events).model_steps
    assert [one.kind for one in steps].count("queue") == 1
    for step in steps:
        assert (step.ended is None) == (step.seconds is None) == (step.outcome == "open")
        if step.seconds is not None and step.ended is not None and step.outcome != "interrupted":
            assert step.seconds == step.ended - step.began
    if fold(events).ending is not None:
        assert all(one.kind == "tool" for one in steps if one.outcome == "open")


def test_a_run_with_a_tool_is_told_step_by_step() -> None:
    state = b.started()
    step = b.tool_step(state, 2)
    state = b.after(step, state=state)
    first, second = state.open_calls
    timeline = told(
        *to_start(),
        step,
        c.StartTools(attempt=b.FIRST, call_ids=(first, second)),
        b.tool_result(state, second, output={"ok": True}),
        b.tool_result(state, first),
        b.text_step(state, "all done"),
        c.CompleteRun(attempt=b.FIRST),
        c.RecordSandboxReleased(found=True),
    )

    assert short(timeline.steps) == [
        ("queue", 1, 4, 3.0, "done"),
        ("model", 4, 5, 1.0, "done"),
        ("tool", 6, 7, 1.0, "done"),
        ("tool", 6, 8, 2.0, "done"),
        ("model", 8, 9, 1.0, "done"),
    ]
    assert [one.call_id for one in timeline.steps[2:4]] == [second, first]
    assert {one.name for one in timeline.steps[2:4]} == {"bash"}
    assert [one.what for one in timeline.moments] == [
        "asked with 1 message for scripted/echo",
        "none sandbox named",
        "run key minted, good for 900 s",
        "started",
        "model answered (tool-calls): bash, bash",
        "started bash, bash",
        "result of bash",
        "result of bash",
        "model answered (stop): 8 characters",
        "completed (stop)",
        "run key revoked",
        "sandbox given back",
    ]
    assert timeline.moments[0].said == "Say hello"
    assert timeline.moments[8].said == "all done"
    assert timeline.totals().seconds == {
        "queue": 3.0,
        "model": 2.0,
        "tools": 3.0,
        "takeover": 0.0,
        "closing": 3.0,
        "total": 11.0,
    }


def test_a_lost_call_is_told_as_lost_and_its_tokens_as_nobodys() -> None:
    """What the takeover found of it is kept, and says so; what it cost is in no sum."""
    lost = [*to_start(), c.ResumeRun(attempt=SECOND, reason="lost")]
    assert short(told(*lost).steps)[1:] == [
        ("model", 4, 5, 1.0, "lost"),
        ("model", 5, None, None, "open"),
    ]

    found = told(*lost, cut_off())
    assert short(found.steps)[1:] == [
        ("model", 4, 6, 1.0, "interrupted"),
        ("model", 6, None, None, "open"),
    ]
    assert found.moments[5].what == "cut off, kept: 6 characters"
    totals = found.totals()
    assert (totals.model_calls, totals.unpriced_calls, totals.usage) == (0, 1, None)
    assert (totals.attempts, totals.tries_lost) == (2, 1)
    assert totals.seconds["takeover"] == 1.0

    assert told(*lost, cut_off(spent=True)).totals().usage == e.Usage(output_tokens=7)


def test_a_call_that_a_cancel_cut_off_has_one_end() -> None:
    """The kept text and the end are one append: no second call of no length."""
    asked = [*to_start(), c.RequestCancel(by="client", why="enough")]
    kept = replace(cut_off(), attempt=b.FIRST)
    stream = recorded(events_of(*asked, kept, c.CancelRun(attempt=b.FIRST)))
    stream[6] = replace(stream[6], at=stream[5].at)
    assert short(timeline_of(stream).steps)[1:] == [("model", 4, 6, 2.0, "interrupted")]

    nothing_kept = told(*asked, c.CancelRun(attempt=b.FIRST))
    assert short(nothing_kept.steps)[1:] == [("model", 4, 6, 2.0, "interrupted")]


def test_a_run_that_waits_is_told_as_waiting() -> None:
    queued = told(b.request_run())
    assert short(queued.steps) == [("queue", 1, None, None, "open")]
    gone = told(b.request_run(), c.RequestCancel(by="client", why="never mind"))
    assert short(gone.steps) == [("queue", 1, 3, 2.0, "interrupted")]
    assert gone.moments[1].what == "client wants it cancelled: never mind"


def test_an_unknown_cost_is_never_told_as_zero() -> None:
    state = b.started()
    step = b.text_step(state)
    assert told(b.request_run()).totals().cost is None
    assert told(*to_start(), step).totals().cost is None
    priced = told(*to_start(), replace(step, cost="0.0021"))
    assert (priced.totals().cost, priced.steps[1].cost) == (Decimal("0.0021"),) * 2
    assert b'"cost":"0.0021"' in msgspec.json.encode(priced.totals())
    assert b'"cost":null' in msgspec.json.encode(told(*to_start(), step).totals())
    free = told(*to_start(), replace(step, cost="0"))
    assert free.totals().cost == 0


def erased(stream: list[Recorded]) -> list[Recorded]:
    gone: dict[type[e.Event], dict[str, Any]] = {
        e.Requested: {"messages": (), "title": "", "metadata": None},
        e.MessagePersisted: {"parts": (), "layout": ()},
    }
    return [
        replace(one, event=replace(one.event, **gone[type(one.event)]), erased=True)
        if type(one.event) in gone
        else one
        for one in stream
    ]


def test_erased_content_is_told_as_erased_not_as_nothing() -> None:
    state = b.started()
    step = b.tool_step(state)
    (call,) = b.after(step, state=state).open_calls
    whole = recorded(
        events_of(
            *to_start(),
            step,
            c.StartTools(attempt=b.FIRST, call_ids=(call,)),
            b.tool_result(b.after(step, state=state), call),
            b.text_step(state),
        )
    )
    timeline = timeline_of(erased(whole))
    whats = [one.what for one in timeline.moments]
    assert whats[0] == "asked with an erased request for scripted/echo"
    assert whats[4:] == [
        "model answered (tool-calls): (erased)",
        "started a call",
        "result of (erased)",
        "model answered (stop): (erased)",
    ]
    assert all(not one.said for one in timeline.moments)
    assert [one.state.parts for one in timeline.moments] == [0, 0, 0, 0, None, None, None, None]
    assert timeline.moments[-1].state.open_calls is None
    assert timeline.totals().seconds == timeline_of(whole).totals().seconds
    assert timeline.totals().usage == timeline_of(whole).totals().usage


def test_a_history_that_cannot_be_names_the_version_where_it_breaks() -> None:
    first, second, third, *_ = recorded(events_of(*to_start()))
    timeline = timeline_of([first, second])
    with pytest.raises(HistoryCorrupt, match="4 is not the next version"):
        timeline.take(replace(third, version=Version(4)))
    with pytest.raises(HistoryCorrupt, match="does not begin with its request"):
        timeline_of([replace(second, version=Version(1))])
    bad = e.MessagePersisted(
        message_id="m", first_part=0, usage=e.Usage(output_tokens=1), cost="much"
    )
    wrong = replace(third, event=bad, type=TAGS[e.MessagePersisted])
    with pytest.raises(HistoryCorrupt, match=r"event 3 of run .* does not fold: InvalidOperation"):
        timeline.take(wrong)
    assert len(timeline.moments) == 2
    assert timeline.state == evolve(evolve(INITIAL, first.event), second.event)
