"""Any interleaving of commands, legal or not, keeps the invariants."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.errors import Refused, RunNotFound
from runs_domain.frames import advance, cursor_of, decode, encode, frames_of
from runs_domain.ids import Attempt, assistant_message_id
from runs_domain.plan import CallModel, Done, Finish, ReleaseSandbox, RunTools, next_step
from runs_domain.run import INITIAL, RunState, decide, evolve, fold
from runs_domain.step import StepRecorder, results
from tests.support.builders import RUN, mint_key, provisioned, request_run, start
from tests.support.wire_client import StreamReader

WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=6
)
MODEL_EVENTS = st.lists(
    st.one_of(
        st.builds(m.TextDelta, text=WORDS),
        st.builds(m.ReasoningDelta, text=WORDS),
        st.tuples(WORDS, st.booleans()),  # a tool call: its input and whether that is valid
    ),
    max_size=6,
)


def play(recorder: StepRecorder, script: list[Any], *, stop_after: int | None = None) -> list[Any]:
    """Feed a model call, whole or cut off, and give the frames that went out live."""
    sent: list[Any] = []
    events: list[m.ModelEvent] = []
    calls = 0
    for entry in script:
        if isinstance(entry, tuple):
            text, valid = entry
            events += [
                m.ToolInputStart(index=calls, name="bash"),
                m.ToolInputDelta(index=calls, text=text),
                m.ToolInput(
                    index=calls,
                    input={"command": text} if valid else None,
                    error=None if valid else "bad",
                ),
            ]
            calls += 1
        else:
            events.append(entry)
    for event in events[:stop_after]:
        sent += recorder.add(event)
    return sent


def end_of(script: list[Any]) -> m.ModelEnd:
    wants_tools = any(isinstance(entry, tuple) for entry in script)
    return m.ModelEnd(
        finish_reason="tool-calls" if wants_tools else "stop", usage=e.Usage(output_tokens=1)
    )


class History:
    """Commands are tried one after the other; what is accepted becomes history."""

    def __init__(self, data: st.DataObject) -> None:
        self.state = INITIAL
        self.events: list[e.Event] = []
        self.cursor = cursor_of(RUN)
        self.frames: list[Any] = []
        self.refused = 0
        if data.draw(st.sampled_from([True, True, True, False])):
            for command in (request_run(), provisioned(), mint_key(), start()):
                assert self.attempt(command)

    def attempt(self, command: c.Command) -> bool:
        try:
            accepted = decide(self.state, command)
        except (Refused, RunNotFound):
            self.refused += 1
            return False
        for event in accepted:
            frames, self.cursor = advance(self.cursor, event)
            self.frames += frames
            self.state = evolve(self.state, event)
            self.events.append(event)
        return True

    def recorder(self) -> StepRecorder:
        return StepRecorder(RUN, self.cursor, len(self.state.parts))


def random_command(data: st.DataObject, history: History) -> c.Command:
    state = history.state
    attempt = Attempt(max(1, state.attempt + data.draw(st.sampled_from([0, 0, 0, -1, 1]))))
    script = data.draw(MODEL_EVENTS)
    recorder = history.recorder()
    play(recorder, script)
    partial = history.recorder()
    play(partial, script, stop_after=data.draw(st.integers(0, 4)))
    open_calls = [part for part in state.parts if part.get("toolCallId") in state.open_calls]
    any_call = data.draw(st.sampled_from(open_calls)) if open_calls else None
    choices: list[c.Command] = [
        request_run(),
        provisioned(attempt),
        mint_key(attempt),
        start(attempt),
        c.ResumeRun(attempt=attempt, reason=data.draw(st.sampled_from(["lost", "handover"]))),
        c.ResumeRun(attempt=Attempt(attempt + 1), reason="lost"),
        recorder.finish(attempt, end_of(script)),
        c.StartTools(
            attempt=attempt, call_ids=tuple(p["toolCallId"] for p in open_calls) or ("no-call",)
        ),
        c.RequestCancel(by="client", why="test"),
        c.CompleteRun(attempt=attempt),
        c.FailRun(attempt=attempt, code="internal", sentence="It broke."),
        c.CancelRun(attempt=attempt),
        c.RecordSandboxReleased(found=data.draw(st.booleans())),
    ]
    if not partial.is_empty:
        choices.append(partial.interrupt(attempt, "interrupted"))
    if any_call is not None:
        part = {**any_call, "state": "output-available", "output": None}
        choices.append(results(history.cursor, attempt, (part,), closes_step=len(open_calls) == 1))
    return data.draw(st.sampled_from(choices))


def legal_command(data: st.DataObject, history: History) -> c.Command:
    """What the driver would do next."""
    state = history.state
    step = next_step(state)
    match step:
        case Done():
            return request_run()
        case Finish():
            return step.command
        case ReleaseSandbox():
            return c.RecordSandboxReleased(found=True)
        case CallModel():
            recorder = history.recorder()
            script = data.draw(MODEL_EVENTS)
            play(recorder, script)
            return recorder.finish(state.attempt, end_of(script))
        case RunTools(fresh=fresh) if fresh:
            return c.StartTools(attempt=state.attempt, call_ids=fresh)
        case RunTools():
            part = next(p for p in state.parts if p.get("toolCallId") == state.open_calls[0])
            done = {**part, "state": "output-available", "output": {"ok": True}}
            return results(
                history.cursor, state.attempt, (done,), closes_step=len(state.open_calls) == 1
            )
        case _:
            return data.draw(
                st.sampled_from(
                    [provisioned(state.attempt), mint_key(state.attempt), start(state.attempt)]
                )
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
