"""The rows of the views `credits` and `sandboxes`, held against the run's own state."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.errors import HistoryCorrupt
from runs_domain.ids import sandbox_name
from runs_domain.ledger import entries_after
from runs_domain.run import fold
from runs_domain.sandbox_rows import sandbox_after
from tests.domain.test_read_models import events_of, random_history, to_start
from tests.support.builders import ACCOUNT, FIRST, SESSION, request_run, text_step
from tests.support.recorded import recorded

CREDITS = st.integers(0, 100)


def with_credits(data: st.DataObject) -> list[e.Event]:
    """A history in which credits move: nothing of the product moves any yet."""
    history = random_history(data)
    history[0] = replace(history[0], credits_reserved=data.draw(CREDITS))
    return [
        replace(event, credits_charged=data.draw(CREDITS))
        if isinstance(event, e.Completed | e.Failed | e.Cancelled)
        else event
        for event in history
    ]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_invariant_8_the_ledger_equals_the_fold_at_every_prefix(data: st.DataObject) -> None:
    events = with_credits(data)
    stream = recorded(events)

    for end in range(1, len(stream) + 1):
        entries = entries_after(stream[:end])
        state = fold(events[:end])
        assert state.requested is not None
        held = 0 if state.ending else state.requested.credits_reserved
        charged = state.ending.credits_charged if state.ending else 0
        assert sum(entry.reserved for entry in entries) == held
        assert sum(entry.charged for entry in entries) == charged
        cut = data.draw(st.integers(0, end))
        before = entries_after(stream[:cut])
        reserved = sum(entry.reserved for entry in before)
        assert (*before, *entries_after(stream[cut:end], reserved)) == entries


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_every_change_of_credits_has_its_event_and_no_event_two(data: st.DataObject) -> None:
    stream = recorded(with_credits(data))
    entries = entries_after(stream)

    assert len({entry.version for entry in entries}) == len(entries)
    for entry in entries:
        made_by = stream[entry.version - 1]
        assert (entry.at, entry.position) == (made_by.at, made_by.position)
        assert entry.reserved or entry.charged


def test_a_run_that_moves_no_credits_leaves_no_entry() -> None:
    assert entries_after(recorded(events_of(request_run()))) == ()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_invariant_8_the_sandbox_row_equals_the_fold_at_every_prefix(data: st.DataObject) -> None:
    events = random_history(data)
    stream = recorded(events)

    for end in range(1, len(stream) + 1):
        row = sandbox_after(stream[:end])
        state = fold(events[:end])
        assert row is not None
        expected = "awaited" if state.provisioned is None else state.provisioned.state
        assert row.state == ("released" if state.sandbox_released else expected)
        cut = data.draw(st.integers(0, end))
        assert sandbox_after(stream[cut:end], sandbox_after(stream[:cut])) == row


def test_a_sandbox_from_its_request_to_its_release() -> None:
    events = events_of(*to_start())
    awaited = sandbox_after(recorded(events)[:1])
    assert awaited is not None
    assert (awaited.account_id, awaited.sandbox) == (ACCOUNT, sandbox_name(SESSION))

    commands = (*to_start(), text_step(fold(events), "hello"), c.CompleteRun(attempt=FIRST))
    release = c.RecordSandboxReleased(found=True, commit="abc", pushed=True)
    stream = recorded(events_of(*commands, release))
    row = sandbox_after(stream)

    assert row is not None
    assert (row.state, row.found, row.commit_id, row.pushed) == ("released", True, "abc", True)
    assert (row.provisioned_at, row.released_at) == (stream[1].at, stream[-1].at)
    assert row.version == len(stream)


def test_a_stream_without_its_request_has_no_sandbox_row() -> None:
    with pytest.raises(HistoryCorrupt):
        sandbox_after(recorded(events_of(*to_start()))[1:])
