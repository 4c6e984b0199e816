"""A strict reader of the stream, as the SDK's clients are: it refuses a wrong order and rebuilds
the message from the frames alone. Audits and tests hold the log against what it makes of it.
"""

from collections.abc import Iterable
from typing import Any

from runs_domain import frames as w
from runs_domain.errors import RunledgerError


class BadStream(RunledgerError):
    """Says which rule was broken, without a word of what was streamed."""


class StreamReader:
    """Feed it frames in order; `message` is what a client would show."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = {"id": "", "role": "assistant", "parts": []}
        self.finished = False
        self.errors: list[str] = []
        self.finish_reason = ""
        self._started = False
        self._in_step = False
        self._open: dict[str, dict[str, Any]] = {}
        self._calls: dict[str, dict[str, Any]] = {}

    def read(self, frames: Iterable[w.Frame]) -> "StreamReader":
        for frame in frames:
            self.feed(frame)
        return self

    def _need(self, condition: object, what: str) -> None:
        if not condition:
            raise BadStream(what)

    def feed(self, frame: w.Frame) -> None:  # noqa: C901, PLR0912 - the grammar, in one place
        self._need(not self.finished, f"{type(frame).__name__} after finish")
        self._need(self._started or isinstance(frame, w.Start), "a frame before start")
        match frame:
            case w.Start():
                self._need(not self._started, "a second start")
                self._started = True
                self.message["id"] = frame.message_id
            case w.StartStep():
                self._need(not self._in_step, "start-step inside a step")
                self._in_step = True
                self._part({"type": "step-start"})
            case w.FinishStep():
                self._need(self._in_step, "finish-step outside a step")
                self._need(not self._open, f"open at finish-step: {list(self._open)}")
                self._need(
                    all(part["state"].startswith("output") for part in self._calls.values()),
                    "a call without a result at finish-step",
                )
                self._in_step = False
            case w.TextStart() | w.ReasoningStart():
                kind = "text" if isinstance(frame, w.TextStart) else "reasoning"
                self._need(self._in_step, f"{kind} outside a step")
                self._need(frame.id not in self._open, f"{frame.id} opened twice")
                self._open[frame.id] = self._part({"type": kind, "text": "", "state": "streaming"})
            case w.TextDelta() | w.ReasoningDelta():
                self._need(frame.id in self._open, f"a delta of {frame.id}, which is not open")
                self._open[frame.id]["text"] += frame.delta
            case w.TextEnd() | w.ReasoningEnd():
                self._need(frame.id in self._open, f"an end of {frame.id}, which is not open")
                self._open.pop(frame.id)["state"] = "done"
            case w.ToolInputStart():
                self._need(self._in_step, "a tool outside a step")
                self._need(frame.tool_call_id not in self._calls, "a call id used twice")
                self._calls[frame.tool_call_id] = self._part(
                    {
                        "type": f"tool-{frame.tool_name}",
                        "toolCallId": frame.tool_call_id,
                        "state": "input-streaming",
                    }
                )
            case w.ToolInputDelta():
                self._need(self._call(frame)["state"] == "input-streaming", "input after input")
            case w.ToolInputAvailable():
                self._need(self._call(frame)["state"] == "input-streaming", "input given twice")
                self._call(frame).update(state="input-available", input=frame.input)
            case w.ToolOutputAvailable():
                self._need(
                    self._call(frame)["state"] == "input-available", "an output too early or twice"
                )
                self._call(frame).update(state="output-available", output=frame.output)
            case w.ToolOutputError():
                self._need(
                    self._call(frame)["state"] == "input-available", "an error too early or twice"
                )
                self._call(frame).update(state="output-error", errorText=frame.error_text)
            case w.Error():
                self.errors.append(frame.error_text)
            case w.Abort():
                self._need(not self._open, "open text at abort")
            case w.Finish():
                self._need(not self._in_step, "finish inside a step")
                self.finish_reason = frame.finish_reason
                self.finished = True

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        self.message["parts"].append(part)
        return part

    def _call(self, frame: Any) -> dict[str, Any]:
        self._need(frame.tool_call_id in self._calls, f"unknown call {frame.tool_call_id}")
        return self._calls[frame.tool_call_id]
