"""Any interleaving of commands, legal or not, keeps the invariants."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from runs_domain import events as e
from runs_domain.frames import advance, cursor_of, decode, encode, frames_of
from runs_domain.ids import Attempt, assistant_message_id
from runs_domain.run import INITIAL, RunState, evolve, fold
from runs_domain.step import StepRecorder
from runs_domain.stream_reader import StreamReader
from tests.support.builders import RUN
from tests.support.histories import (
    MODEL_EVENTS,
    History,
    end_of,
    legal_command,
    play,
    random_command,
)


def check_invariants(history: History) -> None:
    kinds = [type(event) for event in history.events]
    endings = [i for i, kind in enumerate(kinds) if kind in (e.Completed, e.Failed, e.Cancelled)]
    assert len(endings) <= 1
    if endings:
        revoked = [e.KeyRevoked] if e.KeyMinted in kinds else []
        rest = kinds[endings[0] + 1 :]
        assert rest in (revoked, [*revoked, e.SandboxReleased])
        assert history.state.open_calls == ()
    else:
        assert e.SandboxReleased not in kinds
        assert e.KeyRevoked not in kinds
    begun = [
        call
        for event in history.events
        if isinstance(event, e.ToolStarted)
        for call in event.call_ids
    ]
    assert len(begun) == len(set(begun))
    attempts = [event.attempt for event in history.events if isinstance(event, e.Resumed)]
    assert attempts == list(range(2, 2 + len(attempts)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_invariants_2_3_4_hold_whatever_is_tried(data: st.DataObject) -> None:
    history = History(data)
    for _ in range(data.draw(st.integers(1, 25))):
        maker = data.draw(st.sampled_from([legal_command, legal_command, random_command]))
        history.attempt(maker(data, history))
        check_invariants(history)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_invariant_7_the_stream_is_legal_and_says_what_the_message_says(
    data: st.DataObject,
) -> None:
    history = History(data)
    for _ in range(data.draw(st.integers(1, 25))):
        maker = data.draw(st.sampled_from([legal_command, legal_command, random_command]))
        history.attempt(maker(data, history))

    reader = StreamReader().read(history.frames)

    assert reader.message["parts"] == list(history.state.parts)
    assert reader.finished == (history.state.ending is not None)
    if history.state.parts:
        assert reader.message["id"] == history.state.message_id == assistant_message_id(RUN)
    assert list(frames_of(RUN, history.events)) == history.frames
    assert history.cursor.next_index == len(history.frames)
    assert [decode(encode(frame)) for frame in history.frames] == history.frames


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_folding_is_deterministic_also_over_the_stored_form(data: st.DataObject) -> None:
    history = History(data)
    for _ in range(data.draw(st.integers(1, 20))):
        history.attempt(legal_command(data, history))

    stored = [(type(event), msgspec.json.encode(event)) for event in history.events]
    read_back = [msgspec.json.decode(raw, type=kind) for kind, raw in stored]

    assert fold(tuple(read_back)) == history.state
    states: list[RunState] = [INITIAL]
    for event in history.events:
        states.append(evolve(states[-1], event))
    assert states[-1] == history.state


@settings(max_examples=150, deadline=None)
@given(script=MODEL_EVENTS, cut=st.integers(0, 20), kept=st.integers(0, 60))
def test_a_takeover_goes_on_after_exactly_what_was_sent(
    script: list[Any], cut: int, kept: int
) -> None:
    """Redis kept a prefix of what the lost worker sent; the event tells just that first."""
    cursor = cursor_of(RUN)
    sent = play(StepRecorder(RUN, cursor, 0), script, stop_after=cut)
    tail = sent[:kept]
    recorder = StepRecorder(RUN, cursor, 0)
    for frame in tail:
        recorder.replay(frame)
    assert recorder.is_empty == (not tail)
    if not tail:
        return

    persisted = recorder.interrupt(Attempt(2), "interrupted: outcome unknown")
    event = e.MessagePersisted(
        message_id=persisted.message_id,
        first_part=0,
        parts=persisted.parts,
        layout=persisted.layout,
        interrupted=True,
    )
    frames, after = advance(cursor, event)

    assert list(frames[: len(tail)]) == tail
    reader = StreamReader().read(frames)
    assert reader.message["parts"] == list(event.parts)
    ending, _ = advance(after, e.Failed(code="internal", sentence="It broke.", usage=e.Usage()))
    assert reader.read(ending).finished


@settings(max_examples=150, deadline=None)
@given(script=MODEL_EVENTS)
def test_what_went_out_live_is_a_prefix_of_what_the_event_says(script: list[Any]) -> None:
    cursor = cursor_of(RUN)
    recorder = StepRecorder(RUN, cursor, 0)
    sent = play(recorder, script)
    done = recorder.finish(Attempt(1), end_of(script))
    event = e.MessagePersisted(
        message_id=done.message_id, first_part=0, parts=done.parts, layout=done.layout
    )

    frames, _ = advance(cursor, event)

    assert list(frames[: len(sent)]) == sent
