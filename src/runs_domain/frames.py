"""The frames of a run's stream, and how they follow from its events.

A frame is one chunk of the AI SDK's UI message stream. Which frames an event stands for is a
pure function of the events so far, so a stream that was lost can always be told again from the
log. Frames that go out before their event (`step.py`) are a prefix of these.

The wire's rules: optional keys are left out, never null; `input` and `output` are always there.
"""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from runs_domain import events
from runs_domain.events import Event, FinishReason, Json
from runs_domain.ids import RunId, assistant_message_id
from runs_domain.layout import FrameKind, LayoutItem


class _Frame(msgspec.Struct, frozen=True, rename="camel", tag_field="type", omit_defaults=True):
    pass


class Start(_Frame, frozen=True, tag="start"):
    message_id: str
    message_metadata: Json | None = None


class StartStep(_Frame, frozen=True, tag="start-step"):
    pass


class FinishStep(_Frame, frozen=True, tag="finish-step"):
    pass


class TextStart(_Frame, frozen=True, tag="text-start"):
    id: str


class TextDelta(_Frame, frozen=True, tag="text-delta"):
    id: str
    delta: str


class TextEnd(_Frame, frozen=True, tag="text-end"):
    id: str


class ReasoningStart(_Frame, frozen=True, tag="reasoning-start"):
    id: str


class ReasoningDelta(_Frame, frozen=True, tag="reasoning-delta"):
    id: str
    delta: str


class ReasoningEnd(_Frame, frozen=True, tag="reasoning-end"):
    id: str


class ToolInputStart(_Frame, frozen=True, tag="tool-input-start"):
    tool_call_id: str
    tool_name: str


class ToolInputDelta(_Frame, frozen=True, tag="tool-input-delta"):
    tool_call_id: str
    input_text_delta: str


class ToolInputAvailable(_Frame, frozen=True, tag="tool-input-available"):
    tool_call_id: str
    tool_name: str
    input: Any


class ToolOutputAvailable(_Frame, frozen=True, tag="tool-output-available"):
    tool_call_id: str
    output: Any


class ToolOutputError(_Frame, frozen=True, tag="tool-output-error"):
    tool_call_id: str
    error_text: str


class Error(_Frame, frozen=True, tag="error"):
    error_text: str


class Abort(_Frame, frozen=True, tag="abort"):
    pass


class Finish(_Frame, frozen=True, tag="finish"):
    finish_reason: FinishReason


Frame: TypeAlias = (
    Start
    | StartStep
    | FinishStep
    | TextStart
    | TextDelta
    | TextEnd
    | ReasoningStart
    | ReasoningDelta
    | ReasoningEnd
    | ToolInputStart
    | ToolInputDelta
    | ToolInputAvailable
    | ToolOutputAvailable
    | ToolOutputError
    | Error
    | Abort
    | Finish
)

LIVE: Final = (
    *(Start, StartStep, FinishStep, TextStart, TextDelta, ReasoningStart, ReasoningDelta),
    *(ToolInputStart, ToolInputDelta),
)
"""What may go out before its event: deltas, and the starts they need."""

TOOL_PREFIX: Final = "tool-"

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


_LINE_ENDS: Final = {
    end.encode(): b"\\u%04x" % ord(end) for end in ("\N{NEXT LINE}", "\u2028", "\u2029")
}
"""JSON lets them stand in a string; readers of lines in Python, httpx too, take them for ends."""


def encode(frame: Frame) -> bytes:
    """One line of JSON, by anybody's idea of a line."""
    chunk = _encoder.encode(frame)
    for end, escape in _LINE_ENDS.items():
        if end in chunk:
            chunk = chunk.replace(end, escape)
    return chunk


def decode(chunk: bytes) -> Frame:
    return _decoder.decode(chunk)


def live_length(frames: Iterable[Frame]) -> int:
    """How many of an event's frames, from its first on, may have gone out before it."""
    return sum(1 for _ in takewhile(lambda frame: isinstance(frame, LIVE), frames))


class FrameCursor(msgspec.Struct, frozen=True):
    """Where the committed part of the stream ends."""

    message_id: str
    next_index: int = 0
    message_started: bool = False
    step_open: bool = False

    @property
    def opening(self) -> tuple[FrameKind, ...]:
        """What must go out before a model call's first delta."""
        start: tuple[FrameKind, ...] = () if self.message_started else ("start",)
        finish: tuple[FrameKind, ...] = ("finish-step",) if self.step_open else ()
        return (*start, *finish, "start-step")


