"""Runs made up by Hypothesis: any sequence of commands, legal or not."""

from typing import Any

from hypothesis import strategies as st

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.errors import Refused, RunNotFound, StaleAttempt
from runs_domain.frames import advance, cursor_of
from runs_domain.ids import Attempt
from runs_domain.plan import CallModel, Done, Finish, ReleaseSandbox, RunTools, next_step
from runs_domain.run import INITIAL, decide, evolve
from runs_domain.step import StepRecorder, results
from tests.support.builders import RUN, mint_key, provisioned, request_run, start

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
        except (Refused, RunNotFound, StaleAttempt):
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
