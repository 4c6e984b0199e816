"""Commands and events with sensible values; a test names only what it is about."""

from typing import Any
from uuid import UUID

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain import ids
from runs_domain import model_port as m
from runs_domain.frames import FrameCursor, cursor_of
from runs_domain.ids import AccountId, Attempt, ChatId, KeyId, RunId, SessionId
from runs_domain.layout import LayoutItem
from runs_domain.run import INITIAL, RunState, decide, evolve
from runs_domain.step import StepRecorder, output_part, results

RUN = RunId(UUID("01900000-0000-7000-8000-000000000001"))
ACCOUNT = AccountId(UUID("01900000-0000-7000-8000-0000000000a1"))
CHAT = ChatId(UUID("01900000-0000-7000-8000-0000000000c1"))
SESSION = SessionId(UUID("01900000-0000-7000-8000-0000000000e1"))
KEY = KeyId(UUID("01900000-0000-7000-8000-0000000000f1"))
FIRST = Attempt(1)


def user_message(text: str = "Say hello", message_id: str = "m1") -> e.Json:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def request_run(**changes: Any) -> c.RequestRun:
    values: dict[str, Any] = {
        "account_id": ACCOUNT,
        "actor": f"account:{ACCOUNT}",
        "chat_id": CHAT,
        "session_id": SESSION,
        "model": "scripted/echo",
        "request_digest": "0" * 64,
        "title": "Scheduled generation",
        "messages": (user_message(),),
    }
    return c.RequestRun(**(values | changes))


def provisioned(attempt: Attempt = FIRST) -> c.RecordProvisioned:
    return c.RecordProvisioned(
        attempt=attempt,
        sandbox=ids.sandbox_name(SESSION),
        provider="none",
        state="named",
        working_directory="/workspace",
    )


def mint_key(attempt: Attempt = FIRST, ttl_seconds: int = 900) -> c.MintKey:
    return c.MintKey(
        attempt=attempt,
        key_id=KEY,
        secret_version=1,
        ttl_seconds=ttl_seconds,
        scopes=("runs:read",),
    )


def start(attempt: Attempt = FIRST) -> c.StartRun:
    return c.StartRun(attempt=attempt)


def text_step(
    state: RunState,
    text: str = "hello",
    *,
    attempt: Attempt = FIRST,
    cursor: FrameCursor | None = None,
) -> c.PersistMessage:
    """A model call that says `text` and stops."""
    recorder = StepRecorder(RUN, cursor or cursor_of(RUN), len(state.parts))
    recorder.add(m.TextDelta(text=text))
    return recorder.finish(
        attempt, m.ModelEnd(finish_reason="stop", usage=e.Usage(output_tokens=1))
    )


def tool_step(
    state: RunState, count: int = 1, *, attempt: Attempt = FIRST, cursor: FrameCursor | None = None
) -> c.PersistMessage:
    """A model call that asks for `count` tool calls."""
    recorder = StepRecorder(RUN, cursor or cursor_of(RUN), len(state.parts))
    for index in range(count):
        recorder.add(m.ToolInputStart(index=index, name="bash"))
        recorder.add(m.ToolInputDelta(index=index, text='{"command":"true"}'))
        recorder.add(m.ToolInput(index=index, input={"command": "true"}))
    return recorder.finish(
        attempt, m.ModelEnd(finish_reason="tool-calls", usage=e.Usage(output_tokens=1))
    )


def tool_result(
    state: RunState, call_id: str, *, attempt: Attempt = FIRST, output: Any = None
) -> c.PersistMessage:
    call = next(part for part in state.parts if part.get("toolCallId") == call_id)
    return results(
        cursor_of(RUN),
        attempt,
        (output_part(call, output),),
        closes_step=len(state.open_calls) == 1,
    )


def after(*commands: c.Command, state: RunState = INITIAL) -> RunState:
    """The state once each command was decided and folded."""
    for command in commands:
        for event in decide(state, command):
            state = evolve(state, event)
    return state


def started(**changes: Any) -> RunState:
    return after(request_run(**changes), provisioned(), mint_key(), start())


def item(frame: Any, part: int = -1) -> LayoutItem:
    return LayoutItem(frame, part)