def cursor_of(run_id: RunId) -> FrameCursor:
    return FrameCursor(message_id=assistant_message_id(run_id))


def advance(cursor: FrameCursor, event: Event) -> tuple[tuple[Frame, ...], FrameCursor]:
    """The frames that `event` stands for, and where the stream ends after them."""
    match event:
        case events.MessagePersisted():
            frames = tuple(expand(event))
        case events.Completed():
            frames = _ending(cursor, (), Finish(event.finish_reason))
        case events.Failed():
            frames = _ending(cursor, (Error(event.sentence),), Finish("error"))
        case events.Cancelled():
            frames = _ending(cursor, (Abort(),), Finish("other"))
        case _:
            return (), cursor
    return frames, _after(cursor, frames)


def _ending(cursor: FrameCursor, word: tuple[Frame, ...], finish: Finish) -> tuple[Frame, ...]:
    start = () if cursor.message_started else (Start(cursor.message_id),)
    close = (FinishStep(),) if cursor.step_open else ()
    return (*start, *word, *close, finish)


def _after(cursor: FrameCursor, frames: tuple[Frame, ...]) -> FrameCursor:
    started, step_open = cursor.message_started, cursor.step_open
    for frame in frames:
        match frame:
            case Start():
                started = True
            case StartStep():
                step_open = True
            case FinishStep():
                step_open = False
            case _:
                pass
    return replace(
        cursor,
        next_index=cursor.next_index + len(frames),
        message_started=started,
        step_open=step_open,
    )


def frames_of(run_id: RunId, stream: Iterable[Event]) -> Iterator[Frame]:
    """All committed frames of a run, in order."""
    cursor = cursor_of(run_id)
    for event in stream:
        frames, cursor = advance(cursor, event)
        yield from frames


def expand(event: events.MessagePersisted) -> Iterator[Frame]:
    """The layout put back together with the parts it was taken from."""
    places = [0] * len(event.parts)
    for item in event.layout:
        if item.frame in {"text-delta", "reasoning-delta"}:
            yield from _deltas(event, item, places)
        elif item.frame == "tool-input-delta":
            call = event.parts[item.part]["toolCallId"]
            yield from (ToolInputDelta(call, piece) for piece in item.raw)
        else:
            yield _single(event, item)


def _deltas(event: events.MessagePersisted, item: LayoutItem, places: list[int]) -> Iterator[Frame]:
    kind = TextDelta if item.frame == "text-delta" else ReasoningDelta
    text: str = event.parts[item.part]["text"]
    for length in item.lengths:
        start = places[item.part]
        places[item.part] = start + length
        yield kind(part_id(event, item.part), text[start : start + length])


def part_id(event: events.MessagePersisted, part: int) -> str:
    """The wire's id of a text or reasoning part: its index in the message."""
    return str(event.first_part + part)


def _single(event: events.MessagePersisted, item: LayoutItem) -> Frame:  # noqa: C901, PLR0912 - one branch a frame
    if item.part < 0:
        match item.frame:
            case "start":
                return Start(event.message_id, item.metadata)
            case "start-step":
                return StartStep()
            case "finish-step":
                return FinishStep()
            case _:
                raise ValueError(f"a {item.frame} frame needs its part")
    part = event.parts[item.part]
    match item.frame:
        case "text-start":
            return TextStart(part_id(event, item.part))
        case "text-end":
            return TextEnd(part_id(event, item.part))
        case "reasoning-start":
            return ReasoningStart(part_id(event, item.part))
        case "reasoning-end":
            return ReasoningEnd(part_id(event, item.part))
        case "tool-input-start":
            return ToolInputStart(part["toolCallId"], tool_name(part))
        case "tool-input-available":
            return ToolInputAvailable(part["toolCallId"], tool_name(part), part["input"])
        case "tool-output-available":
            return ToolOutputAvailable(part["toolCallId"], part["output"])
        case "tool-output-error":
            return ToolOutputError(part["toolCallId"], part["errorText"])
        case _:
            raise ValueError(f"a {item.frame} frame stands alone")


def tool_name(part: Json) -> str:
    name: str = part["type"]
    return name.removeprefix(TOOL_PREFIX)
