"""One streamed chat completion, chunk by chunk, as model events. Pure.

Servers differ, so what is not needed is not asked for: ids and names of other servers' making are
replaced by our own count, numbers of a call may be missing, and words we do not know are `other`.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from runs_domain.clean import clean_json, clean_text
from runs_domain.errors import ModelOverloaded, ModelRejected
from runs_domain.events import FinishReason
from runs_domain.model_port import (
    ModelEnd,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolInput,
    ToolInputDelta,
    ToolInputStart,
)
from workers.adapters.chat_usage import ChatUsage, cost_of, usage_of

ANSWER_CHARS_MAX: Final = 4_000_000
"""Code points of one answer, tool inputs included."""
CALLS_MAX: Final = 128
"""Tool calls of one answer."""

_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
    "content_filter": "content-filter",
    "error": "error",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: ChatUsage | None = None


class _Call:
    def __init__(self, index: int, provider_id: str | None) -> None:
        self.index = index
        self.provider_id = provider_id
        self.provider_index: int | None = None
        self.name = ""
        self.pieces: list[str] = []


class ChatAnswer:
    """Give each chunk to `add`, then call `finish` once the stream has ended."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._chars = 0
        self._finish_reason: str | None = None
        self._usage: ChatUsage | None = None

    @property
    def is_whole(self) -> bool:
        """The server said why it stopped: whatever may still come is bookkeeping."""
        return self._finish_reason is not None

    def add(self, data: object) -> Iterator[ModelEvent]:
        try:
            chunk = msgspec.convert(data, _Chunk, strict=False)
        except msgspec.ValidationError:
            raise ModelOverloaded("The model's server sent a chunk of another format") from None
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in (chunk.choices or [])[:1]:
            if choice.delta is not None:
                yield from self._delta(choice.delta)
            if choice.finish_reason:
                self._finish_reason = choice.finish_reason

    def finish(self) -> Iterator[ModelEvent]:
        """Whole tool inputs, then the end. Raises ModelOverloaded if the answer broke off."""
        reason = self._reason()
        for call in self._calls:
            value, error = parse_input("".join(call.pieces))
            yield ToolInput(index=call.index, input=value, error=error)
        yield ModelEnd(finish_reason=reason, usage=usage_of(self._usage), cost=cost_of(self._usage))

    def _reason(self) -> FinishReason:
        if self._finish_reason is None:
            raise ModelOverloaded("The model's answer broke off")
        reason = _FINISH_REASONS.get(self._finish_reason, "other")
        if reason == "error":
            raise ModelOverloaded("The model's server ended the answer with an error")
        if any(not call.name for call in self._calls):
            raise ModelOverloaded("The model's server sent a tool call without a name")
        if reason == "tool-calls" and not self._calls:
            return "other"  # nothing to run: "tool-calls" would only ask the model again
        if reason in {"stop", "other"} and self._calls:
            return "tool-calls"  # some servers say "stop" all the same
        return reason

    def _delta(self, delta: _Delta) -> Iterator[ModelEvent]:
        if reasoning := delta.reasoning_content or delta.reasoning:
            yield ReasoningDelta(text=self._counted(reasoning))
        if text := delta.content or delta.refusal:
            yield TextDelta(text=self._counted(text))
        for piece in delta.tool_calls or []:
            yield from self._call_delta(piece)

    def _call_delta(self, piece: _CallDelta) -> Iterator[ModelEvent]:
        call = self._call_of(piece)
        function = piece.function or _Function()
        arguments = self._counted(function.arguments or "")
        if arguments:
            call.pieces.append(arguments)
        if not call.name and function.name:
            call.name = clean_text(function.name)
            yield ToolInputStart(index=call.index, name=call.name)
            arguments = "".join(call.pieces)
        if call.name and arguments:
            yield ToolInputDelta(index=call.index, text=arguments)

    def _call_of(self, piece: _CallDelta) -> _Call:
        """By the server's index; where that is missing or used twice, by the server's id."""
        for call in reversed(self._calls):
            same_id = piece.id is not None and piece.id == call.provider_id
            no_id = not piece.id or call.provider_id is None
            same_index = piece.index is None or piece.index == call.provider_index
            if same_id or (no_id and same_index):
                return call
        if len(self._calls) == CALLS_MAX:
            raise ModelRejected(f"The model made more than {CALLS_MAX} tool calls at once")
        call = _Call(len(self._calls), piece.id or None)
        call.provider_index = piece.index
        self._calls.append(call)
        return call

    def _counted(self, text: str) -> str:
        self._chars += len(text)
        if self._chars > ANSWER_CHARS_MAX:
            raise ModelRejected(f"The model's answer has more than {ANSWER_CHARS_MAX} characters")
        return clean_text(text)


def parse_input(text: str) -> tuple[Any, str | None]:
    """A tool's input and no error, or None and why the text is not one; nothing at all is {}."""
    if not text.strip():
        return {}, None
    try:
        value = clean_json(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None, "The tool's input is not valid JSON"
    if not isinstance(value, dict):
        return None, "The tool's input is not a JSON object"
    return value, None
