"""The rows of the views, as folds of the same events as the run's own state."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.errors import HistoryCorrupt
from runs_domain.read_models import MessageRow, RunError, messages_after, summarize
from runs_domain.run import decide, fold, status_of
from tests.domain.test_run_properties import History, legal_command, random_command
from tests.support.builders import (
    CHAT,
    FIRST,
    mint_key,
    provisioned,
    request_run,
    start,
    text_step,
    user_message,
)
from tests.support.recorded import BEGINNING, recorded


def events_of(*commands: c.Command) -> list[e.Event]:
    made: list[e.Event] = []
    for command in commands:
        made += decide(fold(made), command)
    return made


def to_start(**changes: object) -> list[c.Command]:
    return [request_run(**changes), provisioned(), mint_key(), start()]


def random_history(data: st.DataObject) -> list[e.Event]:
    history = History(data)
    for _ in range(data.draw(st.integers(1, 25))):
        pick = random_command if data.draw(st.booleans()) else legal_command
        history.attempt(pick(data, history))
    if not history.events:
        history.attempt(request_run())
    return history.events


def by_place(rows: tuple[MessageRow, ...]) -> dict[int, MessageRow]:
    return {row.place: row for row in rows}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_invariant_8_a_summary_equals_the_fold_at_every_prefix(data: st.DataObject) -> None:
    events = random_history(data)
    stream = recorded(events)

    for end in range(1, len(stream) + 1):
        row = summarize(stream[:end])
        state = fold(events[:end])
        assert row is not None
        assert (row.status, row.version) == (status_of(state), state.version)
        assert (row.usage or e.Usage()) == state.usage
        assert (row.finished_at is not None) == (state.ending is not None)
        cut = data.draw(st.integers(0, end))
        assert summarize(stream[cut:end], summarize(stream[:cut])) == row


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_invariant_8_the_message_rows_equal_the_fold_at_every_prefix(data: st.DataObject) -> None:
    events = random_history(data)
    stream = recorded(events)

    for end in range(1, len(stream) + 1):
        rows = messages_after(stream[:end])
        state = fold(events[:end])
        assert rows[-1].message["parts"] == list(state.parts)
        assert rows[-1].complete == (state.ending is not None)
        cut = data.draw(st.integers(1, end))
        before = messages_after(stream[:cut])
        changed = messages_after(stream[cut:end], before[-1])
        assert by_place(before) | by_place(changed) == by_place(rows)


def test_a_completed_run_in_a_row() -> None:
    commands = to_start(model="scripted/echo")
    events = events_of(*commands)
    events = events_of(*commands, text_step(fold(events), "hello"), c.CompleteRun(attempt=FIRST))
    row = summarize(recorded(events))

    assert row is not None
    assert (row.status, row.model, row.chat_id) == ("completed", "scripted/echo", CHAT)
    assert (row.usage, row.error) == (e.Usage(output_tokens=1), None)
    assert row.started_at is not None
    assert row.finished_at is not None
    assert BEGINNING < row.created_at < row.started_at < row.finished_at
    assert row.requested_position == 3


def test_a_failed_run_says_why() -> None:
    fail = c.FailRun(attempt=FIRST, code="internal", sentence="It broke.")
    row = summarize(recorded(events_of(*to_start(), fail)))

    assert row is not None
    assert (row.status, row.error) == ("failed", RunError(code="internal", message="It broke."))


def test_the_messages_that_a_run_was_given_are_there_at_once_and_in_order() -> None:
    given = (user_message("one", "a"), user_message("two", "b"))
    rows = messages_after(recorded(events_of(request_run(messages=given))))

    assert [(row.place, row.role, row.complete) for row in rows] == [
        (0, "user", True),
        (1, "user", True),
        (2, "assistant", False),
    ]
    assert tuple(row.message for row in rows[:2]) == given


def test_an_event_that_changes_no_message_changes_no_row() -> None:
    stream = recorded(events_of(*to_start()))
    rows = messages_after(stream[:1])

    assert messages_after(stream[1:], rows[-1]) == ()


def test_a_stream_without_its_beginning_is_an_error_and_not_a_guess() -> None:
    stream = recorded(events_of(*to_start()))

    with pytest.raises(HistoryCorrupt):
        summarize(stream[1:])
    with pytest.raises(HistoryCorrupt):
        messages_after(stream[1:])
