"""One model call as it streams: frames to send now, and the event they become.

Frames of deltas (and the starts they need) go out at once; every other frame follows its event.
So what was sent is always a prefix of what the event's layout says, and a takeover can read the
sent frames back (`replay`) and close them (`interrupt`).
"""

from typing import Any, Literal

import msgspec

from runs_domain import frames as wire
from runs_domain import model_port as model
from runs_domain.closing import error_part
from runs_domain.commands import PersistMessage
from runs_domain.events import Json
from runs_domain.frames import Frame, FrameCursor
from runs_domain.ids import Attempt, RunId, tool_call_id
from runs_domain.layout import FrameKind, LayoutItem


class _Part(msgspec.Struct):
    kind: Literal["text", "reasoning", "tool", "step-start"]
    text: list[str] = []
    name: str = ""
    call_id: str = ""
    input: Any = None
    has_input: bool = False
    error: str | None = None


class _Entry(msgspec.Struct):
    """A layout item while it grows."""

    frame: FrameKind
    part: int = -1
    lengths: list[int] = []
    raw: list[str] = []


class StepRecorder:
    """Collects one model call. `first_part` is the message's length before it."""

    def __init__(self, run_id: RunId, cursor: FrameCursor, first_part: int) -> None:
        self._run_id = run_id
        self._cursor = cursor
        self._first_part = first_part
        self._parts: list[_Part] = []
        self._layout: list[_Entry] = []
        self._calls: dict[int, int] = {}
        """The model's call index → local part index."""

    @property
    def is_empty(self) -> bool:
        """Nothing was streamed, so nothing needs to be kept."""
        return not self._layout

    # ------------------------------------------------------------------ from the model

    def add(self, event: model.ModelEvent) -> tuple[Frame, ...]:
        """The frames that may go out before the step is persisted."""
        match event:
            case model.TextDelta(text=text):
                return self._delta("text", text) if text else ()
            case model.ReasoningDelta(text=text):
                return self._delta("reasoning", text) if text else ()
            case model.ToolInputStart(index=index, name=name):
                frames = self._start_call(name)
                self._calls[index] = len(self._parts) - 1
                return frames
            case model.ToolInputDelta(index=index, text=text):
                return self._call_delta(self._calls[index], text) if text else ()
            case model.ToolInput(index=index, input=value, error=error):
                part = self._parts[self._calls[index]]
                part.input, part.has_input, part.error = value, error is None, error
                return ()
            case model.ModelEnd():
                return ()

    def _open(self) -> tuple[Frame, ...]:
        """Whatever must precede the first frame of this call; nothing after that."""
        if self._parts:
            return ()
        self._parts.append(_Part("step-start"))
        opening = self._cursor.opening
        self._layout += [_Entry(kind) for kind in opening]
        return tuple(self._opening_frame(kind) for kind in opening)

    def _opening_frame(self, kind: FrameKind) -> Frame:
        if kind == "start":
            return wire.Start(self._cursor.message_id)
        return wire.FinishStep() if kind == "finish-step" else wire.StartStep()

    def _wire_id(self, part: int) -> str:
        return str(self._first_part + part)

    def _delta(self, kind: Literal["text", "reasoning"], text: str) -> tuple[Frame, ...]:
        opened = self._open()
        if self._parts[-1].kind != kind:
            opened += (self._start_part(kind),)
        part = len(self._parts) - 1
        self._parts[part].text.append(text)
        if kind == "text":
            self._extend("text-delta", part, lengths=(len(text),))
            return (*opened, wire.TextDelta(self._wire_id(part), text))
        self._extend("reasoning-delta", part, lengths=(len(text),))
        return (*opened, wire.ReasoningDelta(self._wire_id(part), text))

    def _start_part(self, kind: Literal["text", "reasoning"]) -> Frame:
        part = len(self._parts)
        self._parts.append(_Part(kind))
        if kind == "text":
            self._layout.append(_Entry("text-start", part))
            return wire.TextStart(self._wire_id(part))
        self._layout.append(_Entry("reasoning-start", part))
        return wire.ReasoningStart(self._wire_id(part))

    def _start_call(self, name: str) -> tuple[Frame, ...]:
        opened = self._open()
        part = len(self._parts)
        call_id = tool_call_id(self._run_id, self._first_part + part)
        self._parts.append(_Part("tool", name=name, call_id=call_id))
        self._layout.append(_Entry("tool-input-start", part))
        return (*opened, wire.ToolInputStart(call_id, name))

    def _call_delta(self, part: int, text: str) -> tuple[Frame, ...]:
        self._extend("tool-input-delta", part, raw=(text,))
        return (wire.ToolInputDelta(self._parts[part].call_id, text),)

    def _extend(
        self,
        frame: FrameKind,
        part: int,
        *,
        lengths: tuple[int, ...] = (),
        raw: tuple[str, ...] = (),
    ) -> None:
        entry = self._layout[-1]
        if entry.frame != frame or entry.part != part:
            entry = _Entry(frame, part)
            self._layout.append(entry)
        entry.lengths.extend(lengths)
        entry.raw.extend(raw)

    # ------------------------------------------------------------------ from a dead worker

    def replay(self, frame: Frame) -> None:
        """Take in a frame that a lost attempt had sent, in the order it was sent."""
        match frame:
            case wire.Start() | wire.StartStep() | wire.FinishStep():
                self._open()
            case wire.TextStart() | wire.ReasoningStart():
                self._start_part("text" if isinstance(frame, wire.TextStart) else "reasoning")
            case wire.TextDelta(delta=text):
                self._delta("text", text)
            case wire.ReasoningDelta(delta=text):
                self._delta("reasoning", text)
            case wire.ToolInputStart(tool_name=name):
                self._start_call(name)
            case wire.ToolInputDelta(tool_call_id=call_id, input_text_delta=text):
                ids = [part.call_id for part in self._parts]
                self._call_delta(ids.index(call_id), text)
            case _:
                raise ValueError(f"a {type(frame).__name__} frame never precedes its event")

    # ------------------------------------------------------------------ to an event

    def finish(self, attempt: Attempt, end: model.ModelEnd) -> PersistMessage:
        """The whole step. Calls whose input is valid stay open for their tools."""
        self._open()
        closing = self._closing(None)
        if not any(part.kind == "tool" and part.error is None for part in self._parts):
            closing.append(LayoutItem("finish-step"))
        return PersistMessage(
            attempt=attempt,
            message_id=self._cursor.message_id,
            parts=tuple(_as_json(part, None) for part in self._parts),
            layout=(*map(_as_item, self._layout), *closing),
            usage=end.usage,
            cost=end.cost,
            finish_reason=end.finish_reason,
        )

    def interrupt(
        self, attempt: Attempt, error_text: str, end: model.ModelEnd | None = None
    ) -> PersistMessage:
        """What was streamed, closed: shown to people, never sent to the model.

        `end` is given when the call itself was whole: its tokens were spent all the same.
        """
        return PersistMessage(
            attempt=attempt,
            message_id=self._cursor.message_id,
            parts=tuple(_as_json(part, error_text) for part in self._parts),
            layout=(*map(_as_item, self._layout), *self._closing(error_text)),
            usage=None if end is None else end.usage,
            cost=None if end is None else end.cost,
            interrupted=True,
        )

    def _closing(self, error_text: str | None) -> list[LayoutItem]:
        """The frames that end each part, in the order in which they were opened."""
        closing: list[LayoutItem] = []
        for index, part in enumerate(self._parts):
            match part.kind:
                case "text":
                    closing.append(LayoutItem("text-end", index))
                case "reasoning":
                    closing.append(LayoutItem("reasoning-end", index))
                case "tool":
                    closing.append(LayoutItem("tool-input-available", index))
                    if part.error is not None or error_text is not None:
                        closing.append(LayoutItem("tool-output-error", index))
                case "step-start":
                    pass
        return closing


def _as_item(entry: _Entry) -> LayoutItem:
    return LayoutItem(entry.frame, entry.part, tuple(entry.lengths), tuple(entry.raw))


def _as_json(part: _Part, error_text: str | None) -> Json:
    if part.kind == "step-start":
        return {"type": "step-start"}
    if part.kind != "tool":
        return {"type": part.kind, "text": "".join(part.text), "state": "done"}
    call: Json = {
        "type": wire.TOOL_PREFIX + part.name,
        "toolCallId": part.call_id,
        "state": "input-available",
        "input": part.input if part.has_input else {},
    }
    error = error_text or part.error
    return call if error is None else error_part(call, error)


def results(
    cursor: FrameCursor, attempt: Attempt, parts: tuple[Json, ...], *, closes_step: bool
) -> PersistMessage:
    """Results of tool calls. `closes_step`: no call of the step is open after these."""
    kinds: tuple[FrameKind, ...] = tuple(
        "tool-output-available" if part["state"] == "output-available" else "tool-output-error"
        for part in parts
    )
    layout = [LayoutItem(kind, index) for index, kind in enumerate(kinds)]
    if closes_step:
        layout.append(LayoutItem("finish-step"))
    return PersistMessage(
        attempt=attempt, message_id=cursor.message_id, parts=parts, layout=tuple(layout)
    )


def output_part(call: Json, output: Any) -> Json:
    """The open call's part with its result; `output` may be null, never absent."""
    return {**call, "state": "output-available", "output": output}
